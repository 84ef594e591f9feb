"""Every figure is a PNG that shows something, of any study: real, single, failed, or without a score."""

import numpy as np
import pytest
from PIL import Image

from analysis.importance import Importance
from analysis.plots import importance_bars, learning_curves, metric_label, optimisation_history, parallel_coordinates
from mmnet.metrics import METRICS
from mmnet.records import read_trials
from tests.analysis.studies import record

ORDER = ["model.pool_scales", "absent"]
FIGURES = {
    "history": lambda records, path: optimisation_history(records, "log_loss", path, True),
    "curves": lambda records, path: learning_curves(records, "log_loss", path, True),
    "parallel": lambda records, path: parallel_coordinates(records, "log_loss", path, True, ORDER),
}
MIXED = [
    record(0, [0.6, 0.5], params={"optim.lr": 1e-4, "loss.name": "focal", "loss.gamma": 2.0, "model.importance": True}),
    record(1, [0.4, None], "stopped", {"optim.lr": 1e-1, "loss.name": "cross_entropy", "model.importance": False}),
    record(2, [0.7], "running", {"optim.lr": 1e-2, "loss.name": "focal", "loss.gamma": 2.0, "model.importance": False}),
    record(3, [0.1], "failed", {"optim.lr": 1.0}),
]


def assert_shows_something(path):
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 200
        assert np.asarray(image.convert("L")).std() > 1


@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_of_a_real_study(study, figure):
    FIGURES[figure](read_trials(study), study / "figure.png")
    assert_shows_something(study / "figure.png")


@pytest.mark.parametrize(
    "records", [MIXED, MIXED[:1], MIXED[3:], [record(0, [], "running")], []], ids=["mixed", "one", "failed", "no epoch", "none"]
)
@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_of_any_records(tmp_path, figure, records):
    FIGURES[figure](records, tmp_path / "figure.png")
    assert_shows_something(tmp_path / "figure.png")


@pytest.mark.parametrize(
    "importance", [Importance({"optim.lr": 0.7, "loss.gamma": 0.3}, 3, 20), Importance({}, 0, 4)], ids=["some", "too few trials"]
)
def test_a_figure_of_importance(tmp_path, importance):
    importance_bars(importance, tmp_path / "figure.png", False)
    assert_shows_something(tmp_path / "figure.png")


def test_synthetic_data_is_said_in_the_figure(tmp_path):
    for synthetic in (True, False):
        learning_curves(MIXED, "log_loss", tmp_path / f"{synthetic}.png", synthetic)
    assert (tmp_path / "True.png").read_bytes() != (tmp_path / "False.png").read_bytes()


def test_an_axis_says_which_direction_is_better():
    assert metric_label("patient_log_loss") == "out-of-fold patient log loss (nats), lower is better"
    assert all(("lower" in metric_label(metric)) == (mode == "min") for metric, mode in METRICS.items())
