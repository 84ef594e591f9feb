"""Where to cut: thresholds chosen by a rule, and judged on patients that did not choose them.

A threshold tuned on the predictions it is judged by looks better than it is. Each rule is therefore reported three ways:
on the folds that chose it themselves (optimistic, per fold and pooled), and cross-fitted: each fold is called by the threshold
that the other folds chose (honest).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from sklearn.metrics import precision_recall_curve, roc_curve

from analysis.performance import decision_metrics
from analysis.predictions import LEVELS, Level, Predictions, study_predictions
from analysis.tables import narrow_table, write_table
from study.folder import read_study
from study.records import write_json

TARGET_SENSITIVITY = 0.95
DIGITS = 12  # scores equal to so many decimals are equals: 2/3 - 1/3 is not 1/3 in floating point
SHOWN = ("balanced_accuracy", "sensitivity", "specificity", "precision", "f1", "accuracy", "kappa")
Rule = Callable[[np.ndarray, np.ndarray], float]  # probability (N,), label (N,) -> threshold


def max_f1(probability: np.ndarray, label: np.ndarray) -> float:
    """The threshold of the precision-recall curve with the largest F1; the highest one of equals."""
    precision, recall, threshold = precision_recall_curve(label, probability)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)[:-1]
    return _between(probability, threshold[len(f1) - 1 - np.argmax(f1[::-1].round(DIGITS))])


def max_balanced_accuracy(probability: np.ndarray, label: np.ndarray) -> float:
    """The threshold with the largest mean of sensitivity and specificity (Youden 1950); the highest one of equals."""
    false_positive, true_positive, threshold = roc_curve(label, probability, drop_intermediate=False)
    return _between(probability, threshold[np.argmax((true_positive - false_positive).round(DIGITS))])


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
    "max bal. acc.": max_balanced_accuracy,
    f"sens. {TARGET_SENSITIVITY:g}": target_sensitivity,
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
    """Every rule, honest beside optimistic; a fold of one class chooses no threshold of its own, and the optimistic numbers are NaN then."""
    reports = []
    both = all(len(np.unique(level.label[level.fold == number])) > 1 for number in np.unique(level.fold))
    for name, rule in RULES.items():
        honest = cross_fit(rule, level)
        pooled = rule(level.probability, level.label)
        judged = [decision_metrics(level.probability >= threshold, level.label) for threshold in (honest, np.array(pooled))]
        own = decision_metrics(level.probability >= _by_fold(rule, level, others=False), level.label) if both else dict.fromkeys(judged[0], np.nan)
        judged.insert(1, own)
        reports.append(ThresholdReport(name, pooled, float(honest.min()), float(honest.max()), *judged))
    return reports


def write_thresholds(study: Path) -> dict[str, Any]:
    """results/thresholds.json and .csv: every rule over images, views and patients."""
    report = thresholds_report(study_predictions(study), read_study(study)["data"]["synthetic"])
    write_json(study / "results" / "thresholds.json", report)
    write_thresholds_table(study / "results", report)
    return report


def thresholds_report(predictions: Predictions, synthetic: bool) -> dict[str, Any]:
    """Every rule at every level."""
    return {
        "synthetic": synthetic,
        "levels": {name: [row._asdict() for row in threshold_reports(predictions.level(name))] for name in LEVELS},
    }


def write_thresholds_table(folder: Path, report: dict[str, Any]) -> None:
    """thresholds.csv."""
    ways = ("honest", "optimistic", "pooled")
    rows = [
        [name, row["rule"], *(round(row[key], 6) for key in ("threshold", "lowest", "highest")), *(round(row[w][m], 6) for m in SHOWN for w in ways)]
        for name, found in report["levels"].items()
        for row in found
    ]  # fmt: skip
    columns = ["level", "rule", "threshold", "lowest", "highest", *(f"{metric}_{way}" for metric in SHOWN for way in ways)]
    write_table(folder / "thresholds.csv", columns, rows)


def print_thresholds(report: dict[str, Any], console: Console) -> None:
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    for level, rows in report["levels"].items():
        columns = ("rule", "threshold", "bal. acc.", "optimistic", "F1", "optimistic", "sens.", "spec.")
        table = narrow_table(f"thresholds over {level}s{synthetic}", columns)
        for row in rows:
            honest, optimistic = row["honest"], row["optimistic"]
            table.add_row(
                row["rule"],
                f"{row['threshold']:.2f}",
                *(f"{part['balanced_accuracy']:.3f}" for part in (honest, optimistic)),
                *(f"{part['f1']:.3f}" for part in (honest, optimistic)),
                *(f"{honest[name]:.3f}" for name in ("sensitivity", "specificity")),
            )
        console.print(table, "")
    console.print(
        "honest: each fold called by the threshold that the other folds chose; optimistic: by the one that it chose itself;\n"
        "the threshold shown was chosen on all folds, for new patients; more: results/thresholds.csv",
        highlight=False,
        soft_wrap=True,
    )
