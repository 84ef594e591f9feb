"""Intervals by resampling patients, stratified by class. The patient is the unit, never the image."""

from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from analysis.patient_scores import PatientScores, patient_scores


class Interval(NamedTuple):
    """A statistic of the sample with its bootstrap interval."""

    value: float
    low: float
    high: float


def resamples(label: np.ndarray, patient: np.ndarray, count: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """`count` pairs (rows, draw): patients drawn with replacement within each class, all views of a patient together.

    `draw` numbers the patients drawn, so that a patient drawn twice is two patients.
    For statistics that are no function of patient weights; `draw_patients` is the fast way.
    Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 8 (clusters are the units that are drawn).
    """
    members = {str(name): np.flatnonzero(patient == name) for name in np.unique(patient)}
    strata: dict[int, list[str]] = {}
    for name, rows in members.items():
        strata.setdefault(int(label[rows[0]]), []).append(name)
    drawn = []
    for _ in range(count):
        names = [names[i] for names in strata.values() for i in rng.integers(len(names), size=len(names))]
        parts = [members[name] for name in names]
        drawn.append((np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])))
    return drawn


def strata_of(label: np.ndarray, patient: np.ndarray) -> np.ndarray:
    """(N,) class of each patient, patients as `np.unique(patient)` sorts them: the label of its first view."""
    return label[np.unique(patient, return_index=True)[1]]


def draw_patients(strata: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(B, N) weights of patients in `count` resamples for intervals: of n patients of a class n - 1 are drawn, each weighing n / (n - 1).

    Drawing n of n makes the variance of a mean (n - 1) / n of what it is, which shows with 7 benign patients.
    Rao & Wu, Resampling Inference with Complex Survey Data, JASA 1988, section 2 (m = n - 1 in each stratum).
    """
    weights = np.zeros((count, len(strata)))
    for value in np.unique(strata):
        here = np.flatnonzero(strata == value)
        drawn = max(len(here) - 1, 1)
        weights[:, here] = rng.multinomial(drawn, np.full(len(here), 1 / len(here)), size=count) * len(here) / drawn
    return weights


def jackknife_weights(count: int) -> np.ndarray:
    """(N, N) weights that leave out each patient in turn."""
    return 1 - np.eye(count)


def influence_parts(left_out: np.ndarray, strata: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """For each class of n patients: ((C, n) deviations whose products sum to its part of the covariance, n - 1), from the jackknife (C, N).

    Var = sum over classes of (n - 1) / n times the sum of squares of (left out - mean). Efron & Tibshirani 1993, eq. 11.5.
    """
    parts = []
    for value in np.unique(strata):
        part = left_out[:, strata == value]
        count = part.shape[1]
        parts.append(((part - part.mean(1, keepdims=True)) * np.sqrt((count - 1) / count), count - 1))
    return parts


def degrees_of_freedom(variances: list[np.ndarray], counts: list[int]) -> np.ndarray:
    """Of a sum of variances, each with its own n - 1. Satterthwaite, An Approximate Distribution of Estimates of Variance Components, 1946."""
    below = sum(variance**2 / max(count, 1) for variance, count in zip(variances, counts, strict=True))
    total = sum(variances)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(below) > 0, np.asarray(total) ** 2 / below, float(max(sum(counts), 1)))


class Errors(NamedTuple):
    """How uncertain C scores are."""

    value: np.ndarray  # (C,)
    error: np.ndarray  # (C,) standard error by the bootstrap
    freedom: np.ndarray  # (C,) its degrees of freedom, by the jackknife


def errors_of(scores: PatientScores, strata: np.ndarray, weights: np.ndarray) -> Errors:
    """Of C configurations, with resamples `weights` (B, N) of `draw_patients`."""
    value = scores.scores(np.ones((1, len(strata))))[:, 0]
    parts = influence_parts(scores.scores(jackknife_weights(len(strata))), strata)
    freedom = degrees_of_freedom([(part**2).sum(1) for part, _ in parts], [count for _, count in parts])
    return Errors(value, np.nanstd(scores.scores(weights), axis=1, ddof=1), np.maximum(freedom, 1))


def unbounded_intervals(metric: str, errors: Errors, level: float = 0.95) -> list[Interval]:
    """Student's t on the scale where the metric is unbounded: logit for shares, log for losses (delta method), and back."""
    value, reach = errors.value, student.ppf((1 + level) / 2, errors.freedom) * errors.error
    loss = metric.endswith("log_loss")
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        odds = value if loss else value / (1 - value)
        factor = np.exp(reach / (value if loss else value * (1 - value)))
        low, high = odds / factor, odds * factor
        if not loss:
            low, high = low / (1 + low), 1 / (1 + 1 / high)
    still = reach == 0  # every resample says the same
    return [Interval(float(v), float(v if s else a), float(v if s else b)) for v, a, b, s in zip(value, low, high, still, strict=True)]


def intervals_of(metric: str, scores: PatientScores, strata: np.ndarray, weights: np.ndarray, level: float = 0.95) -> list[Interval]:
    """An interval of each of C configurations: bootstrap standard error, degrees of freedom of the few patients of each class.

    Better covered than percentile and BCa with 7 to 53 patients of a class (bench/RESULTS.md).
    """
    return unbounded_intervals(metric, errors_of(scores, strata, weights), level)


def difference_intervals(
    first: np.ndarray, second: np.ndarray, drawn: np.ndarray, left_out: np.ndarray, strata: np.ndarray, level: float = 0.95
) -> list[Interval]:
    """Differences first - second (C,): `drawn` (C, B) and `left_out` (C, N) are differences as well; symmetric, by Student's t."""
    parts = influence_parts(left_out, strata)
    freedom = degrees_of_freedom([(part**2).sum(1) for part, _ in parts], [count for _, count in parts])
    reach = student.ppf((1 + level) / 2, np.maximum(freedom, 1)) * np.nanstd(drawn, axis=1, ddof=1)
    return [Interval(float(d), float(d - r), float(d + r)) for d, r in zip(first - second, reach, strict=True)]


def bootstrap_interval(
    metric: str,
    probability: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    *,
    rng: np.random.Generator,
    count: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of a metric (a name of mmnet.metrics) of V views (all arrays (V,)). See `intervals_of`."""
    strata = strata_of(label, patient)
    scores = patient_scores(metric, probability[None], label, patient)
    return intervals_of(metric, scores, strata, draw_patients(strata, count, rng), level)[0]


def paired_difference(
    metric: str,
    first: np.ndarray,
    second: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    *,
    rng: np.random.Generator,
    count: int = 2000,
    level: float = 0.95,
) -> Interval:
    """Interval of metric(first) - metric(second) on the same views: each resample draws the same patients for both."""
    strata = strata_of(label, patient)
    scores = patient_scores(metric, np.stack([first, second]), label, patient)
    value, drawn, left_out = (
        scores.scores(weights) for weights in (np.ones((1, len(strata))), draw_patients(strata, count, rng), jackknife_weights(len(strata)))
    )
    return difference_intervals(value[:1, 0], value[1:, 0], drawn[:1] - drawn[1:], left_out[:1] - left_out[1:], strata, level)[0]
