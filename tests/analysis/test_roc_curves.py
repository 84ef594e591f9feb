"""Curves by hand and against scikit-learn, areas that are those of the table, bands over patients."""

import copy
import csv
import io
import shutil

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import auc as area_under
from sklearn.metrics import precision_recall_curve, roc_curve

from analysis import roc_curves
from analysis.bootstrap import resamples
from analysis.performance import average_precision, performance_intervals
from analysis.predictions import LEVELS, Level, chosen_trial, study_predictions
from analysis.roc_curves import (
    KINDS,
    areas_report,
    bands,
    level_curves,
    pr_points,
    precision_at,
    print_roc_curves,
    roc_points,
    sensitivity_at,
    study_curves,
    write_roc_curves,
)
from data.views import MISSING
from mmnet.metrics import auc
from tests.analysis.studies import CONFIG
from tests.analysis.test_plots import assert_shows_something

PROBABILITY, LABEL = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([1, 0, 1, 0, 1])
TIED = np.array([0.9, 0.5, 0.5, 0.5, 0.1])


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roc_curves, "RESAMPLES", 40)
        yield


@pytest.fixture(scope="module")
def written(trained_study, tmp_path_factory):
    """(study, its report) with curves and figures. Read only."""
    study = shutil.copytree(trained_study, tmp_path_factory.mktemp("curves") / "tiny")
    return study, write_roc_curves(study)


def noisy(count=80, seed=0, digits=2):
    """Predictions with ties, of 20 patients."""
    rng = np.random.default_rng(seed)
    patient = np.arange(count) % 20
    label = (patient % 2).astype(int)
    probability = np.clip(0.4 + 0.2 * label + rng.normal(0, 0.25, count), 0, 1).round(digits)
    names = np.array([f"c{number:02d}" for number in patient])
    return Level(probability, label, names, names, patient % 3, np.where(np.arange(count) < count // 2, 40, 400))


def draws_of(level, count=200):
    return [rows for rows, _ in resamples(level.label, level.patient, count, np.random.default_rng(0))]


def test_roc_points_by_hand():
    false, true = roc_points(PROBABILITY, LABEL)
    assert false.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert true == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])


