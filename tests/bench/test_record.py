"""Recorded tables: the same however often the recording is killed, in one order of views, and loadable."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from bench import record
from bench.record import Plan, curves, draw, projected
from bench.recorded import load, unit_cube
from data.errors import InputError
from data.splits import Splits
from mmnet.crossval import TrainingError
from search_spaces import get_space
from tests.mmnet.tiny import deal, feature_dataset, tiny_config

BASE = tiny_config(
    {"data.magnifications": (200,), "model.frozen": True, "model.pooled": True, "optim.epochs": 2, "sampling.views_per_slide": 1}
)
QUIET = Console(quiet=True)


def pooled():
    dataset = feature_dataset(8).select_magnifications((200,))
    return replace(dataset, features=np.asarray(dataset.features).mean((2, 3), keepdims=True))


@pytest.fixture
def plan():
    dataset = projected(pooled(), 4, seed=0)
    names = dataset.table.slides().tolist()
    first = [name for name in names if int(name[-1]) in (1, 2, 5, 6)]
    other = Splits((tuple(first), tuple(name for name in names if name not in first)), (), "patient", "by hand")
    return Plan(BASE, get_space("full", BASE), dataset, deal(dataset), other, channels=4)


def arrays(path):
    with np.load(path) as file:
        return {name: file[name] for name in file}


def test_a_recording_that_was_killed_goes_on_as_if_it_had_not_been(plan, tmp_path, monkeypatch):
    record.record(plan, tmp_path / "whole.npz", 4, QUIET)
    trained, original = [], record.both

    def killed(plan, values):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(values)
        return original(plan, values)

    monkeypatch.setattr(record, "both", killed)
    with pytest.raises(KeyboardInterrupt):
        record.record(plan, tmp_path / "parts.npz", 4, QUIET)
    assert len(arrays(tmp_path / "parts.npz")["oof"]) == 2
    monkeypatch.setattr(record, "both", original)
    record.record(plan, tmp_path / "parts.npz", 4, QUIET)
    whole, parts = arrays(tmp_path / "whole.npz"), arrays(tmp_path / "parts.npz")
    assert whole.keys() == parts.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)
    assert whole["oof"].shape == (4, 2, 16) and whole["oof_replicate"].shape == (4, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.npz", "whole.npz"]


def test_a_recording_is_gone_on_with_under_the_same_settings_only(plan, tmp_path):
    record.record(plan, tmp_path / "table.npz", 1, QUIET)
    for other in (replace(plan, channels=5), replace(plan, base=BASE.with_values({"seed": 1}))):
        with pytest.raises(InputError, match="recorded with other settings"):
            record.record(other, tmp_path / "table.npz", 2, QUIET)


def test_what_cannot_be_trained_is_left_out_and_not_tried_again(plan, tmp_path, monkeypatch):
    tried, original = [], record.both

    def failing(plan, values):
        tried.append(values)
        if len(tried) == 2:
            raise TrainingError("loss is nan")
        return original(plan, values)

    monkeypatch.setattr(record, "both", failing)
    record.record(plan, tmp_path / "table.npz", 3, QUIET)
    record.record(plan, tmp_path / "table.npz", 4, QUIET)
    assert len(tried) == 4 and len(arrays(tmp_path / "table.npz")["config"]) == 3


def test_views_stand_in_the_order_of_the_table_whatever_the_partition(plan, tmp_path):
    record.record(plan, tmp_path / "table.npz", 1, QUIET)
    table = arrays(tmp_path / "table.npz")
    assert (table["slide"] == plan.dataset.table.slide).all() and (table["patient"] == plan.dataset.table.patient).all()
    assert (table["label"] == plan.dataset.table.label).all()
    for name, splits in (("fold", plan.splits), ("fold_replicate", plan.other_splits)):
        fold_of = splits.fold_of()
        assert table[name].tolist() == [fold_of[slide] for slide in plan.dataset.table.slide.tolist()]


def test_a_probability_belongs_to_its_view(plan):
    """By another way to it: the report's own order, view by view."""
    config = BASE.with_values({"optim.epochs": 1, "optim.lr": 1e-2})
    found = curves(config, plan.dataset, plan.splits)[0]
    trial = record.crossval.run(config, plan.dataset, plan.splits, device=record.torch.device("cpu"))
    report = next(trial)
    expected = {int(row): value for row, value in zip(trial.out_of_fold.rows[:, 0], report.probability[:, 1], strict=True)}
    np.testing.assert_array_equal(found, np.array([expected[row] for row in range(len(found))], np.float16))


def test_a_configuration_is_the_same_whichever_were_drawn_before(plan):
    assert draw(plan.space, BASE, 3) == draw(plan.space, BASE, 3) != draw(plan.space, BASE, 4)


def test_data_of_three_classes_are_refused(monkeypatch):
    dataset = pooled()
    three = replace(dataset, table=replace(dataset.table, classes=("a", "b", "c")))
    monkeypatch.setattr(record, "prepare", lambda *_: SimpleNamespace(dataset=three))
    with pytest.raises(InputError, match="--data three: classes a, b, c; expected two"):
        record.make_plan(SimpleNamespace(views=1, set=[], space="full", data="three", channels=4), QUIET)


def test_projection_is_linear_and_keeps_lengths_on_average():
    dataset = pooled()
    wide = replace(dataset, features=np.random.default_rng(0).normal(size=(len(dataset.table), 400, 1, 1)).astype(np.float16))
    few = projected(wide, 100, seed=0).features
    assert few.shape == (len(dataset.table), 100, 1, 1)
    lengths = [np.linalg.norm(part[:, :, 0, 0].astype(float), axis=1).mean() for part in (wide.features, few)]
    assert lengths[1] == pytest.approx(lengths[0], rel=0.05)


def test_a_table_loads_with_conditional_fields_texts_and_one_that_never_varies(plan, tmp_path):
    record.record(plan, tmp_path / "table.npz", 3, QUIET)
    table = load(tmp_path / "table.npz")
    assert len(table.points) == 3 and table.scores.shape == (3, 2) and table.folds == 2 and np.isfinite(table.points).all()


def test_missing_fields_stand_at_the_low_end_and_texts_are_choices():
    rate = [10 ** -(place / 4) for place in range(17)]
    configs = [{"loss": ("focal", "entropy")[place % 2], "lr": value, "same": 3} for place, value in enumerate(rate)]
    configs = [config | ({"gamma": 1 + place / 8} if config["loss"] == "focal" else {}) for place, config in enumerate(configs)]
    points, choices = unit_cube(json.loads(json.dumps(configs)))
    assert choices == (2, 0, 0) and points.shape == (17, 3)
    assert points[:2, 0].tolist() == [1, 0] and (points[1::2, 2] == 0).all() and points[16, 2] == 1 and points[0, 2] == 0
