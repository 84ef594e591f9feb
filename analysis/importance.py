"""Which parameters mattered, from trials compared at the same epoch."""

import warnings
from pathlib import Path
from typing import NamedTuple

import optuna

from mmnet.metrics import METRICS
from mmnet.records import TrialRecord

LEAST_TRIALS = 20


class Importance(NamedTuple):
    share: dict[str, float]  # parameter -> importance, largest first; empty when there are too few trials
    epoch: int  # at which trials were compared
    trials: int


def parameter_importance(study_db: Path, records: list[TrialRecord], metric: str) -> Importance:
    """PED-ANOVA (Watanabe et al., IJCAI 2023; Optuna's default) over scores at one common epoch.

    Trials end at different epochs, and their last scores do not compare; the epoch used is the latest that at least 20
    trials and half of them all reached.
    """
    usable = [record for record in records if record.ranked]
    epoch = max(
        (e for record in usable for e in [len(record.epochs)] if _reached(usable, e) >= max(LEAST_TRIALS, len(usable) / 2)), default=0
    )
    chosen = [record for record in usable if len(record.epochs) >= epoch]
    if epoch == 0:
        return Importance({}, 0, len(usable))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    stored = optuna.load_study(storage=f"sqlite:///{study_db}", study_name=None).get_trials(deepcopy=False)
    study = optuna.create_study(direction="minimize" if METRICS[metric] == "min" else "maximize")
    for record in chosen:
        score = record.epochs[epoch - 1]["score"]
        frozen = stored[record.number]
        if score is not None:
            study.add_trial(optuna.trial.create_trial(params=frozen.params, distributions=frozen.distributions, value=score))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return Importance(optuna.importance.get_param_importances(study), epoch, len(chosen))
        except (ValueError, RuntimeError):  # all scores alike, or too few trials left
            return Importance({}, epoch, len(chosen))


def _reached(records: list[TrialRecord], epoch: int) -> int:
    return sum(len(record.epochs) >= epoch for record in records)
