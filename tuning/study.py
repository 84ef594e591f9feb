"""A study from its plan to its last record."""

import math
import shutil
import signal
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from optuna.trial import FrozenTrial
from ray import tune
from rich.console import Console

from data.dataset import Dataset
from data.errors import DISK, InputError, StorageError
from data.splits import Splits
from mmnet.config import Config
from mmnet.metrics import METRICS
from search_spaces.space import Space
from study.mirror import CHECKPOINTS, EVENTS, Mirror
from study.records import TrialRecord, read_trials, record_failure, sweep, write_status
from tuning.cluster import joining, resources, shareable
from tuning.database import StudyDatabase
from tuning.forgetting import Forgetting, NoProgress
from tuning.limits import PRICE, Kept, hourly_price, surplus
from tuning.mirror_callbacks import FetchCallback, SendCallback
from tuning.progress import ProgressCallback
from tuning.promotion import Ladder
from tuning.recording import RecordingCallback
from tuning.scheduler import RungScheduler
from tuning.searcher import LOST_RETRIES, StudySearcher, all_trials, rebuild
from tuning.settings import ASHA, StudySettings, chosen_sampler, expected_epochs
from tuning.tensorboard import TensorBoardCallback
from tuning.trainable import MMNetTrainable, trial_name
from tuning.trial_place import reachable, require_weights, weights_read

HOPELESS = 5  # so many trials failed and none gave a score: the study stops itself
COUNT_EVERY = 10.0  # seconds between two looks at the nodes of the cluster and their prices
ASK_EVERY = 10  # trials that end between two questions whether the study has found enough
Enough = Callable[[list[TrialRecord]], str]  # the records so far -> why no more trials are worth it, or ""


@dataclass(frozen=True)
class Outcome:
    """How a run of a study ended: every trial ended, or why it stopped before."""

    complete: bool
    reason: str = ""
    cost: float = 0.0  # dollars of all runs


class StudyStopper(tune.Stopper):
    """Ends the whole study with a reason: time, a signal, enough found, a full disk, nothing but failures."""

    def __init__(self, deadline: float | None):
        self.deadline, self.reason, self.error = deadline, "", ""

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if "abort" in result:
            self.fail(result["abort"])
        return False

    def fail(self, error: str) -> None:
        """End the study with this error, the first one counts."""
        self.error = self.error or error

    def stop_all(self) -> bool:
        if self.deadline is not None and time.monotonic() >= self.deadline and not self.reason:
            self.reason = "time budget used up"
        return bool(self.reason or self.error)


class StatusCallback(tune.Callback):
    """Keeps status.json of trials that something outside them ended, and stops a study that is hopeless or fails too often."""

    def __init__(
        self,
        trials: Path,
        base: Config,
        stopped: Collection[str],
        stopper: StudyStopper,
        enough: Enough | None = None,
        failures_left: int | None = None,
        given_up: Callable[[int], bool] = lambda number: True,
    ):
        """`stopped`: see `RungScheduler`. `failures_left`: so many more trials may fail; None: any. `given_up`: see `StudySearcher`."""
        self._trials, self._base, self._stopped, self._stopper, self._enough = trials, base, stopped, stopper, enough
        self._failed, self._succeeded, self._ended, self._failures_left = 0, False, 0, failures_left
        self._given_up = given_up
        self.stopped: list[Path] = []

    def on_trial_result(self, iteration: int, trials: list, trial, result: dict, **info: Any) -> None:
        self._succeeded |= "score" in result

    def on_trial_complete(self, iteration: int, trials: list, trial, **info: Any) -> None:
        folder = self._trials / trial_name(trial.config["number"])
        result = trial.last_result or {}
        if trial.trial_id in self._stopped:
            write_status(folder, "stopped", f"below the best 1/η at epoch {result['epoch']}")
            self.stopped.append(folder)
        elif "failed" in result:
            self._failure(result["failed"])
        self._ended += 1
        if self._enough is not None and self._ended % ASK_EVERY == 0 and not self._stopper.reason:
            self._stopper.reason = self._enough(read_trials(self._trials.parent))

    def on_trial_error(self, iteration: int, trials: list, trial, **info: Any) -> None:
        number, params = trial.config["number"], trial.config["params"]
        if not self._given_up(number):
            return
        cause = _last_error(trial).splitlines() or ["no message"]
        reason = f"worker lost {LOST_RETRIES + 1} times without finishing an epoch: {cause[-1][:300]}"
        record_failure(self._trials / trial_name(number), number, params, self._base, reason)
        self._failure(reason)

    def _failure(self, reason: str) -> None:
        self._failed += 1
        if self._failed >= HOPELESS and not self._succeeded:
            self._stopper.fail(f"the first {self._failed} trials all failed, the last with: {reason}")
        elif self._failures_left is not None and self._failed > self._failures_left and not self._stopper.reason:
            self._stopper.reason = f"more trials failed than --max-failures allows, the last with: {reason}"


