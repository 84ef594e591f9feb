"""Configurations, data sets and splits small enough to train in a fraction of a second."""

from typing import Any

import numpy as np
import torch

from data.dataset import Dataset
from data.splits import Splits
from mmnet.config import Config
from mmnet.crossval import CrossValidation, EpochReport
from tests.data.trees import table_of

CPU = torch.device("cpu")
MAGNIFICATIONS = (40, 100, 200, 400)
TINY = {
    "data.image_size": 32,
    "data.folds": 2,
    "model.backbone": "tiny",
    "model.weights": None,
    "model.width": 8,
    "model.heads": 2,
    "optim.lr": 1e-2,
    "optim.epochs": 3,
    "optim.batch_size": 4,
}
# every mechanism of the head that a configuration can switch, with its other choices
SWITCHES = {
    "model.channel_attention": (True,),
    "model.pool": ("gate", "softmax"),
    "model.width": (None,),
    "model.hidden": (6,),
    "model.hierarchy": ("bidirectional", "none"),
    "model.importance": (False,),
    "model.cross_attention": (False,),
    "model.concatenation": (False,),
    "model.mixing": ("equal",),
}


def tiny_config(values: dict[str, Any] | None = None) -> Config:
    return Config().with_values(TINY | (values or {}))


def _table(patients: int, images: int):
    return table_of(
        *(
            f"SOB_{'M_DC' if patient % 2 else 'B_A'}-14-{1001 + patient}-{m}-{n:03d}.png"
            for patient in range(patients)
            for m in MAGNIFICATIONS
            for n in range(1, images + 1)
        )
    )


def pixel_dataset(patients: int = 8, images: int = 2, size: int = 32, seed: int = 0) -> Dataset:
    """Noise images; every other patient is malignant and a little brighter."""
    table = _table(patients, images)
    noise = np.random.default_rng(seed).integers(0, 200, (len(table), size, size, 3))
    pixels = (noise + 20 * table.label[:, None, None, None]).astype(np.uint8)
    return Dataset(table, pixels, f"noise-{seed}-{patients}-{images}-{size}", "noise")


def feature_dataset(
    patients: int = 8, images: int = 2, seed: int = 0, *, channels: int = 8, signal: float = 0.5, signature: float = 1.0
) -> Dataset:
    """2 x 2 feature maps: noise, plus a vector of each patient (of one slide) times `signature`, plus ±`signal` in channel 0 by class."""
    table = _table(patients, images)
    rng = np.random.default_rng(seed)
    number = np.unique(table.slide, return_inverse=True)[1]
    maps = rng.normal(size=(len(table), channels, 2, 2)) + signature * rng.normal(size=(patients, channels, 1, 1))[number]
    maps[:, 0] += signal * (2 * table.label - 1)[:, None, None]
    return Dataset(table, None, f"features-{seed}-{patients}-{images}", "features", features=maps.astype(np.float16))


def deal(dataset: Dataset, folds: int = 2) -> Splits:
    """All slides in turn, class by class, into folds; none is sealed."""
    label_of = dataset.table.of_slides("label")
    ordered = sorted(label_of, key=lambda slide: (label_of[slide], slide))
    return Splits(tuple(tuple(sorted(ordered[fold::folds])) for fold in range(folds)), (), "patient", "dealt")


def train(config: Config, dataset: Dataset, folds: int = 2) -> tuple[CrossValidation, list[EpochReport]]:
    """A finished trial on the CPU and its reports."""
    trial = CrossValidation(config, dataset, deal(dataset, folds), CPU)
    return trial, list(trial)


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter drawn anew: gains and scores that start at zero would hide what they multiply."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return module
