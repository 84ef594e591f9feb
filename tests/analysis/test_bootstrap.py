"""The patient is the unit: resamples keep it whole, and intervals are as wide as so many patients deserve."""

import math

import numpy as np
import pytest

from analysis.bootstrap import (
    bootstrap_interval,
    degrees_of_freedom,
    draw_patients,
    influence_parts,
    jackknife_weights,
    paired_difference,
    resamples,
)
from mmnet.metrics import METRICS, evaluate_one

# 10 patients of 1 to 4 views
PATIENT = np.repeat([f"p{n}" for n in range(10)], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2])
LABEL = (np.char.lstrip(PATIENT, "p").astype(int) < 4).astype(int)
PROBABILITY = np.clip(0.45 + 0.1 * LABEL + np.random.default_rng(0).normal(0, 0.3, len(PATIENT)), 0.01, 0.99)


def rng():
    return np.random.default_rng(1)


def interval(metric, count=200, **options):
    return bootstrap_interval(metric, PROBABILITY, LABEL, PATIENT, rng=rng(), count=count, **options)


def test_a_resample_draws_whole_patients_as_many_of_each_class_as_there_are():
    for rows, draw in resamples(LABEL, PATIENT, 50, rng()):
        assert draw.max() == 9
        drawn = [rows[draw == number] for number in range(10)]
        for of_patient in drawn:
            name = PATIENT[of_patient[0]]
            assert of_patient.tolist() == np.flatnonzero(name == PATIENT).tolist()
        assert sum(LABEL[of_patient[0]] for of_patient in drawn) == 4


def test_resamples_draw_with_replacement_and_every_patient_sometime():
    names = [[PATIENT[rows[draw == number][0]] for number in range(10)] for rows, draw in resamples(LABEL, PATIENT, 50, rng())]
    assert any(len(set(drawn)) < 10 for drawn in names)
    assert set(sum(names, [])) == set(PATIENT.tolist())


@pytest.mark.parametrize("metric", METRICS)
def test_an_interval_holds_its_value_and_repeats_by_seed(metric):
    found = interval(metric)
    assert found.value == pytest.approx(evaluate_one(metric, PROBABILITY, LABEL, PATIENT), rel=1e-12)
    assert found.low <= found.value <= found.high and found.low < found.high
    assert interval(metric) == found


def test_a_higher_level_is_a_wider_interval():
    narrow, wide = interval("log_loss", level=0.5), interval("log_loss", level=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("metric", ["balanced_accuracy", "patient_balanced_accuracy"])
@pytest.mark.parametrize("views", [1, 5])
def test_the_width_is_that_of_theory_for_so_many_patients_however_many_views_they_have(metric, views):
    right = np.tile([True] * 14 + [False] * 6, 2)  # 14 of 20 in each class
    label = np.repeat([0, 1], 20)
    arrays = [np.repeat(array, views) for array in (np.where(right, label, 1 - label) * 0.8 + 0.1, label, np.arange(40))]
    found = bootstrap_interval(metric, *arrays, rng=rng(), count=2000)
    standard_error = math.sqrt(0.7 * 0.3 / 20) / math.sqrt(2)
    assert found.value == pytest.approx(0.7)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * standard_error, rel=0.1)


@pytest.mark.parametrize("metric", ["log_loss", "auc", "patient_auc"])
def test_identical_predictions_differ_by_exactly_nothing(metric):
    assert paired_difference(metric, PROBABILITY, PROBABILITY.copy(), LABEL, PATIENT, rng=rng(), count=50) == (0.0, 0.0, 0.0)


def test_a_difference_is_first_minus_second_and_turns_with_them():
    worse = np.clip(PROBABILITY - 0.4 * (2 * LABEL - 1), 0.01, 0.99)
    forward, back = (
        paired_difference("log_loss", *pair, LABEL, PATIENT, rng=rng(), count=200)
        for pair in ((worse, PROBABILITY), (PROBABILITY, worse))
    )
    assert 0 < forward.low < forward.value < forward.high
    assert back == pytest.approx((-forward.value, -forward.high, -forward.low))


