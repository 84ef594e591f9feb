"""Learning rate, best epoch and early stopping as pure functions of the past: nothing to save, nothing to restore."""

import math
from collections.abc import Sequence

from mmnet.metrics import is_better

PLATEAU_FACTOR, PLATEAU_PATIENCE = 0.5, 3  # halve after 3 epochs without a better score


def best_epoch(scores: Sequence[float], metric: str) -> int | None:
    """Index of the first best score; None when there is none (no epoch yet, or only NaN)."""
    best: int | None = None
    for epoch, score in enumerate(scores):
        if is_better(metric, score, None if best is None else scores[best]):
            best = epoch
    return best


def out_of_patience(scores: Sequence[float], metric: str, patience: int | None) -> bool:
    """True when the last `patience` epochs brought no better score."""
    best = best_epoch(scores, metric)
    return patience is not None and len(scores) - (0 if best is None else best + 1) >= patience


def plateau_factor(scores: Sequence[float], metric: str) -> float:
    """The factor that ReduceLROnPlateau has reached after these scores."""
    factor, best, waited = 1.0, None, 0
    for score in scores:
        if is_better(metric, score, best):
            best, waited = score, 0
        else:
            waited += 1
        if waited >= PLATEAU_PATIENCE:
            factor, waited = factor * PLATEAU_FACTOR, 0
    return factor


def lr_factor(schedule: str, done: float, epochs: int, warmup: float, scores: Sequence[float], metric: str) -> float:
    """Share of the full learning rate after `done` of `epochs`: linear warm-up over the first `warmup` epochs, then the schedule.

    cosine: Loshchilov & Hutter, SGDR, ICLR 2017, eq. 5 without restarts; plateau follows the scores of past epochs.
    """
    if done < warmup:
        return max(done / warmup, 1e-3)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (epochs - warmup)))
    return plateau_factor(scores, metric) if schedule == "plateau" else 1.0
