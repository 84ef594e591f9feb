"""What chance alone moves: scores by seed and by partition, the top two by the cases, and what further trials can still win.

Pure functions over arrays. A study without repeats knows only the noise of its cases; repeats of its finalists under new seeds
and new partitions (`repeat_spread`) know the noise of training as well.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

POWER, LEVEL = 0.8, 0.95
TAIL = 0.25  # share of the trials whose scores say how the good end of the distribution falls off
LEAST = 8  # scores in the tail; with fewer nothing is said
RECENT = 0.5  # share of the trials, the last ones, that stand for the next: a sampler gets better


class Spread(NamedTuple):
    """Standard deviation of one score by what is new in a repeat; None without a pair that shows it."""

    seed_sd: float | None
    partition_sd: float | None
    both_sd: float | None
    seed_pairs: int
    partition_pairs: int
    both_pairs: int


def repeat_spread(score: np.ndarray, configuration: np.ndarray, seed: np.ndarray, partition: np.ndarray) -> Spread:
    """Of repeats (R,) of some configurations: half the mean squared difference of the pairs that differ in seed only, in partition
    only, in both. Unbalanced sets are fine. Searle, Casella & McCulloch, Variance Components, 1992, ch. 5 (Henderson's differences).
    """
    i, j = np.triu_indices(len(score), 1)
    same = (configuration[i] == configuration[j]) & np.isfinite(score[i]) & np.isfinite(score[j])
    i, j = i[same], j[same]
    other_seed, other_partition = seed[i] != seed[j], partition[i] != partition[j]
    squares = (score[i] - score[j]) ** 2 / 2
    alone = [other_seed & ~other_partition, ~other_seed & other_partition, other_seed & other_partition]
    of_seed, of_partition, of_both = (math.sqrt(squares[chosen].mean()) if chosen.any() else None for chosen in alone)
    return Spread(of_seed, of_partition, of_both, *(int(chosen.sum()) for chosen in alone))


def cases_needed(difference: float, error: float, cases: int, power: float = POWER, level: float = LEVEL) -> int | None:
    """Cases, of the same kinds and shares, that tell two configurations apart, if the difference seen on `cases` is the true one.

    The error of a paired difference falls with the root of the cases: n (z_{1-α/2} + z_power)² error² / difference². None for
    no difference at all; never fewer than one.
    """
    if difference == 0 or not math.isfinite(difference) or not math.isfinite(error):
        return None
    factor = (norm.ppf((1 + level) / 2) + norm.ppf(power)) * error / abs(difference)
    return max(math.ceil(cases * factor**2), 1)


def expected_gain(scores: np.ndarray, more: int, mode: str) -> float | None:
    """By how much `more` further trials are expected to beat the best of `scores` (T,), in the order in which they came.

    The best quarter of the later half of the trials is taken as exceedances of a threshold with a generalised Pareto tail
    (Coles, An Introduction to Statistical Modeling of Extreme Values, 2001, ch. 4), fitted by L-moments (Hosking & Wallis,
    Technometrics 1987), and the gain of the best of `more` draws over the best so far integrated. None with too few scores.
    """
    better = -scores if mode == "min" else np.array(scores, dtype=np.float64)
    better = better[np.isfinite(better)]
    recent = np.sort(better[int(len(better) * (1 - RECENT)) :])[::-1]
    count = int(len(recent) * TAIL)
    if count < LEAST:
        return None
    threshold = recent[count]
    shape, scale = _pareto(recent[:count] - threshold)
    if scale <= 0:
        return 0.0
    over = better.max() - threshold + np.linspace(0, 1, 2001)[1:] ** 2 * _reach(shape, scale, more)
    return float(np.trapezoid(1 - (1 - TAIL * _exceeds(over, shape, scale)) ** more, over))


def _pareto(excess: np.ndarray) -> tuple[float, float]:
    """(shape ξ, scale σ) of a generalised Pareto distribution from excesses (n,), ξ kept within -1 and 0.5."""
    ordered = np.sort(excess)
    count = len(ordered)
    first = ordered.mean()
    second = (ordered * (count - 1 - np.arange(count))).sum() / (count * (count - 1))
    if first <= 0:
        return 0.0, 0.0
    shape = float(np.clip(2 - first / max(first - 2 * second, 1e-12), -1, 0.5)) if first > 2 * second else 0.5
    return shape, float(first * (1 - shape))


def _exceeds(excess: np.ndarray, shape: float, scale: float) -> np.ndarray:
    """Probability that a draw over the threshold exceeds it by more than this."""
    if abs(shape) < 1e-9:
        return np.exp(-excess / scale)
    return np.maximum(1 + shape * excess / scale, 0) ** (-1 / shape)


def _reach(shape: float, scale: float, more: int) -> float:
    """How far over the best the integral has to go: beyond it lies nothing, or less than a hundredth of a draw."""
    if shape < -1e-9:
        return -scale / shape
    return scale * (math.log(100 * more) if shape <= 1e-9 else ((100 * more) ** shape - 1) / shape) + scale


def below_noise(gain: float | None, noise: float) -> bool:
    """The rule of an end by noise: what further trials are expected to win is less than what chance moves. Unknown gain goes on."""
    return gain is not None and gain < noise
