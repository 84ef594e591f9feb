"""Where to look next: the candidate of the largest expected improvement under a belief about final scores.

Jones, Schonlau, Welch, Efficient Global Optimization of Expensive Black-Box Functions, 1998, equation 15, in standardised scores.
"""

import numpy as np
from scipy.special import ndtr

from tuning.curve_model import Belief
from tuning.gaussian_process import Process, condition

NEAR = 0.1  # deviation of a candidate around a good trial, in sides of the cube
PARENTS = 5  # good trials that candidates are drawn around


def candidates(points: np.ndarray, means: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """(count, D) in the unit cube: half of them anywhere, half around the best of `points` (N, D) by `means` (N,)."""
    anywhere = generator.random((count - count // 2, points.shape[1]))
    parents = points[np.argsort(means)[:PARENTS]][generator.integers(min(PARENTS, len(points)), size=count // 2)]
    moved = generator.random(parents.shape) < max(0.3, 2 / points.shape[1])  # a few dimensions at a time
    near = np.clip(parents + NEAR * generator.standard_normal(parents.shape) * moved, 0, 1)
    return np.concatenate([anywhere, near])


def pretend(process: Process, values: np.ndarray, extra: np.ndarray, pending: np.ndarray) -> tuple[Process, np.ndarray]:
    """The process with `pending` (P, D) trials taken to score what is expected of them, so that no two workers try the same."""
    if len(pending) == 0:
        return process, values
    expected, _ = process.predict(pending)
    points = np.concatenate([process.points, pending])
    values = np.concatenate([values, expected])
    return condition(process.kernel, points, values, np.concatenate([extra, np.zeros(len(pending))])), values


def expected_improvement(process: Process, points: np.ndarray, best: float) -> np.ndarray:
    """(M, D) -> (M,): how far below `best` the function is expected to lie, nothing where it lies above."""
    means, deviations = process.predict(points)
    z = (best - means) / deviations
    return deviations * (z * ndtr(z) + np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi))


def propose(belief: Belief, extra: np.ndarray, scaled: np.ndarray, pending: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The best of the candidate `points` (M, D). `scaled`, `extra`: values (N,) of the belief's process and their variances."""
    process, _ = pretend(belief.process, scaled, extra, pending)
    best = float(process.predict(process.points)[0].min())
    return points[expected_improvement(process, points, best).argmax()]
