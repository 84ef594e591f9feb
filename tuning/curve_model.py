"""How good a trial will be at the end: its curve so far, extended as the study's own longer trials went on, and its configuration.

Two steps. `extend` carries the score from rung to rung by regressions that were learned from the trials that went on, each with
the error it made there. `believe` smooths these values over configurations with a Gaussian process, in which a value counts
as much as its error allows. Compare Swersky, Snoek, Adams, Freeze-Thaw Bayesian Optimization, 2014, for the idea of one model over
curves and configurations; being linear in the curve, this one needs no more than a few finished trials.
"""

from dataclasses import dataclass

import numpy as np

from tuning.gaussian_process import Kernel, Process, condition, fit

PRIOR_TRIALS = 3.0  # weight of what is assumed before any trial went on: the order stays as it is
WORST = 2.0  # robust deviations above the median: how bad it is, is of no interest there
FIT_AT_MOST = 150  # trials, for the length scales; the posterior has all of them


@dataclass(frozen=True)
class Belief:
    """About the final score of N trials; lower is better, units of the score that `believe` was given."""

    values: np.ndarray  # (N,) as their curves say
    means: np.ndarray  # (N,) as curves and configurations say together
    process: Process  # of standardised scores
    centre: float
    spread: float


def extend(curves: np.ndarray, levels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """`curves` (N, E): score after each epoch, NaN where not trained; every trial rests at one of `levels`, or has just begun.

    Returns the expected score at the last level (N,) and the variance of its error (N,). NaN where no level is reached.
    """
    reached = [np.flatnonzero(np.isfinite(curves[:, level - 1])) for level in levels]
    values, variance = np.full(len(curves), np.nan), np.full(len(curves), np.nan)
    values[reached[-1]], variance[reached[-1]] = curves[reached[-1], levels[-1] - 1], 0
    for place in reversed(range(len(levels) - 1)):
        there, on = reached[place], np.isin(reached[place], reached[place + 1])
        if len(there) == 0:
            continue
        features = _features(curves[there], levels[place])
        target = np.where(on, values[there], np.nan)
        weights, error = _regress(features[on], target[on], features)
        rest = there[~on]
        values[rest] = features[~on] @ weights
        # what comes after is uncertain for those, too, who went on: their own error is part of the target's
        variance[rest] = error + (np.mean(variance[there[on]]) if on.any() else 0)
    return values, variance


def _features(curves: np.ndarray, level: int) -> np.ndarray:
    """(N, 3): score at the level, its change over the second half of the way there, 1."""
    now, before = curves[:, level - 1], curves[:, (level + 1) // 2 - 1]
    return np.stack([now, now - before, np.ones(len(curves))], 1)


def _regress(features: np.ndarray, target: np.ndarray, everyone: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge regression towards `the score stays as it is`: weights (3,) and variance of the error."""
    spread = np.maximum(everyone.std(0), 1e-9)
    assumed = np.array([1.0, 0.0, 0.0])
    doubt = float(everyone[:, 0].var()) + 1e-12  # before any trial went on, its score says half of the truth
    if len(target) == 0:
        return assumed, doubt
    shift = np.median(target - features @ assumed)
    penalty = np.diag([PRIOR_TRIALS * spread[0] ** 2, PRIOR_TRIALS * spread[1] ** 2 + 1e-12, 1e-9])
    gap = target - features @ assumed - shift
    weights = assumed + [0, 0, shift] + np.linalg.solve(features.T @ features + penalty, features.T @ gap)
    squares = ((target - features @ weights) ** 2).sum()
    return weights, float((squares + PRIOR_TRIALS * doubt) / (len(target) + PRIOR_TRIALS))


def standardise(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values by median and robust deviation, cut off at `WORST`; with that centre and spread."""
    centre = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - centre))) or float(values.std()) or 1.0
    return np.minimum((values - centre) / spread, WORST), centre, spread


def believe(points: np.ndarray, values: np.ndarray, variance: np.ndarray, kernel: Kernel | None, refit: bool) -> Belief:
    """`points` (N, D) in the unit cube, `values`, `variance` (N,) from `extend`; `kernel`: of an earlier call, which `refit` improves."""
    scaled, centre, spread = standardise(values)
    extra = variance / spread**2
    if refit or kernel is None:
        some = np.argsort(values + np.sqrt(variance))[:FIT_AT_MOST] if len(values) > FIT_AT_MOST else np.arange(len(values))
        kernel = fit(points[some], scaled[some], extra[some], kernel)
    process = condition(kernel, points, scaled, extra)
    means, _ = process.predict(points)
    return Belief(values, means * spread + centre, process, centre, spread)
