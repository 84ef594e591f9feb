"""Search replayed on an outer table: which sampler and scheduler recommend what holds on patients that no search has seen.

`python -m bench search FOLDER [--metrics …] [--samplers …] [--schedulers …] [--workers 1 16] [--budgets 675 1350 2700] [--repeats 50]`, on a
table of `bench outer`. Each outer part is searched by itself, following a metric out of fold, until the budget (fold-epochs) is spent;
then what it recommends predicts the part. A repeat has its own order and a random three quarters of the configurations. Named beside
the metrics are the differences to drawing at random and training each to the end, paired over patients.
"""

import argparse
import heapq
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from bench.outer_table import Judge, OuterTable, Part, load, stacked
from tuning.promotion import promotion
from tuning.proposals import AT_RANDOM, CANDIDATES, FIRST
from tuning.surrogate import Observations, Surrogate, choose, features, thinned

SHARE = 0.75  # of the configurations in a repeat
MEANS = (1, 3, 10)


class Pool:
    """Configurations of a part, each handed out once, by nearness to a proposal."""

    def __init__(self, part: Part, metric: str, rows: np.ndarray):
        self.scores, self.rows = part.scores[metric], rows
        self.points, self.choices = unit_cube(part.configs)
        self.used = set[int]()

    def free(self) -> np.ndarray:
        return np.array([row for row in self.rows if row not in self.used])

    def take(self, point: np.ndarray | None) -> int | None:
        """The nearest one that is free; None: all are used."""
        free = self.free()
        if point is None or not len(free):
            return None
        row = int(free[((self.points[free] - point) ** 2).sum(1).argmin()])
        self.used.add(row)
        return row


