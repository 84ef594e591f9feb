"""What TensorBoard is given: every trial once, with its parameters, its rungs and how it ended."""

from io import BytesIO
from types import SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2 as api
from tensorboard.plugins.hparams import metadata

from mmnet.config import Config
from mmnet.metrics import METRICS
from search_spaces import get_space, space_names
from search_spaces.space import Dimension, Space
from study.records import TrialRecord
from tuning.tensorboard import TensorBoardCallback, experiment, hparams, scalars, write_figures

SPACE = Space(
    "two",
    (
        Dimension("loss.name", "scientific", "a choice", choices=("focal", "cross_entropy")),
        Dimension("loss.gamma", "nuisance", "only with focal loss", low=0.0, high=5.0, when=("loss.name", ("focal",))),
        Dimension("optim.batch_size", "nuisance", "a number or none", choices=(None, 8)),
    ),
)
FOCAL = {"loss.name": "focal", "loss.gamma": 2.0, "optim.batch_size": 8}
CROSS_ENTROPY = {"loss.name": "cross_entropy", "optim.batch_size": None}


def line(epoch, score=0.5, best_epoch=None, **more):
    fold = dict.fromkeys(METRICS, score)
    report = {"epoch": epoch, "metrics": fold, "fold_metrics": [fold, fold], "train_loss": [0.2, 0.4], "lr": 0.1, "seconds": 2.0}
    return report | {"best_epoch": best_epoch or epoch, "score": score, "finished": False} | more


def trial(number, params=FOCAL, last=None, since=0):
    return SimpleNamespace(trial_id=f"id{number}", config={"number": number, "params": params, "since": since}, last_result=last)


@pytest.fixture
def callback(tmp_path):
    return TensorBoardCallback(tmp_path, SPACE, Config(), levels=(1, 3), stopped={"id1"})


def read(folder):
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


def points(folder, tag="oof/log_loss"):
    return [(event.step, round(event.value, 6)) for event in read(folder).Scalars(tag)]


def ended(folder):
    content = read(folder).summary_metadata[metadata.SESSION_END_INFO_TAG].plugin_data.content
    return metadata.parse_session_end_info_plugin_data(content).status


def said(folder):
    return read(folder).Tensors("trial/ended")[0].tensor_proto.string_val[0].decode()


def run(callback, trial, *reports):
    callback.on_trial_start(0, [], trial)
    for report in reports:
        callback.on_trial_result(0, [], trial, report)
        trial.last_result = report


def test_an_epoch_gives_the_pooled_metrics_every_fold_and_their_mean():
    second = line(2, 0.4, fold_metrics=[dict.fromkeys(METRICS, value) for value in (0.2, 0.6)])
    values = scalars(second, "auc")
    assert values["oof/log_loss"] == values["best/log_loss"] == 0.4
    assert (values["fold/auc/1"], values["fold/auc/2"], values["fold/auc/mean"]) == (0.2, 0.6, pytest.approx(0.4))
    assert values["train/loss"] == pytest.approx(0.3)
    assert not [tag for tag in scalars(line(2, best_epoch=1), "auc") if tag.startswith("best/")]


def test_what_is_not_a_number_is_left_out():
    unknown = line(1, fold_metrics=[dict.fromkeys(METRICS, 0.5), dict.fromkeys(METRICS)], metrics={"auc": None, "brier": 0.1})
    values = scalars(unknown, "auc")
    assert "oof/auc" not in values and "fold/auc/2" not in values and "fold/auc/mean" not in values and values["oof/brier"] == 0.1


def test_a_conditional_parameter_that_is_off_is_blank_and_a_column_is_of_one_kind():
    on, off = hparams(SPACE, Config(), FOCAL), hparams(SPACE, Config(), CROSS_ENTROPY)
    assert on["loss.gamma"].number_value == 2.0 and "loss.gamma" not in off
    assert (on["optim.batch_size"].string_value, off["optim.batch_size"].string_value) == ("8", "None")
    columns = {info.name: info for info in experiment(SPACE, Config()).hparam_infos}
    assert columns["loss.gamma"].type == api.DATA_TYPE_FLOAT64 and columns["loss.gamma"].domain_interval.max_value == 5.0
    assert columns["optim.batch_size"].type == api.DATA_TYPE_STRING
    assert [choice.string_value for choice in columns["optim.batch_size"].domain_discrete.values] == ["None", "8"]


