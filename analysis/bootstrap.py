"""Intervals by resampling cases, stratified by class. The case is the unit, never the image."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mmnet.metrics import evaluate_one


class Interval(NamedTuple):
    """A statistic of the sample with its percentile bootstrap interval."""

    value: float
    low: float
    high: float


def resamples(label: np.ndarray, case: np.ndarray, count: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """`count` pairs (rows, draw): cases drawn with replacement within each class, all views of a case together.

    `draw` numbers the cases drawn, so that a case drawn twice is two cases, and its patients are two patients each.
    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 8 (clusters are the units that are drawn).
    """
    members = {str(name): np.flatnonzero(case == name) for name in np.unique(case)}
    strata: dict[int, list[str]] = {}
    for name, rows in members.items():
        strata.setdefault(int(label[rows[0]]), []).append(name)
    drawn = []
    for _ in range(count):
        names = [names[i] for names in strata.values() for i in rng.integers(len(names), size=len(names))]
        parts = [members[name] for name in names]
        drawn.append((np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])))
    return drawn


def bootstrap_interval(
    metric: str,
    probability: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    case: np.ndarray,
    *,
    rng: np.random.Generator,
    count: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a metric (a name of mmnet.metrics) of V views (all arrays (V,))."""

    def statistic(rows: np.ndarray, drawn: np.ndarray) -> float:
        return evaluate_one(metric, probability[rows], label[rows], drawn)

    return _interval(statistic, label, patient, case, rng, count, level)


def paired_difference(
    metric: str,
    first: np.ndarray,
    second: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    case: np.ndarray,
    *,
    rng: np.random.Generator,
    count: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of metric(first) - metric(second) on the same views: each resample draws the same cases for both."""

    def statistic(rows: np.ndarray, drawn: np.ndarray) -> float:
        return evaluate_one(metric, first[rows], label[rows], drawn) - evaluate_one(metric, second[rows], label[rows], drawn)

    return _interval(statistic, label, patient, case, rng, count, level)


def _interval(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    label: np.ndarray,
    patient: np.ndarray,
    case: np.ndarray,
    rng: np.random.Generator,
    count: int,
    level: float,
) -> Interval:
    """Percentile interval of a statistic of (rows, patient numbers), the patients of a case drawn twice counted as two."""
    number = np.unique(patient, return_inverse=True)[1]
    values = [statistic(rows, draw * len(number) + number[rows]) for rows, draw in resamples(label, case, count, rng)]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(statistic(np.arange(len(label)), number), float(low), float(high))
