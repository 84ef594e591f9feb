"""Trials that have ended leave Tune's memory.

Tune keeps every trial to the end of its run, and a step from rung to rung is a trial of its own: 20 to 40 MB per 1,000 configurations,
and at every event it walks through all of them twice to find one that waits. Nothing here asks for them: what they were stands in the
trial records.
"""

from typing import Any

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.schedulers import FIFOScheduler


def forget_ended(controller: TuneController) -> None:
    """Let go of the trials that have ended. Its lists have no public way out; a test holds that nothing else keeps a trial."""
    trials = controller.get_trials()
    ended = {trial for trial in trials if trial.is_finished()}
    trials[:] = [trial for trial in trials if trial not in ended]
    for kept in (controller._live_trials, controller._stopped_trials, controller._failed_trials, controller._trials_to_cache):
        kept -= ended


class Forgetting(FIFOScheduler):
    """A scheduler whose trials are forgotten as soon as another one ends. Tune hands itself only to schedulers."""

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict) -> None:
        super().on_trial_complete(tune_controller, trial, result)
        forget_ended(tune_controller)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        super().on_trial_error(tune_controller, trial)
        forget_ended(tune_controller)


class NoProgress(TrialProgressCallback):
    """In the place of Tune's own, which it adds where it is given none: that remembers every trial of which it printed nothing."""

    def on_trial_result(self, **info: Any) -> None:  # type: ignore[override]
        pass

    on_trial_error = on_trial_complete = on_trial_result  # type: ignore[assignment]
