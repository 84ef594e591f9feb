"""Everything that only a GPU can show, in one command of at most 8 minutes: `python -m bench gpu [--out FILE]`.

Needs torch and the project's own `data` and `mmnet`, not Ray. Fine-tuning of three backbones at 224 px by the real data path
against resident tensors, with and without torch.compile; a frozen trial's five folds together against one after the other; two
trials packed on the device, a process each, against one. Prints tables and saves the figures as JSON. On a machine without a GPU it
runs a tiny version of everything but torch.compile, as a check.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.frozen import TRIAL, one_after_the_other
from bench.machine import describe_machine
from bench.step import FOLDS, PATIENTS, bare_epoch, noise, steps_of, trial_on
from data.dataset import Dataset
from mmnet.config import Config
from mmnet.crossval import CrossValidation

BACKBONES = ("efficientnet_b0", "resnet18", "convnext_tiny")
BUDGET = 8 * 60.0  # seconds, of everything

_start: Any = None  # see _meet_at


def timed(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    begun = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def trial_of(dataset: Dataset, size: int, values: dict[str, Any]) -> CrossValidation:
    return trial_on(dataset, Config().with_values({"data.magnifications": [200], "data.image_size": size, "model.weights": None} | values))


def fine_tuning(backbone: str, compiled: bool, images: int, size: int, repeats: int) -> dict[str, Any]:
    """Images a second of one fold's training: the real data path, and resident tensors."""
    values = {"model.backbone": backbone, "optim.batch_size": 64, "optim.compile": compiled}
    trial = trial_of(noise(size, images, frozen=False), size, values)
    learner, device = trial.learners[0], trial.device
    compiling = timed(trial.compile_backbones, device)
    if compiled and trial.compiled != "yes":
        raise RuntimeError(trial.compiled)
    steps, views = steps_of(trial, PATIENTS * images)
    shown = round(PATIENTS * images * (FOLDS - 1) / FOLDS)
    forget_peak(device)
    trial._train(learner, range(1), 0)  # warms up
    bare_epoch(trial, 1, views)
    real, bare = [], []
    for _ in range(repeats):
        real.append(timed(lambda: trial._train(learner, range(1), 0), device))
        bare.append(timed(lambda: bare_epoch(trial, steps, views), device))
    return {
        "images_per_second": shown / statistics.median(real),
        "resident": shown / statistics.median(bare),
        "ratio": statistics.median(np.array(real) / np.array(bare)),
        "compiling": compiling,
        "peak_mib": peak_mib(device),
    }


def frozen_trial(images: int, epochs: int, pooled: bool) -> dict[str, Any]:
    """Seconds of an epoch of five folds' heads as the product trains them, on a GPU as one batched computation, and one after the other, by turns."""
    dataset = noise(32, images, frozen=True, side=1 if pooled else 7)
    values = {"model.frozen": True, "model.pooled": pooled, "optim.patience": None}
    trials = [trial_of(dataset, 224, values), one_after_the_other(trial_of(dataset, 224, values), dataset)]
    device = trials[0].device
    peaks = []
    for trial in trials:
        forget_peak(device)
        next(trial)  # warms up
        peaks.append(peak_mib(device))
    together, apart = np.array([[timed(partial(next, trial), device) for trial in trials] for _ in range(epochs)]).T
    return {
        "together": float(np.median(together)),
        "one_after_the_other": float(np.median(apart)),
        "gain": float(np.median(apart / together)),
        "peak_mib": peaks[0],
    }


def packed(images: int, epochs: int, count: int) -> dict[str, Any]:
    """Seconds of an epoch of `count` frozen trials on feature maps at once, each in a process of its own as in a search."""
    context = get_context("spawn")
    start = context.Barrier(count)
    with ProcessPoolExecutor(count, context, _meet_at, (start,)) as pool:
        found = [each.result() for each in [pool.submit(_one_of_several, images, epochs, seed) for seed in range(count)]]
    return {"seconds_an_epoch": max(seconds for seconds, _ in found), "peak_mib_each": found[0][1]}