def test_the_interval_of_a_difference_is_that_of_theory_for_few_patients():
    """5 patients a class: the first is wrong in 2 of each, the second in none; Student's t, since two variances of 5 patients are not known."""
    label = np.repeat([0, 1], 5)
    wrong = np.tile([True, True, False, False, False], 2)
    right = label * 0.8 + 0.1
    patient, first = np.arange(10), np.where(wrong, 1 - right, right)
    found = paired_difference("accuracy", first, right, label, patient, rng=rng(), count=5000)
    standard_error = math.sqrt(0.4 * 0.6 / 4) / math.sqrt(2)
    assert found.value == pytest.approx(-0.4)
    reach = 2.306 * standard_error  # 97.5 % quantile of 8 degrees of freedom; of the normal distribution it is 1.960
    assert (found.low, found.high) == pytest.approx((-0.4 - reach, -0.4 + reach), abs=0.02)


def test_pairing_removes_what_both_share():
    shifted = np.clip(PROBABILITY + 0.01, 0.01, 0.99)
    paired = paired_difference("log_loss", PROBABILITY, shifted, LABEL, PATIENT, rng=rng(), count=200)
    alone = interval("log_loss")
    assert paired.high - paired.low < (alone.high - alone.low) / 5


def test_weights_draw_one_patient_fewer_a_class_and_rescale_so_that_the_variance_is_unbiased():
    strata = np.array([0] * 4 + [1] * 6)
    weights = draw_patients(strata, 20_000, rng())
    assert weights[:, :4].sum(1) == pytest.approx(4) and weights[:, 4:].sum(1) == pytest.approx(6)
    assert set(np.round(weights[:, :4] * 3 / 4, 9).ravel()) <= {0.0, 1.0, 2.0, 3.0}
    values = np.array([1.0, 2, 4, 9])
    assert (weights[:, :4] @ values / 4).var() == pytest.approx(values.var(ddof=1) / 4, rel=0.05)
    assert draw_patients(np.array([0, 1, 1]), 3, rng())[:, 0].tolist() == [1, 1, 1]  # a single patient is always there


def test_the_jackknife_gives_the_variance_of_a_mean_and_of_a_sum_of_means():
    values, strata = np.array([1.0, 2, 4, 9, 3, 5]), np.array([0, 0, 0, 0, 1, 1])
    weights = jackknife_weights(6)
    left_out = (weights[:, :4] @ values[:4] / weights[:, :4].sum(1) + weights[:, 4:] @ values[4:] / weights[:, 4:].sum(1))[None]
    first, second = ((part**2).sum() for part, _ in influence_parts(left_out, strata))
    assert first == pytest.approx(values[:4].var(ddof=1) / 4) and second == pytest.approx(values[4:].var(ddof=1) / 2)


def test_degrees_of_freedom_are_those_of_the_class_that_varies():
    three, one = np.array([3.0]), np.array([1.0])
    assert degrees_of_freedom([three, np.zeros(1)], [6, 24])[0] == pytest.approx(6)
    assert degrees_of_freedom([three, one], [6, 24])[0] == pytest.approx(16 / (9 / 6 + 1 / 24))
    assert degrees_of_freedom([np.zeros(1), np.zeros(1)], [6, 24])[0] == 30


def test_an_interval_of_a_share_stays_between_0_and_1_and_leans_to_the_side_with_room():
    right = np.array([1] * 19 + [0] + [1] * 20)
    label = np.repeat([0, 1], 20)
    probability = np.where(right == 1, label, 1 - label) * 0.8 + 0.1
    found = bootstrap_interval("balanced_accuracy", probability, label, np.arange(40), rng=rng())
    assert found.high < 1 and found.value - found.low > 2 * (found.high - found.value)


def test_where_no_resample_says_anything_else_the_interval_has_no_width():
    found = bootstrap_interval("balanced_accuracy", LABEL * 0.8 + 0.1, LABEL, PATIENT, rng=rng(), count=50)
    assert found == (1.0, 1.0, 1.0)
