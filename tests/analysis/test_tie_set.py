"""What cannot be told from the best stays in the set, and only that."""

import numpy as np
import pytest

from analysis.bootstrap import draw_patients, jackknife_weights
from analysis.tie_set import Paired, paired, stopped_p_value, tie_p_values

STRATA = np.repeat([0, 1], 20)


def scores_of(loss: np.ndarray, mode: str = "min") -> Paired:
    """From losses (C, 40) of patients: the mean over two classes of 20."""

    def score(weights):
        return sum(loss[:, c] @ weights[:, c].T / weights[:, c].sum(1) for c in (slice(0, 20), slice(20, 40))) / 2

    weights = draw_patients(STRATA, 1000, np.random.default_rng(0))
    return paired(score(np.ones((1, 40)))[:, 0], score(weights), score(jackknife_weights(40)), STRATA, mode)


def losses(*means: float, sd: float = 0.1) -> np.ndarray:
    return np.array(means)[:, None] + np.random.default_rng(1).normal(0, sd, (len(means), 40))


def test_the_error_of_a_difference_is_that_of_the_paired_differences():
    loss = losses(0.3, 0.35)
    d = loss[0] - loss[1]
    by_hand = np.sqrt(d[:20].var(ddof=1) / 20 + d[20:].var(ddof=1) / 20) / 2
    assert scores_of(loss).error[0, 1] == pytest.approx(by_hand)


def test_the_best_has_p_1_equals_stay_and_clearly_worse_ones_go():
    p = tie_p_values(scores_of(losses(0.30, 0.31, 0.6, 0.9)), 40)
    assert p.max() == 1.0 and (p[:2] > 0.05).all() and (p[2:] < 0.001).all()


def test_higher_is_better_turns_the_set_around():
    loss = losses(0.30, 0.31, 0.6)
    assert tie_p_values(scores_of(-loss, "max"), 40) == pytest.approx(tie_p_values(scores_of(loss), 40))


def test_what_is_shared_by_all_configurations_does_not_hide_a_difference():
    hard = np.random.default_rng(2).normal(0, 5, 40)
    loss = losses(0.30, 0.60)
    assert tie_p_values(scores_of(loss + hard), 40)[1] < 0.001


def test_identical_configurations_are_tied_and_a_constant_difference_is_certain():
    one = losses(0.3)
    p = tie_p_values(scores_of(np.concatenate([one, one, one + 0.01])), 40)
    assert p[0] == p[1] == 1.0 and p[2] < 0.001


def test_more_rivals_make_a_larger_maximum_likely():
    rng = np.random.default_rng(3)
    rivals = rng.normal(0.3, 0.1, (60, 40))
    rivals -= rivals.mean(1, keepdims=True) - 0.3
    tried = losses(0.35)
    few, many = (tie_p_values(scores_of(np.concatenate([tried, rivals[:n]])), 40)[0] for n in (1, 60))
    assert many > 1.5 * few


def test_rivals_count_but_for_those_that_are_clearly_worse_anyway():
    noise = np.random.default_rng(3).normal(0, 0.1, (60, 40))
    noise -= noise.mean(1, keepdims=True)
    tried = losses(0.35, 0.31)  # and one that may be better
    alone, near, far = (tie_p_values(scores_of(np.concatenate([tried, *more])), 40)[0] for more in ((), (noise + 0.36,), (noise + 0.6,)))
    assert near > 1.5 * alone and far == alone


def test_equal_configurations_are_all_in_the_set_as_often_as_promised():
    rng = np.random.default_rng(4)
    held = [tie_p_values(scores_of(rng.normal(0, 1, (10, 40))), 40)[0] > 0.05 for _ in range(200)]
    assert 0.91 <= np.mean(held) <= 0.99


def test_a_stopped_trial_is_undecided_when_close_and_worse_when_far():
    assert stopped_p_value(scores_of(losses(0.31, 0.30))) > 0.05
    assert stopped_p_value(scores_of(losses(0.9, 0.30))) < 0.001
    one = losses(0.3)
    assert stopped_p_value(scores_of(np.concatenate([one, one]))) == 1.0
