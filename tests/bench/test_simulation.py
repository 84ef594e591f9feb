"""Simulated time, worked by hand: one fold, so that an epoch costs one fold-epoch."""

from dataclasses import replace

import numpy as np
import pytest

from bench.methods import Full, Modelled, Promoting, Stopping
from bench.recorded import Table, balanced_log_loss, unit_cube
from bench.simulation import Pool, simulate
from tests.bench.made_up import replicate


@pytest.fixture
def table():
    """Four configurations on a line; at every epoch the last one is the best, in the replicate as well."""
    scores = np.linspace(0.9, 0.6, 4)[:, None] - 0.01 * np.arange(9)
    return Table(np.linspace(0, 1, 4)[:, None], (0,), scores, *replicate(scores[:, -1]), scores[:, -1:])


class Scripted:
    """Does what it is told, and recommends what it saw last."""

    def __init__(self, steps):
        self.steps, self.last, self.seen = list(steps), None, []

    def next(self, free):
        return self.steps.pop(0) if self.steps else None

    def report(self, trial, epoch):
        self.last = trial
        self.seen.append((trial, epoch))

    def ranking(self):
        return [] if self.last is None else [self.last]


def best(*arguments):
    return [found.best for found in simulate(*arguments)]


def test_nothing_is_known_before_it_is_paid_for(table):
    method = Scripted([(0, 2), (3, 3)])
    assert best(table, method, 1, [1, 2, 4, 5]) == [50, 75, 75, 0]


def test_a_resumed_trial_pays_only_for_what_is_new(table):
    assert best(table, Scripted([(0, 2), (0, 3), (3, 1)]), 1, [2, 3, 4]) == [75, 75, 0]


def test_an_epoch_costs_as_many_fold_epochs_as_there_are_folds(table):
    five = replace(table, last_by_fold=np.tile(table.last_by_fold, 5))
    assert best(five, Scripted([(0, 2)]), 1, [9, 10]) == [50, 75]


def test_workers_train_side_by_side_and_pay_together(table):
    method = Scripted([(0, 4), (1, 1), (2, 2)])
    simulate(table, method, 2, [8])
    assert method.seen == [(1, 1), (2, 2), (0, 4)]


def test_a_configuration_is_handed_out_once_and_the_nearest_free_one_stands_in(table):
    pool = Pool(table)
    assert [pool.take(np.array([0.9])) for _ in range(5)] == [3, 2, 1, 0, None]


def test_what_stands_in_is_named_in_the_terms_of_the_libraries(table):
    pool = Pool(replace(table, points=np.array([[0.0, 0.5], [1.0, 1.0]]), choices=(0, 3)))
    assert pool.stand_in({"x0": 0.9, "x1": 1}) == (1, {"x0": 1.0, "x1": 2})
    assert [pool.stand_in({"x0": 0.9, "x1": 2})[0] for _ in range(2)] == [0, None]


def test_percentiles_count_the_better_ones_and_several_are_judged_by_their_mean_prediction(table):
    right = np.array([[0.4, 0.9], [0.9, 0.4], [0.6, 0.65], [0.5, 0.5]])  # probability of its own class, for each of two views
    table = replace(table, replicate=np.stack([1 - right[:, 0], right[:, 1]], 1), label=np.array([0, 1]))
    assert [table.percentile([row]) for row in range(4)] == [25, 25, 0, 75]
    assert [table.percentile([0, 1]), table.percentile([0, 3])] == [0, 75]  # means (0.65, 0.65) and (0.45, 0.7)


def test_log_loss_weighs_the_classes_alike():
    probability, label = np.array([0.5, 0.5, 0.5, 0.25]), np.array([0, 0, 0, 1])
    assert balanced_log_loss(probability, label) == pytest.approx((np.log(2) + np.log(4)) / 2)


def test_a_field_over_two_decades_is_logarithmic_and_few_values_are_choices():
    configs = [{"lr": 10 ** -(i / 4), "dropout": i / 16, "batch": (8, 16, 32)[i % 3]} for i in range(17)]
    points, choices = unit_cube(configs)
    assert choices == (0, 0, 3)
    assert points[:, 0] == pytest.approx(1 - np.arange(17) / 16)
    assert points[:4, 2].tolist() == [0, 0.5, 1, 0]


def test_promotion_finds_the_best_of_the_table_for_less_than_full_trials(table):
    assert best(table, Full(Pool(table), 0), 1, [4 * 9]) == [0]
    four_begin, one_goes_on, to_the_end = 4, 2, 0  # a rung of four promotes one, a rung of one nobody
    assert best(table, Promoting(Pool(table), 0, (1, 3, 9)), 1, [four_begin + one_goes_on + to_the_end]) == [0]


def test_a_stopped_trial_never_goes_on(table):
    method = Stopping(Pool(table), 0, (1, 3, 9))
    simulate(table, method, 1, [100])
    assert set(method.rungs[3]) <= set(method.rungs[1]) and len(method.rungs[9]) < len(method.rungs[1]) == 4


def test_a_uniform_range_that_reaches_nearly_down_to_zero_stays_linear():
    uniform, log = np.linspace(0.002, 0.9, 21), np.geomspace(1e-5, 1e-2, 21)
    points, _ = unit_cube([{"dropout": float(a), "lr": float(b)} for a, b in zip(uniform, log, strict=True)])
    assert points[10] == pytest.approx([0.5, 0.5])


def test_a_model_proposes_once_it_has_something_to_learn_from_and_nothing_is_trained_twice():
    x = np.random.default_rng(0).random(60)
    scores = 0.9 - 0.3 * x[:, None] - 0.01 * np.arange(9)
    table = Table(x[:, None], (0,), scores, *replicate(scores[:, -1]), scores[:, -1:])
    method = Modelled(Pool(table), 0, (1, 3, 9))
    assert best(table, method, 2, [120])[0] <= 10
    assert len(method.known) == len(set(method.known))
    begun = [trial for trial, epoch in method.known if epoch == 1]
    assert x[begun[8:16]].mean() > x.mean()
