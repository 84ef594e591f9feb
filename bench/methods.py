"""Methods of search that `bench/search.py` compares: a sampler, a scheduler and a rule for what to recommend."""

from collections.abc import Callable

import numpy as np

from bench.simulation import Pool
from tuning.curve_model import believe, extend, standardise
from tuning.promotion import promotion
from tuning.proposal import candidates, propose


def best_at_highest(rungs: dict[int, dict[str, float]]) -> int | None:
    """The best score of the highest rung that has any."""
    reached = [level for level in sorted(rungs) if rungs[level]]
    if not reached:
        return None
    scores = rungs[reached[-1]]
    return int(min(scores, key=lambda trial: scores[trial]))


class Rungs:
    """What all methods here share: a pool, rungs, the trials that train now, configurations drawn at random."""

    def __init__(self, pool: Pool, seed: int, levels: tuple[int, ...], eta: int = 3):
        self.pool, self.levels, self.eta = pool, levels, eta
        self.generator = np.random.default_rng(seed)
        self.rungs: dict[int, dict[str, float]] = {level: {} for level in levels}
        self.away: set[str] = set()

    def draw(self) -> np.ndarray:
        """A recorded configuration: these were drawn at random."""
        return self.pool.table.points[self.generator.choice(self.pool.free())] if self.pool.free() else self.pool.table.points[0]

    def begin(self) -> tuple[int, int] | None:
        trial = self.pool.take(self.draw())
        if trial is None:
            return None
        self.away.add(str(trial))
        return trial, self.levels[0]

    def report(self, trial: int, epoch: int) -> None:
        self.rungs[epoch][str(trial)] = float(self.pool.table.scores[trial, epoch - 1])
        self.away.discard(str(trial))

    def recommend(self) -> int | None:
        return best_at_highest(self.rungs)


class Full(Rungs):
    """Every trial to the end."""

    def __init__(self, pool: Pool, seed: int):
        super().__init__(pool, seed, (pool.table.scores.shape[1],))

    def next(self, free: int | None) -> tuple[int, int] | None:
        return self.begin()


class Stopping(Rungs):
    """Ray's AsyncHyperBandScheduler: a trial goes on at once or never."""

    def __init__(self, pool: Pool, seed: int, levels: tuple[int, ...], eta: int = 3):
        from ray.tune.schedulers.async_hyperband import _Bracket

        super().__init__(pool, seed, levels, eta)
        self.bracket = _Bracket(levels[0], levels[-1], eta, 0)
        self.goes_on: dict[int, int] = {}

    def report(self, trial: int, epoch: int) -> None:
        super().report(trial, epoch)
        if epoch < self.levels[-1] and self.bracket.on_result(Named(str(trial)), epoch, -self.rungs[epoch][str(trial)]) != "STOP":
            self.goes_on[trial] = self.levels[self.levels.index(epoch) + 1]

    def next(self, free: int | None) -> tuple[int, int] | None:
        if free in self.goes_on:
            return free, self.goes_on.pop(free)
        return self.begin()


class Named:
    def __init__(self, trial_id: str):
        self.trial_id = trial_id


class Promoting(Rungs):
    """The product's promotion rule on raw scores."""

    def ranking(self) -> dict[int, dict[str, float]]:
        return self.rungs

    def next(self, free: int | None) -> tuple[int, int] | None:
        step = promotion(self.ranking(), self.levels, self.eta, self.away)
        if step is None:
            return self.begin()
        self.away.add(step.trial)
        return int(step.trial), step.epoch


class Modelled(Promoting):
    """The promotion rule with the curve model: `sample` by it, `rank` rungs by it, `recommend` by it, each by choice.

    `share`: of a trial's own value in its rank; the rest is what the process makes of it.
    """

    FIRST = 10  # trials drawn at random before the model has a say

    def __init__(self, pool, seed, levels, eta=3, *, sample=True, rank=True, advise=True, share=0.5, anywhere=False, mix=0.0, wide=512):
        super().__init__(pool, seed, levels, eta)
        self.sample, self.rank, self.advise, self.share, self.anywhere, self.mix, self.wide = sample, rank, advise, share, anywhere, mix, wide
        self.kernel, self.fitted, self.trials, self.belief, self.fresh = None, 0, [], None, False
        self.curves = np.empty((0, pool.table.scores.shape[1]))

    def report(self, trial: int, epoch: int) -> None:
        super().report(trial, epoch)
        if trial not in self.trials:
            self.trials.append(trial)
            self.curves = np.vstack([self.curves, np.full(self.curves.shape[1], np.nan)])
        self.curves[self.trials.index(trial), :epoch] = self.pool.table.scores[trial, :epoch]
        self.fresh = False

    def update(self) -> None:
        if self.fresh or len(self.trials) < self.FIRST:
            return
        values, self.variance = extend(self.curves, self.levels)
        grown = len(self.trials) >= 1.25 * self.fitted
        self.belief = believe(self.pool.table.points[self.trials], values, self.variance, self.kernel, grown)
        self.kernel, self.fitted, self.fresh = self.belief.process.kernel, len(self.trials) if grown else self.fitted, True

    def worth(self) -> dict[str, float]:
        values = self.share * self.belief.values + (1 - self.share) * self.belief.means
        return {str(trial): float(value) for trial, value in zip(self.trials, values, strict=True)}

    def ranking(self) -> dict[int, dict[str, float]]:
        self.update()
        if not self.rank or self.belief is None:
            return self.rungs
        worth = self.worth()
        return {level: {trial: worth[trial] for trial in scores} for level, scores in self.rungs.items()}

    def draw(self) -> np.ndarray:
        self.update()
        if not self.sample or self.belief is None or self.generator.random() < self.mix:
            return super().draw()
        points = self.pool.table.points
        pending = points[[int(trial) for trial in self.away if int(trial) not in self.trials]]
        scaled, _, spread = standardise(self.belief.values)
        some = candidates(points[self.trials], self.belief.means, self.wide, self.generator)
        return propose(self.belief, self.variance / spread**2, scaled, pending, some)

    def recommend(self) -> int | None:
        self.update()
        if not self.advise or self.belief is None:
            return super().recommend()
        worth = self.worth()
        if self.anywhere:
            return int(min(worth, key=lambda trial: worth[trial]))
        reached = [level for level in self.levels if self.rungs[level]]
        return int(min(self.rungs[reached[-1]], key=lambda trial: worth[trial]))


def halving(epochs: int) -> tuple[int, ...]:
    return tuple(level for level in (1, 3, 9, 27, 81) if level < epochs) + (epochs,)


METHODS: dict[str, Callable[[Pool, int], Rungs]] = {
    "full": Full,
    "stopping": lambda pool, seed: Stopping(pool, seed, (1, 3, 9, 27)),
    "promotion": lambda pool, seed: Promoting(pool, seed, (1, 3, 9, 27)),
    "model": lambda pool, seed: Modelled(pool, seed, (1, 3, 9, 27)),
    "sample": lambda pool, seed: Modelled(pool, seed, (1, 3, 9, 27), rank=False, advise=False),
    "rank": lambda pool, seed: Modelled(pool, seed, (1, 3, 9, 27), sample=False, advise=False),
    "advise": lambda pool, seed: Modelled(pool, seed, (1, 3, 9, 27), sample=False, rank=False),
}