def _meet_at(start: Any) -> None:
    """In a new process: the barrier at which packed trials wait for each other, so that all are measured at the same time."""
    global _start
    _start = start


def _one_of_several(images: int, epochs: int, seed: int) -> tuple[float, float | None]:
    trial = trial_of(noise(32, images, frozen=True), 224, {"model.frozen": True, "optim.patience": None, "seed": seed})
    next(trial)  # warms up
    _start.wait(timeout=120)
    return timed(lambda: [next(trial) for _ in range(epochs)], trial.device) / epochs, peak_mib(trial.device)


def forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mib(device: torch.device) -> float | None:
    """The most that tensors took on a GPU since `forget_peak`."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None


def in_mib(peak: float | None) -> str:
    return "–" if peak is None else f"{peak:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench gpu")
    parser.add_argument("--out", type=Path, help="where to save the figures as JSON")
    arguments = parser.parse_args()
    begun, gpu = time.perf_counter(), torch.cuda.is_available()
    # as many images as fill whole batches of 64: what is compiled is one shape, and others run as they are
    images, size, repeats, backbones = (160, 224, 3, BACKBONES) if gpu else (4, 64, 1, BACKBONES[1:2])
    console = Console(width=140)
    console.print(describe_machine())
    found: dict[str, Any] = {"machine": describe_machine(), "fine_tuning": {}}
    table = Table(title=f"one fold, {size} px, batch 64, n = {repeats}", title_justify="left")
    for column in ("backbone", "compiled", "images/s", "resident images/s", "epoch ratio", "compiling, s", "peak MiB"):
        table.add_column(column, justify="left" if column == "backbone" else "right")
    for backbone in backbones:
        for compiled in (False, True) if gpu else (False,):
            if time.perf_counter() - begun > 0.7 * BUDGET:
                console.print(f"no time left for {backbone}, compiled {compiled}")
                continue
            try:
                row = fine_tuning(backbone, compiled, images, size, repeats)
            except RuntimeError as error:  # without a compiler on this machine, say
                if not compiled:
                    raise
                console.print(f"{backbone}, compiled: {str(error).splitlines()[0]}", soft_wrap=True)
                continue
            found["fine_tuning"][f"{backbone}{', compiled' if compiled else ''}"] = row
            table.add_row(
                backbone, "yes" if compiled else "no", f"{row['images_per_second']:.0f}", f"{row['resident']:.0f}", f"{row['ratio']:.3f}",
                f"{row['compiling']:.1f}", in_mib(row["peak_mib"]),
            )  # fmt: skip
    console.print(table)
    epochs = 5 if gpu else 1
    table = Table(title=f"frozen, {PATIENTS} patients x {images} images, {FOLDS} folds, n = {epochs} epochs", title_justify="left")
    for column in (
        "features",
        "together: epoch, s",
        f"trial of {TRIAL} epochs, s",
        "one after the other: epoch, s",
        "times as fast",
        "peak MiB",
    ):
        table.add_column(column, justify="left" if column == "features" else "right")
    found["frozen"] = {name: frozen_trial(images, epochs, pooled) for name, pooled in (("maps", False), ("pooled", True))}
    for name, row in found["frozen"].items():
        table.add_row(
            name, f"{row['together']:.3f}", f"{TRIAL * row['together']:.1f}", f"{row['one_after_the_other']:.3f}", f"{row['gain']:.2f}",
            in_mib(row["peak_mib"]),
        )  # fmt: skip
    console.print(table)
    alone, two = (packed(images, epochs, count) for count in (1, 2))
    gain = 2 * alone["seconds_an_epoch"] / two["seconds_an_epoch"]
    found["packed"] = {"alone": alone, "two": two, "gain": gain}
    console.print(
        f"frozen maps, a process a trial: an epoch takes {alone['seconds_an_epoch']:.3f} s alone, {two['seconds_an_epoch']:.3f} s beside "
        f"another: {gain:.2f} times the throughput; peak {in_mib(alone['peak_mib_each'])} MiB each",
        soft_wrap=True,
    )
    console.print(f"all of it: {time.perf_counter() - begun:.0f} s")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
