"""How long training steps of a backbone take on this machine: measured once, then read from the cache folder.

Choices that follow from a timing have to be the same in every trial and after every restart, so none is taken twice.
To measure again, delete the folder `timings` of the cache.
"""

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor, nn

from mmnet.device import autocast, machine_name

FORMAT = 1


def remembered(key: dict[str, Any], device: torch.device, measure: Callable[[], dict[str, float]]) -> tuple[dict[str, float], bool]:
    """(what `measure` gave for this key, machine and version of torch, whether that was now)."""
    from data.cache import cache_root  # these two here, because what trains imports this module for its passes only
    from mmnet.records import write_json

    whole = {"format": FORMAT, "machine": machine_name(device), "torch": torch.__version__} | key
    name = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
    path = cache_root() / "timings" / f"{name}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or a damaged one
        return json.loads(path.read_text())["seconds"], False
    seconds = measure()
    write_json(path, {"key": whole, "seconds": seconds})
    return seconds, True


def apart(device: torch.device, measure: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What `measure` gives; on a GPU in a process of its own: one that has used a GPU keeps part of its memory to the end."""
    if device.type != "cuda":
        return measure(*arguments)
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measure, *arguments).result()


def seconds_of_pass(module: nn.Module, images: Tensor, precision: str) -> float:
    """Seconds of one pass of images (B, 3, H, W), forward and, unless gradients are off, backward."""
    _wait(images.device)
    begun = time.perf_counter()
    with autocast(images.device, precision):
        maps = module(images)
    if torch.is_grad_enabled():
        maps.float().square().mean().backward()
    _wait(images.device)
    seconds = time.perf_counter() - begun
    module.zero_grad(set_to_none=True)
    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
