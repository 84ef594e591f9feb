"""Outer tables: what every configuration says of itself, and what it gives on patients that no training has seen.

`python -m bench outer --data DIR --weights FILE … --out FOLDER` draws configurations at random from the space `full` around frozen
features, and trains each on the other patients of every outer part, as the product does: 5 folds by patient, to the last epoch. After each
epoch it keeps the out-of-fold probabilities, and those of the unseen part by each fold network. Configuration 0 is the base. With
several weights or `--sizes` each configuration draws one of them. Logistic regression on pooled features is recorded beside it.

A file a training, so that a recording that was ended goes on with the same command, and several may share the work: `--share 1/2`,
`--share 2/2`. `bench/outer_table.py` loads the folder.
"""

import argparse
import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.dataset import Dataset
from data.errors import InputError
from data.splits import Splits, nested_splits
from data.views import MISSING, ViewIndex, Views
from mmnet import crossval
from mmnet.batches import Batches
from mmnet.config import Config, parse_assignment
from mmnet.crossval import CrossValidation, TrainingError
from mmnet.predict import predict
from mmnet.seeds import derive_seed
from search_spaces import get_space
from study.command_line import prepare
from study.records import whole_file

# instead of the space's, so that no training takes many times as long as another: smaller batches, and the published gate, which costs five times
# what a softmax costs
CHEAPER = {"optim.batch_size": (16, 32), "model.pool": ("softmax", "mean")}
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C of the logistic regressions


@dataclass(frozen=True)
class Features:
    """One of the frozen backbones that configurations draw from."""

    name: str
    base: Config
    dataset: Dataset


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench outer", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True, nargs="+", help="NAME_imagenet.safetensors of timm backbones")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224], help="of the images that backbones are shown, px")
    parser.add_argument("--magnifications", type=int, nargs="+", default=[200])
    parser.add_argument("--pooled", action="store_true", help="features averaged over positions: a second, cheap table")
    parser.add_argument("--configurations", type=int, default=120)
    parser.add_argument("--outer", type=int, default=5, help="parts")
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--share", default="1/1", help="k/n: every n-th configuration, beginning with the k-th")
    parser.add_argument(
        "--given",
        metavar="KEY=VALUE,…",
        action="append",
        default=[],
        help="a configuration by its departures from the base, instead of drawn ones; repeatable",
    )
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="of the base configuration")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    torch.set_num_threads(1)
    record(arguments, Console(width=150))


def record(arguments: argparse.Namespace, console: Console) -> None:
    every = [features(arguments, weights, size) for weights in arguments.weights for size in arguments.sizes]
    parts = {
        (partition, outer): splits
        for partition in range(arguments.partitions)
        for outer, splits in enumerate(
            nested_splits(every[0].dataset.table, arguments.outer, folds=5, grouping="patient", seed=partition), start=1
        )
    }
    about = {"given": arguments.given} if arguments.given else {}
    about |= {"bases": {one.name: one.base.to_dict() for one in every}, "data": every[0].dataset.fingerprint, "outer": arguments.outer}
    about = json.loads(json.dumps(about))
    known = arguments.out / "about.json"
    if known.exists() and json.loads(known.read_text()) != about:
        raise InputError(f"--out {arguments.out}: recorded with other settings; give the same ones to go on, or another folder")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with whole_file(known) as building:
        building.write_text(json.dumps(about))
    first, step = map(int, arguments.share.split("/"))
    for number in range(first - 1, (len(arguments.given) or arguments.configurations) + 1, step):
        drawn, values = given(every, arguments.given, number) if arguments.given else draw(every, number)
        begun, trained = time.perf_counter(), 0
        for (partition, outer), splits in parts.items():
            folder = arguments.out / f"p{partition}o{outer}"
            folder.mkdir(exist_ok=True)
            if number == 0:
                baselines(every, splits, folder / "baselines.npz")
            if not (folder / f"{number:04d}.npz").exists():
                one(drawn, values, splits, folder / f"{number:04d}.npz")
                trained += 1
        console.print(f"{number}: {drawn.name}, {time.perf_counter() - begun:.0f} s for {trained} trainings", highlight=False)


def features(arguments: argparse.Namespace, weights: str, size: int) -> Features:
    name = Path(weights).name.split("_imagenet")[0]
    values = {
        "model.backbone": f"timm:{name}",
        "model.weights": weights,
        "model.frozen": True,
        "model.pooled": arguments.pooled,
        "data.image_size": size,
        "data.magnifications": arguments.magnifications,
        "data.test_fraction": 0.0,
        "optim.patience": None,
    }
    base = Config().with_values(values | dict(parse_assignment(text) for text in arguments.set))
    dataset = prepare(base, arguments.data, Console(quiet=True), "cpu").dataset
    return Features(f"{name}@{size}", base, dataset)


