"""Metrics of out-of-fold predictions, over views and over patients (a patient's score is the mean over the views of all slides).

`log_loss` and `brier` are class-balanced: the mean over the classes of the mean within the class, so that a score does not reward
betting on the larger class. Probabilities are (V, K), or (V,) of the second of two classes.
"""

from collections.abc import Callable

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]


def by_class(probability: np.ndarray) -> np.ndarray:
    """(V,) of the second of two classes -> (V, 2); (V, K) as it is, but of two classes the second column decides. In float64.

    So that a metric of two classes is the same number, whether both columns were kept or one.
    """
    probability = probability.astype(np.float64)
    if probability.ndim == 2 and probability.shape[1] != 2:
        return probability
    second = probability if probability.ndim == 1 else probability[:, 1]
    return np.stack([1 - second, second], 1)


def class_balanced(loss: np.ndarray, label: np.ndarray) -> float:
    """The mean over the classes of the mean loss within each."""
    return float(np.mean([loss[label == value].mean() for value in np.unique(label)]))


def log_loss(probability: np.ndarray, label: np.ndarray) -> float:
    """Class-balanced -log of the probability of the true class, in nats; log K (0.693 of two) is knowing nothing."""
    true = by_class(probability)[np.arange(len(label)), label]
    return class_balanced(-np.log(np.clip(true, 1e-7, 1)), label)


def brier(probability: np.ndarray, label: np.ndarray) -> float:
    """Class-balanced mean squared error of the probabilities, half their sum over classes. Brier 1950; of two, 0.25 is knowing nothing."""
    classes = by_class(probability)
    return class_balanced(((classes - np.eye(classes.shape[1])[label]) ** 2).sum(1) / 2, label)


