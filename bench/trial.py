"""Whole trials through Ray, ours against stock settings: `python -m bench trial [--trials N] [--repeats N]`.

The same configurations of the synthetic preset (space smoke, no early stopping), one at a time on one thread. The peer is what
the manual of Ray Tune gives: a function trainable that reports each epoch, OptunaSearch, the stock loggers, a new process a trial.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from data.dataset import Dataset
from data.splits import Splits, build_splits
from data.store import load_dataset
from data.synthetic import default_synthetic
from mmnet.config import Config, load_config
from search_spaces import get_space

EPOCHS = 3


def ours(trials: int, config: Config, dataset: Dataset, splits: Splits, folder: Path) -> None:
    from tuning.settings import StudySettings
    from tuning.study import run_study

    settings = StudySettings(name="ours", trials=trials, output=folder, space="smoke", concurrency=1)
    run_study(settings, get_space("smoke", config), config, (), dataset, splits, Console(quiet=True))


def stock(trials: int, config: Config, dataset: Dataset, splits: Splits, folder: Path) -> None:
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def train(params: dict[str, Any], dataset: Dataset, splits: Splits) -> None:
        import torch

        from mmnet import crossval

        torch.set_num_threads(1)
        for report in crossval.run(config.with_values(params), dataset, splits):
            tune.report({"score": report.score})

    ray.init(num_cpus=1, logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    try:
        space = {"optim.lr": tune.loguniform(1e-4, 1e-2), "dropout.classifier": tune.uniform(0, 0.75)}
        tune.Tuner(
            tune.with_parameters(train, dataset=dataset, splits=splits),
            param_space=space,
            tune_config=tune.TuneConfig(metric="score", mode="min", num_samples=trials, search_alg=OptunaSearch(seed=0)),
            run_config=tune.RunConfig(storage_path=str(folder.resolve()), name="stock", verbose=0),
        ).fit()
    finally:
        ray.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench trial")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    config = load_config(Path(__file__).parents[1] / "configs" / "synthetic.yaml").with_values(
        {"optim.epochs": EPOCHS, "optim.patience": None}
    )
    dataset = load_dataset(default_synthetic(), config.data.image_size)
    settings = config.data
    splits = build_splits(
        dataset.table, None, folds=settings.folds, test_fraction=0.0, grouping=settings.grouping, seed=settings.split_seed
    )
    seconds: dict[str, list[float]] = {"ours": [], "stock Ray Tune": []}
    for _ in range(arguments.repeats):
        for name, run in (("ours", ours), ("stock Ray Tune", stock)):
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                run(arguments.trials, config, dataset, splits, Path(folder))
                seconds[name].append(time.perf_counter() - begun)
    console = Console(width=140)
    console.print(describe_machine())
    table = Table(
        title=f"{arguments.trials} trials of {settings.folds} folds x {EPOCHS} epochs, whole study, n = {arguments.repeats}",
        title_justify="left",
    )
    for column in ("", "seconds a study (median, range)", "ratio to stock, paired"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in seconds.items():
        ratio = statistics.median(np.array(values) / np.array(seconds["stock Ray Tune"]))
        table.add_row(name, f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})", f"{ratio:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
