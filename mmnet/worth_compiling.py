"""Whether compiling a backbone saves a trial more time than it takes.

Compiling takes 20 to 110 seconds a shape, and so does timing it. On CPU cores it gained 0 to 10 % (bench/RESULTS.md), which is not worth
holding up every first study: there `optim.compile = null` means no. On a GPU it is decided by a timing when a study starts, as
precision is, and recorded as what was chosen.
"""

import time
from dataclasses import replace

import numpy as np
import torch

from data.splits import Splits
from data.table import PatientTable
from data.views import ViewIndex
from mmnet.backbones import build_backbone
from mmnet.batches import default_batch_size
from mmnet.compiling import commonest_batch, compile_backbones, compiles, images_of
from mmnet.config import Config, ModelConfig
from mmnet.device_kind import computes_in_bfloat16
from mmnet.precision import timing
from mmnet.step_timing import apart, remembered, seconds_of_pass

SHORT = 60.0  # seconds that a trial's passes take as they are: in less, compiling hardly wins back its own time, so none is timed
BUDGET = 2.0  # seconds of timing passes, by turns


def pays(passes: int, *, eager: float, compiled: float, compiling: float) -> bool:
    """Whether so many passes save more seconds than compiling takes; `eager` and `compiled` are seconds of one pass."""
    return passes * (eager - compiled) > compiling


def decided(config: Config, device: torch.device, table: PatientTable, splits: Splits) -> tuple[Config, str]:
    """(the configuration with its `optim.compile` decided, a line for people where that took a timing).

    `table` may hold sealed patients; only those of the folds count. A trial counts with all of its epochs: what one that is
    stopped early has compiled serves the next one of its process.
    """
    if config.optim.compile is not None:
        return config, ""
    chosen, line = False, ""
    if device.type == "cuda" and config.model.backbone != "tiny" and compiles(config.with_values({"optim.compile": True})):
        try:
            chosen, line = _timed(config, device, *passes_of_a_trial(config, device, table, splits))
        except RuntimeError as error:
            line = f"off: no timing of {config.model.backbone} ({str(error).splitlines()[0][:200]})"
    return config.with_values({"optim.compile": chosen}), line


def passes_of_a_trial(config: Config, device: torch.device, table: PatientTable, splits: Splits) -> tuple[int, int]:
    """(images of a backbone's commonest training pass, how many such passes a trial of all epochs has)."""
    index, fold_of = ViewIndex(table, config.data.magnifications), splits.fold_of()
    shown = index.natural(config.sampling.views_per_slide)
    fold = np.array([fold_of.get(name, -1) for name in index.slides.tolist()])
    views = [int(shown[(fold != held_out) & (fold >= 0)].sum()) for held_out in range(len(splits.folds))]
    batch = config.optim.batch_size or default_batch_size(config.model, device, int(np.mean(views)))
    commonest, times = commonest_batch(views, batch)
    backbones = 1 if config.model.shared else len(config.data.magnifications)
    return images_of(config, commonest), times * backbones * config.optim.epochs


def _timed(config: Config, device: torch.device, images: int, passes: int) -> tuple[bool, str]:
    model, size = config.model, config.input_size
    precision = "bfloat16" if computes_in_bfloat16(device.type, config.optim.precision) else "float32"
    if passes * images * timing(model, size, device)[precision] < SHORT:
        return False, ""
    key = {"compiled": model.backbone, "size": size, "images": images, "precision": precision}
    seconds, _ = remembered(key, device, lambda: apart(device, measure, model, size, images, precision, device))
    chosen = pays(passes, **seconds)
    return chosen, (
        f"{'on' if chosen else 'off'}: compiling {model.backbone} takes {seconds['compiling']:.0f} s here, a trial has {passes} steps of "
        f"{images} images, each {1000 * seconds['compiled']:.1f} ms compiled and {1000 * seconds['eager']:.1f} ms as it is"
    )


def measure(model: ModelConfig, size: int, images: int, precision: str, device: torch.device) -> dict[str, float]:
    """Seconds of a training pass, `eager` and `compiled`: the shortest of a few by turns, with random weights; and of `compiling`.

    Raises RuntimeError where it cannot be compiled.
    """
    eager, compiled = (build_backbone(replace(model, weights=None), size, seed=0).to(device).train() for _ in range(2))
    batch = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    seconds_of_pass(eager, batch, precision)  # the first pass of all chooses algorithms
    begun = time.perf_counter()
    failure = compile_backbones([compiled], images, size, precision, device)
    if failure:
        raise RuntimeError(failure)
    compiling, begun = time.perf_counter() - begun, time.perf_counter()
    passes = [[seconds_of_pass(backbone, batch, precision) for backbone in (eager, compiled)]]
    while time.perf_counter() - begun < BUDGET:
        passes.append([seconds_of_pass(backbone, batch, precision) for backbone in (eager, compiled)])
    best = np.min(passes, axis=0)
    return {"eager": float(best[0]), "compiled": float(best[1]), "compiling": compiling}
