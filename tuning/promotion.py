"""Who trains next: asynchronous successive halving by promotion, on plain data.

Li et al., A System for Massively Parallel Hyperparameter Tuning (ASHA), MLSys 2020, algorithm 2: a trial rests at a rung until it
is among the best 1/η seen there, and then goes on; where nobody is, a new configuration starts. Nothing that rests is lost.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

Rungs = Mapping[int, Mapping[str, float]]  # {epoch: {trial: score}}, lower is better


class Step(NamedTuple):
    """One trial to train on."""

    trial: str
    epoch: int  # at which it rests next, or ends


def promotion(rungs: Rungs, levels: tuple[int, ...], eta: int, away: Collection[str] = ()) -> Step | None:
    """The step of the highest rung that has somebody to promote; None: start a new configuration at `levels[0]`.

    `levels`: the rungs, ascending, the full length last. `away`: trials that cannot be resumed, as they train or have failed. They
    keep their place in the rung. Who has a score at a higher level has left the lower ones.
    """
    for level, after in reversed(list(zip(levels[:-1], levels[1:], strict=True))):
        scores, gone = rungs.get(level, {}), rungs.get(after, {})
        best = sorted(scores, key=lambda trial: (scores[trial], trial))[: len(scores) // eta]
        for trial in best:
            if trial not in gone and trial not in away:
                return Step(trial, after)
    return None
