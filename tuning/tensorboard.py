"""One TensorBoard run a trial, with HPARAMS from its first second on.

A trial's run is its folder, so `tensorboard --logdir output/STUDY/trials` shows every trial under its number. What stands there
already is passed over, whether a restarted worker reports it again or a resumed study: no point stands twice.
"""

import math
import os
import socket
import time
from collections.abc import Callable, Collection
from io import BytesIO
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Value
from PIL import Image
from ray import tune
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2 as api
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from mmnet.config import Config, get_value, text_of
from mmnet.metrics import METRICS
from search_spaces.space import Dimension, Space
from study.records import TrialRecord
from tuning.trainable import trial_name

BEST, FINAL, WENT_ON = "best/", "oof/", "rung/went_on"
FIGURES = ".figures"  # ends the name of the event file that holds them
FIGURE_WIDTH = 900  # px; with few colours some 30 KB a figure


class EventFile:
    """A TensorBoard event file, one record a report. torch's SummaryWriter starts a thread and a queue for each trial."""

    def __init__(self, folder: Path, suffix: str = "", written: Collection[tuple[str, int]] = ()):
        """`written`: (tag, step) of the scalars that other files of the folder hold, not to be written again."""
        self._written = set(written)
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}{suffix}").open("ab")
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Numbers of one epoch, but for those written before; what is not a number is left out, HPARAMS could not be sent with it."""
        new = {tag: value for tag, value in values.items() if math.isfinite(value) and (tag, step) not in self._written}
        self._written |= {(tag, step) for tag in new}
        if new:
            self._summary([Summary.Value(tag=tag, simple_value=value) for tag, value in new.items()], step)

    def hparams(self, content: dict[str, HParamsPluginData]) -> None:
        """{tag: data}, HPARAMS records. torch's `add_hparams` would open a second run for them, and only when the trial ends."""
        self._summary(
            [
                Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
                for tag, data in content.items()
            ]
        )

    def text(self, tag: str, text: str, step: int) -> None:
        """Shown as Markdown."""
        described = text_metadata.create_summary_metadata(display_name="", description="")
        self._summary([Summary.Value(tag=tag, metadata=described, tensor=make_tensor_proto(text.encode()))], step)

    def image(self, tag: str, png: bytes, size: tuple[int, int], step: int) -> None:
        """`size`: width, height in px."""
        image = Summary.Image(width=size[0], height=size[1], colorspace=3, encoded_image_string=png)
        self._summary([Summary.Value(tag=tag, image=image)], step)

    def end(self, status: int, text: str, step: int) -> None:
        """How the trial ended, for HPARAMS and in words; nothing comes after it."""
        end = SessionEndInfo(status=status, end_time_secs=time.time())
        self.hparams({metadata.SESSION_END_INFO_TAG: HParamsPluginData(session_end_info=end)})
        self.text("trial/ended", text, step)
        self.close()

    def close(self) -> None:
        self._file.close()

    def _summary(self, values: list[Summary.Value], step: int = 0) -> None:
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())
        self._records.flush()


