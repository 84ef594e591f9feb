"""Several sets of predictions are resampled by the same cases."""

import numpy as np
import pytest

from analysis.bootstrap import paired_difference
from analysis.joint import joint_values, metrics_of, percentile_interval
from analysis.predictions import Level


def level(seed, views=3, cases=12, shuffled=False):
    """`views` views of each case's one patient."""
    rng = np.random.default_rng(seed)
    patient = np.repeat([f"p{n:02d}" for n in range(cases)], views)
    label = np.repeat(np.arange(cases) % 2, views)
    order = rng.permutation(len(label)) if shuffled else np.arange(len(label))
    probability = np.clip(0.3 * label + 0.7 * rng.random(len(label)), 0, 1)
    columns = (probability, label, patient, patient, label, np.zeros_like(label))
    return Level(*(column[order] for column in columns))


def test_on_the_same_views_the_difference_is_that_of_the_paired_bootstrap():
    first, second = level(1), level(2)
    values, drawn = joint_values((first, second), metrics_of, rng=np.random.default_rng(0), count=200)
    low, high = percentile_interval(drawn[:, 0] - drawn[:, 1])
    for place, name in enumerate(metrics_of(first)):
        args = (name, first.probability, second.probability, first.label, first.patient, first.case)
        expected = paired_difference(*args, rng=np.random.default_rng(0), count=200)
        assert (values[0, place] - values[1, place], low[place], high[place]) == pytest.approx(expected)


def test_units_may_differ_in_number_and_order_as_long_as_the_cases_are_the_same():
    many = level(1, views=4, shuffled=True)
    values, drawn = joint_values((level(1), many), metrics_of, rng=np.random.default_rng(0), count=20)
    assert values.shape == (2, 10) and drawn.shape == (20, 2, 10)
    alone, drawn_alone = joint_values((many,), metrics_of, rng=np.random.default_rng(0), count=20)
    np.testing.assert_allclose(values[1], alone[0])
    np.testing.assert_allclose(drawn[:, 1], drawn_alone[:, 0])


def test_a_metric_that_no_draw_has_a_number_for_has_no_interval():
    low, high = percentile_interval(np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan]]), 0.5)
    assert (low[0], high[0]) == (1.25, 1.75) and np.isnan([low[1], high[1]]).all()
