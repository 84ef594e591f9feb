"""What chance alone moves: scores by seed and by partition, the top two by the patients, and what further trials can still win.

Pure functions over arrays. A study without repeats knows only the noise of its patients; repeats of its finalists under new seeds
and new partitions (`repeat_spread`) know the noise of training as well.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

POWER, LEVEL = 0.8, 0.95
TAIL = 0.1  # share of the trials whose scores say how the good end of the distribution falls off
LEAST = 5  # scores in the tail; nothing is said with fewer than twice as many recent ones
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


def patients_needed(difference: float, error: float, patients: int, power: float = POWER, level: float = LEVEL) -> int | None:
    """Patients, of the same kinds and shares, that tell two configurations apart, if the difference seen on `patients` is the true one.

    The error of a paired difference falls with the root of the patients: n (z_{1-α/2} + z_power)² error² / difference². None for
    no difference at all; never fewer than one.
    """
    if difference == 0 or not math.isfinite(difference) or not math.isfinite(error):
        return None
    factor = (norm.ppf((1 + level) / 2) + norm.ppf(power)) * error / abs(difference)
    return max(math.ceil(patients * factor**2), 1)


def expected_gain(scores: np.ndarray, more: int, mode: str) -> float | None:
    """By how much `more` further trials are expected to beat the best of `scores` (T,), in the order in which they came.

    The k best of the later half of the trials exceed the next one by D in the mean; beyond it the good end is taken to fall off
    exponentially, P(a trial exceeds it by y) = k / n exp(-y / D) (Weissman, JASA 1978), and the gain of the best of `more`
    such draws over the best so far is integrated. Too large where the good end is bounded nearby, so a search goes on rather
    too long. None with too few scores.
    """
    better = -scores if mode == "min" else np.array(scores, dtype=np.float64)
    better = better[np.isfinite(better)]
    recent = np.sort(better[int(len(better) * (1 - RECENT)) :])[::-1]
    count = max(int(len(recent) * TAIL), LEAST)
    if len(recent) < 2 * count:
        return None
    threshold = recent[count]
    scale = float((recent[:count] - threshold).mean())
    if scale == 0:
        return 0.0
    beyond = better.max() - threshold + np.linspace(0, scale * math.log(1000 * more), 2001)
    return float(np.trapezoid(1 - (1 - count / len(recent) * np.exp(-beyond / scale)) ** more, beyond))


def below_noise(gain: float | None, noise: float) -> bool:
    """The rule of an end by noise: what further trials are expected to win is less than what chance moves. Unknown gain goes on."""
    return gain is not None and gain < noise
