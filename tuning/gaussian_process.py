"""A Gaussian process over configurations in the unit cube: Matérn 5/2, one length scale a dimension, noise of its own for every value.

Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5. The prior of the length scales grows with the
number of dimensions: Hvarfner, Hellsten, Nardi, Vanilla Bayesian Optimization Performs Great in High Dimensions, ICML 2024.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

JITTER = 1e-6


@dataclass(frozen=True)
class Kernel:
    """Of values that are standardised: mean 0, deviation 1."""

    scales: np.ndarray  # (D,) length scales, in units of the cube's side
    signal: float  # variance of the function
    noise: float  # variance that repeats of one configuration would have


@dataclass(frozen=True)
class Process:
    """What is believed after the values: `predict`."""

    kernel: Kernel
    points: np.ndarray  # (N, D)
    factor: np.ndarray  # (N, N) lower Cholesky factor of the covariance of the values
    weights: np.ndarray  # (N,) covariance⁻¹ · values

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(M, D) -> mean (M,) and standard deviation (M,) of the function, noise not included."""
        cross = covariance(self.kernel, points, self.points)
        half = solve_triangular(self.factor, cross.T, lower=True, check_finite=False)
        variance = self.kernel.signal - (half**2).sum(0)
        return cross @ self.weights, np.sqrt(np.maximum(variance, 1e-12))


def covariance(kernel: Kernel, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(M, D), (N, D) -> (M, N): s² (1 + √5 r + 5 r² / 3) exp(−√5 r), r the distance in length scales."""
    a, b = left / kernel.scales, right / kernel.scales
    squared = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
    r = np.sqrt(5 * squared)
    return kernel.signal * (1 + r + r**2 / 3) * np.exp(-r)


def condition(kernel: Kernel, points: np.ndarray, values: np.ndarray, extra: np.ndarray) -> Process:
    """`points` (N, D), `values` (N,) standardised; `extra` (N,): variance that a value has beyond the kernel's noise."""
    matrix = covariance(kernel, points, points)
    matrix[np.diag_indices_from(matrix)] += kernel.noise + extra + JITTER
    factor = np.linalg.cholesky(matrix)
    return Process(kernel, points, factor, cho_solve((factor, True), values, check_finite=False))


def fit(points: np.ndarray, values: np.ndarray, extra: np.ndarray, start: Kernel | None = None) -> Kernel:
    """The kernel that is most probable a posteriori. Shapes as in `condition`; `start`: where to begin, such as the last fit."""
    start = start or Kernel(np.full(points.shape[1], _usual_scale(points.shape[1])), 1.0, 0.1)
    theta = np.log([*start.scales, start.signal, start.noise])
    squared = (points.T[:, :, None] - points.T[:, None, :]) ** 2  # (D, N, N)
    limits = [(-3.0, 5.0)] * points.shape[1] + [(-3.0, 2.0), (-7.0, 1.0)]
    done = minimize(_loss, theta, (squared, values, extra), jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": 25})
    found = np.exp(done.x)
    return Kernel(found[:-2], float(found[-2]), float(found[-1]))


def _usual_scale(dimensions: int) -> float:
    """Median of the prior of a length scale, sqrt(2 D) as a distance in a cube of D dimensions grows."""
    return float(np.sqrt(dimensions) / 2)


def _loss(theta: np.ndarray, squared: np.ndarray, values: np.ndarray, extra: np.ndarray) -> tuple[float, np.ndarray]:
    """Minus log posterior, and its gradient, in the logarithms of scales (D), signal, noise."""
    scales, signal, noise = np.exp(theta[:-2]), np.exp(theta[-2]), np.exp(theta[-1])
    parts = squared / scales[:, None, None] ** 2
    r = np.sqrt(5 * parts.sum(0))
    decay = np.exp(-r)
    function = signal * (1 + r + r**2 / 3) * decay
    matrix = function.copy()
    matrix[np.diag_indices_from(matrix)] += noise + extra + JITTER
    try:
        factor = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(theta)
    inverse = cho_solve((factor, True), np.eye(len(values)), check_finite=False)
    weights = inverse @ values
    loss = 0.5 * values @ weights + np.log(np.diag(factor)).sum()
    slope = 0.5 * (inverse - np.outer(weights, weights))  # d loss / d matrix
    by_scale = (parts * (slope * signal * 5 / 3 * (1 + r) * decay)).sum((1, 2))
    gradient = np.array([*by_scale, (slope * function).sum(), np.trace(slope) * noise])
    centre = np.array([*[np.log(_usual_scale(len(scales)))] * len(scales), 0.0, np.log(0.1)])
    width = np.array([*[1.0] * len(scales), 1.0, 1.5])
    away = (theta - centre) / width
    return float(loss + 0.5 * away @ away), gradient + away / width
