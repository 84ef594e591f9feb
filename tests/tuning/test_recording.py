"""A driver that cannot write ends its study with the reason, and Ray hears nothing of it."""

import errno

import pytest
from ray import tune

from data.errors import StorageError
from tuning.recording import RecordingCallback

HOOKS = ("on_trial_start", "on_trial_result", "on_trial_complete", "on_trial_error", "on_step_end", "on_experiment_end")


class Each(tune.Callback):
    """Notes what it is called with, and raises what it is given."""

    def __init__(self, error: Exception | None = None):
        self.seen: list[tuple[str, dict]] = []
        for hook in HOOKS:
            setattr(self, hook, lambda hook=hook, **info: self._note(hook, info, error))

    def _note(self, hook, info, error):
        self.seen.append((hook, info))
        if error is not None:
            raise error


@pytest.mark.parametrize("hook", HOOKS)
def test_every_callback_is_called_in_order_with_what_ray_says(tmp_path, hook):
    first, second, told = Each(), Each(), []
    getattr(RecordingCallback([first, second], tmp_path, told.append), hook)(iteration=1, trials=[])
    assert first.seen == second.seen == [(hook, {"iteration": 1, "trials": []})] and not told


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StorageError.of("a/b", "No space left on device"), "cannot write a/b: No space left on device; free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write {folder}: No space left on device; free some space"),
        (OSError(errno.EROFS, "Read-only file system", "c/d"), "cannot write c/d: Read-only file system"),
    ],
)
def test_what_cannot_be_written_ends_the_study_with_one_line_that_names_the_place(tmp_path, hook, error, said):
    after, told = Each(), []
    getattr(RecordingCallback([Each(error), after], tmp_path, told.append), hook)(iteration=1, trials=[])
    assert len(told) == 1 and told[0].startswith(said.format(folder=tmp_path)) and not after.seen


def test_any_other_error_is_rays(tmp_path):
    with pytest.raises(KeyError):
        RecordingCallback([Each(KeyError("x"))], tmp_path, lambda error: None).on_step_end(iteration=1, trials=[])
