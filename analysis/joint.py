"""Several sets of predictions of the same patients, resampled together: each draw takes the same patients for all of them."""

from collections.abc import Callable, Sequence

import numpy as np

from analysis.bootstrap import resamples
from analysis.predictions import Level
from mmnet.metrics import evaluate

Statistic = Callable[[Level], dict[str, float]]


def metrics_of(level: Level) -> dict[str, float]:
    """Every metric that a search may follow, see mmnet.metrics."""
    return evaluate(level.probability, level.label, level.patient)


def joint_values(levels: Sequence[Level], statistic: Statistic, *, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """((L, S) the S statistics of L levels as they are, (count, L, S) of each resample).

    Patients are drawn with replacement within each class, all units of a patient together in every level (`bootstrap.resamples`).
    The levels must hold the same patients; their units (views, folds, order) may differ.
    """
    assert all(set(level.patient.tolist()) == set(levels[0].patient.tolist()) for level in levels)
    source = np.repeat(np.arange(len(levels)), [len(level.label) for level in levels])
    row = np.concatenate([np.arange(len(level.label)) for level in levels])
    label, patient = (np.concatenate([getattr(level, name) for level in levels]) for name in ("label", "patient"))
    drawn = []
    for rows, draw in resamples(label, patient, count, rng):
        values = []
        for place, level in enumerate(levels):
            here = source[rows] == place
            chosen = row[rows[here]]
            values.append(list(statistic(level.drawn(chosen, draw[here])).values()))
        drawn.append(values)
    return np.array([list(statistic(level).values()) for level in levels]), np.array(drawn)


def percentile_interval(drawn: np.ndarray, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) of draws (count, …) over the first axis; NaN where no draw gave a number."""
    known = ~np.isnan(drawn).all(0)
    low, high = np.full(drawn.shape[1:], np.nan), np.full(drawn.shape[1:], np.nan)
    low[known], high[known] = np.nanquantile(drawn[:, known], [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return low, high
