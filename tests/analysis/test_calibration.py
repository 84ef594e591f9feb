"""Bins and errors by hand, temperatures that were planted, folds that never fit their own, verdicts for each way it can go."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import brier_score_loss, log_loss

from analysis import calibration
from analysis.bootstrap import Interval
from analysis.calibration import (
    Bin,
    bars,
    bin_of,
    calibration_error,
    chance_calibration_error,
    cross_fitted_temperature,
    fit_temperature,
    judge,
    logit,
    plain_brier,
    plain_log_loss,
    print_calibration,
    reliability,
    scale,
    share_interval,
    verdict,
    write_calibration,
)
from analysis.predictions import Level, study_predictions
from tests.analysis.test_plots import assert_shows_something

UNSURE, NO_BIAS = Interval(0.0, -0.1, 0.1), Interval(0.0, -0.1, 0.1)


def honest(count=20000, seed=0):
    """Probabilities that are true, and labels drawn by them."""
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0.02, 0.98, count)
    return probability, (rng.random(count) < probability).astype(int)


def level_of(probability, label, patient, fold):
    return Level(probability, label, patient, patient, fold, np.zeros_like(label))


def overconfident(patients=60, each=5, temperature=3.0):
    """A level of true probabilities sharpened: what it needs is a temperature of 3."""
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.uniform(0.05, 0.95, patients), each)
    label = np.repeat((rng.random(patients) < truth[::each]).astype(int), each)
    patient = np.repeat([f"c{number:02d}" for number in range(patients)], each)
    return level_of(scale(truth, 1 / temperature), label, patient, np.repeat(np.arange(patients) % 3, each))


@pytest.fixture(scope="module")
def softened():
    """(an overconfident level, its judgement). Read only."""
    level = overconfident()
    return level, judge(level, np.random.default_rng(0))


@pytest.fixture(scope="module")
def written(trained_study, tmp_path_factory):
    """(a study, its calibration). Read only."""
    study = shutil.copytree(trained_study, tmp_path_factory.mktemp("calibration") / "tiny")
    return study, write_calibration(study)


def test_bins_of_equal_count_by_hand():
    probability = np.array([0.9, 0.1, 0.6, 0.2, 0.4, 0.8])
    label = np.array([1, 0, 0, 1, 0, 1])
    assert bin_of(probability, 3).tolist() == [2, 0, 1, 0, 1, 2]
    expected = [Bin(0.15, 0.5, 2), Bin(0.5, 0.0, 2), Bin(0.85, 1.0, 2)]
    assert np.array(reliability(probability, label, 3)) == pytest.approx(np.array(expected))


def test_the_calibration_error_of_those_bins_by_hand():
    probability, label = np.array([0.9, 0.1, 0.6, 0.2, 0.4, 0.8]), np.array([1, 0, 0, 1, 0, 1])
    assert calibration_error(probability, label, 3) == pytest.approx((2 * 0.35 + 2 * 0.5 + 2 * 0.15) / 6)


def test_bins_of_unequal_count_weigh_by_their_units():
    probability, label = np.array([0.2, 0.2, 0.2, 0.2, 0.7]), np.array([0, 0, 1, 0, 1])
    assert calibration_error(probability, label, 2) == pytest.approx((4 * 0.05 + 1 * 0.3) / 5)


@pytest.mark.parametrize("bins", [2, 3, 5, 10])
def test_equal_probabilities_stay_in_one_bin_and_no_unit_is_lost(bins):
    probability = np.repeat([0.1, 0.3, 0.5, 0.9], [1, 7, 2, 4])
    member = bin_of(probability, bins)
    assert all(len(set(member[probability == value].tolist())) == 1 for value in (0.1, 0.3, 0.5, 0.9))
    assert set(member.tolist()) == set(range(member.max() + 1))
    found = reliability(probability, np.zeros(14, dtype=int), bins)
    assert sum(content.units for content in found) == 14 and len(found) <= bins
    assert [content.probability for content in found] == sorted(content.probability for content in found)


@pytest.mark.parametrize("count", [1, 4, 30])
def test_one_probability_for_all_is_one_bin(count):
    assert reliability(np.full(count, 0.3), np.ones(count, dtype=int)) == [Bin(pytest.approx(0.3), 1.0, count)]


def test_fewer_units_than_bins_have_a_bin_each():
    assert [content.units for content in reliability(np.array([0.2, 0.8, 0.5]), np.array([0, 1, 1]))] == [1, 1, 1]


def test_chance_makes_true_probabilities_err_as_much_as_the_formula_says():
    probability = np.linspace(0.005, 0.995, 400)
    found = chance_calibration_error(probability, np.random.default_rng(0))
    assert found == pytest.approx(np.sqrt(10 / 400) / 3, rel=0.1)
    assert chance_calibration_error(np.zeros(50), np.random.default_rng(0)) == 0


def test_plain_scores_are_those_of_sklearn():
    probability, label = honest(50)
    assert plain_log_loss(probability, label) == pytest.approx(log_loss(label, probability))
    assert plain_brier(probability, label) == pytest.approx(brier_score_loss(label, probability))


def test_a_sure_mistake_costs_much_but_not_everything():
    assert 15 < plain_log_loss(np.array([0.0]), np.array([1])) < 17


@pytest.mark.parametrize("planted", [0.4, 1.0, 2.5])
def test_a_planted_temperature_is_found(planted):
    probability, label = honest()
    assert fit_temperature(scale(probability, 1 / planted), label) == pytest.approx(planted, rel=0.05)


def test_a_fitted_temperature_is_a_minimum_of_the_log_loss():
    probability, label = honest(60, seed=3)
    found = fit_temperature(probability, label)
    at = [plain_log_loss(scale(probability, found * factor), label) for factor in (0.98, 1, 1.02)]
    assert at[1] < min(at[0], at[2])


def test_scaling_by_hand():
    assert scale(np.array([0.8, 0.5, 0.2]), 2.0) == pytest.approx([2 / 3, 0.5, 1 / 3])  # odds 4, 1, 1/4 to their roots
    assert logit(scale(np.array([0.3]), 1.0)) == pytest.approx(logit(np.array([0.3])))
    assert np.isfinite(scale(np.array([0.0, 1.0]), 0.05)).all()


def test_a_fold_never_fits_its_own_temperature():
    probability, label = honest(300)
    fold = np.arange(300) % 3
    before = cross_fitted_temperature(probability, label, fold)
    for changed in (
        cross_fitted_temperature(probability, np.where(fold == 1, 1 - label, label), fold),
        cross_fitted_temperature(np.where(fold == 1, scale(probability, 0.3), probability), label, fold),
    ):
        assert (changed[fold == 1] == before[fold == 1]).all()
        assert (np.abs(changed - before)[fold != 1] > 0.1).all()


def test_a_folds_temperature_is_that_of_the_others():
    probability, label = honest(300)
    fold = np.arange(300) % 3
    found = cross_fitted_temperature(probability, label, fold)
    for number in range(3):
        assert set(found[fold == number].tolist()) == {fit_temperature(probability[fold != number], label[fold != number])}


def test_wilson_interval_of_ten_patients_by_hand():
    assert share_interval(0.8, np.arange(10)) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_images_of_a_patient_do_not_make_the_interval_narrower():
    assert share_interval(0.8, np.repeat(np.arange(10), 50)) == pytest.approx(share_interval(0.8, np.arange(10)))


def test_uneven_patients_are_worth_fewer():
    # 9 images of one patient, 1 of another: (10^2) / (81 + 1) = 1.22 patients; Wilson's interval of 1/2 by n is 1.96 / sqrt(n + 1.96^2) wide
    low, high = share_interval(0.5, np.repeat([0, 1], (9, 1)))
    assert (low + high) / 2 == pytest.approx(0.5) and high - low == pytest.approx(1.96 / np.sqrt(1.2195 + 3.8415), abs=1e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_agreement_of_few_patients_is_not_certainty(share):
    low, high = share_interval(share, np.arange(5))
    assert 0 <= low <= share <= high <= 1 and high - low == pytest.approx(3.8415 / (5 + 3.8415), abs=1e-4)


@pytest.mark.parametrize(("units", "bins"), [(6, 2), (35, 5), (610, 10)])
def test_a_figure_has_as_many_bins_as_its_units_can_fill(units, bins):
    label = np.arange(units) % 2
    found = bars(np.linspace(0.01, 0.99, units), level_of(np.zeros(units), label, np.arange(units).astype(str), label))
    assert len(found) == bins and sum(row["units"] for row in found) == units
    assert all(row["low"] <= row["observed"] <= row["high"] and row["patients"] == row["units"] for row in found)


def test_scaling_helps_an_overconfident_network(softened):
    _, found = softened
    assert found["temperature"] > 2
    assert found["lowest_temperature"] <= found["temperature"] <= found["highest_temperature"]
    for row in found["scores"].values():
        assert row["difference"]["value"] == pytest.approx(row["after"] - row["before"]) and row["after"] < row["before"]
    assert found["scores"]["log_loss"]["difference"]["high"] < 0
    assert found["verdict"].startswith("scaling helps")


def test_after_is_scaled_by_the_other_folds(softened):
    level, judged = softened
    scaled = scale(level.probability, cross_fitted_temperature(level.probability, level.label, level.fold))
    found = judged["scores"]["log_loss"]
    assert found["before"] == pytest.approx(log_loss(level.label, level.probability))
    assert found["after"] == pytest.approx(log_loss(level.label, scaled))


def test_the_patient_is_the_unit_of_an_interval(monkeypatch):
    monkeypatch.setattr(calibration, "RESAMPLES", 300)
    level = overconfident(patients=30, each=8)

    def width(patient):
        difference = judge(level._replace(patient=patient), np.random.default_rng(0))["scores"]["log_loss"]["difference"]
        return difference["high"] - difference["low"]

    assert width(level.patient) > 2 * width(np.arange(240).astype(str))  # sqrt(8) by theory


@pytest.mark.parametrize(
    ("difference", "bias", "temperature", "expected"),
    [
        (Interval(-0.1, -0.2, -0.01), NO_BIAS, 2.0, ["scaling helps"]),
        (Interval(0.1, 0.01, 0.2), NO_BIAS, 2.0, ["does not help: it raises", "leave the probabilities"]),
        (UNSURE, NO_BIAS, 2.0, ["does not help measurably", "leave the probabilities"]),
        (UNSURE, Interval(-0.1, -0.2, -0.01), 2.0, ["too low on the whole"]),
        (UNSURE, Interval(0.1, 0.01, 0.2), 2.0, ["too high on the whole"]),
        (UNSURE, NO_BIAS, 0.05, ["limit of its range"]),
        (UNSURE, NO_BIAS, 20.0, ["limit of its range"]),
    ],
)
def test_the_verdict_says_it_in_words(difference, bias, temperature, expected):
    words = verdict(difference, bias, np.array([1.0, temperature]))
    assert all(part in words for part in expected)
    assert ("on the whole" in words) == (bias != NO_BIAS) and ("limit" in words) == (temperature != 2.0)


def test_a_separated_set_drives_the_temperature_to_its_limit_and_the_verdict_says_so():
    label = np.arange(24) % 2
    level = level_of(np.where(label == 1, 0.6, 0.4), label, np.arange(24).astype(str), np.arange(24) // 8)
    assert "limit of its range" in judge(level, np.random.default_rng(0))["verdict"]


def test_files_and_figure_of_a_study(written):
    study, report = written
    assert_shows_something(study / "plots" / "reliability.png")
    assert (study / "plots" / "reliability.pdf").read_bytes().startswith(b"%PDF")
    assert json.loads((study / "results" / "calibration.json").read_text()) == report
    scores = list(csv.DictReader((study / "results" / "calibration.csv").open()))
    assert [(row["level"], row["score"]) for row in scores] == [
        (level, score) for level in ("view", "patient") for score in calibration.SCORES
    ]
    level = study_predictions(study).level("patient")
    assert float(scores[-1]["before"]) == pytest.approx(np.mean((level.probability - level.label) ** 2), abs=1e-6)
    points = list(csv.DictReader((study / "results" / "reliability.csv").open()))
    for name in ("view", "patient"):
        for when in ("before", "after"):
            units = [int(row["units"]) for row in points if (row["level"], row["scaling"]) == (name, when)]
            assert sum(units) == report["levels"][name]["units"]
    assert report["levels"]["patient"]["units"] == report["levels"]["view"]["patients"] == 8


def test_a_study_gives_the_same_numbers_again(written, study):
    assert write_calibration(study) == written[1]


def test_the_printed_tables_fit_80_columns_and_say_the_verdict(written):
    _, report = written
    console = Console(file=io.StringIO(), width=80)
    print_calibration(report, console)
    text = console.file.getvalue()
    assert "SYNTHETIC DATA" in text and "after − before (95 %)" in text and "…" not in text
    assert text.count("scaling of 8 patients") == 1 and all(report["levels"][name]["verdict"] in text for name in ("view", "patient"))
