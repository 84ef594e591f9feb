"""A study from its plan to its last record."""

import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from rich.console import Console

from data.dataset import Dataset
from data.errors import InputError
from data.splits import Splits
from mmnet.config import Config
from mmnet.records import TrialRecord, read_trials, record_failure, write_status
from search_spaces.space import Space
from tuning.cluster import joining, resources, shareable
from tuning.database import StudyDatabase
from tuning.progress import ProgressCallback
from tuning.scheduler import RungScheduler
from tuning.searcher import StudySearcher, all_trials, rebuild
from tuning.settings import StudySettings
from tuning.tensorboard import TensorBoardCallback
from tuning.trainable import MMNetTrainable, trial_name

WORKER_RETRIES = 2  # of a trial whose process was lost; what its configuration causes is not retried
HOPELESS = 5  # so many trials failed and none gave a score: the study stops itself
ASK_EVERY = 10  # trials that end between two questions whether the study has found enough
Enough = Callable[[list[TrialRecord]], str]  # the records so far -> why no more trials are worth it, or ""


@dataclass(frozen=True)
class Outcome:
    """How a run of a study ended: every trial ended, or why it stopped before."""

    complete: bool
    reason: str = ""


class StudyStopper(tune.Stopper):
    """Ends the whole study with a reason: time, a signal, enough found, a full disk, nothing but failures."""

    def __init__(self, deadline: float | None):
        self.deadline, self.reason, self.error = deadline, "", ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if "abort" in result:
            self.error = result["abort"]
        return False

    def stop_all(self) -> bool:
        if self.deadline is not None and time.monotonic() >= self.deadline and not self.reason:
            self.reason = "time budget used up"
        return bool(self.reason or self.error)


class StatusCallback(tune.Callback):
    """Keeps status.json of trials that something outside them ended, and stops a hopeless study."""

    def __init__(self, trials: Path, base: Config, scheduler: RungScheduler, stopper: StudyStopper, enough: Enough | None = None):
        self._trials, self._base, self._scheduler, self._stopper, self._enough = trials, base, scheduler, stopper, enough
        self._failed, self._succeeded, self._ended = 0, False, 0
        self.stopped: list[Path] = []

    def on_trial_result(self, iteration: int, trials: list, trial, result: dict, **info: Any) -> None:
        self._succeeded |= "score" in result

    def on_trial_complete(self, iteration: int, trials: list, trial, **info: Any) -> None:
        folder = self._trials / trial_name(trial.config["number"])
        result = trial.last_result or {}
        if trial.trial_id in self._scheduler.stopped:
            write_status(folder, "stopped", f"below the best 1/η at epoch {result['epoch']}")
            self.stopped.append(folder)
        elif "failed" in result:
            self._failure(result["failed"])
        self._ended += 1
        if self._enough is not None and self._ended % ASK_EVERY == 0 and not self._stopper.reason:
            self._stopper.reason = self._enough(read_trials(self._trials.parent))

    def on_trial_error(self, iteration: int, trials: list, trial, **info: Any) -> None:
        number, params = trial.config["number"], trial.config["params"]
        cause = str(trial.get_error() or "no message").strip().splitlines()
        reason = f"worker lost {WORKER_RETRIES + 1} times: {cause[-1][:300]}"
        record_failure(self._trials / trial_name(number), number, params, self._base, reason)
        self._failure(reason)

    def _failure(self, reason: str) -> None:
        self._failed += 1
        if self._failed >= HOPELESS and not self._succeeded:
            self._stopper.error = f"the first {self._failed} trials all failed, the last with: {reason}"


class SaveCallback(tune.Callback):
    """Brings optuna.db up to date every few seconds."""

    def __init__(self, searcher: StudySearcher):
        self._searcher = searcher

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self._searcher.save_changes()


def run_study(
    settings: StudySettings,
    space: Space,
    base: Config,
    levels: tuple[int, ...],
    dataset: Dataset,
    splits: Splits,
    console: Console,
    connected: Future[None] | None = None,
    enough: Enough | None = None,
) -> Outcome:
    """Search, with rungs at `levels`, until `settings.trials` trials ended, the budget is used up, or a signal comes.

    `dataset`: development patients only. `connected`: what `joining` gave, where the caller has begun to join Ray.
    `enough`: asked after every `ASK_EVERY` trials that end; its reason ends the study. What was recorded before is kept and
    gone on with; to start or resume is the caller's decision. Raises InputError when nothing can be written, or when all
    first trials fail.
    """
    trials = (settings.folder / "trials").resolve()
    trials.mkdir(parents=True, exist_ok=True)
    records = read_trials(settings.folder)
    optuna_study, unfinished = rebuild(space, base, records)
    database = StudyDatabase((settings.folder / "optuna.db").resolve(), settings.name, base.metric)
    database.replace(all_trials(optuna_study))
    left = settings.trials - sum(record.status != "running" for record in records)
    if left <= 0:
        return Outcome(complete=True)
    stopper = StudyStopper(None if settings.time_budget is None else time.monotonic() + settings.time_budget)
    scheduler = RungScheduler(base.metric, base.optim.epochs, settings.eta, levels, records)
    searcher = StudySearcher(optuna_study, space, base, unfinished, scheduler.stopped, database)
    handlers = _stop_on_signals(stopper)
    ray_folder, joined = (settings.folder / ".ray").resolve(), ExitStack()
    try:
        dataset = shareable(dataset)
        (connected or joined.enter_context(joining(settings.address))).result()
        per_trial, concurrency = resources(settings, base, dataset, splits, console)
        status = StatusCallback(trials, base, scheduler, stopper, enough)
        progress = ProgressCallback(
            console,
            name=settings.name,
            metric=base.metric,
            trials=settings.trials,
            epochs=base.optim.epochs,
            records=records,
            deadline=stopper.deadline,
            synthetic=dataset.synthetic,
        )
        trainable = tune.with_parameters(
            MMNetTrainable, dataset=dataset, splits=splits, base=base, trials=trials, threads=max(int(settings.cpus_per_trial), 1)
        )
        with progress:
            tune.run(
                trainable,
                name="run",
                storage_path=str(ray_folder),
                num_samples=left,
                search_alg=searcher,
                max_concurrent_trials=concurrency,
                scheduler=scheduler,
                stop=stopper,
                resources_per_trial=per_trial,
                reuse_actors=True,
                max_failures=WORKER_RETRIES,
                raise_on_failed_trial=False,
                callbacks=[
                    status,
                    TensorBoardCallback(trials, space, base, levels, scheduler.stopped, records),
                    SaveCallback(searcher),
                    progress,
                ],
                trial_dirname_creator=lambda trial: trial_name(trial.config["number"]),
                verbose=0,
            )
    finally:
        ray.shutdown()  # no process writes to a trial any more
        joined.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        shutil.rmtree(ray_folder, ignore_errors=True)
        searcher.save_changes(now=True)
        database.close()
    if stopper.error:
        raise InputError(stopper.error)
    for folder in status.stopped:  # a rung's decision is final
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    ended = sum(record.status != "running" for record in read_trials(settings.folder))
    return Outcome(ended >= settings.trials, stopper.reason)


def _stop_on_signals(stopper: StudyStopper) -> dict[int, Any]:
    """First Ctrl-C or SIGTERM: stop after the running epochs. A second one: at once. Returns the handlers before."""

    def handle(number: int, frame: object) -> None:
        if stopper.reason:
            raise KeyboardInterrupt
        stopper.reason = f"stopped by {signal.Signals(number).name}"

    return {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
