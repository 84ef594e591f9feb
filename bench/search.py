"""Search replayed on recorded learning curves: which method recommends the better configuration for the same fold-epochs.

`python -m bench search --curves FILE`. FILE (npz) holds `oof` (C, E, V), probability of class 1 of every view out of fold after every
epoch; `config` (C,) JSON; `fold`, `label` (V,); `oof_replicate` (C, V), the same configurations trained again on another partition.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from analysis.mean_of_best import MEMBERS
from bench.methods import METHODS as OURS
from bench.peers import PEERS
from bench.product import Product
from bench.recorded import Table, load, subset
from bench.simulation import Found, Pool, simulate

METHODS: dict[str, Callable[[Pool, int], Any]] = OURS | {"promotion, TPE": Product} | PEERS
BUDGETS = (405, 810, 1350, 2700, 5400)  # fold-epochs
STEP = 135  # fold-epochs between two looks at what is recommended
GOALS = (15, 10, 6)  # percentiles to reach


def main() -> None:
    arguments = parse()
    whole = load(arguments.curves)
    print(
        f"{arguments.curves.name}: {len(whole.points)} configurations, {whole.scores.shape[1]} epochs, {whole.folds} folds; "
        f"{arguments.repeats} repeats{', half of the configurations each' if arguments.halves else ''}"
    )
    budgets, goals = " ".join(f"{budget:>10d}" for budget in BUDGETS), ", ".join(map(str, GOALS))
    print(f"{'method':28s} workers {budgets}   fold-epochs to reach {goals}")
    for name in arguments.methods or METHODS:
        try:
            for workers in arguments.workers:
                best, mean = np.moveaxis(np.array(repeat(arguments, whole, name, workers)), -1, 0)
                print(row(name, workers, best), row(f"  mean of its best {MEMBERS}", workers, mean), sep="\n", flush=True)
        except ModuleNotFoundError as missing:
            print(f"{name:28s} left out: {missing.name} is not installed; python -m pip install --no-deps -r requirements-bench.txt")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench search", description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, required=True, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="default: all")
    parser.add_argument(
        "--halves",
        action="store_true",
        help="each repeat has another random half of the configurations",
    )
    return parser.parse_args()


def repeat(arguments: argparse.Namespace, whole: Table, name: str, workers: int) -> list[list[Found]]:
    """(repeats, looks, 2): percentiles of what is recommended after every `STEP` fold-epochs."""
    tables = (half(whole, seed) if arguments.halves else whole for seed in range(arguments.repeats))
    return [simulate(table, METHODS[name](Pool(table), seed), workers, looks()) for seed, table in enumerate(tables)]


def half(whole: Table, seed: int) -> Table:
    """A random half of the configurations, so that not the same few rows win every repeat.

    Halves of the slides are no use: which configuration is better on one half says nothing about the other (bench/RESULTS.md).
    """
    count = len(whole.points)
    return subset(whole, np.sort(np.random.default_rng(seed).choice(count, count // 2, replace=False)))


def looks() -> list[int]:
    return list(range(STEP, BUDGETS[-1] + 1, STEP))


def row(name: str, workers: int, found: np.ndarray) -> str:
    """One line: mean percentile ± its standard error at each budget, and the budgets at which the mean first reaches the goals."""
    mean, error = found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))
    cells = [f"{mean[looks().index(budget)]:5.1f} ± {error[looks().index(budget)]:3.1f}" for budget in BUDGETS]
    reached = [next((str(look) for look, value in zip(looks(), mean, strict=True) if value <= goal), "-") for goal in GOALS]
    return f"{name:28s} {workers:7d} " + " ".join(cells) + "   " + ", ".join(reached)
