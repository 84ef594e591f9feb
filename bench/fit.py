"""Squash, crop or pad what is not square: which holds on patients that trained nothing?

`python -m bench fit --data DIR --weights FILE [--backbone timm:tf_efficientnet_lite0] [--partitions 20]`. A frozen backbone's pooled features,
class-balanced logistic regression (C 1e-3), five folds by patient under many partitions; training images as they are, or in all
eight symmetries (where a squashed image that is turned has a distortion that evaluation never shows); evaluation as they are.
Differences to squash are of the mean over partitions, with 95 % intervals by the bootstrap over patients.
"""

import argparse
import hashlib
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bench.machine import describe_machine
from data.cache import cache_root
from data.labels import choose_classes
from data.splits import make_splits
from data.store import load_dataset
from data.table import PatientTable
from mmnet import feature_maps
from mmnet.config import Config
from mmnet.metrics import auc, log_loss

FITS = ("squash", "crop", "pad")
SYMMETRIES = tuple((turn, flip) for turn in range(4) for flip in (False, True))
RESAMPLES = 2000


def features(images: np.ndarray, config: Config, key: str) -> np.ndarray:
    """(8, N, C) pooled, in every symmetry; kept in the cache."""
    path = cache_root() / "bench" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        found = []
        for turn, flip in SYMMETRIES:
            turned = np.rot90(images, turn, (1, 2))[:, :, :: -1 if flip else 1]
            found.append(
                np.concatenate([feature_maps.pooled(maps).flatten(1).numpy() for maps in feature_maps.computed(turned, config, "cpu")])
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.stack(found).astype(np.float32))
    return np.load(path)


def out_of_fold(x: np.ndarray, table: PatientTable, seed: int, symmetries: int) -> np.ndarray:
    """(N,) probabilities; x (8, N, C)."""
    fold_of = make_splits(table, folds=5, test_fraction=0.0, grouping="patient", seed=seed).fold_of()
    fold = np.array([fold_of[name] for name in table.slide.tolist()])
    probability = np.empty(len(table))
    for number in range(5):
        here = fold == number
        train = x[:symmetries, ~here].reshape(-1, x.shape[2])
        scaler = StandardScaler().fit(train)
        model = LogisticRegression(C=1e-3, class_weight="balanced", max_iter=2000)
        model.fit(scaler.transform(train), np.tile(table.label[~here], symmetries))
        probability[here] = model.predict_proba(scaler.transform(x[0, here]))[:, 1]
    return probability


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench fit")
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--backbone", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--partitions", type=int, default=20)
    arguments = parser.parse_args()
    console = Console(width=140)
    console.print(describe_machine(), highlight=False)
    config = Config().with_values({"model.backbone": arguments.backbone, "model.weights": str(arguments.weights), "model.frozen": True})
    probability: dict[tuple[str, int], np.ndarray] = {}
    for fit in FITS:
        dataset = choose_classes(load_dataset(arguments.data, 224, fit=fit))
        assert dataset.images is not None
        x = features(np.asarray(dataset.images), config, f"{dataset.fingerprint} {fit} {arguments.backbone}")
        for symmetries in (1, 8):
            probability[fit, symmetries] = np.stack(
                [out_of_fold(x, dataset.table, seed, symmetries) for seed in range(arguments.partitions)]
            )
    label, patient = dataset.table.label, np.unique(dataset.table.patient, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    of_class = [np.unique(patient[label == value]) for value in (0, 1)]
    rows_of = [np.flatnonzero(patient == number) for number in range(patient.max() + 1)]
    draws = [np.concatenate([rows_of[p] for group in of_class for p in rng.choice(group, len(group))]) for _ in range(RESAMPLES)]
    counts = (
        f"{len(label)} images of {len(of_class[0])} benign and {len(of_class[1])} malignant patients, {arguments.partitions} partitions"
    )
    table = Table(title=f"{counts}; difference to squash (95 %)")
    for column in ("training images", "fit", "log loss", "difference", "AUC", "difference"):
        table.add_column(column, justify="right")
    for (fit, symmetries), found in probability.items():
        cells = ["in 8 symmetries" if symmetries > 1 else "as they are", fit]
        for metric in (log_loss, auc):
            value = np.mean([metric(p, label) for p in found])
            base = probability["squash", symmetries].mean(0), found.mean(0)
            difference = [metric(base[1][rows], label[rows]) - metric(base[0][rows], label[rows]) for rows in draws]
            low, high = np.quantile(difference, (0.025, 0.975))
            cells += [
                f"{value:.3f}",
                "" if fit == "squash" else f"{metric(base[1], label) - metric(base[0], label):+.3f} ({low:+.3f} to {high:+.3f})",
            ]
        table.add_row(*cells)
    console.print(table)


if __name__ == "__main__":
    main()
