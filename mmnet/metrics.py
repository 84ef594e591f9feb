"""Metrics of out-of-fold predictions, over views and over patients (a patient's score is the mean over the views of all slides).

`log_loss` and `brier` are class-balanced: the mean over the two classes of the mean within the class, so that a score
does not reward betting on the larger class.
"""

from collections.abc import Callable

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


def _class_balanced(loss: np.ndarray, label: np.ndarray) -> float:
    return float(np.mean([loss[label == value].mean() for value in np.unique(label)]))


def log_loss(probability: np.ndarray, label: np.ndarray) -> float:
    """Class-balanced -log of the probability of the true class, in nats; 0.693 is knowing nothing."""
    clipped = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return _class_balanced(-np.log(np.where(label == 1, clipped, 1 - clipped)), label)


def brier(probability: np.ndarray, label: np.ndarray) -> float:
    """Class-balanced mean squared error of the probability. Brier 1950; 0.25 is knowing nothing."""
    return _class_balanced((probability.astype(np.float64) - label) ** 2, label)


def auc(probability: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic, ties count half; NaN where only one class is present.

    Hanley & McNeil, Radiology 1982. By ranks, because scikit-learn's checks of its arguments cost 20 times what the area
    does, and a bootstrap asks for it tens of thousands of times; SciPy's ranks cost three times these, and 40 MB a worker.
    """
    positive = label == 1
    n = int(positive.sum())
    pairs = n * (len(label) - n)
    _, place, ties = np.unique(probability, return_inverse=True, return_counts=True)
    ranks = (ties.cumsum() - (ties - 1) / 2)[place]  # from 1; equal values share the mean of their ranks
    return float((ranks[positive].sum() - n * (n + 1) / 2) / pairs) if pairs else float("nan")


def balanced_accuracy(probability: np.ndarray, label: np.ndarray) -> float:
    """Mean of sensitivity and specificity at the fixed threshold 0.5."""
    return _class_balanced(((probability >= 0.5) == (label == 1)).astype(np.float64), label)


def accuracy(probability: np.ndarray, label: np.ndarray) -> float:
    """Share of right decisions at the fixed threshold 0.5."""
    return float(np.mean((probability >= 0.5) == (label == 1)))


_BASE: dict[str, tuple[Metric, str]] = {
    "log_loss": (log_loss, "min"),
    "brier": (brier, "min"),
    "auc": (auc, "max"),
    "balanced_accuracy": (balanced_accuracy, "max"),
    "accuracy": (accuracy, "max"),
}
# name -> "min" or "max": over views, and over patients with the prefix patient_
METRICS: dict[str, str] = {name: mode for name, (_, mode) in _BASE.items()}
METRICS |= {f"patient_{name}": mode for name, mode in METRICS.items()}


def patient_mean(probability: np.ndarray, label: np.ndarray, patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((P,) mean probability, (P,) index of each patient's first view), patients sorted.

    A patient who has views of several classes counts once in each.
    """
    unit = np.unique(patient, return_inverse=True)[1] * (int(label.max(initial=0)) + 2) + label
    _, first, member = np.unique(unit, return_index=True, return_inverse=True)
    return np.bincount(member, weights=probability) / np.bincount(member), first


def evaluate(probability: np.ndarray, label: np.ndarray, patient: np.ndarray) -> dict[str, float]:
    """Every metric of V views: probability of malignant (V,), label (V,) in {0, 1}, patient (V,) any ids."""
    of_patient, first = patient_mean(probability, label, patient)
    values = {name: metric(probability, label) for name, (metric, _) in _BASE.items()}
    return values | {f"patient_{name}": metric(of_patient, label[first]) for name, (metric, _) in _BASE.items()}


def evaluate_one(name: str, probability: np.ndarray, label: np.ndarray, patient: np.ndarray) -> float:
    """One metric by its name, arguments as in `evaluate`."""
    if not name.startswith("patient_"):
        return _BASE[name][0](probability, label)
    of_patient, first = patient_mean(probability, label, patient)
    return _BASE[name.removeprefix("patient_")][0](of_patient, label[first])


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Whether `value` beats `best` (None: nothing to beat yet). NaN never does."""
    if np.isnan(value) or best is None:
        return best is None and not np.isnan(value)
    return value < best if METRICS[metric] == "min" else value > best
