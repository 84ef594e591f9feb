"""What the driver itself costs: `python -m bench driver [--real 300]`.

Simulated: a study that already holds N trials goes on for some more. Searcher, scheduler, callbacks and database are called as
Ray calls them, with made-up results and no process behind them; CPU seconds by part. The peer, by turns with ours, is what Ray
gives: OptunaSearch on Optuna's SQLite storage, its ASHA and its three loggers. Space `full`, 27 epochs, rungs 1, 3, 9.

--real: that many trials on a real Ray through `run_study`, whose one or more epochs do nothing.
"""

import argparse
import logging
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from data.splits import make_splits
from data.store import load_dataset
from data.synthetic import generate
from mmnet.config import Config
from mmnet.metrics import METRICS
from search_spaces import get_space
from search_spaces.space import Space
from study.records import TrialRecord, write_json, write_status
from tuning.cluster import joining
from tuning.database import StudyDatabase
from tuning.progress import ProgressCallback
from tuning.promotion import Ladder
from tuning.searcher import StudySearcher, all_trials, rebuild
from tuning.settings import AUTO, PROMOTE, StudySettings, chosen_sampler, rungs
from tuning.study import SaveCallback, StatusCallback, StudyStopper, run_study
from tuning.tensorboard import TensorBoardCallback
from tuning.trainable import MMNetTrainable, trial_name

BASE = Config().with_values({"model.frozen": True, "optim.epochs": 27})
EPOCHS, FOLDS = 27, 5
AT_ONCE = 16  # trials that run at the same time
Driver = tuple[Any, Any, list[Any], bool]  # searcher, scheduler, callbacks, whether trials leave our records


@dataclass(eq=False)
class SimulatedTrial:
    """As much of a Ray trial as searchers and callbacks look at."""

    trial_id: str
    config: dict[str, Any]
    folder: Path
    last_result: dict[str, Any] = field(default_factory=dict)
    checkpoint: None = None

    @property
    def local_path(self) -> str:
        return str(self.folder)

    @property
    def evaluated_params(self) -> dict[str, Any]:
        return self.config.get("params", self.config)

    def init_local_path(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)


