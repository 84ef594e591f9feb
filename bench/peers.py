"""Other libraries on the recorded table: Optuna's sampler with its own pruners, and with Ray's stopping rule as OptunaSearch tells it."""

import warnings

import optuna
from optuna.trial import TrialState

from bench import optuna_table
from bench.methods import ETA, Rungs, Stopping, levels
from bench.simulation import Pool


class Tpe:
    """Optuna's TPE over the unit cube of a table."""

    def __init__(self, pool: Pool, seed: int, pruner: optuna.pruners.BasePruner | None = None):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.pool = pool
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True)
        self.study = optuna.create_study(sampler=sampler, pruner=pruner, study_name=str(seed))  # Hyperband draws brackets by the name
        self.trials: dict[int, optuna.Trial] = {}

    def begin(self) -> int | None:
        """A row of the table, live in the study."""
        trial = self.study.ask()
        row = optuna_table.take(trial, self.pool)
        if row is None:
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.trials[row] = trial
        return row


class Pruned(Rungs):
    """Optuna alone: a pruner is asked after every epoch."""

    def __init__(self, pool: Pool, seed: int, pruner: optuna.pruners.BasePruner):
        super().__init__(pool, seed, tuple(range(1, pool.table.scores.shape[1] + 1)))
        self.tpe, self.epoch = Tpe(pool, seed, pruner), dict[int, int]()

    def report(self, trial: int, epoch: int) -> None:
        super().report(trial, epoch)
        self.epoch[trial] = epoch
        self.tpe.trials[trial].report(self.rungs[epoch][str(trial)], epoch)

    def next(self, free: int | None) -> tuple[int, int] | None:
        if free is not None:
            live, epoch = self.tpe.trials[free], self.epoch[free]
            if epoch < self.levels[-1] and not live.should_prune():
                return free, epoch + 1
            if epoch == self.levels[-1]:
                self.tpe.study.tell(live, self.rungs[epoch][str(free)])
            else:
                self.tpe.study.tell(live, state=TrialState.PRUNED)
        row = self.tpe.begin()
        return None if row is None else (row, 1)


class RayWithOptuna(Stopping):
    """Ray's OptunaSearch with its ASHAScheduler: every trial that stopped is told as complete, with its last score."""

    def __init__(self, pool: Pool, seed: int, levels: tuple[int, ...]):
        super().__init__(pool, seed, levels)
        self.tpe = Tpe(pool, seed)

    def report(self, trial: int, epoch: int) -> None:
        super().report(trial, epoch)
        if trial not in self.goes_on:
            self.tpe.study.tell(self.tpe.trials[trial], self.rungs[epoch][str(trial)])

    def begin(self) -> tuple[int, int] | None:
        row = self.tpe.begin()
        return None if row is None else (row, self.levels[0])


PEERS = {
    "Optuna TPE, halving": lambda pool, seed: Pruned(
        pool, seed, optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ETA)
    ),
    "Optuna TPE, Hyperband": lambda pool, seed: Pruned(
        pool, seed, optuna.pruners.HyperbandPruner(min_resource=1, max_resource=pool.table.scores.shape[1], reduction_factor=ETA)
    ),
    "Ray OptunaSearch, ASHA": lambda pool, seed: RayWithOptuna(pool, seed, levels(pool)),
}