def test_ties_are_one_slanted_stretch():
    false, true = roc_points(TIED, LABEL)  # 0.5 holds two benign, one malignant
    assert false.tolist() == [0, 0, 1, 1] and true == pytest.approx([0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("digits", [1, 2, 8])
def test_roc_points_are_those_of_sklearn(digits):
    level = noisy(digits=digits)
    false, true, _ = roc_curve(level.label, level.probability, drop_intermediate=True)
    found = roc_points(level.probability, level.label)
    assert found[0] == pytest.approx(false) and found[1] == pytest.approx(true)
    assert area_under(*found) == pytest.approx(auc(level.probability, level.label))


def test_pr_points_by_hand():
    recall, precision = pr_points(PROBABILITY, LABEL)
    assert recall == pytest.approx([0, 1 / 3, 2 / 3, 1])  # begins level with the first point
    assert precision == pytest.approx([1, 1, 2 / 3, 3 / 5])


def test_a_pr_curve_does_not_promise_precision_1_where_the_first_call_is_wrong():
    recall, precision = pr_points(PROBABILITY, 1 - LABEL)
    assert recall.tolist() == [0, 0.5, 1] and precision == pytest.approx([1 / 2, 1 / 2, 1 / 2])


@pytest.mark.parametrize("digits", [1, 2, 8])
def test_pr_points_are_the_best_of_sklearns_at_each_recall(digits):
    level = noisy(digits=digits)
    precision, recall, _ = precision_recall_curve(level.label, level.probability)
    found = pr_points(level.probability, level.label)
    expected = np.unique(recall[recall > 0])
    assert found[0][1:] == pytest.approx(expected)
    assert found[1][1:] == pytest.approx([precision[recall == value].max() for value in expected])


@pytest.mark.parametrize("digits", [1, 2, 8])
def test_the_area_under_the_steps_is_the_average_precision(digits):
    level = noisy(digits=digits)
    recall, precision = pr_points(level.probability, level.label)
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(average_precision(level.probability, level.label))


def test_sensitivity_at_a_rate_is_the_highest_reached_there():
    points = roc_points(PROBABILITY, LABEL)
    assert sensitivity_at(np.array([0, 0.2, 0.5, 0.7, 1]), points) == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert sensitivity_at(np.array([0.5]), roc_points(TIED, LABEL)) == pytest.approx([1 / 2])  # half way across the ties


def test_precision_at_a_recall_is_that_of_the_threshold_that_reaches_it():
    points = pr_points(PROBABILITY, LABEL)
    assert precision_at(np.array([0, 0.2, 1 / 3, 0.34, 0.9, 1]), points) == pytest.approx([1, 1, 1, 2 / 3, 3 / 5, 3 / 5])


@pytest.mark.parametrize("key", KINDS)
def test_a_band_holds_quantiles_of_the_resampled_curves(key):
    level, kind = noisy(), KINDS[key]
    draws = draws_of(level)
    curve = bands(kind, level, draws)
    for at in (0.1, 0.5, 0.9):
        drawn = [kind.at(np.array([at]), kind.points(level.probability[rows], level.label[rows]))[0] for rows in draws]
        low, high = np.quantile(drawn, [0.025, 0.975])
        here = curve.x == at
        assert here.any() and set(curve.low[here]) == {low} and set(curve.high[here]) == {high} and low < high
    areas = [kind.measure(level.probability[rows], level.label[rows]) for rows in draws]
    assert curve.area == pytest.approx((kind.measure(level.probability, level.label), *np.quantile(areas, [0.025, 0.975])))


@pytest.mark.parametrize("key", KINDS)
def test_a_curve_with_a_band_is_still_the_curve(key):
    level, kind = noisy(), KINDS[key]
    curve, points = bands(kind, level, draws_of(level, 20)), kind.points(level.probability, level.label)
    assert (np.diff(curve.x) >= 0).all()
    assert set(zip(*points, strict=True)) <= set(zip(curve.x, curve.y, strict=True))
    area = area_under(curve.x, curve.y) if key == "roc" else (np.diff(curve.x) * curve.y[1:]).sum()
    assert area == pytest.approx(curve.area.value)


def test_without_spread_a_band_is_the_curve():
    level = noisy()
    curve = bands(KINDS["roc"], level, [np.arange(80)] * 3)
    top = np.array([curve.y[curve.x == x].max() for x in curve.x])
    assert curve.low == pytest.approx(top) and curve.high == pytest.approx(top)


def test_a_fold_of_one_class_has_no_curve():
    level = noisy()
    one_class = level._replace(fold=np.where(level.label == 1, level.fold, 0))  # folds 2 and 3 hold malignant only
    assert list(level_curves(level, np.random.default_rng(0))) == ["fold 1", "fold 2", "fold 3", "pooled", "40X", "400X"]
    assert list(level_curves(one_class, np.random.default_rng(0))) == ["fold 1", "pooled", "40X", "400X"]


def test_a_magnification_is_the_curve_of_its_images_and_needs_both_classes():
    level = noisy()
    found = level_curves(level, np.random.default_rng(0))["400X"]["roc"].area.value
    assert found == auc(level.probability[40:], level.label[40:])
    only_malignant = level._replace(magnification=np.where(level.label == 1, level.magnification, 40))
    assert "400X" not in level_curves(only_malignant, np.random.default_rng(0))


def test_a_magnification_is_resampled_by_the_patients_drawn_of_all_images():
    level, areas = noisy(), []
    for rows, _ in resamples(level.label, level.patient, 40, np.random.default_rng(0)):
        rows = rows[level.magnification[rows] == 400]
        areas.append(auc(level.probability[rows], level.label[rows]))
    found = level_curves(level, np.random.default_rng(0))["400X"]["roc"].area
    assert found[1:] == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])))


