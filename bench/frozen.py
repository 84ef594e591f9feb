"""The k folds of a frozen trial as the product trains them against one after the other: `python -m bench frozen --files FILE [--maps]`.

All of BreakHis by its file list (a CSV with a column `file`; the names say everything else), random features of 1,280
channels, the default MMNet head, 5 patient-wise folds, every image once an epoch. The two alternate in one run: the folds as one
batched computation where these are maps, side by side in threads where they are pooled features on a CPU; and the same code with a
network and an optimizer for each fold, trained one after the other with the same number of threads. Epochs cost the same, so
`--epochs 6` measures as much as the 27 of a trial; the whole trial is given as 27 times the median.
"""

import argparse
import csv
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from data.dataset import Dataset
from data.grammar import parse
from data.splits import build_splits
from data.table import build_table
from mmnet import crossval
from mmnet.build import build_network
from mmnet.config import Config
from mmnet.crossval import CrossValidation, derive_seed
from mmnet.device import best_device
from mmnet.stacked import Alone, Together

CHANNELS, SIDE, TRIAL = 1280, 7, 27


def random_features(files: Path, side: int) -> Dataset:
    """BreakHis' table with noise for features (N, CHANNELS, side, side)."""
    with files.open(newline="") as file:
        names = [line["file"] for line in csv.DictReader(file)]
    parts = [parse(name) for name in names]
    table = build_table([(name, p.magnification, p.slide, p.patient, p.subtype, p.kind) for name, p in zip(names, parts, strict=True)])
    rng = np.random.default_rng(0)
    features = np.empty((len(table), CHANNELS, side, side), dtype=np.float16)
    for row in features:
        row[:] = rng.standard_normal(row.shape, dtype=np.float32)
    return Dataset(table, None, "random", "random features", synthetic=True, features=features)


def one_after_the_other(trial: CrossValidation, dataset: Dataset) -> CrossValidation:
    """The trial with a network and an optimizer for each fold, which all threads train before the next."""
    config = trial.config
    trial.networks = [build_network(config, dataset, derive_seed(config.seed, fold)).to(trial.device) for fold in range(config.data.folds)]
    trial.learners = [Alone(network, config.optim) for network in trial.networks]
    trial.side_by_side = False
    return trial


def clock(owner: Any, name: str, stage: str, spent: dict[str, float]) -> None:
    """Add what calls of `owner.name` take to spent[stage]."""
    original: Callable = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = original(*arguments, **named)
        spent[stage] += time.perf_counter() - started
        return result

    setattr(owner, name, timed)


def clocked(trial: CrossValidation) -> dict[str, float]:
    """{stage: seconds of all threads}, filled while the trial trains (a GPU works asynchronously: there it says nothing)."""
    spent: dict[str, float] = defaultdict(float)
    clock(trial.batches, "training", "gather features", spent)
    for learner in trial.learners:
        clock(learner, "logits", "forward", spent)
        clock(learner, "accumulate", "backward", spent)
        clock(learner, "descend", "clip, AdamW", spent)
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.frozen")
    parser.add_argument("--files", type=Path, required=True, help="CSV with a column `file`: the names of all BreakHis images")
    parser.add_argument("--maps", action="store_true", help="feature maps of 7 x 7 positions (default: pooled features)")
    parser.add_argument("--epochs", type=int, default=6, help="measured of each")
    parser.add_argument("--batch-size", type=int, help="views a step (default: the product's)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, console = best_device(), Console(width=150)
    console.print(describe_machine(), soft_wrap=True)
    dataset = random_features(arguments.files, SIDE if arguments.maps else 1)
    config = Config().with_values(
        {"model.frozen": True, "model.pooled": not arguments.maps, "optim.patience": None, "optim.batch_size": arguments.batch_size}
    )
    splits = build_splits(dataset.table, None, folds=config.data.folds, test_fraction=0.0, grouping="patient", seed=0)
    ours = crossval.run(config, dataset, splits, device=device)
    peer = one_after_the_other(crossval.run(config, dataset, splits, device=device), dataset)
    spent = clocked(ours)
    way = "together" if isinstance(ours.learners[0], Together) else "side by side"
    seconds: dict[str, list[float]] = {way: [], "one after the other": []}
    work: dict[str, list[float]] = {name: [] for name in seconds}
    for trial in (ours, peer):
        next(trial)  # warm
    spent.clear()
    for _ in range(arguments.epochs):
        for name, trial in zip(seconds, (ours, peer), strict=True):
            started = time.process_time()
            seconds[name].append(next(trial).seconds)
            work[name].append(time.process_time() - started)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    table = Table(title=f"{'feature maps 7 x 7' if arguments.maps else 'pooled features'}, {len(dataset.table)} images, 5 folds, "
                  f"{arguments.threads} threads, n = {arguments.epochs} epochs of each", title_justify="left")  # fmt: skip
    for column in (
        "folds",
        "epoch, median (lowest to highest), s",
        "trial of 27 epochs, s",
        "times as fast",
        "processor time, s (times less)",
    ):
        table.add_column(column, justify="right")
    for name, values in seconds.items():
        ratios = np.array(seconds["one after the other"]) / np.array(values)
        table.add_row(
            name,
            f"{medians[name]:.2f} ({min(values):.2f} to {max(values):.2f})",
            f"{TRIAL * medians[name]:.0f}",
            f"{np.median(ratios):.2f}",
            f"{np.median(work[name]):.2f} ({np.median(np.array(work['one after the other']) / np.array(work[name])):.2f})",
        )
    console.print(table)
    threads = min(arguments.threads, len(ours.learners))
    stages = ", ".join(f"{stage} {value / sum(seconds[way]) / threads:.0%}" for stage, value in spent.items())
    console.print(
        f"a trial trains them {way}, {ours.batch_size} views a step; where its epoch goes: {stages}; the rest is judging, metrics, the loop",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
