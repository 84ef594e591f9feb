"""What the chosen configuration is worth when the choice is paid for: bootstrap bias-corrected cross-validation.

Tsamardinos, Greasidou & Borboudakis, Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation,
Machine Learning 107, 2018, algorithm 5: patients are drawn with replacement, the best configuration is chosen on those drawn and
scored on those left out. Two things differ, as bench/trust.py says
they should: a patient's (for the AUC a pair of patients') out-of-bag scores are averaged over the resamples that left it out before
they enter the metric (the leave-one-out bootstrap of Efron & Tibshirani, JASA 1997), and with enough patients the interval is that
of the configurations chosen over all patients, where the spread of out-of-bag scores is the spread of a third of the patients.

A candidate is a trial after an epoch: the best epoch chose itself as well. An early-stopped trial takes part with the epochs
that it had, as it does in the ranking. What this cannot undo: the trials that were stopped, and those that a sampler
proposed, depend on the scores of all patients; nested cross-validation pays for that too.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from analysis.bootstrap import Interval, draw_patients, errors_of, unbounded_intervals
from analysis.patient_scores import BLOCK, PatientMeans, PatientPairs, PatientScores, patient_scores
from mmnet.metrics import METRICS

STOPPED = (
    "every trial enters with all epochs that it finished, also one that was stopped early: it counts as its configuration trained "
    "for that many epochs, as in the ranking"
)
FEW_PATIENTS = 15  # of the smaller class
METHOD = "bootstrap bias-corrected cross-validation (Tsamardinos et al. 2018), out-of-bag scores averaged by patient"


class Candidates(NamedTuple):
    """K = all epochs of all trials, those of a trial in one piece; V views."""

    probability: np.ndarray  # (K, V) out of fold
    trial: np.ndarray  # (K,) number from 0
    label: np.ndarray  # (V,)
    patient: np.ndarray  # (V,)

    def scores(self, metric: str, rows: np.ndarray | slice = slice(None)) -> PatientScores:
        return patient_scores(metric, self.probability[rows], self.label, self.patient)


class Corrected(NamedTuple):
    """A metric of the chosen configuration: corrected with its interval, and as it read when it was chosen."""

    value: float
    low: float
    high: float
    naive: float

    @property
    def optimism(self) -> float:
        """naive - corrected, in the metric's own direction."""
        return self.naive - self.value


# (T, B) scores of trials at their best epochs, best at `mode` -> (B,) trial chosen
Choose = Callable[[np.ndarray], np.ndarray]


def choose_best(mode: str) -> Choose:
    return lambda scores: scores.argmin(0) if mode == "min" else scores.argmax(0)


