"""A trained backbone through torch.compile, whose choice is `mmnet.worth_compiling`'s.

Each shape of a batch is compiled for itself, which takes long, so a trial compiles one: that of its commonest batches. All others
run as written: the rest of an epoch's batches, those with magnifications missing, and judging. The folds of a trial, and
later trials of a process, share what was compiled. The compiler is imported only where something is compiled.
"""

import copy
from collections import Counter
from collections.abc import Sequence

import torch

from mmnet.backbones import Backbone
from mmnet.config import Config
from mmnet.device import free_unused
from mmnet.step_timing import seconds_of_pass


def compiles(config: Config) -> bool:
    """Whether a trial is to compile: not where nothing decided it, and not where hidden magnifications make batches of all sizes."""
    return bool(config.optim.compile) and not config.model.frozen and not config.augment.masking


def commonest_batch(views: Sequence[int], size: int) -> tuple[int, int]:
    """(views of it, how many an epoch) of the size that most batches have, the larger of equals.

    Each fold's `views` are dealt evenly to as few steps as take at most `size` each (`numpy.array_split`): in two sizes.
    """
    found: Counter[int] = Counter()
    for count in views:
        steps = -(-count // size)
        least, larger = divmod(count, steps)
        found[least] += steps - larger
        found[least + 1] += larger
    commonest = max(found, key=lambda each: (found[each], each))
    return commonest, found[commonest]


def images_of(config: Config, views: int) -> int:
    """Images that one pass of a backbone sees of so many whole views."""
    return views * len(config.data.magnifications) if config.model.shared else views


def compile_backbones(backbones: Sequence[Backbone], images: int, size: int, precision: str, device: torch.device) -> str:
    """Let training passes of so many images of `size` px run compiled -> "", or why they cannot: then nothing has changed.

    All backbones are alike. A copy of the first is trained for one pass: it shows whether the compiler works here, and what it
    leaves behind (running means) is not in what will be trained.
    """
    rehearsed = copy.deepcopy(backbones[0]).train()
    try:
        rehearsed.compile_for(images)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            seconds_of_pass(rehearsed, torch.zeros(images, 3, size, size, device=device), precision)
    except Exception as error:  # a missing compiler, the compiler's own errors, no memory: the plain way is open after each of them
        return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
    finally:
        del rehearsed
        free_unused(device)
    for backbone in backbones:
        backbone.compile_for(images)
    return ""
