"""A study's trials, from the driver: who trains each; and in an object store, records of ended ones come here, and what the driver writes goes there.

Two callbacks, because Ray calls them in order: whoever reads or writes a trial's record stands between them.
"""

from pathlib import Path
from typing import Any

from ray import tune

from study.mirror import CHECKPOINTS, EVENTS, WEIGHTS, Mirror
from tuning.trainable import trial_name


class FetchCallback(tune.Callback):
    """Notes who trains a trial, and brings its record here when it ends. Its weights wait until the study ends: only the best trial's are needed."""

    def __init__(self, trials: Path, mirror: Mirror):
        self._trials, self._mirror = trials, mirror

    def on_trial_start(self, iteration: int, trials: list, trial, **info: Any) -> None:
        """Before the process's first step."""
        self._mirror.hand_out(self._trials / trial_name(trial.config["number"]), trial.config["take"])

    def on_trial_complete(self, iteration: int, trials: list, trial, **info: Any) -> None:
        self._mirror.pull(self._trials / trial_name(trial.config["number"]), leave=(CHECKPOINTS, EVENTS, WEIGHTS))

    on_trial_error = on_trial_complete


class SendCallback(tune.Callback):
    """Sends what the driver wrote: of a trial when it ends, all else now and then."""

    def __init__(self, trials: Path, mirror: Mirror):
        self._trials, self._mirror = trials, mirror

    def on_trial_complete(self, iteration: int, trials: list, trial, **info: Any) -> None:
        self._mirror.push(self._trials / trial_name(trial.config["number"]))

    on_trial_error = on_trial_complete

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self._mirror.push_at_times()
