"""Other libraries on the recorded table. Those beside Optuna and Ray are in requirements-bench.txt, and imported when they are asked for."""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import optuna
from optuna.trial import TrialState

from bench.methods import ETA, Promoting, Rungs, Stopping, levels
from bench.simulation import Pool


def take(trial: optuna.Trial, pool: Pool) -> int | None:
    """The row that stands in for what the sampler proposes, and whose parameters the trial has from then on; None: all are used."""
    proposal = {x: trial.suggest_int(x, 0, count - 1) if count else trial.suggest_float(x, 0, 1) for x, count in pool.dimensions.items()}
    row, stands_in = pool.stand_in(proposal)
    distributions = trial.distributions  # a copy each time
    for name, value in (stands_in or {}).items():
        trial.study._storage.set_trial_param(trial._trial_id, name, value, distributions[name])
    return row


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
        row = take(trial, self.pool)
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


class Wilcoxon(Rungs):
    """Optuna alone: a trial trains one fold after the other to the end, and its pruner compares them with the same folds of the best trial.

    As its documentation wants it: another order of folds for every trial, and a pruned one is told as the mean of its folds so far.
    """

    def __init__(self, pool: Pool, seed: int):
        super().__init__(pool, seed, (pool.table.scores.shape[1],))
        self.tpe = Tpe(pool, seed)
        self.tpe.study.pruner = optuna.pruners.WilcoxonPruner()
        self.order, self.seen = dict[int, list[int]](), dict[int, list[float]]()  # folds by row, and their scores so far

    def report(self, trial: int, epoch: float) -> None:
        fold = self.order[trial][len(self.seen[trial])]
        self.seen[trial].append(float(self.pool.table.last_by_fold[trial, fold]))
        self.tpe.trials[trial].report(self.seen[trial][-1], fold)
        if epoch == self.levels[-1]:
            super().report(trial, self.levels[-1])

    def next(self, free: int | None) -> tuple[int, float] | None:
        folds = self.pool.table.folds
        if free is not None:
            live, seen = self.tpe.trials[free], self.seen[free]
            if len(seen) < folds and not live.should_prune():
                return free, self.levels[-1] * (len(seen) + 1) / folds
            self.tpe.study.tell(live, sum(seen) / len(seen))
        row = self.tpe.begin()
        if row is None:
            return None
        self.order[row], self.seen[row] = self.generator.permutation(folds).tolist(), []
        return row, self.levels[-1] / folds


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


def _syne_tune(name: str, **options: Any) -> Callable[[Pool, int], Rungs]:
    return lambda pool, seed: import_module("bench.peer_syne_tune").SyneTune(pool, seed, name, **options)


PEERS: dict[str, Callable[[Pool, int], Rungs]] = {
    "one epoch, best to the end": lambda pool, seed: Promoting(pool, seed, (1, pool.table.scores.shape[1]), pool.table.scores.shape[1]),
    "Optuna TPE, halving": lambda pool, seed: Pruned(
        pool, seed, optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ETA)
    ),
    "Optuna TPE, Hyperband": lambda pool, seed: Pruned(
        pool, seed, optuna.pruners.HyperbandPruner(min_resource=1, max_resource=pool.table.scores.shape[1], reduction_factor=ETA)
    ),
    "Optuna TPE, Wilcoxon": Wilcoxon,
    "Ray OptunaSearch, ASHA": lambda pool, seed: RayWithOptuna(pool, seed, levels(pool)),
    "DEHB": lambda pool, seed: import_module("bench.peer_dehb").Dehb(pool, seed),
    "Syne Tune ASHA": _syne_tune("ASHA", type="promotion"),
    "Syne Tune PASHA": _syne_tune("PASHA"),
    "Syne Tune BOHB": _syne_tune("BOHB", type="promotion"),
    "Syne Tune MOBSTER": _syne_tune("MOBSTER", type="promotion"),
    "Syne Tune Hyper-Tune": _syne_tune("HyperTune", type="promotion", brackets=4),
    "Syne Tune DyHPO": _syne_tune("DyHPO"),
}
