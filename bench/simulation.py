"""Simulated time on a recorded table: workers that train for free, and pay for every epoch of every fold."""

import heapq
from typing import Protocol

import numpy as np

from bench.recorded import Table


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


class Method(Protocol):
    """A scheduler with a sampler. Trials are named by their row of the table."""

    def next(self, free: int | None) -> tuple[int, int] | None:
        """Trial and epoch to train it up to; `free`: what the asking worker has just trained. None: nothing left to do."""

    def report(self, trial: int, epoch: int) -> None:
        """`trial` has been trained up to `epoch`; the scores up to there may be read off the table."""

    def recommend(self) -> int | None: ...


def simulate(table: Table, method: Method, workers: int, budgets: list[int]) -> list[float]:
    """Replicate percentile of what is recommended when `budgets` (ascending, fold-epochs) are spent; the median 50 while nothing is.

    An epoch of all folds takes one unit of time. What a job trains is known when it ends, but paid as it trains.
    """
    found: list[float] = []
    times = [budget / table.folds / workers for budget in budgets]
    trained: dict[int, int] = {}
    jobs: list[tuple[float, int, int, int]] = []

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


def _judge(table: Table, method: Method) -> float:
    trial = method.recommend()
    return 50.0 if trial is None else float(table.percentiles[trial])
