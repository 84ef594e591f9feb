"""Worked by hand: η = 3, levels 1, 3, 9, so that a rung of three promotes its best."""

from tuning.promotion import Step, promotion

LEVELS = (1, 3, 9)


def test_nobody_goes_on_before_a_rung_has_eta_trials():
    assert promotion({}, LEVELS, 3) is None
    assert promotion({1: {"a": 0.5, "b": 0.6}}, LEVELS, 3) is None


def test_the_best_third_of_a_rung_goes_on():
    assert promotion({1: {"a": 0.5, "b": 0.4, "c": 0.6}}, LEVELS, 3) == Step("b", 3)


def test_who_is_at_a_higher_rung_is_not_promoted_twice():
    assert promotion({1: {"a": 0.5, "b": 0.4, "c": 0.6}, 3: {"b": 0.3}}, LEVELS, 3) is None


def test_who_rests_goes_on_as_soon_as_the_rung_has_grown_enough():
    scores = {"a": 0.5, "b": 0.4, "c": 0.6, "d": 0.7, "e": 0.8, "f": 0.9}
    assert promotion({1: scores, 3: {"b": 0.3}}, LEVELS, 3) == Step("a", 3)


def test_who_trains_or_has_failed_keeps_the_place_and_is_not_replaced():
    assert promotion({1: {"a": 0.5, "b": 0.4, "c": 0.6}}, LEVELS, 3, away={"b"}) is None


def test_the_highest_rung_comes_first():
    low = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4, "e": 0.5, "f": 0.6, "g": 0.7, "h": 0.8, "i": 0.9, "j": 0.15, "k": 1, "l": 1}
    assert promotion({1: low, 3: {"a": 0.3, "b": 0.2, "c": 0.4}}, LEVELS, 3) == Step("b", 9)
    assert promotion({1: low, 3: {"a": 0.3, "b": 0.2, "c": 0.4}, 9: {"b": 0.1}}, LEVELS, 3) == Step("j", 3)


def test_nothing_comes_after_the_full_length():
    assert promotion({9: {"a": 0.1, "b": 0.2, "c": 0.3}}, LEVELS, 3) is None


def test_of_equals_the_same_one_is_promoted_in_whatever_order_they_came():
    assert promotion({1: {"b": 0.4, "a": 0.4, "c": 0.4}}, LEVELS, 3) == promotion({1: {"c": 0.4, "a": 0.4, "b": 0.4}}, LEVELS, 3)
