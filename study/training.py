"""Trials trained in this process, one after the other: each epoch a line, each fold a step of the bar."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from data.dataset import Dataset
from data.errors import InputError
from data.splits import Splits
from mmnet import crossval
from mmnet.config import Config
from mmnet.crossval import EpochReport, TrainingError
from study.mirror import Mirror
from study.records import TrialWriter, read_trials


@dataclass(frozen=True)
class PlannedTrial:
    """A trial to train."""

    number: int
    params: dict[str, Any]  # where it departs from the study's configuration
    config: Config
    dataset: Dataset  # the trial gets the patients of its folds and no others
    splits: Splits
    title: str


def train_all(study: Path, trials: list[PlannedTrial], device: torch.device, console: Console, mirror: Mirror | None = None) -> None:
    """Train what is not done yet, from its last checkpoint where there is one. `mirror`: of a study in an object store.

    Raises InputError when a trial cannot be trained. Ctrl-C and SIGTERM raise KeyboardInterrupt and save nothing: they come in
    the middle of an epoch, and half-trained networks would go on to other numbers than the checkpoint of the last epochs.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    done = {record.number for record in read_trials(study) if record.status == "done"}
    for trial in trials:
        if trial.number not in done:
            _train(study / "trials" / f"{trial.number:04d}", trial, device, console, mirror)


def _train(folder: Path, planned: PlannedTrial, device: torch.device, console: Console, mirror: Mirror | None) -> None:
    config = planned.config
    writer = TrialWriter(folder, planned.number, planned.params, config, mirror)
    dataset = planned.dataset.select_slides(planned.splits.development())  # here, so that one copy of the pixels is held at a time
    trial = crossval.run(config, dataset, planned.splits, device=device)
    writer.load(trial)
    folds, epochs = len(planned.splits.folds), config.optim.epochs
    begun, first = time.perf_counter(), len(trial.history)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("fold-epochs"))
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(planned.title, total=folds * epochs, completed=folds * first)

            def after_fold() -> None:
                bar.advance(task)
                step = int(bar.tasks[0].completed) - 1
                bar.update(task, description=f"{planned.title}: epoch {step // folds + 1}/{epochs}, fold {step % folds + 1}/{folds}")

            trial.after_fold = after_fold
            for report in trial:
                writer.report(trial)
                each = (time.perf_counter() - begun) / (report.epoch - first)
                console.print(_line(planned.title, config, report, each * (epochs - report.epoch)), highlight=False, soft_wrap=True)
        writer.status("done", "")
    except TrainingError as error:
        writer.status("failed", str(error))
        raise InputError(f"training failed: {error}") from error


def _line(title: str, config: Config, report: EpochReport, left: float) -> str:
    metric = config.metric
    minutes, seconds = divmod(round(left), 60)
    known = [fold[metric] for fold in report.fold_metrics if fold[metric] == fold[metric]]  # a fold of one class has none
    folds = f" (folds {' '.join(f'{value:.3f}' for value in known)})" if known else ""
    return (
        f"{title}: epoch {report.epoch}/{config.optim.epochs}, {metric} {report.metrics[metric]:.4f}{folds}, "
        f"best {report.score:.4f} at epoch {report.best_epoch}, {report.seconds:.1f} s"
        + (", finished" if report.finished else f", at most {minutes}:{seconds:02} left")
    )
