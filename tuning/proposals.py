"""From a search space to the surrogate's points and back: configurations drawn at random, and the one worth trying."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from mmnet.config import Config, get_value, text_of
from search_spaces.space import Dimension, Space
from tuning.promotion import Ladder
from tuning.surrogate import Observations, Surrogate, choose, features, thinned

CANDIDATES = 100  # of which the surrogate takes the most promising
FIRST = 8  # configurations that are drawn at random before there is something to learn from
AT_RANDOM = 0.25  # share of those after them: what no model expects


def draw(space: Space, base: Config, generator: np.random.Generator, count: int) -> np.ndarray:
    """(count, D) configurations with every value drawn from its whole range, as `coordinates`; NaN where a condition is not met."""
    points, dimensions = generator.random((count, len(space.searched()))), space.searched()
    for place, dimension in enumerate(dimensions):
        points[:, place] = _settled(dimension, points[:, place])
        if dimension.when is not None:
            points[~_met(dimension.when, dimensions[:place], points, base), place] = math.nan
    return points


def _settled(dimension: Dimension, shares: np.ndarray) -> np.ndarray:
    """(N,) evenly drawn from 0 to 1 -> where those values lie that the dimension can have: whole numbers and choices are as likely each."""
    if dimension.choices:
        count = len(dimension.choices)
        return np.floor(shares * count) / max(count - 1, 1)
    low, high = dimension.low, dimension.high
    if not (isinstance(low, int) and isinstance(high, int)):
        return shares
    end = high + 1
    values = np.minimum(np.floor(low * (end / low) ** shares if dimension.log else low + (end - low) * shares), high)
    return np.log(values / low) / math.log(high / low) if dimension.log else (values - low) / (high - low)


def _met(when: tuple[str, tuple[Any, ...]], before: Sequence[Dimension], points: np.ndarray, base: Config) -> np.ndarray:
    """(N,) whether the condition holds; a field that is not searched, or not there, has the base's value."""
    path, allowed = when
    otherwise = get_value(base, path) in allowed
    for place, dimension in enumerate(before):
        if dimension.path == path:
            return np.array([otherwise if math.isnan(share) else _value(dimension, share) in allowed for share in points[:, place]])
    return np.full(len(points), otherwise)


def _value(dimension: Dimension, share: float) -> Any:
    """What the configuration holds at a place of the range."""
    if dimension.choices:
        return dimension.choices[round(share * (len(dimension.choices) - 1))]
    low, high = dimension.low, dimension.high
    assert low is not None and high is not None
    value = low * (high / low) ** share if dimension.log else low + (high - low) * share
    return round(value) if isinstance(low, int) and isinstance(high, int) else min(value, high)


def parameters(space: Space, point: np.ndarray) -> dict[str, Any]:
    """A configuration as the sampler holds it, of its `coordinates`."""
    pairs = zip(space.searched(), point.tolist(), strict=True)
    return {dimension.path: dimension.encode(_value(dimension, share)) for dimension, share in pairs if not math.isnan(share)}


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
    points = draw(space, base, generator, count)
    return parameters(space, points[choose(surrogate, features(points, counts(space)), generator)])


class Proposer:
    """What a search has seen at its rungs, made into the next configuration."""

    def __init__(self, space: Space, base: Config, ladder: Ladder, earlier: Sequence[FrozenTrial] = ()):
        """`earlier`: trials of another study on the same folds, by numbers below 0."""
        self._space, self._base, self._ladder = space, base, ladder
        self._points = {trial.number: coordinates(space, trial.params) for trial in earlier}
        self._earlier = [
            (str(trial.number), level, ladder.sign * trial.intermediate_values[level])
            for trial in earlier
            for level in ladder.levels
            if level in trial.intermediate_values
        ]

    def proposal(self, params: Callable[[int], Mapping[str, Any]], generator: np.random.Generator) -> dict[str, Any] | None:
        """The sampler's parameters of the next trial; None: any, at random. `params`: those of a trial by its number."""
        seen = self._earlier + self._ladder.observed
        epochs = np.array([level for _, level, _ in seen])
        if (epochs == self._ladder.levels[0]).sum() < FIRST or generator.random() < AT_RANDOM:
            return None
        kept = [(int(trial), level, score) for trial, level, score in (seen[place] for place in thinned(epochs))]
        for number, _, _ in kept:
            if number not in self._points:
                self._points[number] = coordinates(self._space, params(number))
        known = features(np.stack([self._points[number] for number, _, _ in kept]), counts(self._space))
        numbers, levels, scores = (np.array(column) for column in zip(*kept, strict=True))
        surrogate = Surrogate(Observations(known, numbers, levels, scores), self._ladder.levels[-1])
        return propose(self._space, self._base, surrogate, generator)