def auc(probability: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve; of more than two classes the mean over classes of one against the rest. NaN where a class is absent."""
    if probability.ndim == 1:
        return _area(probability, label == 1)
    if probability.shape[1] == 2:
        return _area(probability[:, 1], label == 1)
    return float(np.mean([_area(probability[:, number], label == number) for number in range(probability.shape[1])]))


def _area(score: np.ndarray, positive: np.ndarray) -> float:
    """The Mann-Whitney statistic, ties count half; NaN where only one class is present.

    Hanley & McNeil, Radiology 1982. By ranks, because scikit-learn's checks of its arguments cost 20 times what the area
    does, and a bootstrap asks for it tens of thousands of times.
    """
    n = int(positive.sum())
    pairs = n * (len(positive) - n)
    _, place, ties = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (ties.cumsum() - (ties - 1) / 2)[place]  # from 1; equal values share the mean of their ranks
    return float((ranks[positive].sum() - n * (n + 1) / 2) / pairs) if pairs else float("nan")


def decided(probability: np.ndarray) -> np.ndarray:
    """(V,) the class called: the most probable one, the later of equals (of two: positive from 0.5)."""
    classes = by_class(probability)
    return classes.shape[1] - 1 - classes[:, ::-1].argmax(1)


def balanced_accuracy(probability: np.ndarray, label: np.ndarray) -> float:
    """Mean over the classes of the share called right; of two, the mean of sensitivity and specificity at 0.5."""
    return class_balanced((decided(probability) == label).astype(np.float64), label)


def accuracy(probability: np.ndarray, label: np.ndarray) -> float:
    """Share called right."""
    return float(np.mean(decided(probability) == label))


def confusion_matrix(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(K, K) counts, a row a true class, a column a called one."""
    classes = by_class(probability).shape[1]
    return np.bincount(label * classes + decided(probability), minlength=classes**2).reshape(classes, classes)


def refinement(probability: np.ndarray, label: np.ndarray) -> float:
    """Log loss after a slope and a bias that are fitted on the same predictions: what they know, whatever their confidence.

    Of K classes a slope and K − 1 biases, which are fitted to the class-balanced log loss. Berta et al., Rethinking early stopping:
    refine, then calibrate, 2025.
    """
    return log_loss(recalibrated(probability, label), label)


def recalibrated(probability: np.ndarray, label: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """(V, K): the probabilities, or `others` in their place, with the slope and biases fitted here; the slope is never negative.

    By Newton's method. NaN where a class has no view.
    """
    scores = np.log(np.clip(by_class(probability), 1e-7, 1))
    applied = scores if others is None else np.log(np.clip(by_class(others), 1e-7, 1))
    classes = scores.shape[1]
    kinds, counts = np.unique(label, return_counts=True)
    if len(kinds) < classes:
        return np.full(applied.shape, np.nan)
    weight = (1 / (classes * counts))[label]  # (V,), so that each class counts the same
    wanted = np.eye(classes)[label]
    # one parameter a column: the slope's feature is the score, a bias's the indicator of its class
    features = np.concatenate([scores[:, :, None], np.broadcast_to(np.eye(classes)[:, 1:], (*scores.shape, classes - 1))], 2)  # (V, K, P)
    parameters = np.zeros(classes)

    def given(parameters: np.ndarray) -> tuple[np.ndarray, float]:
        logit = features @ parameters
        logit -= logit.max(1, keepdims=True)
        found = np.exp(logit)
        found /= found.sum(1, keepdims=True)
        return found, float(-(weight * np.log(np.maximum((found * wanted).sum(1), 1e-300))).sum()) + 1e-6 * float(parameters @ parameters)

    found, loss = given(parameters)
    for _ in range(50):
        centred = features - (found[:, :, None] * features).sum(1, keepdims=True)
        gradient = np.einsum("v,vk,vkp->p", weight, found - wanted, features) + 2e-6 * parameters
        curvature = np.einsum("v,vk,vkp,vkq->pq", weight, found, centred, centred) + 2e-6 * np.eye(classes)
        step = np.linalg.solve(curvature, gradient)
        share = 1.0
        while share > 1e-4:
            trial = given(parameters - share * step)
            if trial[1] <= loss:
                break
            share /= 2
        if share <= 1e-4 or loss - trial[1] < 1e-10:
            break
        parameters, (found, loss) = parameters - share * step, trial
    if parameters[0] < 0:  # worse than nothing: nothing is known
        return np.full(applied.shape, 1 / classes)
    logit = parameters[0] * applied + np.concatenate([[0.0], parameters[1:]])
    logit -= logit.max(1, keepdims=True)
    return np.exp(logit) / np.exp(logit).sum(1, keepdims=True)


_BASE: dict[str, tuple[Metric, str]] = {
    "log_loss": (log_loss, "min"),
    "brier": (brier, "min"),
    "auc": (auc, "max"),
    "balanced_accuracy": (balanced_accuracy, "max"),
    "accuracy": (accuracy, "max"),
    "refinement": (refinement, "min"),
}
# name -> "min" or "max": over views, and over patients with the prefix patient_
METRICS: dict[str, str] = {name: mode for name, (_, mode) in _BASE.items()}
METRICS |= {f"patient_{name}": mode for name, mode in METRICS.items()}


def patient_mean(probability: np.ndarray, label: np.ndarray, patient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((P,) or (P, K) mean probability, (P,) index of each patient's first view), patients sorted.

    A patient who has views of several classes counts once in each.
    """
    unit = np.unique(patient, return_inverse=True)[1] * (int(label.max(initial=0)) + 2) + label
    _, first, member, count = np.unique(unit, return_index=True, return_inverse=True, return_counts=True)
    if probability.ndim == 1:
        return np.bincount(member, weights=probability) / count, first
    return np.stack([np.bincount(member, weights=column) / count for column in probability.T], 1), first


def evaluate(probability: np.ndarray, label: np.ndarray, patient: np.ndarray) -> dict[str, float]:
    """Every metric of V views: probability (V,) or (V, K), label (V,), patient (V,) any ids."""
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