def unit_cube(configs: list[dict]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Points (C, D), each field by its observed range, a logarithmic one where that is nearer to how it was drawn; and values a dimension.

    Texts and switches are choices. A conditional field that a configuration lacks stands at the low end of its range.
    """
    columns, choices = [], []
    for name in dict.fromkeys(name for config in configs for name in config):
        present = [config[name] for config in configs if name in config]
        places = {value: place for place, value in enumerate(sorted({v for v in present if isinstance(v, str)}))}
        numbers = [float(places.get(value, value)) for value in present]
        values = np.array([float(places.get(config[name], config[name])) if name in config else min(numbers) for config in configs])
        distinct = np.unique(values)
        if len(distinct) == 1:
            continue
        if len(distinct) <= 8:
            columns.append(np.searchsorted(distinct, values) / (len(distinct) - 1))
            choices.append(len(distinct))
            continue
        if distinct[0] > 0 and distinct[-1] / distinct[0] > 100 and off_centre(np.log(values)) < off_centre(values):
            values = np.log(values)
        columns.append((values - values.min()) / (values.max() - values.min()))
        choices.append(0)
    return np.stack(columns, 1), tuple(choices)


def off_centre(values: np.ndarray) -> float:
    return abs((np.median(values) - values.min()) / (values.max() - values.min()) - 0.5)


class Sampler(Protocol):
    def propose(self) -> np.ndarray | None: ...

    def told(self, row: int, epoch: int, score: float, ended: bool) -> None: ...


class Random:
    def __init__(self, pool: Pool, seed: int):
        self.pool, self.generator = pool, np.random.default_rng(seed)

    def propose(self) -> np.ndarray | None:
        free = self.pool.free()
        return self.pool.points[self.generator.choice(free)] if len(free) else None

    def told(self, row: int, epoch: int, score: float, ended: bool) -> None:
        pass


class Optuna:
    """A sampler of Optuna. What it proposed becomes the recorded configuration nearest to it, told when that rests or ends."""

    def __init__(self, pool: Pool, sampler: optuna.samplers.BaseSampler):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.pool, self.study = pool, optuna.create_study(sampler=sampler)
        self.space: dict[str, optuna.distributions.BaseDistribution] = {
            f"x{place}": optuna.distributions.IntDistribution(0, count - 1) if count else optuna.distributions.FloatDistribution(0, 1)
            for place, count in enumerate(pool.choices)
        }

    def propose(self) -> np.ndarray | None:
        trial = self.study.ask(self.space)
        self.study.tell(trial, state=TrialState.FAIL)
        return np.array([trial.params[name] / (count - 1) if count else trial.params[name] for name, count in self._counts()])

    def _counts(self) -> Iterator[tuple[str, int]]:
        return zip(self.space, self.pool.choices, strict=True)

    def told(self, row: int, epoch: int, score: float, ended: bool) -> None:
        if ended:
            point = self.pool.points[row].tolist()
            params = {name: round(x * (count - 1)) if count else x for (name, count), x in zip(self._counts(), point, strict=True)}
            self.study.add_trial(create_trial(params=params, distributions=self.space, value=score))


class Own:
    """The product's proposals by the surrogate of `tuning/surrogate.py`."""

    def __init__(self, pool: Pool, seed: int):
        self.pool, self.generator = pool, np.random.default_rng(seed)
        self.features = features(pool.points, pool.choices)
        self.known: list[tuple[int, int]] = []  # (row, epoch)

    def propose(self) -> np.ndarray | None:
        points = self.generator.random((CANDIDATES, len(self.pool.choices)))
        for place, count in enumerate(self.pool.choices):
            if count:
                points[:, place] = np.floor(points[:, place] * count) / (count - 1)
        if len({row for row, _ in self.known}) < FIRST or self.generator.random() < AT_RANDOM:
            return points[0]
        rows, epochs = np.array(self.known).T
        kept = thinned(epochs)
        rows, epochs = rows[kept], epochs[kept]
        seen = Observations(self.features[rows], rows, epochs, self.pool.scores[rows, epochs - 1])
        return points[choose(Surrogate(seen, self.pool.scores.shape[1]), features(points, self.pool.choices), self.generator)]

    def told(self, row: int, epoch: int, score: float, ended: bool) -> None:
        self.known.append((row, epoch))


def tpe(pool: Pool, seed: int) -> Sampler:
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return Optuna(pool, optuna.samplers.TPESampler(seed=seed, multivariate=True))


def gp(pool: Pool, seed: int) -> Sampler:
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return Optuna(pool, optuna.samplers.GPSampler(seed=seed, deterministic_objective=False))


SAMPLERS: dict[str, Callable[[Pool, int], Sampler]] = {"random": Random, "tpe": tpe, "gp": gp, "own": Own}


class Scheduler:
    """Rungs, and who trains next. `eta` 0: every trial to the end."""

    def __init__(self, pool: Pool, sampler: Sampler, levels: tuple[int, ...], eta: int):
        self.pool, self.sampler, self.levels, self.eta = pool, sampler, levels, eta
        self.rungs: dict[int, dict[str, float]] = {level: {} for level in levels}
        self.away = set[str]()

    def begin(self) -> tuple[int, int] | None:
        row = self.pool.take(self.sampler.propose())
        if row is None:
            return None
        self.away.add(str(row))
        return row, self.levels[0]

    def report(self, row: int, epoch: int) -> None:
        score = float(self.pool.scores[row, epoch - 1])
        self.rungs[epoch][str(row)] = score
        self.away.discard(str(row))
        self.sampler.told(row, epoch, score, epoch == self.levels[-1] or self.stops(row, epoch))

    def stops(self, row: int, epoch: int) -> bool:
        """Whether a trial is told to Optuna here: one that may be promoted later is, once, at its first rung."""
        return epoch == self.levels[0]

    def next(self, free: int | None) -> tuple[int, int] | None:
        """(row, epoch to train it up to); `free`: what the worker has just trained. None: nothing is left."""
        raise NotImplementedError


class Full(Scheduler):
    def next(self, free: int | None) -> tuple[int, int] | None:
        return self.begin()


class Stopping(Scheduler):
    """Ray's ASHA: a trial goes on at once, if it is among the best 1/η so far, or never."""

    def goes_on(self, row: int, epoch: int) -> bool:
        seen = np.array(list(self.rungs[epoch].values()))
        return epoch < self.levels[-1] and self.rungs[epoch][str(row)] <= np.quantile(seen, 1 / self.eta)

    def stops(self, row: int, epoch: int) -> bool:
        return not self.goes_on(row, epoch)

    def next(self, free: int | None) -> tuple[int, int] | None:
        if free is not None:
            epoch = max(level for level in self.levels if str(free) in self.rungs[level])
            if self.goes_on(free, epoch):
                return free, self.levels[self.levels.index(epoch) + 1]
        return self.begin()


class Promotion(Scheduler):
    """The product's rule."""

    def next(self, free: int | None) -> tuple[int, int] | None:
        step = promotion(self.rungs, self.levels, self.eta, self.away)
        if step is None:
            return self.begin()
        self.away.add(step.trial)
        return int(step.trial), step.epoch


def ladder(kind: type[Scheduler], eta: int, first: int) -> Callable[[Pool, Sampler], Scheduler]:
    def build(pool: Pool, sampler: Sampler) -> Scheduler:
        levels, end = [first], pool.scores.shape[1]
        while levels[-1] * eta < end:
            levels.append(levels[-1] * eta)
        return kind(pool, sampler, (*levels, end), eta)

    return build


SCHEDULERS: dict[str, Callable[[Pool, Sampler], Scheduler]] = {
    "full": lambda pool, sampler: Full(pool, sampler, (pool.scores.shape[1],), 0),
    **{f"stopping {eta}, from {first}": ladder(Stopping, eta, first) for eta in (2, 3, 4) for first in (1, 3)},
    **{f"promotion {eta}, from {first}": ladder(Promotion, eta, first) for eta in (2, 3, 4) for first in (1, 3)},
}


def simulate(scheduler: Scheduler, workers: int, budgets: list[int], folds: int) -> list[dict[int, int]]:
    """{row: epochs trained} when each of `budgets` (ascending, fold-epochs) is spent. An epoch of all folds takes one unit of time."""
    found: list[dict[int, int]] = []
    times = [budget / folds / workers for budget in budgets]
    trained: dict[int, int] = {}
    jobs: list[tuple[float, int, int, int]] = []

    def start(now: float, worker: int, free: int | None) -> None:
        step = scheduler.next(free)
        if step is not None:
            heapq.heappush(jobs, (now + step[1] - trained.get(step[0], 0), worker, *step))

    for worker in range(workers):
        start(0, worker, None)
    while jobs and len(found) < len(budgets):
        now, worker, row, epoch = heapq.heappop(jobs)
        while len(found) < len(budgets) and times[len(found)] < now:
            found.append(dict(trained))
        trained[row] = epoch
        scheduler.report(row, epoch)
        start(now, worker, row)
    return found + [dict(trained)] * (len(budgets) - len(found))


def recommended(part: Part, metric: str, trained: dict[int, int], count: int) -> np.ndarray:
    """(U,): the mean of the `count` that came furthest with the best score, each at its best epoch. Of nothing: 0.5."""
    best = {row: int(part.scores[metric][row, :epochs].argmin()) for row, epochs in trained.items()}
    order = sorted(best, key=lambda row: (-trained[row], part.scores[metric][row, best[row]]))[:count]
    return np.mean([part.unseen[row, best[row]] for row in order], axis=0) if order else np.full(part.unseen.shape[2], 0.5)


def replay(
    table: OuterTable, metric: str, sampler: str, scheduler: str, workers: int, budgets: list[int], repeats: int
) -> dict[tuple[int, int], np.ndarray]:
    """{(budget, how many are averaged): predictions (R, P, V)}."""

    def once(seed: int) -> list[list[np.ndarray]]:
        """[partition][budget x mean] views."""
        found: list[list[np.ndarray]] = []
        for partition in table.partitions:
            said = []
            for number, part in enumerate(table.of(partition)):
                rng = np.random.default_rng([seed, partition, number])
                rows = rng.permutation(len(table.configs))[: round(SHARE * len(table.configs))]
                pool = Pool(part, metric, rows)
                method = SCHEDULERS[scheduler](pool, SAMPLERS[sampler](pool, int(rng.integers(2**31))))
                states = simulate(method, workers, budgets, len(np.unique(part.fold)))
                said.append([recommended(part, metric, trained, count) for trained in states for count in MEANS])
            found.append([np.concatenate(views) for views in zip(*said, strict=True)])
        return found

    every = [once(seed) for seed in range(repeats)]
    places = [(budget, count) for budget in budgets for count in MEANS]
    return {place: stacked([of[number] for of in one] for one in every) for number, place in enumerate(places)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench search", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metrics", nargs="+", default=["log_loss", "auc", "refinement"])
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--schedulers", nargs="+", choices=SCHEDULERS, default=list(SCHEDULERS))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--budgets", type=int, nargs="+", default=[675, 1350, 2700])
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    table = load(arguments.folder)
    judge, budgets = Judge(table), sorted(arguments.budgets)
    print(f"{len(table.configs)} configurations, {len(table.parts)} outer parts, {len(judge.names)} patients; {arguments.repeats} repeats; images")
    for metric in arguments.metrics:
        for workers in arguments.workers:
            plain = replay(table, metric, "random", "full", workers, budgets, arguments.repeats)
            for sampler in arguments.samplers:
                for scheduler in arguments.schedulers:
                    found = replay(table, metric, sampler, scheduler, workers, budgets, arguments.repeats)
                    for (budget, count), said in found.items():
                        loss, area = (judge.values(said, "images", name) for name in ("log_loss", "auc"))
                        apart, low, high = judge.difference(said, plain[budget, count], "images", "log_loss")
                        print(
                            f"{metric:10} {sampler:7} {scheduler:18} {workers:2} workers {budget:5} fold-epochs, mean of {count:2}: {loss:.3f} "
                            f"{area:.3f}; − random, full {apart:+.3f} ({low:+.3f} to {high:+.3f})",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
