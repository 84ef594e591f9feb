"""Several objectives of a search: which trials no other one beats in all of them.

The sampler follows the first objective alone. A multi-objective sampler (NSGA-II, or TPE on several values) needs every objective of
every trial at the same length, and rungs leave most trials short: two scores at different epochs say nothing about which is better,
nor do two training times. So the front is of the trials that ran to their end. That cheap ones get there, whose score alone would
leave them at a rung, is the rungs' part: where trials are promoted, who is on the front of a rung goes on as well (tuning.promotion).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from data.errors import InputError
from mmnet.metrics import METRICS

# beside every metric; all of them: less is better
COSTS = {
    "seconds": "of training, all folds and epochs",
    "fold_epochs": "until the trial ended",
    "parameters": "that are trained, of one fold's network",
}


def parse_objectives(text: str) -> tuple[str, tuple[str, ...]]:
    """`log_loss,seconds` -> (what the search follows, what else spans the front). Raises InputError for an unknown or repeated name."""
    first, *others = names = [name.strip() for name in text.split(",")]
    for name in others:
        if name not in METRICS and name not in COSTS:
            raise InputError(f"--metric {text}: unknown objective {name!r}: expected one of {', '.join((*METRICS, *COSTS))}")
    if len(set(names)) < len(names):
        raise InputError(f"--metric {text}: expected each objective once")
    return first, tuple(others)


def objective(name: str, record: Any) -> float:
    """The value of an objective of a trial on record: of a metric at its best epoch; NaN where the record does not know it."""
    if name == "seconds":
        return record.seconds
    return objective_now(name, record.best if name in METRICS else record.epochs[-1])


def objective_now(name: str, line: Mapping[str, Any]) -> float:
    """The value of an objective after an epoch (a line of epochs.jsonl); seconds are those of the epoch. NaN where it is not known."""
    value = line["metrics"][name] if name in METRICS else line.get(name)
    return float("nan") if value is None else float(value)


def lower_is_better(name: str, values: np.ndarray) -> np.ndarray:
    """Values of an objective, turned so that less is better."""
    return -values if METRICS.get(name) == "max" else values


def non_dominated(values: np.ndarray) -> np.ndarray:
    """values (N, K), less is better -> (N,) bool: no other one is as good in all K and better in one. NaN is on no front.

    Equal ones are all on it. Kung, Luccio & Preparata, On Finding the Maxima of a Set of Vectors, JACM 1975 (the plain N² comparison).
    """
    known = ~np.isnan(values).any(1)
    as_good = (values[:, None] <= values[None]).all(2)  # (N, N): row against column; False with NaN
    better = (values[:, None] < values[None]).any(2)
    return known & ~(as_good & better).any(0)