def draw(every: list[Features], number: int) -> tuple[Features, dict[str, Any]]:
    """Features and values of configuration `number`, at random; the same whichever were drawn before. The base is number 0."""
    if number == 0:
        return every[0], {}
    seed = derive_seed(0, number)
    drawn = every[int(np.random.default_rng(seed).integers(len(every)))]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ask = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    space = get_space("full", drawn.base)
    for path, choices in CHEAPER.items():
        space = space.with_choices(path, choices)
    return drawn, space.sample(ask, drawn.base)


def given(every: list[Features], texts: list[str], number: int) -> tuple[Features, dict[str, Any]]:
    """As `draw`, of what was given."""
    return every[0], dict(parse_assignment(part) for part in texts[number - 1].split(",")) if number else {}


def one(drawn: Features, values: dict[str, Any], splits: Splits, path: Path) -> None:
    """Train a configuration on the other patients of an outer part and write what it said after each epoch."""
    config = drawn.base.with_values(values | {"optim.patience": None})
    trial = crossval.run(config, drawn.dataset.select_slides(splits.development()), splits, device=torch.device("cpu"))
    rest, _, views = unseen(drawn, splits)
    batches = Batches(rest, config, trial.device)
    begun, oof, outer, failed = time.perf_counter(), [], [], ""
    try:
        for report in trial:
            oof.append(report.probability)
            outer.append(np.stack([predict(network, batches, views.rows)[0] for network in trial.networks]))
    except TrainingError as error:
        failed = str(error)
    write(
        path,
        config=json.dumps({"features": drawn.name} | values),
        failed=failed,
        parameters=trial.parameters,
        seconds=time.perf_counter() - begun,
        oof=np.array(oof, dtype=np.float32),  # (E, V, K)
        unseen=np.array(outer, dtype=np.float32),  # (E, F, U, K)
    )
    about = path.with_name("views.npz")
    if not about.exists():
        write(about, **names(trial), **names_of_unseen(drawn, splits))


def unseen(drawn: Features, splits: Splits) -> tuple[Dataset, ViewIndex, Views]:
    rest = drawn.dataset.select_slides(splits.test)
    index = ViewIndex(rest.table, drawn.base.data.magnifications)
    return rest, index, index.evaluation(np.arange(len(index.slides)))


def names(trial: CrossValidation) -> dict[str, np.ndarray]:
    oof = trial.out_of_fold
    return {"label": oof.label, "slide": oof.slide, "patient": oof.patient, "fold": oof.fold}


def names_of_unseen(drawn: Features, splits: Splits) -> dict[str, np.ndarray]:
    rest, index, views = unseen(drawn, splits)
    slide = index.slides[views.slide]
    patient = rest.table.of_slides("patient")
    return {
        "unseen_label": index.label[views.slide],
        "unseen_slide": slide,
        "unseen_patient": np.array([patient[name] for name in slide.tolist()]),
    }


def baselines(every: list[Features], splits: Splits, path: Path) -> None:
    """Class-balanced logistic regression on the pooled features of each backbone: out of fold, and of the unseen part by all the others."""
    if path.exists():
        return
    found = {}
    for one in every:
        rest, index, views = unseen(one, splits)
        development = one.dataset.select_slides(splits.development())
        oof = CrossValidation(one.base, development, splits, torch.device("cpu")).out_of_fold
        inside, outside = pooled(development, oof.rows), pooled(rest, views.rows)
        for penalty in PENALTIES:
            probability = np.empty(len(inside))
            for fold in np.unique(oof.fold):
                here = oof.fold == fold
                probability[here] = regression(penalty, inside[~here], oof.label[~here], inside[here])
            found[f"{one.name} {penalty:g} oof"] = probability
            found[f"{one.name} {penalty:g} unseen"] = regression(penalty, inside, oof.label, outside)
    write(path, **found)


def regression(penalty: float, inputs: np.ndarray, label: np.ndarray, others: np.ndarray) -> np.ndarray:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000))
    return model.fit(inputs, label).predict_proba(others)[:, 1]


def pooled(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """rows (V, M) -> (V, M · C): the mean over positions of each image's features, zeros where a view lacks one."""
    assert dataset.features is not None
    means = np.asarray(dataset.features, dtype=np.float32).mean((2, 3))
    return np.where((rows != MISSING)[..., None], means[rows], 0).reshape(len(rows), -1)


def write(path: Path, **arrays: Any) -> None:
    """The file, whole or not at all."""
    with whole_file(path) as building, building.open("wb") as file:
        np.savez_compressed(file, **arrays)


if __name__ == "__main__":
    main()
