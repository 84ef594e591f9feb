"""Syne Tune's schedulers on the recorded table, through `suggest` and `on_trial_result`. All of them pause and resume trials.

Version 0.14.2 is the last that has them; 0.16 has no rule but stopping.
"""

import datetime
import logging
from typing import Any

from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import randint, uniform
from syne_tune.optimizer import legacy_baselines

from bench.methods import Rungs
from bench.simulation import Pool

logging.getLogger("syne_tune").setLevel(logging.ERROR)


class SyneTune(Rungs):
    """A class of `legacy_baselines` with its defaults, which are rungs at 1, 3, 9 epochs for all but DyHPO."""

    def __init__(self, pool: Pool, seed: int, name: str, **options: Any):
        epochs = pool.table.scores.shape[1]
        super().__init__(pool, seed, tuple(range(1, epochs + 1)))
        cube = {x: randint(0, count - 1) if count else uniform(0, 1) for x, count in pool.dimensions.items()}
        self.scheduler = getattr(legacy_baselines, name)(
            cube | {"epochs": epochs},
            metric="score",
            mode="min",
            resource_attr="epoch",
            max_resource_attr="epochs",
            random_seed=seed,
            **options,
        )
        self.propose, self.scheduler.searcher.get_config = self.scheduler.searcher.get_config, self.recorded
        self.rows: list[int] = []  # by number of the trial
        self.trials: dict[int, Trial] = {}  # by row
        self.trained: dict[int, int] = {}

    def recorded(self, **about: Any) -> dict[str, float] | None:
        """The scheduler sees no other configuration than the one that stands in for what its searcher proposes."""
        proposal = self.propose(**about)
        row, stands_in = (None, None) if proposal is None else self.pool.stand_in(proposal)
        if row is not None:
            self.rows.append(row)
        return stands_in

    def next(self, free: int | None) -> tuple[int, int] | None:
        number = len(self.rows)
        suggestion = self.scheduler.suggest(trial_id=number)
        if suggestion is None:
            return None
        if not suggestion.spawn_new_trial_id:
            number = suggestion.checkpoint_trial_id
        row = self.rows[number]
        self.trials[row] = Trial(number, suggestion.config, datetime.datetime.min)
        return row, suggestion.config["epochs"]

    def report(self, trial: int, epoch: int) -> None:
        super().report(trial, epoch)
        for passed in range(self.trained.get(trial, 0) + 1, epoch + 1):
            self.scheduler.on_trial_result(self.trials[trial], {"epoch": passed, "score": float(self.pool.table.scores[trial, passed - 1])})
        self.trained[trial] = epoch
