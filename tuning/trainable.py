"""A trial inside a Ray worker: steps a `CrossValidation`, reports each epoch, leaves its records."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from ray import tune

from data.dataset import Dataset
from data.errors import DISK, StorageError
from data.splits import Splits
from mmnet.config import Config
from study.mirror import TakenOver
from study.records import TrialWriter, peak_memory, record_failure
from tuning.heap import give_back
from tuning.trial_place import TrialPlace

if TYPE_CHECKING:  # torch is imported by the worker, not by the driver, which has the class only
    from mmnet.crossval import CrossValidation


def trial_name(number: int) -> str:
    """The folder of a trial below `trials/`."""
    return f"{number:04d}"


class MMNetTrainable(tune.Trainable):
    """One configuration on k folds, from the rung where it rested to the next. A worker process runs many (`reset_config`).

    Checkpoints go to the trial's own folder, not through Ray: a restarted worker, and a resumed study, find them there.
    What the configuration itself causes (no number, no memory, a bad combination) ends the trial with its reason and is
    not tried again; a lost process is, by Ray. One that was only held to be lost raises TakenOver, which nobody hears.
    """

    _rests: bool

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], *, dataset: Dataset, splits: Splits, base: Config, place: TrialPlace, threads: int
    ) -> None:  # what is shared comes by tune.with_parameters
        import torch

        torch.set_num_threads(threads)
        self._trial_place, self._mirror = place, place.mirror()
        self._shared = dataset, splits, base, self._mirror.folder / "trials"
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up a trial. Nothing is read or written before its first step.

        Ray also sets up processes that it then drops, because another one that became free took their trial.
        """
        _, _, base, trials = self._shared
        number, params = new_config["number"], new_config["params"]
        before, self._since, self._until = getattr(self, "_place", None), new_config["since"], new_config["until"]
        self._place = trials / trial_name(number), number, params, base
        taken = self._place[0], new_config["take"]
        if before == self._place and self._trial is not None and self._rests and self._trial.history[-1].epoch == self._since:
            self._goes_on = True  # here it rested last: its networks are still in memory
            self._mirror.trial = taken
            return True
        self._close()
        self._mirror.trial = taken
        give_back()
        self._failure: dict[str, Any] | None = None
        self._trial: CrossValidation | None = None
        self._writer: TrialWriter | None = None
        self._rests = self._goes_on = False
        return True

    def _open(self) -> None:
        from mmnet import crossval

        dataset, splits, base, _ = self._shared
        folder, number, params, _ = self._place
        self._trial_place.take_up(self._mirror, folder)
        config = base.with_values(params)
        self._writer = TrialWriter(folder, number, params, config, self._mirror)
        self._trial = crossval.run(config, dataset, splits)
        self._writer.load(self._trial)
        self._restored = bool(self._trial.history) and self._trial.history[-1].epoch > self._since

    def step(self) -> dict[str, Any]:
        if self._failure is None:
            with self._recording():
                if self._trial is None:
                    self._open()
                assert self._trial is not None and self._writer is not None
                if self._goes_on:
                    self._writer.rewind(self._trial)
                    self._writer.status("running", "")
                    self._rests = self._goes_on = False
                if self._restored:  # the study ended before it could judge the last epoch, or the process before it could finish
                    report, self._restored = self._trial.history[-1], False
                    if report.finished:
                        self._writer.finish(self._trial)
                else:
                    report = next(self._trial)
                    self._writer.report(self._trial)
                self._rests = report.epoch >= self._until and not report.finished
                if report.finished:
                    self._writer.status("done", "")
                elif self._rests:  # whoever goes on with it may be another process
                    self._save()
                    self._writer.status("stopped", f"rests at epoch {report.epoch}, below the best 1/η so far")
                return report.line() | {"rests": self._rests, "done": report.finished or self._rests}
        assert self._failure is not None
        return self._failure | {"done": True, "finished": False}

    def cleanup(self) -> None:
        self._close()

    def _recording(self) -> _Recording:
        return _Recording(self)

    def _close(self) -> None:
        """Leave what a resumed study and the analysis need of a trial that something else ended."""
        trial = getattr(self, "_trial", None)
        if trial is not None and trial.history and not (trial.finished or self._rests or self._failure):
            self._save()
        if trial is not None and self._writer is not None:
            self._mirror.drop(self._writer.folder)
        self._trial = None

    def _save(self) -> None:
        assert self._trial is not None and self._writer is not None
        self._writer.write_predictions(self._trial)
        self._writer.save(self._trial)


class _Recording:
    """Turns what a configuration caused into the trial's result, and a full disk into the study's end."""

    def __init__(self, owner: MMNetTrainable):
        self.owner = owner

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, trace) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        if isinstance(error, TakenOver):
            self.owner._trial = None  # nothing of it is saved
            return False
        if isinstance(error, OSError) and error.errno in DISK:
            error = StorageError.of(error.filename or self.owner._place[0], error.strerror)
        if isinstance(error, StorageError):
            self.owner._failure = {"abort": str(error)}
            return True
        reason = failure_reason(error)
        self.owner._failure = {"failed": reason}
        try:
            self.owner._mirror.check_run()
            record_failure(*self.owner._place, reason, peak_memory())
            (self.owner._place[0] / "error.txt").write_text("".join(traceback.format_exception(error)))
            self.owner._mirror.push(self.owner._place[0])
        except (StorageError, OSError) as full:
            self.owner._failure = {"abort": str(full)}
        return True


def failure_reason(error: Exception) -> str:
    """One line that says what went wrong in a trial."""
    from mmnet.device import is_out_of_memory

    text = str(error).strip().splitlines()
    if is_out_of_memory(error):
        return f"out of memory: lower optim.batch_size, data.image_size or model.width ({text[0][:200] if text else type(error).__name__})"
    return f"{type(error).__name__}: {text[0][:500] if text else 'no message'}"