def _last_error(trial) -> str:
    """What Ray says of how a trial was lost; Tune leaves it where the driver runs, not where `trial.get_error` looks."""
    path = Path(trial.error_file or "")
    return path.read_text().strip() if path.is_file() else ""


class CostCallback(tune.Callback):
    """Adds up what the cluster's nodes cost while the study runs, and ends it when that is too much."""

    def __init__(self, spent: float, most: float | None, stopper: StudyStopper):
        """`spent`: dollars of earlier runs. Raises InputError when there is a limit and no node says what it costs."""
        self.spent, self._most, self._stopper, self._seen = spent, most, stopper, time.monotonic()
        self._price = hourly_price(ray.nodes())
        if most is not None and not self._price:
            raise InputError(
                f"--max-cost {most:g}: no node of the cluster says what it costs; expected a resource {PRICE} in its node types, see cluster.yaml"
            )

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        now = time.monotonic()
        if now - self._seen < COUNT_EVERY:
            return
        self.spent += self._price * (now - self._seen) / 3600
        self._seen, self._price = now, hourly_price(ray.nodes())
        if self._most is not None and self.spent >= self._most and not self._stopper.reason:
            self._stopper.reason = f"${self.spent:.2f} spent of --max-cost {self._most:g}"


class DiskCallback(tune.Callback):
    """Keeps what the trials leave that can be computed again within the disk budget."""

    def __init__(self, trials: Path, metric: str, budget: float, records: list[TrialRecord], mirror: Mirror):
        """`budget`: GiB. `records`: of an earlier run."""
        self._mirror, sizes = mirror, mirror.sizes(trials)
        self._trials, self._sign, self._budget = trials, 1 if METRICS[metric] == "min" else -1, int(budget * 2**30)
        self._kept: dict[int, Kept] = {}
        self._size = 0  # of them, bytes
        for record in records:
            if record.ranked and record.status in ("stopped", "done"):
                self._keep(record.number, record.epochs[-1], sizes)

    def on_trial_start(self, iteration: int, trials: list, trial, **info: Any) -> None:
        self._leave(trial.config["number"])  # what trains is no surplus

    def on_trial_complete(self, iteration: int, trials: list, trial, **info: Any) -> None:
        result = trial.last_result or {}
        if result.get("rests") or result.get("finished"):
            number = trial.config["number"]
            self._keep(number, result, self._mirror.sizes(self._trials / trial_name(number)))
            if self._size <= self._budget:
                return
            numbers = {id(kept): number for number, kept in self._kept.items()}
            for kept in surplus(self._kept.values(), self._budget):
                for path in kept.paths:
                    self._mirror.unlink(path)
                self._leave(numbers[id(kept)])

    def _leave(self, number: int) -> None:
        kept = self._kept.pop(number, None)
        self._size -= kept.size if kept else 0

    def _keep(self, number: int, line: dict[str, Any], sizes: dict[Path, int]) -> None:
        folder = self._trials / trial_name(number)
        paths = tuple(path for path in sizes if path == folder / CHECKPOINTS or path.parent == folder / "weights")
        rank = (-math.inf if line["finished"] else -line["epoch"], self._sign * line["score"])  # who came far, then by score
        self._leave(number)
        self._kept[number] = Kept(rank, sum(sizes[path] for path in paths), paths)
        self._size += self._kept[number].size


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
    earlier: Sequence[FrozenTrial] = (),
    spent: float = 0.0,
    mirror: Mirror | None = None,
) -> Outcome:
    """Search, with rungs at `levels`, until `settings.trials` trials ended, the budget is used up, or a signal comes.

    `dataset`: development patients only. `connected`: what `joining` gave, where the caller has begun to join Ray.
    `enough`: asked after every `ASK_EVERY` trials that end; its reason ends the study. `earlier`: trials of another study that the
    sampler learns from. `spent`: dollars of earlier runs. `mirror`: of the study in an object store. What was recorded before is
    kept and gone on with; to start or resume is the caller's decision. Raises InputError when nothing can be written, or when all
    first trials fail.
    """
    mirror = mirror or Mirror(settings.folder)
    trials = (settings.folder / "trials").resolve()
    trials.mkdir(parents=True, exist_ok=True)
    records = read_trials(settings.folder)
    failed = sum(record.status == "failed" for record in records)
    if settings.retry_failed:
        records, failed = [replace(record, status="running") if record.status == "failed" else record for record in records], 0
    stops = settings.scheduler == ASHA
    optuna_study = rebuild(space, base, records, resting=not stops, earlier=earlier)
    database = StudyDatabase((settings.folder / "optuna.db").resolve(), settings.name, base.metric)
    database.replace(all_trials(optuna_study))
    epochs, minimize = base.optim.epochs, METRICS[base.metric] == "min"
    scheduler = RungScheduler(base.metric, epochs, settings.eta, levels, records) if stops else None
    stopped = scheduler.stopped if scheduler else set[str]()
    ladder = Ladder(() if stops else levels, epochs, settings.eta, minimize=minimize, others=settings.front)
    sampler = chosen_sampler(settings.sampler, settings.scheduler, epochs, warm=bool(earlier))
    searcher = StudySearcher(optuna_study, space, base, records, ladder, settings.trials, stopped, database, sampler)
    if searcher.exhausted:
        return Outcome(complete=True, cost=spent)
    stopper = StudyStopper(None if settings.time_budget is None else time.monotonic() + settings.time_budget)
    handlers = _stop_on_signals(stopper)
    ray_folder, joined = (settings.folder / ".ray").resolve(), ExitStack()
    shutil.rmtree(ray_folder, ignore_errors=True)  # of a run that was killed
    try:
        dataset = shareable(dataset)
        (connected or joined.enter_context(joining(settings.address))).result()
        weights = weights_read(base.model)
        place = replace(joined.enter_context(reachable(trials.parent, mirror)), weights=weights)
        require_weights(weights)
        per_trial, concurrency = resources(settings, base, dataset, splits, console)
        failures_left = None if settings.max_failures is None else settings.max_failures - failed
        status = StatusCallback(trials, base, stopped, stopper, enough, failures_left, searcher.given_up)
        cost = CostCallback(spent, settings.max_cost, stopper)
        progress = ProgressCallback(
            console,
            name=settings.name,
            metric=base.metric,
            trials=settings.trials,
            epochs=epochs,
            expected=expected_epochs(settings.trials, levels, epochs, settings.eta),
            records=records,
            deadline=stopper.deadline,
            synthetic=dataset.synthetic,
            given_up=searcher.given_up,
        )
        callbacks = [
            FetchCallback(trials, mirror),
            status,
            cost,
            DiskCallback(trials, base.metric, settings.disk_budget, records, mirror),
            TensorBoardCallback(trials, space, base, levels, stopped, records, lambda: searcher.exhausted, searcher.given_up),
            SaveCallback(searcher),
            SendCallback(trials, mirror),
            progress,
        ]
        trainable = tune.with_parameters(
            MMNetTrainable, dataset=dataset, splits=splits, base=base, place=place, threads=max(int(settings.cpus_per_trial), 1)
        )
        with progress:
            tune.run(
                trainable,
                name="run",
                storage_path=str(ray_folder),
                num_samples=-1,  # until the searcher has no more
                search_alg=searcher,
                max_concurrent_trials=concurrency,
                scheduler=scheduler or Forgetting(),  # who trains next is the searcher's decision
                stop=stopper,
                resources_per_trial=per_trial,
                reuse_actors=True,
                max_failures=0,  # the searcher gives a lost trial another process; Tune does not where it was lost while it changed hands
                raise_on_failed_trial=False,
                callbacks=[RecordingCallback(callbacks, trials.parent, stopper.fail), NoProgress()],
                trial_dirname_creator=lambda trial: f"{trial_name(trial.config['number'])}-{trial.config['until']}",
                verbose=0,
            )
    except OSError as error:  # of Ray's own records in `ray_folder`
        if error.errno not in DISK:
            raise
        stopper.fail(str(StorageError.of(trials.parent, error.strerror)))
    finally:
        ray.shutdown()  # no process writes to a trial any more
        sweep(trials)
        joined.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        shutil.rmtree(ray_folder, ignore_errors=True)
        searcher.save_changes(now=True)
        database.close()
    if stopper.error:
        raise InputError(stopper.error)
    mirror.pull(trials, leave=(CHECKPOINTS, EVENTS))
    for folder in status.stopped:  # final, other than a rest
        mirror.unlink(folder / CHECKPOINTS)
    return Outcome(searcher.exhausted, stopper.reason, cost.spent)


def _stop_on_signals(stopper: StudyStopper) -> dict[int, Any]:
    """First Ctrl-C or SIGTERM: stop after the running epochs. A second one: at once. Returns the handlers before."""

    def handle(number: int, frame: object) -> None:
        if stopper.reason:
            raise KeyboardInterrupt
        stopper.reason = f"stopped by {signal.Signals(number).name}"

    return {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
