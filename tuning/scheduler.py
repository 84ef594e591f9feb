"""Asynchronous successive halving (Ray's), with rungs that survive a restart and decisions that can be told apart."""

from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from mmnet.metrics import METRICS
from study.records import TrialRecord
from tuning.forgetting import Forgetting
from tuning.trainable import trial_name


class RungScheduler(Forgetting, AsyncHyperBandScheduler):
    """ASHA over epochs: at each rung the best 1/η of the trials seen there go on.

    Ray loses the rungs on a restart; here they are filled again from the trial records. `stopped` holds the ids of the
    trials that a rung ended, which Ray itself cannot tell from those that the end of the study cut off. The rungs know a trial
    by its folder's name: who lost its process goes on under another id of Ray's.
    """

    def __init__(self, metric: str, epochs: int, eta: int, levels: tuple[int, ...], records: list[TrialRecord]):
        """`levels`: the rungs, η apart; none: every trial runs to its end."""
        super().__init__(
            time_attr="epoch",
            metric="score",
            mode=METRICS[metric],
            max_t=epochs,
            grace_period=levels[0] if levels else epochs,
            reduction_factor=eta,
        )
        self.stopped: set[str] = set()
        self._records = {record.number: record for record in records}
        for record in records:
            if record.status != "running":
                self._replay(_named(record.number), record.epochs)

    def _replay(self, trial, epochs: list[dict[str, Any]]) -> None:
        for line in epochs:
            if line["score"] is not None:
                self._brackets[0].on_result(trial, line["epoch"], self._metric_op * line["score"])

    def on_trial_add(self, tune_controller, trial: Trial) -> None:
        number = trial.config["number"]
        super().on_trial_add(tune_controller, _named(number))
        record = self._records.get(number)
        if record is not None:  # it passed these rungs before the restart; its last epoch may not have been judged and is reported again
            self._replay(_named(number), record.epochs[:-1])

    def on_trial_result(self, tune_controller, trial: Trial, result: dict) -> str:
        if "score" not in result:
            return TrialScheduler.CONTINUE
        decision = super().on_trial_result(tune_controller, _named(trial.config["number"]), result)
        if decision == TrialScheduler.STOP and not result["finished"]:
            self.stopped.add(trial.trial_id)
        return decision

    def on_trial_complete(self, tune_controller, trial: Trial, result: dict) -> None:
        super().on_trial_complete(tune_controller, _named(trial.config["number"]), result)

    def on_trial_remove(self, tune_controller, trial: Trial) -> None:
        super().on_trial_remove(tune_controller, _named(trial.config["number"]))


def _named(number: int) -> Any:
    """As much of a trial as the rungs look at."""
    return SimpleNamespace(trial_id=trial_name(number))
