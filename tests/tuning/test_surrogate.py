"""The surrogate: what it learns from configurations whose truth is known."""

import numpy as np
import pytest

from tuning.surrogate import Observations, Surrogate, choose, features, normal_scores, thinned

CHOICES = (0, 3)  # a number, and one of three values


def points(count, seed=0):
    generator = np.random.default_rng(seed)
    return np.stack([generator.random(count), generator.integers(0, 3, count) / 2], 1)


def seen(where, scores, epochs=27, trials=None):
    rows = np.arange(len(where)) if trials is None else np.array(trials)
    return Observations(features(where, CHOICES), rows, np.broadcast_to(epochs, len(where)), np.asarray(scores, float))


def test_products_of_features_are_the_mean_of_the_dimensions_kernels():
    a, b = features(np.array([[0.2, 0.5], [0.5, 0.5]]), CHOICES)
    assert a @ a == pytest.approx(1, abs=0.01)
    assert a @ b == pytest.approx((np.exp(-0.5) + 1) / 2, abs=0.01)


def test_a_dimension_that_does_not_exist_is_like_nothing_but_itself():
    absent, also, there = features(np.array([[np.nan, 0.0], [np.nan, 1.0], [0.0, 0.5]]), CHOICES)
    assert absent @ also == pytest.approx(0.5)
    assert absent @ there == pytest.approx(0)


def test_normal_scores_depend_on_the_order_alone():
    assert normal_scores(np.array([1.0, 5.0, 2.0])) == pytest.approx(normal_scores(np.array([0.1, 1e9, 0.2])))
    assert normal_scores(np.array([3.0, 3.0])) == pytest.approx([0, 0])
    assert np.isfinite(normal_scores(np.array([0.0, np.inf]))).all()


def test_it_finds_the_better_half_of_a_number_and_the_best_choice():
    where = points(60)
    mean, deviation = Surrogate(seen(where, where[:, 0] + (where[:, 1] != 0.5)), 27).predict(
        features(np.array([[0.1, 0.5], [0.9, 0.5], [0.1, 0.0]]), CHOICES)
    )
    assert mean[0] < mean[1] and mean[0] < mean[2]
    assert (deviation > 0).all() and (deviation < 1).all()


def test_low_rungs_do_not_make_a_fast_start_the_best_end():
    """After one epoch large x leads, at the end small x does; the few trials that ran to the end say so."""
    where = points(40)
    early, late = 0.7 - 0.1 * where[:, 0], 0.3 + 0.2 * where[:, 0]
    both = Observations(
        features(np.concatenate([where, where[:12]]), CHOICES),
        np.concatenate([np.arange(40), np.arange(12)]),
        np.repeat([1, 27], [40, 12]),
        np.concatenate([early, late[:12]]),
    )
    mean, _ = Surrogate(both, 27).predict(features(np.array([[0.1, 0.5], [0.9, 0.5]]), CHOICES))
    assert mean[0] < mean[1]


def test_of_two_trials_of_one_configuration_the_better_is_expected_to_be_better_but_less_than_it_scored():
    where = np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.0], [0.9, 1.0]])
    learned = seen(where, [0.3, 0.6, 0.4, 0.5])
    expected = Surrogate(learned, 27).expect(learned.features[:2], learned.trials[:2])
    z = normal_scores(learned.scores)
    assert 0 < expected[1] - expected[0] < z[1] - z[0]


def test_a_candidate_near_the_good_ones_is_chosen_and_the_draws_differ():
    where = points(80)
    surrogate = Surrogate(seen(where, where[:, 0]), 27)
    candidates = points(200, seed=1)
    generator = np.random.default_rng(0)
    chosen = [choose(surrogate, features(candidates, CHOICES), generator) for _ in range(10)]
    assert candidates[chosen, 0].mean() < 0.25
    assert chosen == [choose(surrogate, features(candidates, CHOICES), again) for again in [np.random.default_rng(0)] for _ in range(10)]


def test_thinned_keeps_all_of_a_short_study_and_most_of_the_highest_rungs_of_a_long_one():
    assert thinned(np.array([1, 1, 3]), most=5).tolist() == [0, 1, 2]
    epochs = np.repeat([1, 3, 9], [60, 20, 6])
    kept = thinned(epochs, most=16)
    assert [int((epochs[kept] == rung).sum()) for rung in (9, 3, 1)] == [6, 5, 5]
    assert len(set(kept.tolist())) == 16 and (np.diff(kept) > 0).all()
