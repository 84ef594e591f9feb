"""What a trial leaves on disk, written by the trial and read by everything else.

    trials/<id>/config.json      number, searched parameters, the whole configuration
    trials/<id>/epochs.jsonl     one line an epoch: metrics, folds, losses, seconds
    trials/<id>/predictions.npz  out-of-fold probability of every view at every epoch
    trials/<id>/status.json      running, stopped (early), done, failed; reason; peak memory; the machine that it trained on last
    trials/<id>/checkpoint.pt    while it runs: what it needs to go on
    trials/<id>/weights/         best epoch's network of each fold, where it finished
    trials/<id>/.taken           of a search: which process writes here, see study.hold

Every file appears under its name whole or not at all. Torch is imported where networks are written or read: whoever only reads
records, and a search before its workers run, does without.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from data.errors import InputError, StorageError
from mmnet.config import Config

if TYPE_CHECKING:
    from mmnet.crossval import CrossValidation, EpochReport
    from study.mirror import Mirror

STATUSES = ("running", "stopped", "done", "failed")
CHECKPOINT_SHARE = 0.05  # of a trial's time may go into checkpoints


def write_json(path: Path, content: Any) -> None:
    """JSON with NaN as null; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as building:
        building.write_text(json.dumps(_without_nan(content), indent=1))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


@dataclass(frozen=True)
class TrialRecord:
    """A trial as read back from its folder."""

    folder: Path
    number: int
    params: dict[str, Any]  # searched parameters by path; a conditional one that was off is absent
    config: dict[str, Any]
    status: str
    reason: str
    epochs: list[dict[str, Any]]  # lines of epochs.jsonl
    seconds: float
    peak_mib: float
    node: str = ""  # name of the machine that it trained on last; "": not on record

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def ranked(self) -> bool:
        """Whether it has a score to compare: an epoch was finished, the score is a number, and the trial did not fail."""
        return bool(self.epochs) and self.status != "failed" and self.epochs[-1]["score"] is not None

    @property
    def best(self) -> dict[str, Any]:
        """The line of the best epoch, of a trial that has one."""
        return self.epochs[self.epochs[-1]["best_epoch"] - 1]

    @property
    def score(self) -> float:
        """The configured metric at the best epoch; NaN where there is none."""
        return self.epochs[-1]["score"] if self.ranked else float("nan")

    @property
    def fold_epochs(self) -> int:
        return self.epochs[-1]["fold_epochs"] if self.epochs else 0


def read_trial(folder: Path) -> TrialRecord:
    """Raises InputError when the record is damaged."""
    try:
        trial = json.loads((folder / "config.json").read_text())
        status = json.loads((folder / "status.json").read_text())
        lines = (folder / "epochs.jsonl").read_text() if (folder / "epochs.jsonl").exists() else ""
        whole = lines[: lines.rfind("\n") + 1]  # a lost process or a full disk may leave half a line at the end
        epochs = [json.loads(line) for line in whole.splitlines()]
        _check_shape(trial, status, epochs)
        return TrialRecord(
            folder,
            trial["number"],
            trial["params"],
            trial["config"],
            status["status"],
            status["reason"],
            epochs,
            sum(line["seconds"] for line in epochs),
            status["peak_mib"],
            status.get("node", ""),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"trial record {folder}: damaged or incomplete ({error!r}); move it away to go on without it") from error


def _check_shape(trial: Any, status: Any, epochs: list[Any]) -> None:
    """Raises ValueError where a record does not hold what its readers rely on."""
    if not (isinstance(trial["number"], int) and isinstance(trial["params"], dict) and isinstance(trial["config"], dict)):
        raise ValueError("config.json: expected a number, params and a config")
    if status["status"] not in STATUSES or not isinstance(status["peak_mib"], int | float):
        raise ValueError(
            f"status.json: {status['status']!r}, {status['peak_mib']!r} MiB: expected one of {', '.join(STATUSES)}, and a number"
        )
    if status["status"] == "done" and not epochs:
        raise ValueError("status.json: done, but epochs.jsonl holds no epoch")
    for number, line in enumerate(epochs, start=1):
        numbers = isinstance(line.get("metrics", {}), dict) and isinstance(line["score"], float | int | None)
        if line["epoch"] != number or not 1 <= line["best_epoch"] <= number or not numbers:
            raise ValueError(f"epochs.jsonl, line {number}: expected the record of epoch {number}")


def read_trials(study: Path) -> list[TrialRecord]:
    """All trials of a study, by number; a folder without config.json never started and is passed over."""
    return [read_trial(folder) for folder in sorted((study / "trials").glob("*")) if (folder / "status.json").exists()]


def _disk_error(path: Path, error: Exception) -> StorageError:
    reason = getattr(error, "strerror", None) or error
    return StorageError.of(path, reason)


_BUILDING = re.compile(r"\.\d+\.")  # how the names of `whole_file` begin


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to fill that gets its final name when it is whole. Raises StorageError when the disk is full."""
    building = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield building
        building.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch turns a full disk into a RuntimeError
        raise _disk_error(path, error) from error
    finally:
        building.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left unfinished below a folder to which none writes any more."""
    for path in folder.rglob(".*"):
        if _BUILDING.match(path.name):
            path.unlink(missing_ok=True)