@pytest.mark.parametrize("name", space_names())
def test_every_parameter_of_every_space_has_a_column(name):
    space = get_space(name, Config())
    assert [info.name for info in experiment(space, Config()).hparam_infos] == [dimension.path for dimension in space.searched()]


def test_parameters_that_no_trial_can_have_stand_last():
    crop = Dimension("augment.crop", "nuisance", "of pixels only", low=0.5, high=1.0, when=("model.frozen", (False,)))
    space = Space("tried", (*SPACE.dimensions, crop))

    def last(frozen):
        base = Config().with_values({"model.frozen": frozen})
        return {info.name for info in experiment(space, base).hparam_infos if not info.differs}

    assert last(False) == set() and last(True) == {"augment.crop"}  # not loss.gamma: where focal is drawn


def test_columns_hold_the_best_and_the_final_value_of_every_metric():
    tags = [info.name.tag for info in experiment(SPACE, Config(metric="auc")).metric_infos]
    assert (
        tags[:3] == ["best/auc", "oof/auc", "rung/went_on"]
        and len(set(tags)) == len(tags)
        and {f"{kind}/{name}" for kind in ("best", "oof") for name in METRICS} < set(tags)
    )


def test_a_trial_is_listed_with_its_parameters_before_its_first_epoch(callback, tmp_path):
    run(callback, trial(0))
    content = read(tmp_path / "0000").summary_metadata
    start = content[metadata.SESSION_START_INFO_TAG].plugin_data.content
    assert metadata.EXPERIMENT_TAG in content
    assert metadata.parse_session_start_info_plugin_data(start).hparams["loss.gamma"].number_value == 2.0
    assert metadata.SESSION_END_INFO_TAG not in content


def test_rungs_say_who_went_on_and_who_was_stopped(callback, tmp_path):
    first, second = trial(0), trial(1)
    run(callback, first, line(1), line(2), line(3), line(4, finished=True))
    run(callback, second, line(1))
    for each in (first, second):
        callback.on_trial_complete(0, [], each)
    assert points(tmp_path / "0000", "rung/went_on") == [(1, 1.0), (3, 1.0)] and points(tmp_path / "0001", "rung/went_on") == [(1, 0.0)]
    assert (ended(tmp_path / "0000"), ended(tmp_path / "0001")) == (api.STATUS_SUCCESS, api.STATUS_SUCCESS)
    assert said(tmp_path / "0000") == "done after epoch 4, best epoch 4" and said(tmp_path / "0001") == "stopped by the rung at epoch 1"


def test_a_failed_trial_is_a_failure_also_without_an_epoch(callback, tmp_path):
    first, second = trial(0, last={"failed": "out of memory"}), trial(2)
    run(callback, first)
    callback.on_trial_complete(0, [], first)
    run(callback, second, line(1))
    callback.on_trial_error(0, [], second)
    assert (ended(tmp_path / "0000"), ended(tmp_path / "0002")) == (api.STATUS_FAILURE, api.STATUS_FAILURE)
    assert said(tmp_path / "0000") == "failed: out of memory" and said(tmp_path / "0002") == "failed: worker lost"


def test_a_number_that_is_infinite_is_left_out_and_the_others_are_not(callback, tmp_path):
    run(callback, trial(0), line(1, train_loss=[float("inf"), 0.4]), line(2))
    assert points(tmp_path / "0000") == [(1, 0.5), (2, 0.5)] and points(tmp_path / "0000", "train/loss") == [(2, 0.3)]


def test_epochs_that_a_restarted_worker_reports_again_stand_once(tmp_path):
    callback = TensorBoardCallback(tmp_path, SPACE, Config(), levels=(1, 3), given_up=lambda number: False)
    lost, again = trial(0), trial(0)
    again.trial_id = "another"
    run(callback, lost, line(1), line(2), line(3))
    callback.on_trial_error(0, [], lost)
    run(callback, again, line(2), line(3), line(4))
    assert [step for step, _ in points(tmp_path / "0000")] == [1, 2, 3, 4]
    assert len(list((tmp_path / "0000").iterdir())) == 1


