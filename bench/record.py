"""Record a table of learning curves from the product itself: `python -m bench record --data DIR --out FILE --set KEY=VALUE …`.

Configurations are drawn at random from a search space and trained on all folds to the last epoch; the out-of-fold probability of
every view is kept after each epoch, and after the last epoch of a *replicate*: the same configuration with another seed on another
partition. `bench/recorded.py` loads the file, `bench/search.py` and `bench/objective.py` measure on it.

Written for frozen, pooled features of one magnification, where a view is an image. A step of such a head mostly reads and writes the
weights of its first layers, so features are projected onto `--channels` random directions (Johnson & Lindenstrauss, 1984: distances
stay; no label is looked at), all folds take a step together, and `--views` of a slide are shown an epoch instead of all.

The file is written whole every `SAVE_EVERY` configurations and when the recording ends; the same command goes on where it stands.
"""

import argparse
import json
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.console import Console

from bench.machine import describe_machine
from data.dataset import Dataset
from data.errors import InputError
from data.splits import Splits, build_splits
from mmnet import crossval
from mmnet.config import Config, parse_assignment, text_of
from mmnet.crossval import CrossValidation, TrainingError, derive_seed
from search_spaces import get_space
from search_spaces.space import Space
from study.command_line import prepare
from study.records import whole_file