class TensorBoardCallback(tune.Callback):
    """Writes `trials/<id>/events…` from the driver: scalars of every epoch, rungs, parameters, and how the trial ended."""

    def __init__(
        self,
        trials: Path,
        space: Space,
        base: Config,
        levels: tuple[int, ...] = (),
        stopped: Collection[str] = (),
        records: Collection[TrialRecord] = (),
        is_over: Callable[[], bool] = lambda: True,
        given_up: Callable[[int], bool] = lambda number: True,
    ):
        """`levels`: the rungs. `stopped`: see `RungScheduler`. `records`: of an earlier run. `is_over`: nothing is left to resume.
        `given_up`: see `StudySearcher`."""
        self._trials, self._space, self._base = trials, space, base
        self._levels, self._stopped, self._is_over, self._given_up = levels, stopped, is_over, given_up
        self._columns = HParamsPluginData(experiment=experiment(space, base))
        self._records = {record.number: record for record in records}
        self._writers: dict[int, EventFile] = {}  # by number
        self._resting: dict[int, int] = {}  # {number: epoch} of trials of this run

    def on_trial_start(self, iteration: int, trials: list, trial, **info: Any) -> None:
        number = trial.config["number"]
        if number in self._writers:  # restarted after its worker was lost
            return
        folder = self._trials / trial_name(number)
        if number in self._resting:
            self._resting.pop(number)
            writer = self._writers[number] = EventFile(folder)
            writer.scalars({WENT_ON: 1.0}, trial.config["since"])
            return
        record = self._records.get(number)
        if record is None:  # a trial that was lost before its first epoch may have left its parameters under this number
            for before in folder.glob("events.out.tfevents.*"):
                before.unlink()
        since = trial.config["since"]
        writer = self._writers[number] = EventFile(folder, written=written_scalars(folder) - {(WENT_ON, since)})
        start = SessionStartInfo(hparams=hparams(self._space, self._base, trial.config["params"]), start_time_secs=time.time())
        writer.hparams(
            {
                metadata.EXPERIMENT_TAG: self._columns,
                metadata.SESSION_START_INFO_TAG: HParamsPluginData(session_start_info=start),
            }
        )
        lines = record.epochs if record is not None else []
        for line in lines:  # those that the driver did not live to see
            went_on = {WENT_ON: 1.0} if line["epoch"] in self._levels and (line is not lines[-1] or since) else {}
            writer.scalars(scalars(line, self._base.metric) | went_on, line["epoch"])

    def on_trial_result(self, iteration: int, trials: list, trial, result: dict, **info: Any) -> None:
        writer = self._writers.get(trial.config["number"])
        if writer is None or "metrics" not in result or result["epoch"] <= trial.config["since"]:
            return
        values = scalars(result, self._base.metric)
        if result["epoch"] in self._levels and not result.get("rests"):
            values[WENT_ON] = float(trial.trial_id not in self._stopped)
        writer.scalars(values, result["epoch"])

    def on_trial_complete(self, iteration: int, trials: list, trial, **info: Any) -> None:
        result = trial.last_result or {}
        if "failed" in result:
            self._end(trial, api.STATUS_FAILURE, f"failed: {result['failed']}")
        elif result.get("finished"):
            self._end(trial, api.STATUS_SUCCESS, f"done after epoch {result['epoch']}, best epoch {result['best_epoch']}")
        elif result.get("rests"):  # it may go on: how it ended is known when the study ends
            self._resting[trial.config["number"]] = result["epoch"]
            self._writers.pop(trial.config["number"]).close()
        elif trial.trial_id in self._stopped:
            self._end(trial, api.STATUS_SUCCESS, f"stopped by the rung at epoch {result['epoch']}")
        # else: the study was interrupted; TensorBoard shows the trial without a status until --resume has ended it

    def on_trial_error(self, iteration: int, trials: list, trial, **info: Any) -> None:
        if self._given_up(trial.config["number"]):
            self._end(trial, api.STATUS_FAILURE, "failed: worker lost")

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        for number, epoch in self._resting.items() if self._is_over() else ():
            writer = EventFile(self._trials / trial_name(number))
            writer.scalars({WENT_ON: 0.0}, epoch)
            writer.end(api.STATUS_SUCCESS, f"stopped by the rung at epoch {epoch}", epoch)
        self._resting.clear()

    def _end(self, trial, status: int, text: str) -> None:
        writer = self._writers.pop(trial.config["number"], None)
        if writer is not None:
            writer.end(status, text, (trial.last_result or {}).get("epoch", 0))


def written_scalars(folder: Path) -> set[tuple[str, int]]:
    """(tag, step) of every scalar in the event files of a folder."""
    if not any(folder.glob("events.out.tfevents.*")):
        return set()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {(tag, event.step) for tag in found.Tags()["scalars"] for event in found.Scalars(tag)}


