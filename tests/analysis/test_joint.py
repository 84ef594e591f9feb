"""Several sets of predictions are resampled by the same patients."""

import numpy as np

from analysis.bootstrap import resamples
from analysis.joint import joint_values, metrics_of, percentile_interval
from analysis.predictions import Level
from mmnet.metrics import METRICS, evaluate


def level(seed, views=3, patients=12, shuffled=False):
    """`views` views of each patient's one slide."""
    rng = np.random.default_rng(seed)
    patient = np.repeat([f"p{n:02d}" for n in range(patients)], views)
    label = np.repeat(np.arange(patients) % 2, views)
    order = rng.permutation(len(label)) if shuffled else np.arange(len(label))
    probability = np.clip(0.3 * label + 0.7 * rng.random(len(label)), 0, 1)
    columns = (probability, label, patient, patient, label, np.zeros_like(label))
    return Level(*(column[order] for column in columns))


def test_each_draw_takes_the_same_patients_for_all_and_counts_a_patient_drawn_twice_as_two():
    first, second = level(1), level(2)
    values, drawn = joint_values((first, second), metrics_of, rng=np.random.default_rng(0), count=50)
    draws = resamples(np.tile(first.label, 2), np.tile(first.patient, 2), 50, np.random.default_rng(0))
    for place, one in enumerate((first, second)):
        for number, (rows, draw) in enumerate(draws):
            own = rows // len(one.label) == place
            chosen = rows[own] % len(one.label)
            expected = evaluate(one.probability[chosen], one.label[chosen], draw[own])
            np.testing.assert_allclose(drawn[number, place], list(expected.values()))
        np.testing.assert_allclose(values[place], list(evaluate(one.probability, one.label, one.patient).values()))


def test_units_may_differ_in_number_and_order_as_long_as_the_patients_are_the_same():
    many = level(1, views=4, shuffled=True)
    values, drawn = joint_values((level(1), many), metrics_of, rng=np.random.default_rng(0), count=20)
    assert values.shape == (2, len(METRICS)) and drawn.shape == (20, 2, len(METRICS))
    alone, drawn_alone = joint_values((many,), metrics_of, rng=np.random.default_rng(0), count=20)
    np.testing.assert_allclose(values[1], alone[0])
    np.testing.assert_allclose(drawn[:, 1], drawn_alone[:, 0])


def test_a_metric_that_no_draw_has_a_number_for_has_no_interval():
    low, high = percentile_interval(np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan]]), 0.5)
    assert (low[0], high[0]) == (1.25, 1.75) and np.isnan([low[1], high[1]]).all()
