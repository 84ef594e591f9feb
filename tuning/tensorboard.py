"""One TensorBoard run a trial, with HPARAMS from its first second on."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Value
from ray import tune
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import STATUS_FAILURE, STATUS_SUCCESS, Experiment, HParamInfo, MetricInfo, MetricName
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from mmnet.config import Config, get_value, text_of
from mmnet.metrics import METRICS
from search_spaces.space import Space
from tuning.trainable import trial_name

BEST = "best/"


class EventFile:
    """A TensorBoard event file, one record a report. torch's SummaryWriter starts a thread and a queue for each trial."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}").open("ab")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def scalars(self, values: dict[str, float], step: int) -> None:
        summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
        self._write(Event(wall_time=time.time(), step=step, summary=summary))

    def hparams(self, content: dict[str, HParamsPluginData]) -> None:
        """{tag: data}, HPARAMS records. torch's `add_hparams` would open a second run for them, and only when the trial ends."""
        values = [
            Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
            for tag, data in content.items()
        ]
        self._write(Event(wall_time=time.time(), summary=Summary(value=values)))

    def close(self) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()


class TensorBoardCallback(tune.Callback):
    """Writes `trials/<id>/events…` from the driver: scalars of every epoch, parameters, and how the trial ended."""

    def __init__(self, trials: Path, space: Space, base: Config):
        self._trials, self._space, self._base = trials, space, base
        self._writers: dict[str, EventFile] = {}

    def on_trial_start(self, iteration: int, trials: list, trial, **info: Any) -> None:
        if trial.trial_id in self._writers:  # restarted after its worker was lost
            return
        writer = EventFile(self._trials / trial_name(trial.config["number"]))
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
        writer.hparams(
            {
                metadata.EXPERIMENT_TAG: HParamsPluginData(experiment=experiment),
                metadata.SESSION_START_INFO_TAG: HParamsPluginData(session_start_info=start),
            }
        )

    def on_trial_result(self, iteration: int, trials: list, trial, result: dict, **info: Any) -> None:
        writer = self._writers.get(trial.trial_id)
        if writer is None or "metrics" not in result:
            return
        epoch, losses = result["epoch"], result["train_loss"]
        values = {f"oof/{name}": value for name, value in result["metrics"].items()}
        if result["best_epoch"] == epoch:
            values |= {BEST + name: value for name, value in result["metrics"].items()}
        values |= {f"fold/{self._base.metric}/{n}": fold[self._base.metric] for n, fold in enumerate(result["fold_metrics"], start=1)}
        values |= {"train/loss": sum(losses) / len(losses), "train/lr": result["lr"], "train/seconds": result["seconds"]}
        writer.scalars(values, epoch)

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
            writer.hparams({metadata.SESSION_END_INFO_TAG: HParamsPluginData(session_end_info=end)})
            writer.close()


def _value(value: Any) -> Value:
    if isinstance(value, bool):
        return Value(bool_value=value)
    return Value(string_value=str(value)) if isinstance(value, (str, type(None))) else Value(number_value=float(value))
