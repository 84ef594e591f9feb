"""Every figure is a PNG that shows each trial it should, of any study: mixed, single, failed, or without a score."""

import numpy as np
import pytest
from PIL import Image

from analysis.importance import Importance
from analysis.plots import importance_bars, learning_curves, metric_label, optimisation_history, parallel_coordinates, value_scale
from mmnet.metrics import METRICS
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
    record(2, [0.7, 0.65], "running", {"optim.lr": 1e-2, "loss.name": "focal", "loss.gamma": 2.0, "model.importance": False}),
    record(3, [0.1, 0.2], "failed", {"optim.lr": 1.0}),
]


def colours(path):
    """Share of the pixels of a PNG that are neither black nor white nor grey: axes, words and grids are."""
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 200
        return (np.ptp(np.asarray(image.convert("RGB")).astype(int), axis=-1) > 30).mean()


def assert_shows_something(path):
    """More than its axes."""
    assert colours(path) > 1e-4


@pytest.mark.parametrize("figure", FIGURES)
def test_every_trial_with_a_score_is_in_the_figure(tmp_path, figure):
    def drawn(moved=""):
        """One trial of each status between two that hold the axes in place; `moved` has another score and learning rate."""
        best, worst = (0, "done", [0.9, 0.3], 1e-4), (4, "done", [0.95, 0.9], 1e-1)
        here, there = ([0.6, 0.5], 1e-2), ([0.8, 0.7], 1e-3)
        between = [(n, status, *(there if status == moved else here)) for n, status in enumerate(("done", "stopped", "running"), start=1)]
        records = [record(n, scores, status, {"optim.lr": lr, "loss.gamma": n}) for n, status, scores, lr in (best, *between, worst)]
        FIGURES[figure](records, tmp_path / "figure.png")
        return (tmp_path / "figure.png").read_bytes()

    assert len({drawn(), *map(drawn, ("done", "stopped", "running"))}) == 4
    assert_shows_something(tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("records", "of_data"),
    [(MIXED[:1], FIGURES), ([MIXED[3], record(4, [], "running")], ["curves"]), ([], [])],
    ids=["one", "no score", "none"],
)
@pytest.mark.parametrize("figure", FIGURES)
def test_a_figure_of_few_records_or_none(tmp_path, figure, records, of_data):
    FIGURES[figure](records, tmp_path / "figure.png")
    assert (colours(tmp_path / "figure.png") > 1e-4) == (figure in of_data)


def test_a_figure_of_importance_has_longer_bars_for_more_and_words_where_there_are_none(tmp_path):
    def coloured(share):
        importance_bars(Importance(share, 3, 20), tmp_path / "figure.png", False)
        return colours(tmp_path / "figure.png")

    assert coloured({"optim.lr": 0.5, "loss.gamma": 0.5}) > 1.5 * coloured({"optim.lr": 0.9, "loss.gamma": 0.1}) > 0.01
    assert coloured({}) == 0


def test_a_value_stands_at_its_share_of_the_range_its_logarithm_over_many_decades_and_a_choice_at_its_order():
    assert [value_scale([1, 5, 3])(value) for value in (1, 3, 5)] == [0, 0.5, 1]
    assert [value_scale([1e-4, 1e-1])(value) for value in (1e-4, 10**-2.5, 1e-1)] == pytest.approx([0, 0.5, 1])
    assert [value_scale([True, False, "c"])(value) for value in (False, True, "c")] == [0, 0.5, 1]
    assert value_scale([2.0, 2.0])(2.0) == 0.5 and value_scale(["a"])("a") == 0


def test_synthetic_data_is_said_in_the_figure(tmp_path):
    for synthetic in (True, False):
        learning_curves(MIXED, "log_loss", tmp_path / f"{synthetic}.png", synthetic)
    assert (tmp_path / "True.png").read_bytes() != (tmp_path / "False.png").read_bytes()


def test_an_axis_says_which_direction_is_better():
    assert metric_label("patient_log_loss") == "out-of-fold patient log loss (nats), lower is better"
    assert all(("lower" in metric_label(metric)) == (mode == "min") for metric, mode in METRICS.items())
