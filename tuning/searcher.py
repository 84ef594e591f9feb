"""Optuna behind Ray's searcher interface, telling Optuna the truth about every trial.

Ray's own OptunaSearch reports COMPLETE, with its last low-epoch value, for trials that a scheduler stopped. Here the
storage sees the score at every epoch, PRUNED for stopped trials and FAIL with the reason for failed ones. The storage
and the trial records are the only state: a resumed study is built from them, whatever Ray remembers.
"""

import warnings
from collections.abc import Collection
from itertools import count
from typing import Any

import optuna
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

from data.errors import InputError
from mmnet.config import Config
from mmnet.crossval import derive_seed
from mmnet.metrics import METRICS
from mmnet.records import TrialRecord
from search_spaces.space import Space

NEVER_STARTED = "never started"


def open_study(path: str, name: str, metric: str) -> optuna.Study:
    """The Optuna study in a SQLite file, made if need be."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    direction = "minimize" if METRICS[metric] == "min" else "maximize"
    try:
        return optuna.create_study(storage=f"sqlite:///{path}", study_name=name, direction=direction, load_if_exists=True)
    except Exception as error:  # sqlalchemy's and optuna's own kinds
        raise InputError(
            f"{path}: not a study that Optuna can open ({str(error).splitlines()[0]}); restore it or start under another --name"
        ) from error


def _sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """TPE as in Optuna's default, joint over conditional groups; seeded for the trial, so that a restart changes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`
        return optuna.samplers.TPESampler(seed=derive_seed(seed, number), multivariate=True, group=True)


class StudySearcher(Searcher):
    """Suggests {"number", "params"}: first the trials that an earlier run left unfinished, then new ones."""

    def __init__(self, study: optuna.Study, space: Space, base: Config, unfinished: list[TrialRecord], stopped: Collection[str]):
        """`stopped`: the scheduler's live set of trial ids that a rung ended; Ray tells a searcher only that a trial ended."""
        super().__init__(metric="score", mode=METRICS[base.metric])
        self._study, self._space, self._base = study, space, base
        self._unfinished, self._stopped = list(unfinished), stopped
        self._trials: dict[str, Trial] = {}
        self._reported: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        if self._unfinished:
            record = self._unfinished.pop(0)
            # Optuna's storage ids are its own; its trials are numbered like ours
            frozen = self._study.get_trials(deepcopy=False)[record.number]
            self._trials[trial_id], params = Trial(self._study, frozen._trial_id), record.params
        else:
            trials = self._study.get_trials(deepcopy=False)
            waiting = any(trial.state == TrialState.WAITING for trial in trials)  # an earlier run ended before it was asked for
            number, place = len(trials) - waiting, _first_free_place(trials)
            point = self._space.point(place, self._base)
            if point is not None and not waiting:
                self._study.enqueue_trial(point, user_attrs={"planned": place})
            self._study.sampler = _sampler(self._base.seed, number)
            self._trials[trial_id] = self._study.ask()
            params = self._space.sample(self._trials[trial_id], self._base)
        return {"number": self._trials[trial_id].number, "params": params}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "score" in result and result["epoch"] > self._reported.get(trial_id, 0) and result["score"] == result["score"]:
            self._reported[trial_id] = result["epoch"]
            self._trials[trial_id].report(result["score"], result["epoch"])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._trials:
            return
        result = result or {}
        if not error:
            self.on_trial_result(trial_id, result)
        trial = self._trials.pop(trial_id)
        reason = result.get("failed") or ("worker lost" if error else "")
        if reason:
            trial.set_user_attr("reason", reason)
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        elif result.get("finished"):
            self._study.tell(trial, result["score"], skip_if_finished=True)
        elif trial_id in self._stopped:
            self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        # else: the whole study was interrupted; the trial stays RUNNING and is taken up by --resume

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the state is in Optuna's storage and in the trial records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _first_free_place(trials: list[optuna.trial.FrozenTrial]) -> int:
    """The place in the plan that comes next: a trial that never started leaves its own to another."""
    taken = {trial.user_attrs.get("planned") for trial in trials if trial.user_attrs.get("reason") != NEVER_STARTED}
    return next(place for place in count() if place not in taken)


def reconcile(study: optuna.Study, records: list[TrialRecord]) -> list[TrialRecord]:
    """Bring Optuna's storage to what the trial records say; returns the trials to take up again, by number.

    A trial that Optuna holds as running, but that never wrote a record, is told FAIL; one that finished on record while
    the driver was gone is told so.
    """
    by_number = {record.number: record for record in records}
    unfinished = []
    for frozen in study.get_trials(deepcopy=False):
        if frozen.state != TrialState.RUNNING:
            continue
        record = by_number.get(frozen.number)
        if record is not None and record.status == "running":
            unfinished.append(record)
            continue
        trial = Trial(study, frozen._trial_id)
        if record is not None and record.status in ("done", "stopped") and record.ranked:
            if record.status == "done":
                study.tell(trial, record.score)
            else:
                for line in record.epochs:
                    trial.report(line["score"], line["epoch"])
                study.tell(trial, state=TrialState.PRUNED)
        else:
            trial.set_user_attr("reason", record.reason if record else NEVER_STARTED)
            study.tell(trial, state=TrialState.FAIL)
    return unfinished
