"""The product on the recorded table: its searcher with Optuna's sampler and its default rungs, and what it shows Optuna; only Ray is left out."""

from dataclasses import dataclass
from typing import Any

import optuna

from bench.methods import ETA, Rungs, levels
from bench.peers import take
from bench.simulation import Pool
from mmnet.config import Config
from search_spaces.space import Space, Suggests
from tuning.promotion import Ladder
from tuning.searcher import StudySearcher, rebuild
from tuning.settings import TPE


@dataclass(frozen=True)
class TableSpace(Space):
    """Its configurations are rows of a table. The published configuration, which a study tries first, is none of them."""

    pool: Pool

    def point(self, number: int, base: Config) -> None:
        return None

    def sample(self, trial: Suggests, base: Config) -> dict[str, Any]:
        assert isinstance(trial, optuna.Trial)
        return {"row": take(trial, self.pool)}


class Product(Rungs):
    """What `tune_mmnet.py --sampler tpe` does. What it does by default is `Promoting`, and with gp `Modelled`, on the same parts of the product."""

    def __init__(self, pool: Pool, seed: int):
        super().__init__(pool, seed, levels(pool))
        space, base, epochs = TableSpace("table", (), pool), Config(seed=seed), self.levels[-1]
        ladder = Ladder(self.levels[:-1], epochs, ETA, minimize=True)
        study, configurations = rebuild(space, base, [], resting=True), len(pool.table.points)
        self.searcher = StudySearcher(study, space, base, [], ladder, configurations, sampler=TPE)
        self.running: dict[int, tuple[str, int]] = {}  # by row: the searcher's name of its step, and the epoch that it began after
        self.steps = 0

    def next(self, free: int | None) -> tuple[int, int] | None:
        self.steps += 1
        step = self.searcher.suggest(str(self.steps))
        if not isinstance(step, dict):
            return None
        self.running[step["params"]["row"]] = str(self.steps), step["since"]
        return step["params"]["row"], step["until"]

    def report(self, trial: int, epoch: int) -> None:
        super().report(trial, epoch)
        name, since = self.running.pop(trial)
        finished = epoch == self.levels[-1]
        for passed in range(since + 1, epoch + 1):
            line = {"epoch": passed, "score": float(self.pool.table.scores[trial, passed - 1]), "finished": passed == epoch and finished}
            self.searcher.on_trial_result(name, line)
        self.searcher.on_trial_complete(name, line | {"rests": not finished})
