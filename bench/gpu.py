"""Everything that only a GPU can show, in one command of at most 8 minutes: `python -m bench gpu [--out FILE]`.

Needs torch and the project's own `data` and `mmnet`, not Ray. Fine-tuning of three backbones at 224 px by the real data path
against resident tensors, with and without torch.compile; a frozen 5-fold trial; two trials packed on the device against one.
Prints a table and saves the figures as JSON. On a machine without a GPU it runs a tiny version of everything, as a check.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from bench.step import CASES, FOLDS, bare_epoch, noise
from data.splits import make_splits
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from mmnet.device import best_device

BACKBONES = ("efficientnet_b0", "resnet18", "convnext_tiny")
BUDGET = 8 * 60.0  # seconds, of everything


def timed(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    begun = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def trial_of(values: dict[str, Any], images: int, size: int) -> CrossValidation:
    config = Config().with_values({"data.magnifications": [200], "data.image_size": size, "model.weights": None} | values)
    dataset = noise(size, images, config.model.frozen)
    return CrossValidation(
        config, dataset, make_splits(dataset.table, folds=FOLDS, test_fraction=0.0, grouping="case", seed=0), best_device()
    )


def fine_tuning(backbone: str, compiled: bool, images: int, size: int, repeats: int) -> dict[str, Any]:
    """Images a second of one fold's training: the real data path, and resident tensors."""
    trial = trial_of({"model.backbone": backbone, "optim.batch_size": 64}, images, size)
    learner, device = trial.learners[0], trial.device
    if compiled:
        learner.networks[0].backbones[0].compile()
    shown = round(len(trial.index.patients) * images * (FOLDS - 1) / FOLDS)
    steps = -(-shown // trial.batch_size)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = timed(lambda: trial._train(learner, range(1), 0), device)  # warms up, and compiles
    real, bare = [], []
    for _ in range(repeats):
        real.append(timed(lambda: trial._train(learner, range(1), 0), device))
        bare.append(timed(lambda: bare_epoch(trial, steps, round(shown / steps)), device))
    return {
        "images_per_second": shown / statistics.median(real),
        "resident": shown / statistics.median(bare),
        "ratio": statistics.median(np.array(real) / np.array(bare)),
        "first_epoch_seconds": first,
        "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None,
    }


def frozen_trial(images: int, epochs: int, packed: int) -> float:
    """Seconds of an epoch of `packed` 5-fold trials on feature maps, each on a stream of its own."""
    trials = [
        trial_of({"model.frozen": True, "optim.epochs": epochs + 1, "optim.patience": None, "seed": n}, images, 224) for n in range(packed)
    ]
    device = trials[0].device
    streams = [torch.cuda.Stream() if device.type == "cuda" else None for _ in trials]

    def epoch() -> None:
        for trial, stream in zip(trials, streams, strict=True):
            with torch.cuda.stream(stream):
                next(trial)

    epoch()
    return timed(lambda: [epoch() for _ in range(epochs)], device) / epochs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench gpu")
    parser.add_argument("--out", type=Path, help="where to save the figures as JSON")
    arguments = parser.parse_args()
    begun, gpu = time.perf_counter(), torch.cuda.is_available()
    images, size, repeats, backbones = (150, 224, 3, BACKBONES) if gpu else (4, 64, 1, BACKBONES[1:2])
    console = Console(width=140)
    console.print(describe_machine())
    found: dict[str, Any] = {"machine": describe_machine(), "fine_tuning": {}}
    table = Table(title=f"one fold, {size} px, batch 64, n = {repeats}", title_justify="left")
    for column in ("backbone", "compiled", "images/s", "resident images/s", "epoch ratio", "first epoch, s", "peak MiB"):
        table.add_column(column, justify="left" if column == "backbone" else "right")
    for backbone in backbones:
        for compiled in (False, True) if gpu else (False,):
            if time.perf_counter() - begun > 0.7 * BUDGET:
                console.print(f"no time left for {backbone}, compiled {compiled}")
                continue
            row = fine_tuning(backbone, compiled, images, size, repeats)
            found["fine_tuning"][f"{backbone}{', compiled' if compiled else ''}"] = row
            table.add_row(
                backbone, "yes" if compiled else "no", f"{row['images_per_second']:.0f}", f"{row['resident']:.0f}", f"{row['ratio']:.3f}",
                f"{row['first_epoch_seconds']:.1f}", "–" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}",
            )  # fmt: skip
    console.print(table)
    epochs = 5 if gpu else 1
    alone, two = (frozen_trial(images, epochs, packed) for packed in (1, 2))
    found["frozen"] = {"seconds_an_epoch": alone, "two_packed": two, "packing_gain": 2 * alone / two}
    console.print(
        f"frozen maps, {CASES} cases x {images} images: an epoch of 5 folds {alone:.3f} s; two trials at once {two:.3f} s, {2 * alone / two:.2f} times the throughput"
    )
    console.print(f"all of it: {time.perf_counter() - begun:.0f} s")
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
