"""Metrics are scikit-learn's, no number where they are not defined, and their intervals take the patient as the unit."""

import math

import numpy as np
import pytest
from sklearn import metrics as reference

from analysis.bootstrap import Interval
from analysis.performance import (
    NAMES,
    average_precision,
    by_fold,
    decision_metrics,
    performance,
    performance_intervals,
    quantiles,
    recognition_rate,
)
from analysis.predictions import Level


def level(probability, label, patient=None, fold=None) -> Level:
    """A level of images; each is a patient and a slide of its own unless told."""
    probability, label = np.asarray(probability, dtype=float), np.asarray(label)
    patient = np.arange(len(label)) if patient is None else np.asarray(patient)
    fold = np.zeros(len(label), dtype=int) if fold is None else np.asarray(fold)
    return Level(probability, label, patient, patient, fold, np.full(len(label), 40))


def random_level(seed: int, patients: int = 20, images: int = 3, malignant: int | None = None) -> Level:
    """Each patient has one slide with so many images; probabilities of one decimal, so that there are ties."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(patients) < (patients // 2 if malignant is None else malignant), images).astype(int)
    patient = np.repeat(np.arange(patients), images)
    probability = np.clip(0.4 + 0.2 * label + rng.normal(0, 0.2, patients)[patient] + rng.normal(0, 0.1, len(patient)), 0, 1).round(1)
    return level(probability, label, patient, patient % 4)


# values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_every_metric_is_that_of_scikit_learn(seed, threshold):
    found = random_level(seed)
    probability, label = found.probability, found.label
    called = (probability >= threshold).astype(int)
    expected = {
        "accuracy": reference.accuracy_score(label, called),
        "balanced_accuracy": reference.balanced_accuracy_score(label, called),
        "sensitivity": reference.recall_score(label, called),
        "specificity": reference.recall_score(label, called, pos_label=0),
        "precision": reference.precision_score(label, called),
        "f1": reference.f1_score(label, called),
        "kappa": reference.cohen_kappa_score(label, called),
        "auc": reference.roc_auc_score(label, probability),
        "pr_auc": reference.average_precision_score(label, probability),
        "brier": reference.brier_score_loss(label, probability),
    }
    values = performance(found, threshold)
    assert set(values) == set(NAMES) == set(expected) | {"calibration_error", "recognition_rate"}
    assert {name: values[name] for name in expected} == pytest.approx(expected)


def test_average_precision_calls_equal_probabilities_together():
    probability, label = np.array([0.5, 0.5, 0.5, 0.1]), np.array([0, 1, 0, 1])
    assert average_precision(probability, label) == pytest.approx(0.5 * 1 / 3 + 0.5 * 2 / 4)
    assert average_precision(probability[::-1], label[::-1]) == average_precision(probability, label)


def test_a_probability_at_the_threshold_is_called_malignant():
    assert performance(level([0.5, 0.4], [1, 0]))["accuracy"] == 1.0
    assert performance(level([0.5, 0.4], [1, 0]), threshold=0.51)["sensitivity"] == 0.0


@pytest.mark.parametrize(
    ("called", "label", "undefined"),
    [
        ([True, False], [0, 0], {"sensitivity", "balanced_accuracy"}),
        ([True, False], [1, 1], {"specificity", "balanced_accuracy"}),
        ([False, False], [0, 1], {"precision"}),
        ([False, False], [0, 0], {"sensitivity", "balanced_accuracy", "precision", "f1", "kappa"}),
        ([True, True], [1, 1], {"specificity", "balanced_accuracy", "kappa"}),
        ([True, False], [1, 0], set()),
    ],
)
def test_what_is_not_defined_is_no_number(called, label, undefined):
    values = decision_metrics(np.array(called), np.array(label))
    assert {name for name, value in values.items() if math.isnan(value)} == undefined


@pytest.mark.parametrize("label", [[0, 0, 0], [1, 1, 1]])
def test_curves_of_one_class_have_no_area(label):
    values = performance(level([0.1, 0.6, 0.7], label))
    assert math.isnan(values["auc"]) and math.isnan(values["pr_auc"])


def test_the_recognition_rate_is_the_mean_of_the_slides_shares():
    slide = np.array(["a"] * 4 + ["b"] + ["c"] * 2)  # 3 of 4 right, 1 of 1, 0 of 2
    label = np.array([1, 1, 1, 1, 0, 0, 0])
    decision = np.array([True, True, False, True, False, True, True])
    assert recognition_rate(decision, label, slide) == pytest.approx((3 / 4 + 1 + 0) / 3)
    order = np.random.default_rng(0).permutation(7)
    assert recognition_rate(decision[order], label[order], slide[order]) == pytest.approx(7 / 12)
    images = level(decision * 0.8 + 0.1, label, patient=["p"] * 7)._replace(slide=slide)
    assert performance(images)["recognition_rate"] == pytest.approx(7 / 12)  # whatever patients the slides are of


def test_each_fold_is_judged_by_its_own_predictions():
    whole = random_level(0)
    folds = by_fold(whole)
    assert len(folds) == 4
    for number, values in enumerate(folds):
        here = whole.fold == number
        assert values == performance(level(whole.probability[here], whole.label[here], whole.patient[here]))


# intervals -----------------------------------------------------------------------------------------------------------


def intervals(found: Level, count: int = 200, **options) -> dict[str, Interval]:
    return performance_intervals(found, rng=np.random.default_rng(1), count=count, **options)


def test_an_interval_holds_its_value_has_a_width_and_repeats_by_seed():
    found = intervals(random_level(0))
    assert set(found) == set(NAMES)
    assert {name: interval.value for name, interval in found.items()} == performance(random_level(0))
    error = found.pop("calibration_error")  # which resampling pushes up
    assert np.isnan([error.low, error.high]).all()
    for interval in found.values():
        assert interval.low < interval.value < interval.high
    again = intervals(random_level(0))
    assert {name: again[name] for name in found} == found


def test_more_confidence_is_a_wider_interval():
    narrow, wide = (intervals(random_level(0), confidence=confidence)["auc"] for confidence in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_ten_times_the_images_of_the_same_patients_do_not_narrow_an_interval():
    few = random_level(0)
    many = few.select(np.tile(np.arange(len(few.label)), 10))
    once, repeated = intervals(few), intervals(many)
    for name in set(NAMES) - {"calibration_error"}:  # its bins hold so many images each
        assert repeated[name] == pytest.approx(once[name])


def test_no_resample_loses_a_class_or_changes_its_share_of_patients():
    patients = random_level(0, patients=12, malignant=1)
    found = intervals(patients._replace(probability=np.full(len(patients.label), 0.1)), count=50)  # all are called benign
    assert found["accuracy"] == pytest.approx((11 / 12,) * 3) and found["sensitivity"] == (0, 0, 0)


def test_a_patient_drawn_twice_is_two_patients():
    found = intervals(random_level(0, patients=12, images=1), count=50)
    assert found["recognition_rate"] == pytest.approx(found["accuracy"])  # which takes each image drawn as another one
    assert found["accuracy"].low < found["accuracy"].high


def test_quantiles_pass_over_resamples_without_a_number():
    drawn = [{"a": float(value), "b": math.nan} for value in range(101)] + [{"a": math.nan, "b": math.nan}]
    found = quantiles({"a": 40.0, "b": 1.0}, drawn, confidence=0.9)
    assert found["a"] == pytest.approx(Interval(40.0, 5.0, 95.0))
    assert found["b"].value == 1.0 and math.isnan(found["b"].low) and math.isnan(found["b"].high)
