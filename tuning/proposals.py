"""From a search space to the surrogate's points and back: configurations drawn at random, and the one worth trying."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmnet.config import Config, text_of
from search_spaces.space import Dimension, Space
from tuning.surrogate import Surrogate, choose, features

CANDIDATES = 100  # of which the surrogate takes the most promising


class Drawn:
    """Stands in for an optuna.Trial: every value is drawn from its whole range, and kept as the sampler would hold it."""

    def __init__(self, generator: np.random.Generator):
        self._generator = generator
        self.params: dict[str, Any] = {}
        self.shares: dict[str, float] = {}  # where in its range each value lies, as in `coordinates`

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        share = self.shares[name] = self._generator.random()
        value = self.params[name] = min(low * (high / low) ** share if log else low + (high - low) * share, high)
        return value

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        value = self.params[name] = min(int(self.suggest_float(name, low, high + 1, log=log)), high)
        self.shares[name] = _share(value, low, high, log)
        return value

    def suggest_categorical(self, name: str, choices: tuple) -> Any:
        place = int(self._generator.random() * len(choices))
        self.shares[name] = place / max(len(choices) - 1, 1)
        self.params[name] = choices[place]
        return choices[place]


def _share(value: float, low: float, high: float, log: bool) -> float:
    return math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)


def counts(space: Space) -> tuple[int, ...]:
    """(D,) how many unordered values a dimension has; 0: it is a number."""
    return tuple(len(dimension.choices) for dimension in space.searched())


def coordinates(space: Space, params: Mapping[str, Any]) -> np.ndarray:
    """(D,) a configuration, as the sampler holds it, between 0 and 1; NaN where a dimension does not apply or is not of this space."""
    return np.array([_coordinate(d, params[d.path]) if d.path in params else math.nan for d in space.searched()])


def _coordinate(dimension: Dimension, value: Any) -> float:
    if dimension.choices:
        texts = [text_of(choice) for choice in dimension.choices]
        return texts.index(value) / max(len(texts) - 1, 1)
    assert dimension.low is not None and dimension.high is not None
    return _share(value, dimension.low, dimension.high, dimension.log)


def propose(space: Space, base: Config, surrogate: Surrogate, generator: np.random.Generator, count: int = CANDIDATES) -> dict[str, Any]:
    """The sampler's parameters of the most promising of `count` random configurations, conditions kept.

    Only random ones, no moves from the best: the draw of confidence in `choose` and the draw of candidates keep workers apart.
    """
    drawn = []
    for _ in range(count):
        trial = Drawn(generator)
        space.sample(trial, base)
        drawn.append(trial)
    points = np.array([[trial.shares.get(dimension.path, math.nan) for dimension in space.searched()] for trial in drawn])
    return drawn[choose(surrogate, features(points, counts(space)), generator)].params