def test_equal_predictions_at_two_magnifications_have_equal_bands():
    half = noisy(40)
    level = Level(*(np.concatenate([column, column]) for column in half[:5]), np.repeat([40, 400], 40))
    curves = level_curves(level, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(curves["40X"]["pr"], curves["400X"]["pr"], strict=True))


def test_pooled_intervals_are_those_of_the_performance_table(written):
    study, report = written
    predictions = study_predictions(study)
    for name in LEVELS:
        expected = performance_intervals(predictions.level(name), rng=np.random.default_rng(0), count=40)
        for area in ("auc", "pr_auc"):
            assert report["levels"][name]["pooled"][area] == pytest.approx(expected[area]._asdict(), abs=1e-12)


def test_files_and_figures_of_a_study(written):
    study, report = written
    for name in ("roc_curves", "pr_curves"):
        assert_shows_something(study / "plots" / f"{name}.png")
        assert (study / "plots" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    rows = list(csv.DictReader((study / "results" / "roc_curves.csv").open()))
    assert list(rows[0]) == ["curve", "level", "part", "x", "y", "low", "high"]
    parts = ["fold 1", "fold 2", "pooled"]
    assert {(row["level"], row["part"]) for row in rows if row["level"] != "image"} == {(n, p) for n in ("view", "patient") for p in parts}
    assert list(report["levels"]["image"]) == [*parts, "40X", "100X", "200X", "400X"]
    assert all((row["low"] == "nan") == row["part"].startswith("fold") for row in rows)


@pytest.mark.parametrize("key", KINDS)
def test_the_table_redraws_the_pooled_curve(written, key):
    study, _ = written
    with (study / "results" / "roc_curves.csv").open() as file:
        found = {
            (float(row["x"]), float(row["y"]))
            for row in csv.DictReader(file)
            if (row["curve"], row["level"], row["part"]) == (key, "patient", "pooled")
        }
    level = study_predictions(study).level("patient")
    for x, y in zip(*KINDS[key].points(level.probability, level.label), strict=True):
        assert min(abs(x - a) + abs(y - b) for a, b in found) < 2e-6


def test_a_study_gives_the_same_numbers_again(written):
    study, report = written
    again, other = (areas_report(study_curves(study_predictions(study), seed), True) for seed in (CONFIG.seed, CONFIG.seed + 1))
    assert again == report != other


def test_figures_of_a_study_with_folds_of_one_class_and_of_one_magnification(study):
    path = chosen_trial(study).folder / "predictions.npz"
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in saved.files}
    np.savez(path, **arrays | {"fold": arrays["label"], "rows": np.where([False, False, True, False], arrays["rows"], MISSING)})
    report = write_roc_curves(study)
    assert list(report["levels"]["patient"]) == ["pooled"] and list(report["levels"]["image"]) == ["pooled", "200X"]
    assert_shows_something(study / "plots" / "roc_curves.png")


def test_the_printed_table_has_pooled_levels_and_magnifications(written):
    _, report = written
    console = Console(file=io.StringIO(), width=80)
    print_roc_curves(report, console)
    text = console.file.getvalue()
    assert "SYNTHETIC DATA" in text and "fold 1" not in text and "…" not in text
    for name in ("views pooled", "patients pooled", "images 40X", "images 400X"):
        assert name in text
    assert f"{report['levels']['view']['pooled']['auc']['value']:.3f}" in text


def test_an_interval_without_width_is_explained(written):
    report = copy.deepcopy(written[1])
    for width in (0.0, 0.1):
        report["levels"]["patient"]["pooled"]["auc"] = {"value": 1.0, "low": 1.0 - width, "high": 1.0}
        for area in (a for parts in report["levels"].values() for p, a in parts.items() if p != "pooled"):
            area["auc"] = {"value": 0.5, "low": 0.4, "high": 0.6}
        for level in ("view", "image"):
            report["levels"][level]["pooled"]["auc"] = {"value": 0.5, "low": 0.4, "high": 0.6}
        console = Console(file=io.StringIO(), width=80)
        print_roc_curves(report, console)
        assert ("does not mean certainty" in console.file.getvalue()) == (width == 0)
