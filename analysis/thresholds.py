"""Where to cut: thresholds chosen by a rule, and judged on patients that did not choose them.

A threshold tuned on the predictions it is judged by looks better than it is. Each rule is therefore reported three ways:
on the folds that chose it themselves (optimistic, per fold and pooled), and cross-fitted: each fold is called by the threshold
that the other folds chose (honest).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from analysis.performance import decision_metrics
from analysis.predictions import Level

TARGET_SENSITIVITY = 0.95
Rule = Callable[[np.ndarray, np.ndarray], float]  # probability (N,), label (N,) -> threshold


def max_f1(probability: np.ndarray, label: np.ndarray) -> float:
    """The threshold of the precision-recall curve with the largest F1; the highest one of equals."""
    precision, recall, threshold = precision_recall_curve(label, probability)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)[:-1]
    return _between(probability, threshold[len(f1) - 1 - np.argmax(f1[::-1])])


def max_balanced_accuracy(probability: np.ndarray, label: np.ndarray) -> float:
    """The threshold with the largest mean of sensitivity and specificity (Youden 1950); the highest one of equals."""
    false_positive, true_positive, threshold = roc_curve(label, probability, drop_intermediate=False)
    return _between(probability, threshold[np.argmax(true_positive - false_positive)])


def target_sensitivity(probability: np.ndarray, label: np.ndarray, target: float = TARGET_SENSITIVITY) -> float:
    """The highest threshold that still calls at least `target` of the malignant ones malignant."""
    positive = np.sort(probability[label == 1])[::-1]
    return _between(probability, positive[int(np.ceil(target * len(positive))) - 1])


def fixed(probability: np.ndarray, label: np.ndarray) -> float:
    """0.5, whatever the predictions."""
    return 0.5


RULES: dict[str, Rule] = {
    "0.5": fixed,
    "max F1": max_f1,
    "max balanced accuracy": max_balanced_accuracy,
    f"sensitivity {TARGET_SENSITIVITY:g}": target_sensitivity,
}


def _between(probability: np.ndarray, threshold: float) -> float:
    """Half way to the next lower probability: new predictions just below the lowest positive call are as much like it."""
    lower = probability[probability < threshold]
    if not np.isfinite(threshold):  # roc_curve's first point: call nothing
        return float(np.nextafter(probability.max(), 2))
    return float((threshold + lower.max()) / 2) if len(lower) else float(threshold)


class ThresholdReport(NamedTuple):
    """One rule at one level."""

    rule: str
    threshold: float  # chosen on all folds: the one to use on new patients
    lowest: float  # of the cross-fitted thresholds
    highest: float
    honest: dict[str, float]  # cross-fitted
    optimistic: dict[str, float]  # each fold called by the threshold that it chose itself
    pooled: dict[str, float]  # all called by the threshold that all chose


def cross_fit(rule: Rule, level: Level) -> np.ndarray:
    """(N,) threshold of each prediction, chosen on the other folds."""
    return _by_fold(rule, level, others=True)


def _by_fold(rule: Rule, level: Level, *, others: bool) -> np.ndarray:
    threshold = np.empty(len(level.label))
    for number in np.unique(level.fold):
        here = level.fold == number
        chosen = ~here if others else here
        threshold[here] = rule(level.probability[chosen], level.label[chosen])
    return threshold


def threshold_reports(level: Level) -> list[ThresholdReport]:
    """Every rule, honest beside optimistic. Each fold needs both classes."""
    reports = []
    for name, rule in RULES.items():
        honest, own = cross_fit(rule, level), _by_fold(rule, level, others=False)
        pooled = rule(level.probability, level.label)
        judged = [decision_metrics(level.probability >= threshold, level.label) for threshold in (honest, own, np.array(pooled))]
        reports.append(ThresholdReport(name, pooled, float(honest.min()), float(honest.max()), *judged))
    return reports
