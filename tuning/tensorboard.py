"""One TensorBoard run a trial, with HPARAMS from its first second on."""

import time
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Value
from ray import tune
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, Experiment, HParamInfo, MetricInfo, MetricName
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from torch.utils.tensorboard import SummaryWriter

from mmnet.config import Config, get_value, text_of
from mmnet.metrics import METRICS
from search_spaces.space import Space
from tuning.trainable import trial_name

BEST = "best/"


class TensorBoardCallback(tune.Callback):
    """Writes `trials/<id>/events…` from the driver: scalars of every epoch, parameters, and how the trial ended."""

    def __init__(self, trials: Path, space: Space, base: Config):
        self._trials, self._space, self._base = trials, space, base
        self._writers: dict[str, SummaryWriter] = {}

    def on_trial_start(self, iteration: int, trials: list, trial, **info: Any) -> None:
        if trial.trial_id in self._writers:  # restarted after its worker was lost
            return
        writer = SummaryWriter(str(self._trials / trial_name(trial.config["number"])), max_queue=100)
        self._writers[trial.trial_id] = writer
        # a conditional parameter that was off is recorded as "off", so that every trial has every column
        params = {
            d.path: text_of(trial.config["params"].get(d.path, "off" if d.when else get_value(self._base, d.path)))
            for d in self._space.searched()
        }
        experiment = Experiment(
            hparam_infos=[HParamInfo(name=path) for path in params],
            metric_infos=[MetricInfo(name=MetricName(tag=BEST + name)) for name in METRICS],
        )
        start = SessionStartInfo(hparams={path: _value(value) for path, value in params.items()}, start_time_secs=time.time())
        _write(writer, metadata.EXPERIMENT_TAG, HParamsPluginData(experiment=experiment))
        _write(writer, metadata.SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))

    def on_trial_result(self, iteration: int, trials: list, trial, result: dict, **info: Any) -> None:
        writer = self._writers.get(trial.trial_id)
        if writer is None or "metrics" not in result:
            return
        epoch = result["epoch"]
        for name, value in result["metrics"].items():
            writer.add_scalar(f"oof/{name}", value, epoch)
            if result["best_epoch"] == epoch:
                writer.add_scalar(BEST + name, value, epoch)
        for number, fold in enumerate(result["fold_metrics"], start=1):
            writer.add_scalar(f"fold/{self._base.metric}/{number}", fold[self._base.metric], epoch)
        writer.add_scalar("train/loss", sum(result["train_loss"]) / len(result["train_loss"]), epoch)
        writer.add_scalar("train/lr", result["lr"], epoch)
        writer.add_scalar("train/seconds", result["seconds"], epoch)

    def on_trial_complete(self, iteration: int, trials: list, trial, **info: Any) -> None:
        self._end(trial, STATUS_FAILURE if "failed" in (trial.last_result or {}) else STATUS_SUCCESS)

    def on_trial_error(self, iteration: int, trials: list, trial, **info: Any) -> None:
        self._end(trial, STATUS_FAILURE)

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _end(self, trial, status: int) -> None:
        writer = self._writers.pop(trial.trial_id, None)
        if writer is not None:
            end = SessionEndInfo(status=status, end_time_secs=time.time())
            _write(writer, metadata.SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))
            writer.close()


def _value(value: Any) -> Value:
    if isinstance(value, bool):
        return Value(bool_value=value)
    return Value(string_value=str(value)) if isinstance(value, (str, type(None))) else Value(number_value=float(value))


def _write(writer: SummaryWriter, tag: str, data: HParamsPluginData) -> None:
    """One HPARAMS record. torch's `add_hparams` would open a second run for it, and only when the trial ends."""
    value = Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    writer.file_writer.add_summary(Summary(value=[value]))
