"""Simulated time on a recorded table: workers that train for free, and pay for every epoch of every fold."""

import heapq
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np

from analysis.mean_of_best import MEMBERS
from bench.recorded import Table


class Found(NamedTuple):
    """Replicate percentiles of what is recommended; the median 50 while nothing is."""

    best: float  # the first of a method's ranking
    mean: float  # the mean of the predictions of the first MEMBERS, which the product recommends besides


class Pool:
    """The configurations of a table, each handed out once, by nearness to a proposal."""

    def __init__(self, table: Table):
        self.table, self.used = table, set[int]()

    def free(self) -> list[int]:
        return [row for row in range(len(self.table.points)) if row not in self.used]

    def take(self, point: np.ndarray) -> int | None:
        found = self.table.nearest(point, self.used)
        if found is not None:
            self.used.add(found)
        return found

    @property
    def dimensions(self) -> dict[str, int]:
        """What libraries call the dimensions, and the number of values of each; 0: any between 0 and 1."""
        return {f"x{place}": count for place, count in enumerate(self.table.choices)}

    def stand_in(self, proposal: Mapping[str, float]) -> tuple[int | None, dict[str, float] | None]:
        """What `take` finds for a proposal by names, and its own values; one of `count` values is a number from 0 on."""
        row = self.take(np.array([proposal[x] / (count - 1) if count else proposal[x] for x, count in self.dimensions.items()]))
        if row is None:
            return None, None
        values = zip(self.dimensions.items(), self.table.points[row], strict=True)
        return row, {x: round(value * (count - 1)) if count else float(value) for (x, count), value in values}


class Method(Protocol):
    """A scheduler with a sampler. Trials are named by their row of the table."""

    def next(self, free: int | None) -> tuple[int, float] | None:
        """Trial and epoch to train it up to; `free`: what the asking worker has just trained. None: nothing left to do.

        An epoch of some of the folds is that share of one.
        """

    def report(self, trial: int, epoch: float) -> None:
        """`trial` has been trained up to `epoch`; the scores up to there may be read off the table."""

    def ranking(self) -> list[int]:
        """The trials so far, the one that is recommended first."""


def simulate(table: Table, method: Method, workers: int, budgets: list[int]) -> list[Found]:
    """What is recommended when `budgets` (ascending, fold-epochs) are spent.

    An epoch of all folds takes one unit of time. What a job trains is known when it ends, but paid as it trains.
    """
    found: list[Found] = []
    times = [budget / table.folds / workers for budget in budgets]
    trained: dict[int, float] = {}
    jobs: list[tuple[float, int, int, float]] = []

    def start(now: float, worker: int, free: int | None) -> None:
        step = method.next(free)
        if step is not None:
            trial, epoch = step
            heapq.heappush(jobs, (now + epoch - trained.get(trial, 0), worker, trial, epoch))

    for worker in range(workers):
        start(0, worker, None)
    while jobs and len(found) < len(budgets):
        now, worker, trial, epoch = heapq.heappop(jobs)
        while len(found) < len(budgets) and times[len(found)] < now:
            found.append(_judge(table, method))
        trained[trial] = epoch
        method.report(trial, epoch)
        start(now, worker, trial)
    return found + [_judge(table, method)] * (len(budgets) - len(found))


def _judge(table: Table, method: Method) -> Found:
    trials = method.ranking()
    return Found(*(table.percentile(trials[:count]) for count in (1, MEMBERS))) if trials else Found(50.0, 50.0)
