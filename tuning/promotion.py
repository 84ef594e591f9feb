"""Who trains next: asynchronous successive halving by promotion, on plain data.

Li et al., A System for Massively Parallel Hyperparameter Tuning (ASHA), MLSys 2020, algorithm 2: a trial rests at a rung until it
is among the best 1/η seen there, and then goes on; where nobody is, a new configuration starts. Nothing that rests is lost.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmnet.pareto import lower_is_better, non_dominated, objective_now

Rungs = Mapping[int, Mapping[str, float]]  # {epoch: {trial: score}}, lower is better
Order = Sequence[tuple[float, str]]  # (score, trial) of a rung, best first


class Step(NamedTuple):
    """One trial to train on."""

    trial: str
    epoch: int  # at which it rests next, or ends
    since: int  # epoch at which it rests now


def promotion(
    rungs: Rungs,
    levels: tuple[int, ...],
    eta: int,
    away: Collection[str] = (),
    least: int = 0,
    spared: Mapping[int, Collection[str]] | None = None,
    orders: Mapping[int, Order] | None = None,
) -> Step | None:
    """The step of the highest rung that has somebody to promote; None: start a new configuration at `levels[0]`.

    `levels`: the rungs, ascending, the full length last. `away`: trials that cannot be resumed, as they train or have failed. They
    keep their place in the rung. `least`: so many of a rung go on, also where 1/η of it is less: for the end of a search, when no
    new configuration will come. `spared`: who of a rung goes on whatever the score. Who has a score at a higher level has left the
    lower ones. `orders`: of the rungs, where they are known; sorting 10,000 trials takes as long as all else for one.
    """
    for level, after in reversed(list(zip(levels[:-1], levels[1:], strict=True))):
        scores, gone = rungs.get(level, {}), rungs.get(after, {})
        order = orders[level] if orders else sorted((score, trial) for trial, score in scores.items())
        best = [trial for _, trial in order[: max(len(scores) // eta, least)]]
        best += sorted((spared or {}).get(level, ()))
        for trial in best:
            if trial not in gone and trial not in away:
                return Step(trial, after, level)
    return None


class Ladder:
    """The rungs of a study: what every trial scored at each, told epoch by epoch, live or from the records."""

    def __init__(self, levels: tuple[int, ...], epochs: int, eta: int, *, minimize: bool, others: Sequence[str] = ()):
        """`levels`: the rungs below the full length of `epochs`; none: every trial runs to its end at once.

        `others`: objectives beside the score; who is on the front of a rung goes on.
        """
        self.levels, self._eta, self._others = (*levels, epochs), eta, others
        self.sign = 1 if minimize else -1  # times it a score is lower where it is better
        self._scores: dict[int, dict[str, float]] = {level: {} for level in self.levels}
        self._orders: dict[int, list[tuple[float, str]]] = {level: [] for level in self.levels}
        self._values: dict[int, dict[str, list[float]]] = {level: {} for level in self.levels}  # of the others
        self.observed: list[tuple[str, int, float]] = []  # (trial, rung, score, lower is better), by trial: the same after a restart

    def report(self, trial: str, line: Mapping) -> None:
        """An epoch (a line of epochs.jsonl). A trial that ended early by itself has its last score at all later rungs."""
        for level in self.levels:
            if level == line["epoch"] or (line["finished"] and level > line["epoch"]):
                score = line["score"]
                self._place(level, trial, float("inf") if score is None or score != score else self.sign * score)
                self._values[level][trial] = [objective_now(name, line) for name in self._others]

    def _place(self, level: int, trial: str, score: float) -> None:
        scores, order = self._scores[level], self._orders[level]
        if trial in scores:  # it went on from an earlier checkpoint, and came here again
            del order[bisect_left(order, (scores[trial], trial))]
            del self.observed[bisect_left(self.observed, (trial, level, scores[trial]))]
        scores[trial] = score
        insort(order, (score, trial))
        insort(self.observed, (trial, level, score))

    def rest_after(self, epoch: int) -> int:
        """The next epoch at which a trial with `epoch` epochs on record rests or ends: `epoch` itself where that is a rung."""
        return next((level for level in self.levels if level >= epoch), self.levels[-1])

    def promoted(self, away: Collection[str], least: int = 0) -> Step | None:
        """See `promotion`."""
        spared = {level: self._front(level) for level in self.levels} if self._others else None
        return promotion(self._scores, self.levels, self._eta, away, least, spared, self._orders)

    def _front(self, level: int) -> list[str]:
        """Who at a rung is beaten by no other one in all objectives; with fewer than η there are no others to speak of."""
        trials = list(self._scores[level])
        if len(trials) < self._eta:
            return []
        values = np.array([self._values[level][trial] for trial in trials]).reshape(len(trials), len(self._others))
        turned = [lower_is_better(name, column) for name, column in zip(self._others, values.T, strict=True)]
        front = non_dominated(np.column_stack([[self._scores[level][trial] for trial in trials], *turned]))
        return [trial for trial, on in zip(trials, front, strict=True) if on]