class TrialWriter:
    """Writes one trial's folder while it runs, and picks up a checkpoint that an earlier process left there."""

    def __init__(self, folder: Path, number: int, params: dict[str, Any], config: Config, mirror: Mirror | None = None):
        """`mirror`: of the study; says before each writing whether it still belongs to this run, and brings an object store up to date."""
        self.folder, self._mirror = folder, mirror
        self._check_run()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _disk_error(folder, error) from error
        write_json(folder / "config.json", {"number": number, "params": params, "config": config.to_dict()})
        self._last_save, self._save_cost = time.perf_counter(), 0.0
        self.status("running", "")

    def status(self, status: str, reason: str) -> None:
        """Record where the trial stands, and the process's peak memory so far."""
        self._check_run()
        write_status(self.folder, status, reason, peak_memory(), platform.node())
        self._push()

    def load(self, trial: CrossValidation) -> None:
        """Bring a fresh run to the last checkpoint, and the epochs on record back to it.

        A checkpoint that cannot be read is set aside, and the run begins again: it comes to the same numbers. Raises InputError when
        it is of another network.
        """
        import torch

        from mmnet.device import is_out_of_memory

        path = self.folder / "checkpoint.pt"
        state = None
        if path.exists():
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)  # what belongs on the device goes there when it is loaded
            except Exception as error:  # torch's and pickle's own kinds have no common class
                if is_out_of_memory(error):
                    raise
                path.replace(path.with_suffix(".damaged"))
        if state is not None:
            try:
                trial.load_state_dict(state)
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                if is_out_of_memory(error):
                    raise
                reason = str(error).splitlines()[0]
                raise InputError(f"checkpoint {path}: of another network ({reason}); remove it, and the trial begins again") from error
        self.rewind(trial)

    def rewind(self, trial: CrossValidation) -> None:
        """Bring the epochs on record to those of the run."""
        self._write_epochs(trial)

    def report(self, trial: CrossValidation) -> None:
        """Record the epoch just finished; save a checkpoint unless that would take over 5 % of the time."""
        self._write_epochs(trial)
        if trial.history[-1].finished:
            self.finish(trial)
        elif time.perf_counter() - self._last_save >= self._save_cost / CHECKPOINT_SHARE:
            started = time.perf_counter()
            self.save(trial)
            self._last_save = time.perf_counter()
            self._save_cost = self._last_save - started
        elif self._mirror is not None:
            self._mirror.push_at_times(self.folder)

    def save(self, trial: CrossValidation) -> None:
        """Write checkpoint.pt."""
        import torch

        with whole_file(self.folder / "checkpoint.pt") as building:
            buffer = io.BytesIO()  # torch's own writer hides a full disk behind an internal message
            torch.save(trial.state_dict(), buffer)
            building.write_bytes(buffer.getbuffer())
            self._check_run()
        self._push()

    def finish(self, trial: CrossValidation) -> None:
        """Write predictions and the best epoch's weights; nothing is left to go on from."""
        self.write_predictions(trial)
        write_weights(self.folder / "weights", trial)
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
        self._push()

    def _write_epochs(self, trial: CrossValidation) -> None:
        self._check_run()
        with whole_file(self.folder / "epochs.jsonl") as building:  # whole: two processes that append could write an epoch twice
            building.write_text("".join(_line(report) for report in trial.history))

    def _check_run(self) -> None:
        if self._mirror is not None and self._mirror.bucket is None:  # sending to a store looks by itself
            self._mirror.check_run()

    def _push(self) -> None:
        if self._mirror is not None:
            self._mirror.push(self.folder)

    def write_predictions(self, trial: CrossValidation) -> None:
        """predictions.npz: oof (E, V, K), importance at the best epoch (V, M), and the fields of `OutOfFold`."""
        if not trial.history:
            return
        self._check_run()
        oof, best = trial.out_of_fold, trial.history[-1].best_epoch
        with whole_file(self.folder / "predictions.npz") as building, building.open("wb") as file:
            np.savez_compressed(
                file,
                oof=np.stack([report.probability for report in trial.history]),
                importance=trial.history[best - 1].importance,
                best_epoch=best,
                **vars(oof),
            )


def write_status(folder: Path, status: str, reason: str, peak_mib: float | None = None, node: str | None = None) -> None:
    """status.json of a trial; `reason` says why it stopped or failed; peak memory and node on record stay unless given."""
    assert status in STATUSES
    path = folder / "status.json"
    if (peak_mib is None or node is None) and path.exists():
        before = json.loads(path.read_text())
        peak_mib = before["peak_mib"] if peak_mib is None else peak_mib
        node = before.get("node", "") if node is None else node
    write_json(path, {"status": status, "reason": reason, "peak_mib": peak_mib or 0.0, "node": node or ""})


def record_failure(folder: Path, number: int, params: dict[str, Any], config: Config, reason: str, peak_mib: float | None = None) -> None:
    """The record of a trial that failed, also when it failed, or its process was lost, before it wrote anything."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        write_json(folder / "config.json", {"number": number, "params": params, "config": config.to_dict()})
    write_status(folder, "failed", reason, peak_mib)


def peak_memory() -> float:
    """Peak resident memory of this process, MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10), 1)


def write_weights(folder: Path, trial: CrossValidation) -> None:
    """fold_<n>.safetensors of the best epoch, and network.json: all that is needed to build the networks again."""
    from safetensors.torch import save_file

    if trial.best_weights is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for number, weights in enumerate(trial.best_weights, start=1):
        with whole_file(folder / f"fold_{number}.safetensors") as building:
            save_file({key: value.cpu().contiguous() for key, value in weights.items()}, building)
    write_json(
        folder / "network.json",
        {"config": trial.config.to_dict(), "best_epoch": trial.history[-1].best_epoch, "folds": len(trial.best_weights)},
    )


def _line(report: EpochReport) -> str:
    return json.dumps(_without_nan(report.line())) + "\n"
