"""How good: every metric of one level's predictions, with patient-bootstrap intervals.

Decisions are malignant where the probability is at least the threshold. NaN stands where a metric is not defined (AUC of
one class, precision without a positive call).
"""

from collections.abc import Callable

import numpy as np

from analysis.bootstrap import Interval, resamples
from analysis.calibration import calibration_error
from analysis.predictions import Level
from mmnet.metrics import auc

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "bal. accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "f1": "F1",
    "kappa": "kappa",
    "auc": "AUC",
    "pr_auc": "PR-AUC",
    "brier": "Brier",
    "calibration_error": "calib. error",
    "recognition_rate": "recognition",
}


def confusion(decision: np.ndarray, label: np.ndarray) -> tuple[int, int, int, int]:
    """(true positive, false positive, true negative, false negative)."""
    positive = label == 1
    return (
        int((decision & positive).sum()),
        int((decision & ~positive).sum()),
        int((~decision & ~positive).sum()),
        int((~decision & positive).sum()),
    )


def decision_metrics(decision: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Metrics of calls (N,) bool: accuracy, balanced accuracy, sensitivity, specificity, precision, F1, Cohen's kappa (1960)."""
    tp, fp, tn, fn = confusion(decision, label)
    n = tp + fp + tn + fn
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    accuracy = _ratio(tp + tn, n)
    chance = ((tp + fp) * (tp + fn) + (tn + fn) * (tn + fp)) / n**2
    return {
        "accuracy": accuracy,
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "kappa": _ratio(accuracy - chance, 1 - chance),
    }


def performance(level: Level, threshold: float = 0.5) -> dict[str, float]:
    """Every metric of NAMES. Brier is the plain mean of squared errors here, not the class-balanced score of a search."""
    probability, label = level.probability, level.label
    decision = probability >= threshold
    return decision_metrics(decision, label) | {
        "auc": auc(probability, label),
        "pr_auc": average_precision(probability, label),
        "brier": float(np.mean((probability - label) ** 2)),
        "calibration_error": calibration_error(probability, label),
        "recognition_rate": recognition_rate(decision, label, level.slide),
    }


def recognition_rate(decision: np.ndarray, label: np.ndarray, slide: np.ndarray) -> float:
    """Mean over slides of the share of their images called right. Spanhol et al., IEEE TBME 2016, eq. 1 and 2, who call slides patients."""
    right = (decision == (label == 1)).astype(np.float64)
    member = np.unique(slide, return_inverse=True)[1]
    return float((np.bincount(member, weights=right) / np.bincount(member)).mean())


def average_precision(probability: np.ndarray, label: np.ndarray) -> float:
    """Area under the precision-recall curve as a step function, as scikit-learn defines it; NaN where only one class is present."""
    order = np.argsort(-probability, kind="stable")
    ranked, hits = probability[order], np.cumsum(label[order] == 1)
    if not 0 < hits[-1] < len(label):
        return float("nan")
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal probabilities are called together
    recalled = np.diff(hits[last], prepend=0) / hits[-1]
    return float((recalled * hits[last] / (last + 1)).sum())


def performance_intervals(level: Level, *, rng: np.random.Generator, count: int = 1000, confidence: float = 0.95) -> dict[str, Interval]:
    """Every metric with its percentile bootstrap interval over patients, stratified by class.

    None for the calibration error: resampling adds noise to each bin and so only ever raises it.
    """
    drawn = [performance(level.drawn(rows, draw)) for rows, draw in resamples(level.label, level.patient, count, rng)]
    found = quantiles(performance(level), drawn, confidence)
    return found | {"calibration_error": Interval(found["calibration_error"].value, float("nan"), float("nan"))}


def quantiles(value: dict[str, float], drawn: list[dict[str, float]], confidence: float = 0.95) -> dict[str, Interval]:
    """Percentile intervals of each entry of a dictionary of statistics, NaN where no resample gave a number."""
    intervals = {}
    for name, point in value.items():
        column = np.array([row[name] for row in drawn])
        column = column[~np.isnan(column)]
        low, high = np.quantile(column, [(1 - confidence) / 2, (1 + confidence) / 2]) if len(column) else (np.nan, np.nan)
        intervals[name] = Interval(point, float(low), float(high))
    return intervals


def by_fold(level: Level, statistic: Callable[[Level], dict[str, float]] = performance) -> list[dict[str, float]]:
    """A dictionary of statistics of each fold."""
    return [statistic(level.select(level.fold == fold)) for fold in np.unique(level.fold)]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