SAVE_EVERY = 25  # configurations
BATCH_SIZES = (32, 64)  # instead of the space's, so that no trial takes many times as long as another
BASE = {
    "data.magnifications": (200,), "data.test_fraction": 0.0, "model.frozen": True, "model.pooled": True, "optim.precision": "float32",
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is recorded; `identity` is kept in the file, and a recording goes on only where it is the same."""

    base: Config
    space: Space
    dataset: Dataset
    splits: Splits
    other_splits: Splits  # of the replicate
    channels: int

    @property
    def identity(self) -> str:
        about = {"base": self.base.to_dict(), "space": self.space.name, "data": self.dataset.fingerprint, "channels": self.channels}
        return json.dumps(about, sort_keys=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench record", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the .npz file to write, or to go on with")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="of the base configuration, such as model.weights=FILE"
    )
    parser.add_argument("--space", default="full", metavar="NAME")
    parser.add_argument("--configurations", type=int, default=500, metavar="N")
    parser.add_argument("--channels", type=int, default=160, metavar="N", help="random directions that features are projected onto")
    parser.add_argument("--views", type=int, default=4, metavar="N", help="of a slide an epoch")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)
    console = Console(width=150)
    console.print(describe_machine(), soft_wrap=True, highlight=False)
    plan = make_plan(arguments, console)
    record(plan, arguments.out, arguments.configurations, console)


def make_plan(arguments: argparse.Namespace, console: Console) -> Plan:
    values = BASE | {"sampling.views_per_slide": arguments.views} | dict(parse_assignment(text) for text in arguments.set)
    base = Config().with_values(values)
    space = get_space(arguments.space, base).with_choices("optim.batch_size", BATCH_SIZES)
    space.check(base)
    dataset = prepare(base, arguments.data, console, "cpu").dataset
    if len(dataset.table.classes) != 2:
        raise InputError(
            f"--data {arguments.data}: classes {', '.join(dataset.table.classes)}; expected two, of which one probability is recorded"
        )
    splits, other = (
        build_splits(dataset.table, None, folds=base.data.folds, test_fraction=0.0, grouping="patient", seed=base.data.split_seed + turn)
        for turn in (0, 1)
    )
    return Plan(base, space, projected(dataset, arguments.channels, base.seed), splits, other, arguments.channels)


def projected(dataset: Dataset, channels: int, seed: int) -> Dataset:
    """Features (N, C, 1, 1) -> (N, channels, 1, 1), by a matrix of normal numbers."""
    assert dataset.features is not None
    features = np.asarray(dataset.features)[:, :, 0, 0].astype(np.float32)
    directions = np.random.default_rng(seed).standard_normal((features.shape[1], channels), dtype=np.float32) / np.sqrt(channels)
    return replace(dataset, features=(features @ directions).astype(np.float16)[:, :, None, None])


def record(plan: Plan, path: Path, count: int, console: Console) -> None:
    """Train what is missing of `count` configurations and write the file."""
    table = opened(plan, path)
    begun, first = time.perf_counter(), int(table["drawn"])
    try:
        for number in range(first, count):
            values = draw(plan.space, plan.base, number)
            try:
                oof, replicate = both(plan, values)
                table["config"].append(json.dumps({key: text_of(value) for key, value in values.items()}))
                table["oof"].append(oof)
                table["oof_replicate"].append(replicate)
            except TrainingError as error:
                console.print(f"configuration {number} left out: {error}", highlight=False)
            table["drawn"] = number + 1
            if (number + 1) % SAVE_EVERY == 0:
                save(plan, path, table)
                each = (time.perf_counter() - begun) / (number + 1 - first)
                console.print(
                    f"{number + 1} of {count} configurations, {each:.1f} s each, {each * (count - number - 1) / 60:.0f} min left",
                    highlight=False,
                )
    finally:
        save(plan, path, table)
    console.print(f"{path}: {len(table['config'])} configurations", highlight=False)


def draw(space: Space, base: Config, number: int) -> dict[str, Any]:
    """Configuration `number`, at random; the same whichever were drawn before."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=derive_seed(base.seed, number)))
    return space.sample(study.ask(), base)


def both(plan: Plan, values: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-fold probabilities (E, V) of a configuration after every epoch, and (V,) after the last one of its replicate."""
    config = plan.base.with_values(values | {"optim.patience": None})
    again = config.with_values({"seed": config.seed + 1})
    return curves(config, plan.dataset, plan.splits), curves(again, plan.dataset, plan.other_splits)[-1]


def curves(config: Config, dataset: Dataset, splits: Splits) -> np.ndarray:
    """(E, V) float16 of the second of two classes, views in the order of `view_order`, which no partition changes."""
    trial = crossval.run(config, dataset, splits, device=torch.device("cpu"))
    order = view_order(trial)
    return np.stack([report.probability[order, 1] for report in trial]).astype(np.float16)


def view_order(trial: CrossValidation) -> np.ndarray:
    """(V,): the views by the rows they show."""
    return np.lexsort(trial.out_of_fold.rows.T)


def opened(plan: Plan, path: Path) -> dict[str, Any]:
    """The recording so far. Raises InputError when the file is of other settings."""
    if not path.exists():
        return {"drawn": 0, "config": [], "oof": [], "oof_replicate": []}
    with np.load(path) as file:
        if str(file["identity"]) != plan.identity:
            raise InputError(f"--out {path}: recorded with other settings; give the same ones to go on, or another file")
        return {"drawn": int(file["drawn"])} | {name: list(file[name]) for name in ("config", "oof", "oof_replicate")}


def save(plan: Plan, path: Path, table: dict[str, Any]) -> None:
    """Write the file, whole or not at all."""
    if not table["config"]:
        return
    views = {
        name: crossval.CrossValidation(plan.base, plan.dataset, splits, torch.device("cpu"))
        for name, splits in (("fold", plan.splits), ("fold_replicate", plan.other_splits))
    }
    first = views["fold"].out_of_fold
    order = view_order(views["fold"])
    with whole_file(path) as building, building.open("wb") as file:
        np.savez_compressed(
            file,
            identity=plan.identity,
            drawn=table["drawn"],
            config=np.array(table["config"]),
            oof=np.stack(table["oof"]),
            oof_replicate=np.stack(table["oof_replicate"]),
            label=first.label[order].astype(np.int8),
            slide=first.slide[order],
            patient=first.patient[order],
            **{name: trial.out_of_fold.fold[view_order(trial)].astype(np.int8) for name, trial in views.items()},
        )


if __name__ == "__main__":
    main()
