"""Worked by hand: η = 3, levels 1, 3, 9, so that a rung of three promotes its best."""

import numpy as np
import pytest

from tuning.promotion import Ladder, Step, promotion

LEVELS = (1, 3, 9)


def test_nobody_goes_on_before_a_rung_has_eta_trials():
    assert promotion({}, LEVELS, 3) is None
    assert promotion({1: {"a": 0.5, "b": 0.6}}, LEVELS, 3) is None


def test_the_best_third_of_a_rung_goes_on():
    assert promotion({1: {"a": 0.5, "b": 0.4, "c": 0.6}}, LEVELS, 3) == Step("b", 3, 1)


def test_who_is_at_a_higher_rung_is_not_promoted_twice():
    assert promotion({1: {"a": 0.5, "b": 0.4, "c": 0.6}, 3: {"b": 0.3}}, LEVELS, 3) is None


def test_who_rests_goes_on_as_soon_as_the_rung_has_grown_enough():
    scores = {"a": 0.5, "b": 0.4, "c": 0.6, "d": 0.7, "e": 0.8, "f": 0.9}
    assert promotion({1: scores, 3: {"b": 0.3}}, LEVELS, 3) == Step("a", 3, 1)


def test_who_trains_or_has_failed_keeps_the_place_and_is_not_replaced():
    assert promotion({1: {"a": 0.5, "b": 0.4, "c": 0.6}}, LEVELS, 3, away={"b"}) is None


def test_the_highest_rung_comes_first():
    low = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5, "f": 0.6, "g": 0.7, "h": 0.8, "i": 0.9, "j": 0.15, "k": 1, "l": 1}
    assert promotion({1: low, 3: {"a": 0.3, "b": 0.2, "c": 0.4}}, LEVELS, 3) == Step("b", 9, 3)
    assert promotion({1: low, 3: {"a": 0.3, "b": 0.2, "c": 0.4}, 9: {"b": 0.1}}, LEVELS, 3) == Step("j", 3, 1)


def test_nothing_comes_after_the_full_length():
    assert promotion({9: {"a": 0.1, "b": 0.2, "c": 0.3}}, LEVELS, 3) is None


def test_of_equals_the_same_one_is_promoted_in_whatever_order_they_came():
    for order in ("bac", "cab"):
        assert promotion({1: dict.fromkeys(order, 0.4)}, LEVELS, 3) == Step("a", 3, 1)


def test_at_the_end_of_a_search_so_many_go_on_at_every_rung():
    few = {1: {"a": 0.5, "b": 0.4, "c": 0.6, "d": 0.7}, 3: {"b": 0.3}}
    assert promotion(few, LEVELS, 3) is None
    assert promotion(few, LEVELS, 3, least=3) == Step("b", 9, 3)
    assert promotion(few, LEVELS, 3, away={"b"}, least=3) == Step("a", 3, 1)
    assert promotion({1: {"a": 0.5}}, LEVELS, 3, least=3) == Step("a", 3, 1)


def line(epoch, score, finished=False):
    return {"epoch": epoch, "score": score, "finished": finished}


def ladder(minimize=True):
    return Ladder((1, 3), 9, 3, minimize=minimize)


def test_a_ladder_looks_at_rungs_only():
    rungs = ladder()
    for trial, score in (("a", 0.5), ("b", 0.4), ("c", 0.6)):
        rungs.report(trial, line(1, score))
        rungs.report(trial, line(2, 0.1))
    assert rungs.promoted(()) == Step("b", 3, 1)


def test_of_a_metric_that_should_be_high_the_highest_goes_on():
    rungs = ladder(minimize=False)
    for trial, score in (("a", 0.5), ("b", 0.4), ("c", 0.6)):
        rungs.report(trial, line(1, score))
    assert rungs.promoted(()) == Step("c", 3, 1)


@pytest.mark.parametrize("score", [None, float("nan")])
def test_a_score_that_is_no_number_is_the_worst(score):
    rungs = ladder(minimize=False)
    for trial, value in (("a", score), ("b", 0.4), ("c", 0.6)):
        rungs.report(trial, line(1, value))
    assert rungs.promoted(("c",), least=2) == Step("b", 3, 1)


def test_a_trial_that_ran_out_of_patience_stands_at_all_later_rungs_and_goes_nowhere():
    rungs = ladder()
    rungs.report("a", line(1, 0.3))
    rungs.report("a", line(2, 0.3, finished=True))
    for trial in "bc":
        rungs.report(trial, line(1, 0.4))
        rungs.report(trial, line(3, 0.4))
    assert rungs.promoted((), least=1) is None  # "a" leads rung 3 and is at the end
    assert rungs.promoted((), least=2) == Step("b", 9, 3)


def test_where_a_trial_rests_next():
    assert [ladder().rest_after(epoch) for epoch in (0, 1, 2, 3, 4, 9)] == [1, 1, 3, 3, 9, 9]
    assert Ladder((), 9, 3, minimize=True).rest_after(0) == 9


def costly(epoch, score, seconds, auc=0.5):
    return line(epoch, score) | {"seconds": seconds, "metrics": {"auc": auc}}


def test_who_is_on_the_front_of_a_rung_goes_on_after_the_best():
    """Worked by hand: b has the best score, c is the cheapest; a is beaten by b in both; d is between and beaten by nobody."""
    rungs = Ladder((1, 3), 9, 3, minimize=True, others=("seconds",))
    for trial, score, seconds in (("a", 0.5, 9), ("b", 0.4, 8), ("c", 0.7, 1), ("d", 0.6, 4)):
        rungs.report(trial, costly(1, score, seconds))
    assert rungs.promoted(()) == Step("b", 3, 1)
    assert rungs.promoted(("b",)) == Step("c", 3, 1)
    assert rungs.promoted(("b", "c")) == Step("d", 3, 1)
    assert rungs.promoted(("b", "c", "d")) is None


def test_a_front_of_fewer_than_eta_promotes_nobody():
    rungs = Ladder((1, 3), 9, 3, minimize=True, others=("seconds",))
    for trial, score, seconds in (("a", 0.5, 1), ("b", 0.4, 8)):
        rungs.report(trial, costly(1, score, seconds))
    assert rungs.promoted(()) is None


def test_of_an_objective_that_should_be_high_the_highest_is_on_the_front():
    rungs = Ladder((1, 3), 9, 3, minimize=True, others=("auc",))
    for trial, score, auc in (("a", 0.4, 0.8), ("b", 0.5, 0.9), ("c", 0.6, 0.7)):
        rungs.report(trial, costly(1, score, 1.0, auc))
    assert [rungs.promoted(away) for away in ((), ("a",), ("a", "b"))] == [Step("a", 3, 1), Step("b", 3, 1), None]


def test_a_ladder_that_is_told_in_any_order_and_twice_goes_by_the_last_score_of_each():
    rungs, told, rng, steps = ladder(), {1: {}, 3: {}, 9: {}}, np.random.default_rng(0), set()
    for _ in range(200):
        trial, epoch, score = f"{rng.integers(30):04d}", int(rng.choice([1, 3, 9])), float(rng.integers(10))
        rungs.report(trial, line(epoch, score, finished=epoch == 9))
        told[epoch][trial] = score
        away = {f"{number:04d}" for number in rng.integers(30, size=5)}
        for least in (0, 3):
            steps.add(rungs.promoted(away, least))
            assert rungs.promoted(away, least) == promotion(told, (1, 3, 9), 3, away, least)
    assert len(steps) > 10  # it was not always the same one, or nobody
