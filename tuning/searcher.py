"""Optuna behind Ray's searcher interface, telling Optuna the truth about every trial.

Ray's own OptunaSearch reports COMPLETE, with its last low-epoch value, for trials that a scheduler stopped. Here Optuna
sees the score at every epoch, PRUNED for stopped trials and FAIL with the reason for failed ones. It does so in memory:
the trial records are the only state, and a resumed study is rebuilt from them, whatever Ray and optuna.db remember.
"""

import contextlib
import math
import time
import warnings
from collections.abc import Collection
from itertools import count
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.search import Searcher

from mmnet.config import Config
from mmnet.crossval import derive_seed
from mmnet.metrics import METRICS
from mmnet.records import TrialRecord
from search_spaces.space import Space
from tuning.database import StudyDatabase
from tuning.window import WindowStorage

NEVER_STARTED = "never started"
SAVE_EVERY = 3.0  # seconds


class StudySearcher(Searcher):
    """Suggests {"number", "params"}: first the trials that an earlier run left unfinished, then new ones."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        base: Config,
        unfinished: list[TrialRecord],
        stopped: Collection[str],
        database: StudyDatabase | None = None,
    ):
        """`study`, `unfinished`: what `rebuild` made of the records.

        `stopped`: the scheduler's live set of trial ids that a rung ended; Ray tells a searcher only that a trial ended.
        `database`: what `save_changes` writes to.
        """
        super().__init__(metric="score", mode=METRICS[base.metric])
        self._study, self._space, self._base = study, space, base
        self._unfinished, self._stopped = list(unfinished), stopped
        self._trials: dict[str, Trial] = {}
        self._reported: dict[str, int] = {}
        self._database, self._changed, self._saved = database, set[int](), time.monotonic()
        trials = all_trials(study)
        self._number = len(trials)
        self._taken = {trial.user_attrs.get("planned") for trial in trials}
        self._place = 0

    def suggest(self, trial_id: str) -> dict[str, Any]:
        if self._unfinished:
            record = self._unfinished.pop(0)
            self._trials[trial_id], params = Trial(self._study, all_trials(self._study)[record.number]._trial_id), record.params
            self._reported[trial_id] = max((line["epoch"] for line in record.epochs), default=0)
            return {"number": record.number, "params": params}
        while self._place in self._taken:
            self._place += 1
        point = self._space.point(self._place, self._base)
        if point is not None:
            self._study.enqueue_trial(point, user_attrs={"planned": self._place})
            self._taken.add(self._place)
        self._study.sampler = _sampler(self._base.seed, self._number)
        trial = self._trials[trial_id] = self._study.ask()
        assert trial.number == self._number
        self._number += 1
        self._changed.add(trial._trial_id)
        return {"number": trial.number, "params": self._space.sample(trial, self._base)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "score" in result and result["epoch"] > self._reported.get(trial_id, 0) and math.isfinite(result["score"]):
            self._reported[trial_id] = result["epoch"]
            self._trials[trial_id].report(result["score"], result["epoch"])
            self._changed.add(self._trials[trial_id]._trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._trials:
            return
        result = result or {}
        if not error:
            self.on_trial_result(trial_id, result)
        trial = self._trials.pop(trial_id)
        self._reported.pop(trial_id, None)
        self._changed.add(trial._trial_id)
        reason = result.get("failed") or ("worker lost" if error else "")
        if reason:
            trial.set_user_attr("reason", reason)
            self._study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        elif result.get("finished"):
            self._study.tell(trial, result["score"], skip_if_finished=True)
        elif trial_id in self._stopped:
            self._study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        # else: the whole study was interrupted; the trial stays RUNNING and is taken up by --resume

    def save_changes(self, *, now: bool = False) -> None:
        """Write what changed to the database, if the last time was `SAVE_EVERY` ago, or `now`. Raises StorageError."""
        if self._database is None or not self._changed or not (now or time.monotonic() - self._saved >= SAVE_EVERY):
            return
        self._database.write([self._study._storage.get_trial(trial_id) for trial_id in sorted(self._changed)])
        self._changed.clear()
        self._saved = time.monotonic()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the state is in the trial records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def new_study(metric: str) -> optuna.Study:
    """An empty study in memory, see `WindowStorage`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(storage=WindowStorage(), direction="minimize" if METRICS[metric] == "min" else "maximize")


def all_trials(study: optuna.Study) -> list[FrozenTrial]:
    """By number, also those that its sampler no longer sees; not copied."""
    storage = study._storage
    assert isinstance(storage, WindowStorage)
    return storage.whole(study._study_id)


def rebuild(space: Space, base: Config, records: list[TrialRecord]) -> tuple[optuna.Study, list[TrialRecord]]:
    """The study as the trial records tell it, and the trials to take up again, by number.

    A number that left no record belongs to a trial that never started: FAIL, and its place in a plan is free again. So do
    numbers above all records, but those are given anew, as in a study that was never stopped.
    """
    study, by_number = new_study(base.metric), {record.number: record for record in records}
    places = _Places(space, base)
    for number in range(max(by_number, default=-1) + 1):
        record = by_number.get(number)
        if record is None:
            study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={"reason": NEVER_STARTED}))
            continue
        params, distributions = _encode(space, record.params)
        place = places.take(number, params)
        reports = {line["epoch"]: line["score"] for line in record.epochs if line["score"] is not None}
        state, value, attributes = TrialState.FAIL, None, {"reason": record.reason}
        if record.status == "running":
            state, attributes = TrialState.RUNNING, {}
        elif record.status != "failed" and record.ranked:
            state, value, attributes = TrialState.COMPLETE if record.status == "done" else TrialState.PRUNED, record.score, {}
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=value,
                params=params,
                distributions=distributions,
                intermediate_values=reports,
                user_attrs=({} if place is None else {"planned": place}) | attributes,
            )
        )
    return study, [record for record in records if record.status == "running"]


def _encode(space: Space, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """The sampler's parameters of a trial on record, and what they were drawn from."""
    encoded: dict[str, Any] = {}
    dimensions = [dimension for dimension in space.searched() if dimension.path in params]
    for dimension in dimensions:
        with contextlib.suppress(ValueError):  # the space held more when this trial began
            encoded[dimension.path] = dimension.encode(params[dimension.path])
    trial = optuna.trial.FixedTrial(encoded)
    for dimension in dimensions:
        if dimension.path in encoded:
            dimension.suggest(trial)
    return encoded, trial.distributions


class _Places:
    """Which place of a plan a trial on record had: the first free one whose point it has."""

    def __init__(self, space: Space, base: Config):
        self._points = (space.point(place, base) for place in count())
        self._free: dict[int, dict[str, Any]] = {}
        self._seen = 0

    def take(self, number: int, params: dict[str, Any]) -> int | None:
        while self._seen <= number:  # no trial has a place above its number
            point = next(self._points)
            if point is not None:
                self._free[self._seen] = point
            self._seen += 1
        for place, point in self._free.items():
            if point.items() <= params.items():
                del self._free[place]
                return place
        return None


def _sampler(seed: int, number: int) -> optuna.samplers.BaseSampler:
    """TPE as in Optuna's default, joint over conditional groups; seeded for the trial, so that a restart changes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`
        return optuna.samplers.TPESampler(seed=derive_seed(seed, number), multivariate=True, group=True)
