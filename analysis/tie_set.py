"""The tie set: every configuration that cannot be told from the best on these patients.

A configuration stays unless some other is better by more than chance lets the largest of all its differences be. That is
the test for superior predictive ability (Hansen, J. Business & Economic Statistics 2005) with each configuration as the
benchmark in turn: studentised paired differences to all rivals, their maximum compared with its bootstrap distribution on the
same resamples, rivals left out that are clearly worse anyway (a difference beyond sqrt(2 log log N), his eq. 10). The true best
is one of the benchmarks and its test errs in 5 % of studies, so the set holds it in 95 %, however many configurations there
are (measured by bench/trust.py).
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from analysis.bootstrap import degrees_of_freedom, influence_parts

METHOD = "studentised maximum over all rivals by the paired patient bootstrap (Hansen's test for superior predictive ability, 2005)"
STOPPED = (
    "an early-stopped trial is compared with the best trial at the epochs that it had, best epoch of both by then; it is no member of "
    "the set, because its full length is not known, but counts as undecided when it could not be told from the best there"
)
CLEAR = 1e-4  # a p-value that is certain to lie below this is not worked out


class Paired(NamedTuple):
    """C configurations on the same patients, the lower the better."""

    value: np.ndarray  # (C,)
    drawn: np.ndarray  # (C, B) on the same resamples
    error: np.ndarray  # (C, C) standard error of each difference
    freedom: np.ndarray  # (C, C) its degrees of freedom


def paired(value: np.ndarray, drawn: np.ndarray, left_out: np.ndarray, strata: np.ndarray, mode: str) -> Paired:
    """From scores (C,), resampled (C, B) and with each patient left out (C, N); errors by the jackknife."""
    sign = 1 if mode == "min" else -1
    parts = influence_parts(left_out, strata)
    variances = []
    for part, _ in parts:
        product = part @ part.T
        own = np.diag(product)
        variances.append(np.maximum(own[:, None] + own - 2 * product, 0))
    freedom = degrees_of_freedom(variances, [count for _, count in parts])
    return Paired(sign * value, sign * drawn, np.sqrt(np.sum(variances, axis=0)), np.maximum(freedom, 1))


def tie_p_values(scores: Paired, patients: int) -> np.ndarray:
    """(C,) p-value of "no other is better"; the tie set is where it exceeds 1 - level. The best has 1.

    Student's t of each difference is brought to the normal scale first, because the resamples know nothing of how few patients
    estimated its error.
    """
    value, error = scores.value, scores.error
    centred = scores.drawn - scores.drawn.mean(1, keepdims=True)
    threshold = np.sqrt(2 * np.log(np.log(max(patients, 3))))
    found = np.ones(len(value))
    for i in range(len(value)):
        with np.errstate(invalid="ignore", divide="ignore"):
            t = np.nan_to_num((value[i] - value) / error[i], nan=0.0)  # alike on every patient: tied; apart by the same on every patient: certain
        score = _normal(t, scores.freedom[i])
        rivals = np.flatnonzero((score > -threshold) & (error[i] > 0))
        largest = score.max()
        if largest <= 0:
            continue
        bound = len(rivals) * norm.sf(largest)
        if bound < CLEAR or not len(rivals):
            found[i] = bound
            continue
        draws = ((centred[i] - centred[rivals]) / error[i, rivals, None]).max(0)
        found[i] = float((draws >= largest).mean())
    return found


def _normal(t: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Student's t -> the normal score of the same tail probability, by the smaller tail to keep precision."""
    tail = student.sf(np.abs(t), freedom)
    return np.sign(t) * norm.isf(np.maximum(tail, 1e-300))


def stopped_p_value(stopped: Paired) -> float:
    """One-sided p-value of "not worse than the best" of a pair (the stopped trial, the best) at equal epochs."""
    if stopped.error[0, 1] == 0:
        return 1.0 if stopped.value[0] <= stopped.value[1] else 0.0
    return float(student.sf((stopped.value[0] - stopped.value[1]) / stopped.error[0, 1], stopped.freedom[0, 1]))
