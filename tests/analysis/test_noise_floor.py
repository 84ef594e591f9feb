"""Chance, worked by hand."""

import numpy as np
import pytest

from analysis.noise_floor import below_noise, expected_gain, patients_needed, repeat_spread


def test_the_spread_by_seed_and_by_partition_by_hand():
    # one configuration: two seeds on partition 0 (0.1 apart), one of them also on partition 1 (0.3 apart)
    found = repeat_spread(np.array([0.4, 0.5, 0.7]), np.zeros(3), np.array([0, 1, 0]), np.array([0, 0, 1]))
    assert found.seed_sd == pytest.approx(0.1 / 2**0.5) and found.partition_sd == pytest.approx(0.3 / 2**0.5)
    assert found.both_sd == pytest.approx(0.2 / 2**0.5) and found[3:] == (1, 1, 1)


def test_configurations_are_not_compared_with_each_other_and_what_nothing_shows_is_none():
    found = repeat_spread(np.array([0.1, 0.9, np.nan]), np.array([0, 1, 1]), np.array([0, 1, 2]), np.zeros(3))
    assert found == (None, None, None, 0, 0, 0)


def test_spread_finds_planted_variances():
    rng = np.random.default_rng(0)
    configuration, seed, partition = (axis.ravel() for axis in np.meshgrid(range(200), range(3), range(3), indexing="ij"))
    by_seed, by_partition = rng.normal(0, 0.1, (200, 3)), rng.normal(0, 0.3, (200, 3))
    found = repeat_spread(by_seed[configuration, seed] + by_partition[configuration, partition], configuration, seed, partition)
    assert found.seed_sd == pytest.approx(0.1, rel=0.1) and found.partition_sd == pytest.approx(0.3, rel=0.1)


def test_patients_needed_by_hand():
    # (1.960 + 0.842)² = 7.849; error 0.02 of 30 patients for a difference of 0.01: 30 x 7.849 x 4 = 941.9
    assert patients_needed(0.01, 0.02, 30) == patients_needed(-0.01, 0.02, 30) == 942
    assert patients_needed(1.0, 1e-6, 30) == 1
    assert patients_needed(0.0, 0.02, 30) is None and patients_needed(float("nan"), 0.02, 30) is None


@pytest.mark.parametrize(("draw", "most"), [("exponential", 1.2), ("normal", 2.0)])
def test_the_expected_gain_is_that_of_drawing_on_and_rather_too_large(draw, most):
    said, true = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scores = getattr(rng, draw)(size=200)
        said.append(expected_gain(scores, 200, "max"))
        true.append(np.mean([max(getattr(rng, draw)(size=200).max() - scores.max(), 0) for _ in range(50)]))
    assert 0.95 < np.mean(said) / np.mean(true) < most


def test_lower_is_better_turns_the_gain_around():
    scores = np.random.default_rng(0).normal(size=100)
    assert expected_gain(-scores, 50, "min") == expected_gain(scores, 50, "max") != expected_gain(scores, 50, "min")


def test_of_the_first_half_of_the_trials_only_the_best_counts():
    first, second = np.random.default_rng(0).normal(size=(2, 50))
    first[first.argmax()] = second.max() + 1
    worse = np.where(first == first.max(), first, first - 10)
    found = expected_gain(np.concatenate([first, second]), 50, "max")
    assert expected_gain(np.concatenate([worse, second]), 50, "max") == found
    assert expected_gain(np.concatenate([first - 10, second]), 50, "max") > found  # a lower best is easier to beat


def test_more_trials_gain_more_and_too_few_scores_say_nothing():
    scores = np.random.default_rng(0).normal(size=100)
    assert 0 < expected_gain(scores, 10, "min") < expected_gain(scores, 100, "min")
    assert expected_gain(scores[:18], 10, "min") is None and expected_gain(scores[:20], 10, "min") > 0
    assert expected_gain(np.full(100, 0.5), 10, "min") == 0.0


def test_a_search_ends_only_by_a_known_gain_below_the_noise():
    assert below_noise(0.01, 0.02) and not below_noise(0.03, 0.02) and not below_noise(None, 0.02)
