"""Recorded learning curves: a table of configurations that a search can be replayed on, see `bench/search.py` for the format."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

CLIP = 1e-7  # of probabilities, as in mmnet.metrics.log_loss


@dataclass(frozen=True)
class Table:
    points: np.ndarray  # (C, D) configurations in the unit cube
    choices: tuple[int, ...]  # (D,) number of values of a dimension; 0: any between 0 and 1
    scores: np.ndarray  # (C, E) class-balanced log loss after each epoch; lower is better
    replicate: np.ndarray  # (C, V) probability of class 1 of every view, trained again on another partition
    label: np.ndarray  # (V,)
    last_by_fold: np.ndarray  # (C, F) class-balanced log loss of each fold after the last epoch

    @property
    def folds(self) -> int:
        return self.last_by_fold.shape[1]

    @cached_property
    def replicate_scores(self) -> np.ndarray:
        """(C,) class-balanced log loss of each replicate."""
        return balanced_log_loss(self.replicate, self.label)

    def percentile(self, rows: Sequence[int]) -> float:
        """Percentage of the configurations whose replicate is better than the mean of the replicates of `rows`."""
        together = balanced_log_loss(self.replicate[list(rows)].astype(np.float64).mean(0), self.label)
        return float(100 * (self.replicate_scores < together - 1e-9).mean())

    def nearest(self, point: np.ndarray, used: set[int]) -> int | None:
        """The recorded configuration nearest to a proposal that nobody has used yet; None: all are used."""
        free = np.setdiff1d(np.arange(len(self.points)), list(used))
        return int(free[((self.points[free] - point) ** 2).sum(1).argmin()]) if len(free) else None


def balanced_log_loss(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(..., V) probability of class 1, (V,) label -> (...): mean of the two classes' mean log loss."""
    probability = np.clip(probability.astype(np.float64), CLIP, 1 - CLIP)
    loss = -np.log(np.where(label == 1, probability, 1 - probability))
    return (loss[..., label == 1].mean(-1) + loss[..., label == 0].mean(-1)) / 2


def unit_cube(configs: list[dict]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Points (C, D), each field by its observed range, a logarithmic one where it was drawn on such a scale; and values a dimension.

    Texts are choices. A conditional field that a configuration lacks stands at the low end of its range; one that never varies has
    no dimension.
    """
    columns, choices = [], []
    for name in dict.fromkeys(name for config in configs for name in config):
        present = [config[name] for config in configs if name in config]
        places = {text: place for place, text in enumerate(sorted({value for value in present if isinstance(value, str)}))}
        numbers = [float(places.get(value, value)) for value in present]
        values = np.array([float(places.get(config[name], config[name])) if name in config else min(numbers) for config in configs])
        distinct = np.unique(values)
        if len(distinct) == 1:
            continue
        if len(distinct) <= 8:
            columns.append(np.searchsorted(distinct, values) / max(len(distinct) - 1, 1))
            choices.append(len(distinct))
            continue
        if distinct[0] > 0 and distinct[-1] / distinct[0] > 100 and _drawn_on_a_log_scale(values):
            values = np.log(values)
        columns.append((values - values.min()) / (values.max() - values.min()))
        choices.append(0)
    return np.stack(columns, 1), tuple(choices)


def _drawn_on_a_log_scale(values: np.ndarray) -> bool:
    """Whether the median stands nearer to the middle of the range in logarithms: a uniform 0.001 to 0.9 also spans a factor of 100."""

    def off_centre(values: np.ndarray) -> float:
        return abs((np.median(values) - values.min()) / (values.max() - values.min()) - 0.5)

    return off_centre(np.log(values)) < off_centre(values)


def patients_of(file: Mapping[str, np.ndarray]) -> np.ndarray:
    """(V,) the patient of each view of a recording; earlier ones call it case, or have slides only, whose number it is (`data.grammar`)."""
    for name in ("patient", "case"):
        if name in file:
            return file[name]
    return np.array([re.sub(r"^.*-|\D+$", "", slide) for slide in file["slide"].tolist()])


def load(path: Path) -> Table:
    with np.load(path) as file:
        points, choices = unit_cube([json.loads(text) for text in file["config"]])
        oof, label, fold, replicate = file["oof"], file["label"], file["fold"], file["oof_replicate"]
    folds = [balanced_log_loss(oof[:, -1, fold == number], label[fold == number]) for number in np.unique(fold)]
    return Table(points, choices, balanced_log_loss(oof, label), replicate, label, np.stack(folds, 1))


def subset(table: Table, rows: np.ndarray) -> Table:
    """The table with some of its configurations only; percentiles among these."""
    return replace(
        table, points=table.points[rows], scores=table.scores[rows], replicate=table.replicate[rows], last_by_fold=table.last_by_fold[rows]
    )
