"""What happens to a study whose driver cannot write.

Ray takes what a callback raises for a failure of the trial, trains it again and counts it lost in the end, or ends with a trace of
its own code: a full disk would cost trials. Here it ends the study, and every trial stays as it is.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from data.errors import StorageError


class RecordingCallback(tune.Callback):
    """Calls others one after the other, and ends the study with the reason when one of them cannot write."""

    def __init__(self, callbacks: Sequence[tune.Callback], study: Path, fail: Callable[[str], None]):
        """`study`: the folder that is named where the system names no file. `fail`: is told the error."""
        self._callbacks, self._study, self._fail = callbacks, study, fail

    def _each(self, hook: str, info: dict[str, Any]) -> None:
        try:
            for callback in self._callbacks:
                getattr(callback, hook)(**info)
        except StorageError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(str(StorageError.of(error.filename or self._study, error.strerror or error)))

    def on_trial_start(self, **info: Any) -> None:  # type: ignore[override]
        self._each("on_trial_start", info)

    def on_trial_result(self, **info: Any) -> None:  # type: ignore[override]
        self._each("on_trial_result", info)

    def on_trial_complete(self, **info: Any) -> None:  # type: ignore[override]
        self._each("on_trial_complete", info)

    def on_trial_error(self, **info: Any) -> None:  # type: ignore[override]
        self._each("on_trial_error", info)

    def on_step_end(self, **info: Any) -> None:  # type: ignore[override]
        self._each("on_step_end", info)

    def on_experiment_end(self, **info: Any) -> None:  # type: ignore[override]
        self._each("on_experiment_end", info)