def scalars(line: dict[str, Any], metric: str) -> dict[str, float]:
    """{tag: value} of an epoch (a line of epochs.jsonl, or the report it was written from)."""
    folds, losses = [fold[metric] for fold in line["fold_metrics"]], line["train_loss"]
    values = {FINAL + name: value for name, value in line["metrics"].items()}
    if line["best_epoch"] == line["epoch"]:
        values |= {BEST + name: value for name, value in line["metrics"].items()}
    values |= {f"fold/{metric}/{n}": value for n, value in enumerate(folds, start=1)}
    if None not in folds:
        values[f"fold/{metric}/mean"] = sum(folds) / len(folds)
    values |= {"train/loss": sum(losses) / len(losses), "train/lr": line["lr"], "train/seconds": line["seconds"]}
    return {tag: value for tag, value in values.items() if value is not None}


def experiment(space: Space, base: Config) -> api.Experiment:
    """The columns of HPARAMS: every searched parameter with its range, best and final metrics.

    TensorBoard shows the first five of each unless asked for more: parameters that no trial of this study can have stand
    last (it sorts by `differs`, then by name), and the metrics begin with the configured one and the last rung.
    """
    names = dict.fromkeys((base.metric, "auc", "balanced_accuracy", *METRICS))
    columns = [(prefix + name, f"{shown} {name}") for name in names for prefix, shown in ((BEST, "best"), (FINAL, "final"))]
    columns.insert(2, (WENT_ON, "went on at last rung"))
    return api.Experiment(
        hparam_infos=[_column(dimension, _possible(dimension, space, base)) for dimension in space.searched()],
        metric_infos=[api.MetricInfo(name=api.MetricName(tag=tag), display_name=shown) for tag, shown in columns],
    )


def _possible(dimension: Dimension, space: Space, base: Config) -> bool:
    """Whether its condition can be met: by a value that is searched too, or by the configuration as it is."""
    if dimension.when is None:
        return True
    path, allowed = dimension.when
    return any(other.path == path for other in space.searched()) or get_value(base, path) in allowed


def _column(dimension: Dimension, differs: bool) -> api.HParamInfo:
    if not dimension.choices:
        domain = api.Interval(min_value=dimension.low, max_value=dimension.high)
        return api.HParamInfo(name=dimension.path, type=api.DATA_TYPE_FLOAT64, differs=differs, domain_interval=domain)
    values = [_value(dimension, choice) for choice in dimension.choices]
    kinds = {"bool_value": api.DATA_TYPE_BOOL, "number_value": api.DATA_TYPE_FLOAT64, "string_value": api.DATA_TYPE_STRING}
    kind = kinds[values[0].WhichOneof("kind")]
    return api.HParamInfo(name=dimension.path, type=kind, differs=differs, domain_discrete=ListValue(values=values))


def hparams(space: Space, base: Config, params: dict[str, Any]) -> dict[str, Value]:
    """{path: value} of a trial; a conditional parameter that was off has none, and its cell stays blank.

    A word in its place would stand among numbers, and TensorBoard cannot sort a column of both.
    """
    on = (dimension for dimension in space.searched() if dimension.path in params or not dimension.when)
    return {d.path: _value(d, params.get(d.path, get_value(base, d.path))) for d in on}


def _value(dimension: Dimension, value: Any) -> Value:
    """Of one kind throughout a dimension: numbers become text where a choice is none."""
    kinds = {type(text_of(choice)) for choice in dimension.choices} or {float}
    if kinds == {bool}:
        return Value(bool_value=value)
    if kinds <= {int, float}:
        return Value(number_value=float(value))
    return Value(string_value=str(text_of(value)))


def write_figures(trials: Path, best: str, figures: dict[str, Path]) -> None:
    """{name: PNG} into the run of the best trial; those of an earlier best are removed."""
    for before in trials.glob(f"*/events.out.tfevents.*{FIGURES}"):
        before.unlink()
    writer = EventFile(trials / best, FIGURES)
    for name, path in figures.items():
        with Image.open(path) as picture:
            height = round(picture.height * FIGURE_WIDTH / picture.width)
            small = picture.convert("RGB").resize((FIGURE_WIDTH, height), Image.Resampling.LANCZOS).quantize(32, dither=Image.Dither.NONE)
        png = BytesIO()
        small.save(png, "PNG", optimize=True)
        writer.image(f"figures/{name}", png.getvalue(), small.size, step=0)
    writer.close()
