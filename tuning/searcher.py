"""Optuna behind Ray's searcher interface, telling Optuna the truth about every trial.

Ray's own OptunaSearch reports COMPLETE, with its last low-epoch value, for trials that a scheduler stopped. Here Optuna
sees the score at every epoch, PRUNED for stopped trials and FAIL with the reason for failed ones. It does so in memory:
the trial records are the only state, and a resumed study is rebuilt from them, whatever Ray and optuna.db remember.
"""

import contextlib
import math
import time
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from mmnet.config import Config
from mmnet.metrics import METRICS
from mmnet.seeds import derive_seed
from search_spaces.space import Space
from study.records import TrialRecord
from tuning.database import StudyDatabase
from tuning.promotion import Ladder, Step
from tuning.proposals import Proposer
from tuning.settings import FINALISTS, GP, TPE
from tuning.trainable import trial_name
from tuning.window import WindowStorage

NEVER_STARTED = "never started"
LOST_RETRIES = 5  # in a row, without an epoch between, of a trial whose process was lost; what its configuration causes is not retried
SAVE_EVERY = 3.0  # seconds


class StudySearcher(Searcher):
    """Suggests what to train next: {"number", "params", "since": epoch it rested at, "until": epoch it rests at next, or ends, "take"}.

    `take` counts what was suggested, in this run: of two processes with one trial the one with the higher take has it, see study.hold.

    First those whose process was lost, then the trials that an earlier run left unfinished, then whoever is to be promoted, then new
    ones, and when there are enough of those the best that still rest.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        base: Config,
        records: list[TrialRecord],
        ladder: Ladder,
        trials: int,
        stopped: Collection[str] = (),
        database: StudyDatabase | None = None,
        sampler: str = TPE,
    ):
        """`study`: what `rebuild` made of the `records`. `ladder`: still without them.

        `trials`: configurations in all, those on record included. `stopped`: the scheduler's live set of trial ids that it ended at
        a rung; Ray tells a searcher only that a trial ended. `database`: what `save_changes` writes to.
        `sampler`: GP, TPE or RANDOM.
        """
        super().__init__(metric="score", mode=METRICS[base.metric])
        self._study, self._space, self._base = study, space, base
        self._ladder, self._stopped = ladder, stopped
        self._unfinished = [record for record in records if record.status == "running"]
        self._away = {record.name for record in records if record.status in ("running", "failed")}
        self._left, self._cut_off = trials - len(records), False
        for record in records:
            for line in record.epochs:
                ladder.report(record.name, line)
        self._params = {record.number: record.params for record in records}
        self._numbers: dict[str, int] = {}  # of the trials that train, by Ray's names
        self._reported: dict[str, int] = {}
        self._given: dict[str, dict[str, Any]] = {}  # what they were told
        self._takes = count(1)
        self._again: list[tuple[dict[str, Any], int]] = []  # what lost ones were told, and their last epoch
        self._lost: Counter[int] = Counter()  # how often since its last epoch, by number
        self._database, self._changed, self._saved = database, set[int](), time.monotonic()
        optuna_trials = all_trials(study)
        self._number = len(optuna_trials)
        self._taken = {trial.user_attrs.get("planned") for trial in optuna_trials}
        self._place = 0
        self._sampler = sampler
        self._proposer = Proposer(space, base, ladder, _storage(study).earlier) if sampler == GP else None

    @property
    def exhausted(self) -> bool:
        """Whether everything that was planned is done."""
        waiting = self._again or self._unfinished or self._left > 0 or self._ladder.promoted(self._away, FINALISTS)
        return not (self._numbers or self._cut_off or waiting)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Ray takes FINISHED, a text, too
        """None: not before a running trial has ended."""
        suggestion = self._next(trial_id)
        if isinstance(suggestion, dict):
            self._given[trial_id] = suggestion
            return suggestion | {"take": next(self._takes)}
        return suggestion

    def _next(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._again:
            told, last = self._again.pop(0)
            self._numbers[trial_id], self._reported[trial_id] = told["number"], last
            return told
        if self._unfinished:
            return self._take_up(trial_id, self._unfinished.pop(0))
        if (step := self._ladder.promoted(self._away)) is not None:
            return self._promote(trial_id, step)
        if self._left > 0:
            return self._begin(trial_id)
        if (step := self._ladder.promoted(self._away, FINALISTS)) is not None:
            return self._promote(trial_id, step)
        return None if self._numbers else Searcher.FINISHED

    def _take_up(self, trial_id: str, record: TrialRecord) -> dict[str, Any]:
        last = max((line["epoch"] for line in record.epochs), default=0)
        self._numbers[trial_id], self._reported[trial_id] = record.number, last
        return {"number": record.number, "params": record.params, "since": 0, "until": self._ladder.rest_after(last)}

    def _promote(self, trial_id: str, step: Step) -> dict[str, Any]:
        number = int(step.trial)
        _storage(self._study).go_on(number)
        self._numbers[trial_id], self._reported[trial_id] = number, step.since
        self._away.add(step.trial)
        self._changed.add(number)
        return {"number": number, "params": self._params[number], "since": step.since, "until": step.epoch}

    def _begin(self, trial_id: str) -> dict[str, Any]:
        while self._place in self._taken:
            self._place += 1
        point = self._space.point(self._place, self._base)
        if point is not None:
            self._study.enqueue_trial(point, user_attrs={"planned": self._place})
            self._taken.add(self._place)
        elif self._proposer is not None:
            generator = np.random.default_rng(derive_seed(self._base.seed, self._number))
            proposal = self._proposer.proposal(self._encoded, generator)
            if proposal is not None:
                self._study.enqueue_trial(proposal)
        self._study.sampler = _sampler(self._sampler, self._base.seed, self._number)
        trial = self._study.ask()
        assert trial.number == self._number
        self._number += 1
        self._left -= 1
        self._numbers[trial_id] = trial.number
        self._away.add(trial_name(trial.number))
        self._changed.add(trial.number)
        params = self._params[trial.number] = self._space.sample(trial, self._base)
        return {"number": trial.number, "params": params, "since": 0, "until": self._ladder.levels[0]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "score" not in result or result["epoch"] <= self._reported.get(trial_id, 0):
            return
        number = self._numbers[trial_id]
        self._reported[trial_id] = result["epoch"]
        self._lost.pop(number, None)
        self._ladder.report(trial_name(number), result)
        if math.isfinite(result["score"]):
            self._study._storage.set_trial_intermediate_value(self._optuna_id(number), result["epoch"], result["score"])
            self._changed.add(number)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if trial_id not in self._numbers:
            return
        result = result or {}
        if not error:
            self.on_trial_result(trial_id, result)
        number, told, last = self._numbers.pop(trial_id), self._given.pop(trial_id), self._reported.pop(trial_id, 0)
        if error:
            self._lost[number] += 1
            if not self.given_up(number):
                self._again.append((told, last))
                return
        self._changed.add(number)
        reason = result.get("failed") or ("worker lost" if error else "")
        if reason:
            self._study._storage.set_trial_user_attr(self._optuna_id(number), "reason", reason)
            self._study.tell(number, state=TrialState.FAIL)
        elif result.get("finished"):
            self._study.tell(number, result["score"])
        elif result.get("rests"):
            _storage(self._study).rest(self._study._study_id, number)
            self._away.discard(trial_name(number))
        elif trial_id in self._stopped:
            self._study.tell(number, state=TrialState.PRUNED)
        else:  # the whole study was interrupted; the trial stays RUNNING and is taken up by --resume
            self._cut_off = True

    def given_up(self, number: int) -> bool:
        """Whether a trial whose process was lost gets no other one.

        Not the first time: a machine that goes away is no fault of a trial, and Ray does not always tell that from a crash. But where
        process after process is lost before the trial has got on by an epoch, it is the trial's.
        """
        return self._lost[number] > LOST_RETRIES

    def _encoded(self, number: int) -> dict[str, Any]:
        """The sampler's parameters of a trial."""
        return self._study._storage.get_trial(self._optuna_id(number)).params

    def _optuna_id(self, number: int) -> int:
        return self._study._storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)

    def save_changes(self, *, now: bool = False) -> None:
        """Write what changed to the database, if the last time was `SAVE_EVERY` ago, or `now`. Raises StorageError."""
        if self._database is None or not self._changed or not (now or time.monotonic() - self._saved >= SAVE_EVERY):
            return
        trials = all_trials(self._study)
        self._database.write([trials[number] for number in sorted(self._changed)])
        self._changed.clear()
        self._saved = time.monotonic()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the state is in the trial records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def new_study(metric: str, earlier: Sequence[FrozenTrial] = ()) -> optuna.Study:
    """An empty study in memory, see `WindowStorage`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(storage=WindowStorage(earlier), direction="minimize" if METRICS[metric] == "min" else "maximize")


def all_trials(study: optuna.Study) -> list[FrozenTrial]:
    """By number, also those that its sampler no longer sees, resting ones as PRUNED; not copied."""
    return _storage(study).whole(study._study_id)


def _storage(study: optuna.Study) -> WindowStorage:
    storage = study._storage
    assert isinstance(storage, WindowStorage)
    return storage


def rebuild(space: Space, base: Config, records: list[TrialRecord], *, resting: bool, earlier: Sequence[FrozenTrial] = ()) -> optuna.Study:
    """The study as the trial records tell it. `resting`: a trial that a rung stopped may go on, see `WindowStorage.rest`.
    `earlier`: trials of another study that the sampler is to learn from.

    A number that left no record belongs to a trial that never started: FAIL, and its place in a plan is free again. So do
    numbers above all records, but those are given anew, as in a study that was never stopped.
    """
    study, by_number = new_study(base.metric, earlier), {record.number: record for record in records}
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
        rests = resting and record.status == "stopped"
        if record.status == "running" or rests:
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
        if rests:
            _storage(study).rest(study._study_id, number)
    return study


def _encode(space: Space, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
    """The sampler's parameters of a trial on record, and what they were drawn from."""
    encoded: dict[str, Any] = {}
    for dimension in space.searched():
        if dimension.path in params:
            with contextlib.suppress(ValueError):  # the space held more when this trial began
                encoded[dimension.path] = dimension.encode(params[dimension.path])
    return encoded, distributions(space, encoded)


def distributions(space: Space, encoded: dict[str, Any]) -> dict[str, BaseDistribution]:
    """What each of the sampler's parameters is drawn from."""
    trial = optuna.trial.FixedTrial(encoded)
    for dimension in space.searched():
        if dimension.path in encoded:
            dimension.suggest(trial)
    return trial.distributions


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


def _sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """Optuna's default, joint over conditional groups, for TPE; else at random. Seeded for the trial, so that a restart changes nothing."""
    if name != TPE:
        return optuna.samplers.RandomSampler(seed=derive_seed(seed, number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group`
        return optuna.samplers.TPESampler(seed=derive_seed(seed, number), multivariate=True, group=True)