def best_epochs(scores: np.ndarray, trial: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """(K, B) scores -> ((T, B) each trial's score at its best epoch, (T, B) which candidate that is); NaN never wins."""
    signed = np.where(np.isnan(scores), np.inf, scores if mode == "min" else -scores)
    starts = np.flatnonzero(np.r_[True, trial[1:] != trial[:-1]])
    place = np.stack([start + part.argmin(0) for start, part in zip(starts, np.split(signed, starts[1:]), strict=True)])
    best = np.take_along_axis(signed, place, 0)
    return (best if mode == "min" else -best), place


def choices(metric: str, candidates: Candidates, weights: np.ndarray, choose: dict[str, Choose]) -> dict[str, np.ndarray]:
    """(B,) the candidate that each rule chooses in each resample (B, N); the trial by the rule, then its best epoch."""
    chosen: dict[str, list[np.ndarray]] = {name: [] for name in choose}
    starts = range(0, len(candidates.trial), BLOCK)
    parts = [candidates.scores(metric, slice(start, start + BLOCK)) for start in starts]
    for start in range(0, len(weights), BLOCK):
        scores = np.concatenate([part.scores(weights[start : start + BLOCK]) for part in parts])
        best, place = best_epochs(scores, candidates.trial, METRICS[metric])
        for name, rule in choose.items():
            chosen[name].append(np.take_along_axis(place, rule(best)[None], 0)[0])
    return {name: np.concatenate(rows) for name, rows in chosen.items()}


def left_out_scores(metric: str, candidates: Candidates, chosen: np.ndarray, weights: np.ndarray) -> PatientScores:
    """One configuration's per-patient scores (C = 1): of each patient, or pair of patients, the mean over the resamples that left it out.

    `chosen` (B,) by resample, `weights` (B, N) of the patients it was chosen on.
    """
    distinct, which = np.unique(chosen, return_inverse=True)
    scores, out = candidates.scores(metric, distinct), (weights == 0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        if isinstance(scores, PatientMeans):
            times = np.stack([out[which == number].sum(0) for number in range(len(distinct))])  # (distinct, N)
            return PatientMeans((scores.total * times).sum(1, keepdims=True) / times.sum(0), scores.size)
        won, together = np.zeros(scores.wins.shape[1:]), out.T @ out
        for number, wins in enumerate(scores.wins):
            rows = out[which == number]
            won += wins * (rows.T @ rows)
        # a patient that has views of both classes is no pair with itself when it is left out, but it is in the metric
        return PatientPairs((won / np.maximum(together, 1))[None], scores.size)


def out_of_bag_scores(metric: str, candidates: Candidates, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) each choice scored on the patients it left out, NaN where a class has none; their mean is the published estimate."""
    distinct, which = np.unique(chosen, return_inverse=True)
    return np.concatenate(
        [
            candidates.scores(metric, distinct[number : number + 1]).scores((weights[which == number] == 0).astype(np.float64))[0]
            for number in range(len(distinct))
        ]
    )


def corrected_interval(
    metric: str,
    candidates: Candidates,
    chosen: np.ndarray,
    weights: np.ndarray,
    strata: np.ndarray,
    spread: np.ndarray,
    level: float = 0.95,
) -> Interval:
    """Of the choices (B,) made on the resamples `weights`; `spread`: resamples for the standard error.

    From FEW_PATIENTS patients of each class on, a t interval of the configurations chosen: a mean over many choices is steadier than
    any one of them, so the variance is the mean of theirs plus the variance between them. With fewer that is too narrow, and
    the published percentiles of out-of-bag scores, too wide with many patients, are right (bench/RESULTS.md).
    """
    honest = errors_of(left_out_scores(metric, candidates, chosen, weights), strata, spread)
    distinct, times = np.unique(chosen, return_counts=True)
    of_each, share = errors_of(candidates.scores(metric, distinct), strata, spread), times / times.sum()
    between = share @ (of_each.value - share @ of_each.value) ** 2
    error = np.sqrt(np.maximum(share @ of_each.error**2 + between, honest.error**2))
    if min(np.unique(strata, return_counts=True)[1]) < FEW_PATIENTS:
        low, high = np.nanquantile(out_of_bag_scores(metric, candidates, chosen, weights), [(1 - level) / 2, (1 + level) / 2])
        value = float(honest.value[0])
        return Interval(value, min(float(low), value), max(float(high), value))
    return unbounded_intervals(metric, honest._replace(error=error), level)[0]


def corrected(
    metric: str,
    candidates: Candidates,
    strata: np.ndarray,
    choose: dict[str, Choose],
    names: tuple[str, ...],
    *,
    rng: np.random.Generator,
    count: int,
    level: float = 0.95,
) -> dict[str, dict[str, Corrected]]:
    """{rule: {metric of `names`: Corrected}} where `metric` makes the choice; `count` resamples, `strata` (N,) class of each patient."""
    weights = draw_patients(strata, count, rng)
    everyone = np.ones((1, len(strata)))
    on_all = choices(metric, candidates, everyone, choose)
    spread = draw_patients(strata, count, rng)
    found: dict[str, dict[str, Corrected]] = {}
    for rule, chosen in choices(metric, candidates, weights, choose).items():
        found[rule] = {}
        for name in names:
            honest = corrected_interval(name, candidates, chosen, weights, strata, spread, level)
            naive = float(candidates.scores(name, on_all[rule]).scores(everyone)[0, 0])
            found[rule][name] = Corrected(*honest, naive)
    return found
