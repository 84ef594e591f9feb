"""Which of the tied configurations to use: the simplest that is no more than one standard error worse than the best."""

import math
from typing import Any

import numpy as np

from study.records import TrialRecord

RULE = (
    "among the full-length trials whose score is within one standard error of the paired difference to the best of them (the one-standard-"
    "error rule of Breiman et al. 1984, paired), the one with the fewest mechanisms switched on, then the smallest width, then the lowest cost a fold-epoch, "
    "then the best score"
)


def mechanisms_on(config: dict[str, Any]) -> int:
    """How many mechanisms of the network a configuration (nested, as on record) switches on."""
    model = config.get("model", {})
    on = [model.get(name) for name in ("channel_attention", "importance", "cross_attention", "concatenation")]
    return sum(map(bool, [*on, model.get("pool", "mean") != "mean", model.get("hierarchy", "none") != "none"]))


def simplicity(record: TrialRecord) -> tuple[int, float, float]:
    """What the rule compares, the smaller the better; seconds to one digit, because a busy machine moves them.

    A width of None, as many as the maps have channels, counts as wider than any number.
    """
    width = record.config.get("model", {}).get("width", 0)
    seconds = record.seconds / max(record.fold_epochs, 1)
    return mechanisms_on(record.config), math.inf if width is None else width, float(f"{seconds:.0e}")


def within_one_error(score: np.ndarray, error: np.ndarray, eligible: np.ndarray) -> np.ndarray:
    """(T, B) whether a trial is eligible (T,) and within one error (T, T) of the best eligible one; scores (T, B), lower is better."""
    among = np.where(eligible[:, None], score, np.inf)
    best = among.argmin(0)
    return eligible[:, None] & (among - among.min(0) <= error[:, best])


def choose_simplest(score: np.ndarray, error: np.ndarray, eligible: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(B,) trial: the first in `order` (T,), simplest first, of those within one error."""
    return order[within_one_error(score, error, eligible)[order].argmax(0)]