def test_a_trial_of_an_interrupted_study_gets_its_points_once_and_its_end_when_it_has_one(callback, tmp_path):
    cut = trial(0)
    run(callback, cut, line(1, 0.9), line(2, 0.8))  # the driver was lost before it saw the third epoch
    callback.on_trial_complete(0, [], cut)
    callback.on_experiment_end([])
    assert metadata.SESSION_END_INFO_TAG not in read(tmp_path / "0000").summary_metadata

    record = TrialRecord(tmp_path / "0000", 0, FOCAL, {}, "running", "", [line(1, 0.9), line(2, 0.8), line(3, 0.7)], 1.0, 1.0)
    resumed = TensorBoardCallback(tmp_path, SPACE, Config(), levels=(1, 3), stopped=set(), records=[record])
    again = trial(0)
    again.trial_id = "another"
    run(resumed, again, line(2, 0.8), line(3, 0.7), line(4, 0.6, finished=True))  # from a checkpoint before the last epoch on record
    resumed.on_trial_complete(0, [], again)
    assert points(tmp_path / "0000") == [(1, 0.9), (2, 0.8), (3, 0.7), (4, 0.6)]
    assert points(tmp_path / "0000", "rung/went_on") == [(1, 1.0), (3, 1.0)]
    assert ended(tmp_path / "0000") == api.STATUS_SUCCESS


def test_a_number_given_anew_shows_the_parameters_of_its_new_trial(callback, tmp_path):
    run(callback, trial(0, CROSS_ENTROPY))  # the driver was lost before it left a record
    callback.on_experiment_end([])
    run(TensorBoardCallback(tmp_path, SPACE, Config()), trial(0, FOCAL))
    content = read(tmp_path / "0000").summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    assert metadata.parse_session_start_info_plugin_data(content).hparams["loss.name"].string_value == "focal"


def test_figures_stand_in_the_run_of_the_best_and_move_with_it(tmp_path):
    Image.new("RGB", (1800, 1200), "red").save(tmp_path / "curves.png")
    write_figures(tmp_path, "0000", {"curves": tmp_path / "curves.png"})
    write_figures(tmp_path, "0001", {"curves": tmp_path / "curves.png"})
    assert not list((tmp_path / "0000").iterdir())
    (image,) = read(tmp_path / "0001").Images("figures/curves")
    shown = Image.open(BytesIO(image.encoded_image_string))
    assert (image.width, image.height) == shown.size == (900, 600) and shown.format == "PNG"
    assert shown.convert("RGB").getpixel((450, 300)) == (255, 0, 0)


def test_a_trial_that_rests_has_no_end_until_it_went_on_or_the_study_is_over(callback, tmp_path):
    first, second = trial(0), trial(2)
    for each in (first, second):
        run(callback, each, line(1, rests=True))
        callback.on_trial_complete(0, [], each)
    assert metadata.SESSION_END_INFO_TAG not in read(tmp_path / "0000").summary_metadata
    again = trial(0, since=1)
    again.trial_id = "the next step"
    run(callback, again, line(1), line(2), line(3, finished=True))
    callback.on_trial_complete(0, [], again)
    callback.on_experiment_end([])
    assert [step for step, _ in points(tmp_path / "0000")] == [1, 2, 3]
    assert points(tmp_path / "0000", "rung/went_on") == [(1, 1.0), (3, 1.0)] and points(tmp_path / "0002", "rung/went_on") == [(1, 0.0)]
    assert ended(tmp_path / "0000") == ended(tmp_path / "0002") == api.STATUS_SUCCESS
    assert said(tmp_path / "0000") == "done after epoch 3, best epoch 3" and said(tmp_path / "0002") == "stopped by the rung at epoch 1"


def test_a_resting_trial_of_an_interrupted_study_goes_on_in_the_next(tmp_path):
    cut = TensorBoardCallback(tmp_path, SPACE, Config(), levels=(1,), is_over=lambda: False)
    resting = trial(0)
    run(cut, resting, line(1, rests=True))
    cut.on_trial_complete(0, [], resting)
    cut.on_experiment_end([])
    record = TrialRecord(tmp_path / "0000", 0, FOCAL, {}, "stopped", "", [line(1)], 1.0, 1.0)
    resumed = TensorBoardCallback(tmp_path, SPACE, Config(), levels=(1,), records=[record])
    run(resumed, trial(0, since=1), line(2, finished=True))
    assert points(tmp_path / "0000", "rung/went_on") == [(1, 1.0)] and [step for step, _ in points(tmp_path / "0000")] == [1, 2]
