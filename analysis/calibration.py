"""Do probabilities mean what they say? Reliability, calibration error, and temperature scaling that never judges itself.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

BINS = 10
TEMPERATURES = (0.05, 20.0)


class Bin(NamedTuple):
    """Predictions of similar probability."""

    probability: float  # mean
    observed: float  # share of malignant
    units: int


def reliability(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Bins of (nearly) equal count, by increasing probability; equal probabilities stay in one bin."""
    order = np.argsort(probability, kind="stable")
    edges = np.unique(probability[order][np.arange(1, bins) * len(order) // bins]) if len(order) >= bins else np.unique(probability)[1:]
    member = np.searchsorted(edges, probability, side="right")
    found = [(probability[member == b], label[member == b]) for b in range(len(edges) + 1)]
    return [Bin(float(p.mean()), float(y.mean()), len(p)) for p, y in found if len(p)]


def calibration_error(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error over bins of equal count: mean of |observed - predicted|, weighted by count.

    Equal counts instead of Guo's equal widths (Nixon et al., Measuring Calibration in Deep Learning, 2019): a confident
    network leaves most bins of equal width nearly empty. With N units and b bins, pure chance gives about sqrt(b / N) / 3.
    """
    found = reliability(probability, label, bins)
    return float(sum(b.units * abs(b.observed - b.probability) for b in found) / len(label))


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept off 0 and 1."""
    clipped = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(clipped / (1 - clipped))


def scale(probability: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """sigmoid(logit / temperature): above 1 softens, below 1 sharpens."""
    return 1 / (1 + np.exp(-logit(probability) / temperature))


def fit_temperature(probability: np.ndarray, label: np.ndarray) -> float:
    """The temperature of least mean log loss (maximum likelihood, Guo et al. section 4.2), between 0.05 and 20."""
    scores, sign = logit(probability), 2.0 * label - 1

    def negative_log_likelihood(log_temperature: float) -> float:
        return float(np.logaddexp(0, -sign * scores / np.exp(log_temperature)).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(negative_log_likelihood, bounds=(low, high), method="bounded").x))


def cross_fitted_temperature(probability: np.ndarray, label: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(N,) temperature of each prediction, fitted on the other folds."""
    temperature = np.empty(len(label))
    for number in np.unique(fold):
        others = fold != number
        temperature[~others] = fit_temperature(probability[others], label[others])
    return temperature
