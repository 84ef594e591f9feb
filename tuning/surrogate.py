"""What a search has learned: an additive Gaussian process over configurations and epochs, on plain arrays.

All rungs' scores together become normal scores z (ranks through the normal quantile), so that neither outliers nor the unit of the
metric matter. With u = 1 - log(epoch) / log(full length), 0 at full length,

    z(x, u) = f(x) + u · (c + g(x)) + effect of the trial + noise,

where f and g are sums of one smooth function per dimension. Low rungs so tell which configurations are good, and g how much of that
is only speed. Additive, as a few hundred scores in ten to forty dimensions know little more than main effects (Duvenaud et al.,
Additive Gaussian Processes, NeurIPS 2011; rank transform: Salinas et al., ICML 2020). The variances are fixed: nothing is fitted but z.
"""

from dataclasses import dataclass

import numpy as np

LENGTH = 0.3  # length scale of a dimension whose range is 0 to 1
KNOTS = np.linspace(0, 1, 6)  # at which a dimension's kernel is expanded: closer than LENGTH, so next to nothing is lost
MOST = 300  # observations that it is given, so that a suggestion costs the same in a long study
# Shares of variance; z itself has variance 1.
CURVE, SPEED = 0.5, 0.5  # c, g; f has 1
TRIAL, NOISE = 0.15, 0.15


def _rbf(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * ((a[..., None] - b) / LENGTH) ** 2)


_ROOT = np.linalg.inv(np.linalg.cholesky(_rbf(KNOTS, KNOTS) + 1e-6 * np.eye(len(KNOTS)))).T


def features(points: np.ndarray, choices: tuple[int, ...]) -> np.ndarray:
    """(N, D) points -> (N, F) features whose products are the additive kernel, the mean over dimensions of one kernel each.

    A dimension with `choices` 0 is a number between 0 and 1, with a radial kernel (Nyström); otherwise one of so many unordered
    values, evenly spaced from 0 to 1, alike or not. NaN: the dimension does not exist there (conditional), which is like nothing
    but itself.
    """
    absent = np.isnan(points)
    known = np.where(absent, 0.0, points)
    numbers = np.array([count == 0 for count in choices])
    smooth = _rbf(known[:, numbers], KNOTS) @ _ROOT
    columns = [np.where(absent[:, numbers, None], 0.0, smooth).reshape(len(points), -1), absent.astype(float)]
    for place in np.flatnonzero(~numbers):
        values = np.where(absent[:, place], -1, np.rint(known[:, place] * (choices[place] - 1)))
        columns.append((values[:, None] == np.arange(choices[place])).astype(float))
    return np.concatenate(columns, 1) / np.sqrt(len(choices))


def normal_scores(scores: np.ndarray) -> np.ndarray:
    """(N,) scores -> (N,) normal quantiles of their ranks; equal scores stay equal."""
    from scipy.special import ndtri  # SciPy is imported where it is used: a search has begun long before

    _, place, ties = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]  # from 1; equal scores share their mean
    return ndtri((ranks - 0.5) / len(scores))


def thinned(epochs: np.ndarray, most: int = MOST) -> np.ndarray:
    """Which of the observations at `epochs` (N,), in the order in which they came, to learn from: (n,) places, n <= `most`.

    From the highest rung down each gets half of the places that are left, the lowest all of them, spread evenly over its observations.
    """
    if len(epochs) <= most:
        return np.arange(len(epochs))
    kept: list[int] = []
    rungs = np.unique(epochs)[::-1]
    for rung in rungs:
        places = np.flatnonzero(epochs == rung)
        room = (most - len(kept)) // (1 if rung == rungs[-1] else 2)
        kept += places[np.linspace(0, len(places) - 1, min(room, len(places))).round().astype(int)].tolist()
    return np.sort(np.array(kept))


@dataclass(frozen=True)
class Observations:
    """Scores at rungs; lower is better. A row is one trial at one rung."""

    features: np.ndarray  # (N, F)
    trials: np.ndarray  # (N,) which trial
    epochs: np.ndarray  # (N,)
    scores: np.ndarray  # (N,)


class Surrogate:
    """The process given observations. Predictions are of z at full length; lower is better."""

    def __init__(self, seen: Observations, epochs: int):
        """`epochs`: full length, above 1."""
        from scipy.linalg import cho_solve, cholesky

        self._features, self._trials = seen.features, seen.trials
        u = 1 - np.log(seen.epochs) / np.log(epochs)
        low = np.multiply.outer(u, u)
        covariance = self._features @ self._features.T  # in place from here on: a new array of this size costs as much as a sum
        covariance *= 1 + SPEED * low
        covariance += CURVE * low
        covariance += TRIAL * (self._trials[:, None] == self._trials)
        covariance[np.diag_indices_from(covariance)] += NOISE
        self._root = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        self._weights = cho_solve((self._root, True), normal_scores(seen.scores), check_finite=False)

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (N,), (N,) of f at (N, F) features."""
        from scipy.linalg import solve_triangular

        cross = features @ self._features.T
        explained = solve_triangular(self._root, cross.T, lower=True, check_finite=False)
        variance = (features**2).sum(1) - (explained**2).sum(0)
        return cross @ self._weights, np.sqrt(np.maximum(variance, 1e-12))

    def expect(self, features: np.ndarray, trials: np.ndarray) -> np.ndarray:
        """(N,): f and the effect of the trial, for trials that were seen."""
        return (features @ self._features.T + TRIAL * (trials[:, None] == self._trials)) @ self._weights


def choose(surrogate: Surrogate, candidates: np.ndarray, generator: np.random.Generator) -> int:
    """The place of the candidate (N, F) with the lowest confidence bound, mean - |k| · sd.

    k is drawn from a normal distribution for every proposal: workers that ask at once differ in how bold they are, which keeps their
    proposals apart.
    """
    mean, deviation = surrogate.predict(candidates)
    return int((mean - abs(generator.normal()) * deviation).argmin())
