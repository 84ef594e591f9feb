"""Which parameters mattered, from trials compared at the same epoch, and how sure that is."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial

from analysis.bootstrap import Interval
from mmnet.metrics import METRICS
from study.records import TrialRecord

LEAST_TRIALS = 20
RESAMPLES = {"ped_anova": 100, "fanova": 20}
TREES, TREES_RESAMPLED = 32, 4  # of fANOVA's forest; a tree of 200 trials and 20 parameters takes 0.1 s


class Importance(NamedTuple):
    share: dict[str, float]  # parameter -> importance, largest first; empty when there are too few trials
    epoch: int  # at which trials were compared
    trials: int


class Comparable(NamedTuple):
    """Trials that compare: each with its score at one common epoch."""

    trials: list[FrozenTrial]  # finite scores only
    epoch: int  # 0: too few trials
    reached: int  # trials that reached it; all usable ones where there are too few


def comparable_trials(study_db: Path, records: list[TrialRecord]) -> Comparable:
    """Trials end at different epochs, and their last scores do not compare; the epoch used is the latest that at least 20
    trials and half of them all reached.
    """
    usable = [record for record in records if record.ranked]
    epoch = max(
        (e for record in usable for e in [len(record.epochs)] if _reached(usable, e) >= max(LEAST_TRIALS, len(usable) / 2)), default=0
    )
    if epoch == 0:
        return Comparable([], 0, len(usable))
    chosen = [record for record in usable if len(record.epochs) >= epoch]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stored = optuna.load_study(storage=f"sqlite:///{study_db}", study_name=None).get_trials(deepcopy=False)
    trials = []
    for record in chosen:
        score, frozen = record.epochs[epoch - 1]["score"], stored[record.number]
        if score is not None:
            trials.append(optuna.trial.create_trial(params=frozen.params, distributions=frozen.distributions, value=score))
    return Comparable(trials, epoch, len(chosen))


def parameter_importance(study_db: Path, records: list[TrialRecord], metric: str) -> Importance:
    """PED-ANOVA (Watanabe et al., IJCAI 2023; Optuna's default) over scores at one common epoch."""
    found = comparable_trials(study_db, records)
    return Importance(shares(found.trials, metric, PedAnovaImportanceEvaluator()), found.epoch, found.reached)


def shares(trials: list[FrozenTrial], metric: str, evaluator: BaseImportanceEvaluator) -> dict[str, float]:
    """{parameter: share of the importance}, largest first; empty where it is not defined: all scores alike, too few trials."""
    study = optuna.create_study(direction="minimize" if METRICS[metric] == "min" else "maximize")
    study.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return {name: float(value) for name, value in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}
        except (ValueError, RuntimeError):
            return {}


def importance_intervals(
    trials: list[FrozenTrial], metric: str, method: str, *, rng: np.random.Generator, count: int | None = None
) -> dict[str, Interval]:
    """Shares by `method` (ped_anova, or fanova: Hutter et al., ICML 2014) with 95 % percentile bootstrap intervals over trials."""
    whole, resampled = _evaluators(method, int(rng.integers(2**31)))
    value = shares(trials, metric, whole())
    draws: dict[str, list[float]] = {name: [] for name in value}
    for _ in range(count or RESAMPLES[method]) if value else ():
        drawn = shares([trials[i] for i in rng.integers(len(trials), size=len(trials))], metric, resampled())
        for name in value:
            draws[name].append(drawn.get(name, 0.0))
    found = {}
    for name, share in value.items():
        low, high = np.quantile(draws[name], [0.025, 0.975])
        found[name] = Interval(share, min(float(low), share), max(float(high), share))
    return found


def _evaluators(method: str, seed: int) -> tuple[Callable[[], BaseImportanceEvaluator], Callable[[], BaseImportanceEvaluator]]:
    """(for all trials, for a resample of them)."""
    if method == "ped_anova":
        return PedAnovaImportanceEvaluator, PedAnovaImportanceEvaluator
    assert method == "fanova"
    return lambda: FanovaImportanceEvaluator(n_trees=TREES, seed=seed), lambda: FanovaImportanceEvaluator(
        n_trees=TREES_RESAMPLED, seed=seed
    )


def in_words(found: Comparable, ped_anova: dict[str, Interval]) -> str:
    """One sentence: what matters most and whether that is sure, or that there are not enough trials to say."""
    if not ped_anova:
        return (
            f"not enough trials: {found.reached} that compare at one epoch, expected at least {LEAST_TRIALS} with scores that differ"
            if not found.epoch
            else f"nothing to say: the {len(found.trials)} trials compared at epoch {found.epoch} do not differ enough"
        )
    names = list(ped_anova)
    first = ped_anova[names[0]]
    text = f"{names[0]} matters most: {first.value:.0%} of the importance (95 % {first.low:.0%} to {first.high:.0%})"
    if len(names) > 1 and first.low <= ped_anova[names[1]].high:
        text += f", but {len(found.trials)} trials are not enough to tell it from {names[1]}"
    return f"{text}; trials compared at epoch {found.epoch}"


def as_json(intervals: dict[str, Interval]) -> dict[str, Any]:
    return {name: interval._asdict() for name, interval in intervals.items()}


def _reached(records: list[TrialRecord], epoch: int) -> int:
    return sum(len(record.epochs) >= epoch for record in records)
