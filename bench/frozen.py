"""A frozen trial on all of BreakHis: `python -m bench frozen --files FILE [--maps] [--epochs 6] [--threads N] [--set KEY=VALUE …]`.

The table by a file list (a CSV with a column `file`; the names say everything else), random features of 1,280 channels, 5 folds by patient,
every image once an epoch. Epochs cost the same, so a few measure as much as the 27 of a trial, which is given as 27 times the median.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from bench.machine import describe_machine
from data.dataset import Dataset
from data.grammar import parse
from data.splits import build_splits
from data.table import build_table
from mmnet import crossval
from mmnet.config import Config, parse_assignment
from mmnet.device import best_device

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench frozen")
    parser.add_argument("--files", type=Path, required=True, help="CSV with a column `file`: the names of all BreakHis images")
    parser.add_argument("--maps", action="store_true", help="feature maps of 7 x 7 positions (default: pooled features)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, console = best_device(), Console(width=150)
    console.print(describe_machine(), soft_wrap=True)
    dataset = random_features(arguments.files, SIDE if arguments.maps else 1)
    values = {"model.frozen": True, "model.pooled": not arguments.maps, "optim.patience": None}
    config = Config().with_values(values | dict(map(parse_assignment, arguments.set)))
    splits = build_splits(dataset.table, None, folds=config.data.folds, test_fraction=0.0, grouping="patient", seed=0)
    trial = crossval.run(config, dataset, splits, device=device)
    next(trial)  # warms up
    seconds = [next(trial).seconds for _ in range(arguments.epochs)]
    console.print(
        f"{'feature maps 7 x 7' if arguments.maps else 'pooled features'}, {len(dataset.table)} images, {config.data.folds} folds, "
        f"{trial.batch_size} views a step, {arguments.threads} threads, {trial.parameters:,} parameters: epoch {np.median(seconds):.2f} s "
        f"({min(seconds):.2f} to {max(seconds):.2f}, n = {len(seconds)}), a trial of {TRIAL} epochs {TRIAL * np.median(seconds):.0f} s",
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
