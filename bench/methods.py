"""Methods of search that `bench/search.py` compares: a sampler, a scheduler and a rule for what to recommend."""

from collections.abc import Callable
from typing import cast

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers.async_hyperband import _Bracket

from bench.simulation import Pool
from tuning.promotion import promotion
from tuning.proposals import AT_RANDOM, CANDIDATES, FIRST
from tuning.settings import rungs
from tuning.surrogate import Observations, Surrogate, choose, features, thinned

ETA = 3


def best_first(rungs: dict[int, dict[str, float]]) -> list[int]:
    """Who came furthest first, then by score there; a trial once."""
    order = (trial for level in sorted(rungs, reverse=True) for trial in sorted(rungs[level], key=rungs[level].__getitem__))
    return list(map(int, dict.fromkeys(order)))


class Rungs:
    """What all methods here share: a pool, rungs, the trials that train now, configurations drawn at random."""

    def __init__(self, pool: Pool, seed: int, levels: tuple[int, ...], eta: int = ETA):
        self.pool, self.levels, self.eta = pool, levels, eta
        self.generator = np.random.default_rng(seed)
        self.rungs: dict[int, dict[str, float]] = {level: {} for level in levels}
        self.away: set[str] = set()

    def draw(self) -> np.ndarray:
        """A recorded configuration that is free: these were drawn at random."""
        return self.pool.table.points[self.generator.choice(self.pool.free())]

    def begin(self) -> tuple[int, int] | None:
        trial = self.pool.take(self.draw()) if self.pool.free() else None
        if trial is None:
            return None
        self.away.add(str(trial))
        return trial, self.levels[0]

    def report(self, trial: int, epoch: int) -> None:
        self.rungs[epoch][str(trial)] = float(self.pool.table.scores[trial, epoch - 1])
        self.away.discard(str(trial))

    def ranking(self) -> list[int]:
        return best_first(self.rungs)


class Full(Rungs):
    """Every trial to the end."""

    def __init__(self, pool: Pool, seed: int):
        super().__init__(pool, seed, (pool.table.scores.shape[1],))

    def next(self, free: int | None) -> tuple[int, int] | None:
        return self.begin()


class Stopping(Rungs):
    """Ray's AsyncHyperBandScheduler: a trial goes on at once or never."""

    def __init__(self, pool: Pool, seed: int, levels: tuple[int, ...], eta: int = ETA):
        super().__init__(pool, seed, levels, eta)
        self.bracket = _Bracket(levels[0], levels[-1], eta, 0)
        self.goes_on: dict[int, int] = {}

    def report(self, trial: int, epoch: int) -> None:
        super().report(trial, epoch)
        named = cast(Trial, Named(str(trial)))
        if epoch < self.levels[-1] and self.bracket.on_result(named, epoch, -self.rungs[epoch][named.trial_id]) != "STOP":
            self.goes_on[trial] = self.levels[self.levels.index(epoch) + 1]

    def next(self, free: int | None) -> tuple[int, int] | None:
        if free in self.goes_on:
            return free, self.goes_on.pop(free)
        return self.begin()


class Named:
    """As much of a trial as Ray's rule looks at."""

    def __init__(self, trial_id: str):
        self.trial_id = trial_id


class Promoting(Rungs):
    """The product's promotion rule on raw scores."""

    def next(self, free: int | None) -> tuple[int, int] | None:
        step = promotion(self.rungs, self.levels, self.eta, self.away)
        if step is None:
            return self.begin()
        self.away.add(step.trial)
        return int(step.trial), step.epoch


class Modelled(Promoting):
    """Promotion on raw scores; new configurations and what is recommended by the surrogate of `tuning/surrogate.py`."""

    def __init__(self, pool: Pool, seed: int, levels: tuple[int, ...], *, proposes: bool = True):
        super().__init__(pool, seed, levels)
        self.features = features(pool.table.points, pool.table.choices)
        self.proposes = proposes
        self.known: list[tuple[int, int]] = []  # (trial, epoch) in the order in which they were seen

    def report(self, trial: int, epoch: int) -> None:
        super().report(trial, epoch)
        self.known.append((trial, epoch))

    def draw(self) -> np.ndarray:
        if not self.proposes or len(self.rungs[self.levels[0]]) < FIRST or self.generator.random() < AT_RANDOM:
            return super().draw()
        candidates = self.anywhere()
        return candidates[choose(self.surrogate(), features(candidates, self.pool.table.choices), self.generator)]

    def anywhere(self) -> np.ndarray:
        """(N, D) points of the space, recorded or not."""
        choices = self.pool.table.choices
        points = self.generator.random((CANDIDATES, len(choices)))
        for place, count in enumerate(choices):
            if count:
                points[:, place] = np.floor(points[:, place] * count) / (count - 1)
        return points

    def surrogate(self) -> Surrogate:
        trials, epochs = np.array(self.known).T
        kept = thinned(epochs)
        trials, epochs = trials[kept], epochs[kept]
        return Surrogate(Observations(self.features[trials], trials, epochs, self.pool.table.scores[trials, epochs - 1]), self.levels[-1])

    def ranking(self) -> list[int]:
        """The best expected of those at the two highest rungs, once there is something to learn from, then the others."""
        trials = super().ranking()
        count = len({**self.rungs[self.levels[-2]], **self.rungs[self.levels[-1]]})
        if len(self.rungs[self.levels[0]]) < FIRST or not count:
            return trials
        far = np.array(trials[:count])
        return far[self.surrogate().expect(self.features[far], far).argsort()].tolist() + trials[count:]


def levels(pool: Pool) -> tuple[int, ...]:
    """The product's rungs for the length of the table's trials, and that length."""
    epochs = pool.table.scores.shape[1]
    return *rungs(epochs, ETA), epochs


METHODS: dict[str, Callable[[Pool, int], Rungs]] = {
    "full": Full,
    "stopping": lambda pool, seed: Stopping(pool, seed, levels(pool)),
    "promotion": lambda pool, seed: Promoting(pool, seed, levels(pool)),
    "promotion, model recommends": lambda pool, seed: Modelled(pool, seed, levels(pool), proposes=False),
    "promotion, model proposes": lambda pool, seed: Modelled(pool, seed, levels(pool)),
}
