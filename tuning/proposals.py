"""From a search space to the surrogate's points and back: configurations drawn at random, and the one worth trying."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from mmnet.config import Config, text_of
from search_spaces.space import Dimension, Space
from tuning.promotion import Ladder
from tuning.surrogate import Observations, Surrogate, choose, features, thinned

CANDIDATES = 100  # of which the surrogate takes the most promising
FIRST = 8  # configurations that are drawn at random before there is something to learn from
AT_RANDOM = 0.25  # share of those after them: what no model expects


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


class Proposer:
    """What a search has seen at its rungs, made into the next configuration."""

    def __init__(self, space: Space, base: Config, ladder: Ladder, earlier: Sequence[FrozenTrial] = ()):
        """`earlier`: trials of another study on the same folds, by numbers below 0."""
        self._space, self._base, self._ladder = space, base, ladder
        self._points = {trial.number: coordinates(space, trial.params) for trial in earlier}
        self._earlier = [
            (trial.number, level, ladder.sign * trial.intermediate_values[level])
            for trial in earlier
            for level in ladder.levels
            if level in trial.intermediate_values
        ]

    def proposal(self, params: Callable[[int], Mapping[str, Any]], generator: np.random.Generator) -> dict[str, Any] | None:
        """The sampler's parameters of the next trial; None: any, at random. `params`: those of a trial by its number."""
        seen = self._earlier + [(int(trial), level, score) for trial, level, score in self._ladder.observed()]
        if sum(level == self._ladder.levels[0] for _, level, _ in seen) < FIRST or generator.random() < AT_RANDOM:
            return None
        kept = [seen[place] for place in thinned(np.array([level for _, level, _ in seen]))]
        for number, _, _ in kept:
            if number not in self._points:
                self._points[number] = coordinates(self._space, params(number))
        known = features(np.stack([self._points[number] for number, _, _ in kept]), counts(self._space))
        numbers, levels, scores = (np.array(column) for column in zip(*kept, strict=True))
        surrogate = Surrogate(Observations(known, numbers, levels, scores), self._ladder.levels[-1])
        return propose(self._space, self._base, surrogate, generator)
