"""Every metric of mmnet.metrics as a function of how often each patient counts, for many configurations at once.

A bootstrap sample, a jackknife sample and the patients left out of a sample are all weights over the same N patients. Means are
then one matrix product, and the AUC a weighted Mann-Whitney statistic: (C, V) predictions are gone through once, whatever
the number of samples.
"""

from dataclasses import dataclass

import numpy as np

from mmnet.metrics import patient_mean, recalibrated

BLOCK = 256  # configurations whose pairs of patients are held at once


@dataclass(frozen=True)
class PatientMeans:
    """A mean over views, or the mean of one such mean a class: what each patient adds to it."""

    total: np.ndarray  # (G, C, N) sum of the loss over a patient's views of group g: G classes, or 1 for all
    size: np.ndarray  # (G, N) number of those views

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """(C, B) the metric under weights (B, N); NaN where a class has no weight."""
        with np.errstate(invalid="ignore"):
            return np.mean([total @ weights.T / (weights @ size) for total, size in zip(self.total, self.size, strict=True)], axis=0)


@dataclass(frozen=True)
class PatientPairs:
    """The AUC: how many pairs of a positive view of one patient and a negative view of another are in the right order."""

    wins: np.ndarray  # (C, N, N): patient of the positive view, patient of the negative view; a tie is half a win
    size: np.ndarray  # (2, N) number of negative and positive views

    def scores(self, weights: np.ndarray) -> np.ndarray:
        """(C, B) AUC under weights (B, N), a pair weighing the product of its patients'; NaN where a class has no weight."""
        positive, negative = (np.flatnonzero(size) for size in self.size[::-1])
        above, below = weights[:, positive].astype(self.wins.dtype), weights[:, negative].astype(self.wins.dtype)
        won = np.stack([((above @ wins[np.ix_(positive, negative)]) * below).sum(1) for wins in self.wins])
        with np.errstate(invalid="ignore"):
            return won / ((weights @ self.size[1]) * (weights @ self.size[0]))


PatientScores = PatientMeans | PatientPairs


def patient_scores(metric: str, probability: np.ndarray, label: np.ndarray, patient: np.ndarray) -> PatientScores:
    """What a metric (a name of mmnet.metrics) needs of C configurations' probabilities (C, V); other arrays are (V,).

    Patients are numbered as `np.unique(patient)` sorts them. Each unit (a view, or a patient for patient_*) belongs to one patient.
    """
    number = np.unique(patient, return_inverse=True)[1]
    if metric.startswith("patient_"):
        first = patient_mean(probability[0], label, patient)[1]
        probability = np.stack([patient_mean(row, label, patient)[0] for row in probability])
        metric, label, number = metric.removeprefix("patient_"), label[first], number[first]
    if metric == "refinement":  # the slope and bias of all patients, whatever the weights: to fit them anew for each sample moves little
        probability = np.stack([recalibrated(row, label)[:, 1] for row in probability])
        metric = "log_loss"
    if metric == "auc":
        return _pairs(probability, label, number)
    groups = [np.ones(len(label), dtype=bool)] if metric == "accuracy" else [label == value for value in np.unique(label)]
    loss, member = _loss(metric, probability, label), np.eye(number.max() + 1)[number]  # (C, U), (U, N)
    return PatientMeans(np.stack([loss[:, group] @ member[group] for group in groups]), np.stack([member[group].sum(0) for group in groups]))


def _loss(metric: str, probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(C, U) what a unit adds to a mean; the formulas of mmnet.metrics."""
    probability = probability.astype(np.float64)
    if metric == "log_loss":
        return -np.log(np.clip(np.where(label == 1, probability, 1 - probability), 1e-7, 1))
    if metric == "brier":
        return (probability - label) ** 2
    assert metric in ("accuracy", "balanced_accuracy")
    return ((probability >= 0.5) == (label == 1)).astype(np.float64)


def _pairs(probability: np.ndarray, label: np.ndarray, number: np.ndarray) -> PatientPairs:
    member = np.eye(number.max() + 1)[number]
    positive = label == 1
    upper, wins = probability[:, positive], np.zeros((len(probability), member.shape[1], member.shape[1]))
    for patient in np.unique(number[~positive]):
        won = np.zeros(upper.shape, dtype=np.float32)
        for unit in np.flatnonzero(~positive & (number == patient)):
            lower = probability[:, unit, None]
            won += upper > lower
            won += upper >= lower
        wins[:, :, patient] = won @ (member[positive] / 2)
    return PatientPairs(wins, np.stack([member[~positive].sum(0), member[positive].sum(0)]))


def weighted_scores(
    metric: str, probability: np.ndarray, label: np.ndarray, patient: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """(C, B) a metric of C configurations (C, V) under patient weights (B, N), block by block to save memory."""
    blocks = [probability[start : start + BLOCK] for start in range(0, len(probability), BLOCK)]
    return np.concatenate([patient_scores(metric, block, label, patient).scores(weights) for block in blocks])