def results(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Made-up epoch reports of one trial: what a real one holds, with scores that fall."""
    best = 0.3 + 0.4 * rng.random()
    for epoch in range(1, EPOCHS + 1):
        score = best + 0.3 / epoch
        metrics = dict.fromkeys(METRICS, score)
        yield {
            "epoch": epoch,
            "training_iteration": epoch,
            "score": score,
            "metrics": metrics,
            "fold_metrics": [metrics] * FOLDS,
            "train_loss": [score] * FOLDS,
            "lr": 1e-3,
            "seconds": 1.0,
            "best_epoch": epoch,
            "fold_epochs": epoch * FOLDS,
            "finished": epoch == EPOCHS,
            "done": epoch == EPOCHS,
        }


def past_trials(space: Space, count: int, rng: np.random.Generator) -> list[TrialRecord]:
    """`count` random configurations as promotion leaves them: nobody who rests is still to go on."""
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ladder, records = Ladder(rungs(EPOCHS, 3), EPOCHS, 3, minimize=True), []
    curves = [list(results(rng)) for _ in range(count)]
    for number, lines in enumerate(curves):
        params, folder = space.sample(drawn.ask(), BASE), Path(trial_name(number))
        records.append(TrialRecord(folder, number, params, {}, "stopped", "", lines[: ladder.levels[0]], 1.0, 1.0))
        ladder.report(folder.name, records[-1].epochs[-1])
        while (step := ladder.promoted(())) is not None:
            went_on = int(step.trial)
            records[went_on] = replace(
                records[went_on], epochs=curves[went_on][: step.epoch], status="done" if step.epoch == EPOCHS else "stopped"
            )
            ladder.report(step.trial, records[went_on].epochs[-1])
    return records


def ours(space: Space, past: list[TrialRecord], folder: Path) -> Driver:
    database, study = StudyDatabase(folder / "optuna.db", "s", "log_loss"), rebuild(space, BASE, past, resting=True)
    database.replace(all_trials(study))
    ladder = Ladder(rungs(EPOCHS, 3), EPOCHS, 3, minimize=True)
    sampler = chosen_sampler(AUTO, PROMOTE, EPOCHS)
    searcher = StudySearcher(study, space, BASE, past, ladder, 10**6, database=database, sampler=sampler)
    progress = ProgressCallback(
        Console(file=(folder / "out").open("w"), width=100),
        name="s",
        metric="log_loss",
        trials=10**6,
        epochs=EPOCHS,
        expected=10**7,
        records=[],
        deadline=None,
        synthetic=True,
    )
    status = StatusCallback(folder, BASE, (), StudyStopper(None))
    return searcher, FIFOScheduler(), [status, TensorBoardCallback(folder, space, BASE), SaveCallback(searcher), progress], True


def stock(space: Space, past: list[TrialRecord], folder: Path) -> Driver:
    database = StudyDatabase(folder / "optuna.db", "s", "log_loss")  # filled by ours: Optuna's own way takes minutes
    database.replace(all_trials(rebuild(space, BASE, past, resting=False)))
    database.close()
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'optuna.db'}")
    searcher = OptunaSearch(
        lambda trial: {"params": space.sample(trial, BASE), "number": trial.number, "since": 0, "until": EPOCHS, "take": trial.number},
        metric="score",
        mode="min",
        storage=storage,
        study_name="s",
    )
    scheduler = AsyncHyperBandScheduler(time_attr="epoch", metric="score", mode="min", max_t=EPOCHS, grace_period=1, reduction_factor=3)
    return searcher, scheduler, [CSVLoggerCallback(), JsonLoggerCallback(), TBXLoggerCallback()], False


def drive(driver: Driver, count: int, folder: Path, rng: np.random.Generator) -> tuple[dict[str, float], int, float]:
    """({part: CPU seconds}, reports, CPU seconds of them) of `count` trials, `AT_ONCE` at a time, an epoch of each by turns."""
    searcher, scheduler, callbacks, records = driver
    spent: dict[str, float] = defaultdict(float)
    of_reports = 0.0

    def timed(part: str, call: Callable, *arguments: Any, **named: Any) -> Any:
        started = time.process_time()
        value = call(*arguments, **named)
        spent[part] += time.process_time() - started
        return value

    def tell(event: str, **named: Any) -> None:
        for callback in callbacks:
            timed(type(callback).__name__, getattr(callback, event), iteration=0, trials=[], **named)

    running: list[tuple[SimulatedTrial, Iterator[dict[str, Any]]]] = []
    started = steps = reports = 0
    while started < count or running:
        while started < count and len(running) < AT_ONCE:
            name = f"{id(searcher)}-{steps}"
            config = timed("suggestion", searcher.suggest, name)
            trial = SimulatedTrial(name, config, folder / trial_name(config["number"]))
            trial.init_local_path()
            if records:  # as the worker does
                write_json(trial.folder / "config.json", config)
                write_status(trial.folder, "running", "")
            timed("scheduler", scheduler.on_trial_add, None, trial)
            tell("on_trial_start", trial=trial)
            running.append((trial, islice(results(rng), config["since"], None)))
            started, steps = started + (config["since"] == 0), steps + 1
        for entry in list(running):
            trial, coming = entry
            result = next(coming)
            result["rests"] = result["epoch"] == trial.config["until"] < EPOCHS
            reports += 1
            before = sum(spent.values())
            trial.last_result = result
            decision = timed("scheduler", scheduler.on_trial_result, None, trial, result)
            ended = result["finished"] or result["rests"] or decision == TrialScheduler.STOP
            if not ended:
                timed("searcher", searcher.on_trial_result, trial.trial_id, result)
            tell("on_trial_result", trial=trial, result=result)
            of_reports += sum(spent.values()) - before
            if ended:
                timed("searcher", searcher.on_trial_complete, trial.trial_id, result)
                tell("on_trial_complete", trial=trial)
                running.remove(entry)
            tell("on_step_end")
    if records:
        timed("SaveCallback", searcher.save_changes, now=True)
    return spent, reports, of_reports


def simulated(sizes: list[int], count: int, repeats: int, console: Console) -> None:
    space = get_space("full", BASE)
    table = Table(title=f"CPU of the driver, ms: median (lowest to highest) of {repeats} times {count} trials, {AT_ONCE} at a time")
    for column in ("trials before", "", "its suggestions", "a report", "reports a trial", "a trial", "of it, by part"):
        table.add_column(column, justify="left" if column in ("", "of it, by part") else "right")
    for size in sizes:
        found: dict[str, list[tuple[dict[str, float], int, float]]] = {"ours": [], "Ray's": []}
        for repeat in range(repeats):
            for name, make in (("ours", ours), ("Ray's", stock)):
                with tempfile.TemporaryDirectory() as place:
                    past = past_trials(space, size, np.random.default_rng(0))
                    driver = make(space, past, Path(place))
                    found[name].append(drive(driver, count, Path(place), np.random.default_rng(repeat)))
        totals = {}
        for name, runs in found.items():
            suggestion = [1e3 * spent["suggestion"] / count for spent, *_ in runs]
            report = [1e3 * of_reports / reports for _, reports, of_reports in runs]
            whole = [1e3 * sum(spent.values()) / count for spent, *_ in runs]
            totals[name] = np.median(whole)
            parts = {part: float(np.median([1e3 * spent[part] / count for spent, *_ in runs])) for part in runs[0][0]}
            shown = ", ".join(f"{part.removesuffix('Callback')} {value:.1f}" for part, value in parts.items())
            a_trial = np.median([reports / count for _, reports, _ in runs])
            table.add_row(str(size), name, _spread(suggestion), _spread(report), f"{a_trial:.1f}", _spread(whole), shown)
        table.add_row("", "ratio", "", "", "", f"{totals['Ray' + chr(39) + 's'] / totals['ours']:.1f}", end_section=True)
    console.print(table)


def _spread(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


class IdleTrainable(MMNetTrainable):
    """A trial whose epochs take no time: everything but the training."""

    def _open(self) -> None:
        folder, number, params, base = self._place
        write_json(folder / "config.json", {"number": number, "params": params, "config": base.with_values(params).to_dict()})
        write_status(folder, "running", "", 0.0)
        self._results, self._writer = islice(results(np.random.default_rng(number)), self._since, None), True  # type: ignore[assignment]

    def step(self) -> dict[str, Any]:
        if self._writer is None:
            self._open()
        result = next(self._results)
        rests = result["epoch"] == self._until < EPOCHS
        if result["finished"] or rests:
            write_status(self._place[0], "stopped" if rests else "done", "", 0.0)
        ends = {"rests": rests, "done": result["finished"] or rests}
        return {key: value for key, value in result.items() if key != "training_iteration"} | ends


def real(count: int, console: Console) -> None:
    """Slot time of a trial that does nothing, on a real Ray, and what it would be of one-minute trials on 64 GPUs."""
    with tempfile.TemporaryDirectory() as place:
        dataset = load_dataset(generate(Path(place) / "data", patients=16, images=1, size=32, seed=0), 32)
        splits = make_splits(dataset.table, folds=2, test_fraction=0.0, grouping="patient", seed=0)
        settings = StudySettings(name="s", output=Path(place), trials=count)
        events: list[float] = []

        class Clock(ProgressCallback):
            def on_trial_start(self, *arguments: Any, **named: Any) -> None:
                events.append(time.perf_counter())
                super().on_trial_start(*arguments, **named)

        started, cpu = time.perf_counter(), time.process_time()
        with patch("tuning.study.MMNetTrainable", IdleTrainable), patch("tuning.study.ProgressCallback", Clock):
            with joining(None) as connected:
                run_study(settings, get_space("full", BASE), BASE, rungs(EPOCHS, 3), dataset, splits, Console(quiet=True), connected)
        whole, cpu = time.perf_counter() - started, time.process_time() - cpu
        trials = sum(1 for _ in (settings.folder / "trials").iterdir())
        slots = 2
        seconds = (events[-1] - events[20]) / (len(events) - 21)
        busy = cpu / count
    load = 64 * busy / 60
    wait = busy * load / (2 * (1 - load)) if load < 1 else float("inf")
    console.print(
        f"{trials} real trials in {whole:.1f} s: one every {1e3 * seconds:.0f} ms, {1e3 * seconds * slots:.0f} ms of a slot each (2 slots); "
        f"driver {1e3 * busy:.0f} ms of CPU a trial, Ray's own work included\n"
        f"64 GPUs, trials of 60 s: driver busy {load:.1%} of the time, a free GPU waits {1e3 * wait:.0f} ms for it; "
        f"overhead {(seconds * slots + wait) / 60:.1%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench driver")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000, 5000], help="trials that a study holds already")
    parser.add_argument("--count", type=int, default=64, help="trials driven each time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--real", metavar="N", type=int, help="N trials on a real Ray instead")
    arguments = parser.parse_args()
    logging.getLogger("ray.tune").setLevel(logging.WARNING)  # a line a trial about what its TensorBoard logger leaves out
    console = Console(width=200)
    console.print(describe_machine())
    if arguments.real:
        real(arguments.real, console)
    else:
        simulated(arguments.sizes, arguments.count, arguments.repeats, console)


if __name__ == "__main__":
    main()
