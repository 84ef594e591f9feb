"""The front of several objectives, worked by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from data.errors import InputError
from mmnet.pareto import lower_is_better, non_dominated, objective, parse_objectives

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "front"),
    [
        ([[1, 1]], [True]),
        ([[1, 2], [2, 1]], [True, True]),  # each is better in one
        ([[1, 1], [1, 2]], [True, False]),  # as good in one and worse in the other
        ([[1, 1], [1, 1], [2, 2]], [True, True, False]),  # equal ones beat each other in nothing
        ([[1, 9], [2, 5], [3, 6], [4, 1], [5, 2]], [True, True, False, True, False]),
        ([[3], [1], [2], [1]], [False, True, False, True]),  # one objective: the best
        ([[1, 1, 5], [2, 2, 4], [2, 2, 6]], [True, True, False]),
        ([[NAN, 0], [1, 1], [0, NAN]], [False, True, False]),  # what is not known beats nobody and is on no front
        (np.empty((0, 2)), []),
    ],
)
def test_who_is_beaten_by_no_other_is_on_the_front(values, front):
    assert non_dominated(np.array(values, float)).tolist() == front


def test_every_other_point_is_beaten_by_one_of_the_front():
    values = np.random.default_rng(0).random((200, 3))
    front = non_dominated(values)
    assert 0 < front.sum() < 200
    for point in values[~front]:
        assert ((values[front] <= point).all(1)).any()


def test_the_first_objective_is_followed_and_the_others_span_the_front():
    assert parse_objectives("auc") == ("auc", ())
    assert parse_objectives("log_loss, seconds,patient_auc") == ("log_loss", ("seconds", "patient_auc"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("log_loss,euros", "unknown objective 'euros': expected one of log_loss"),
        ("auc,auc", "each objective once"),
        ("auc,", "unknown objective ''"),
    ],
)
def test_a_wrong_objective_is_an_error_that_names_it(text, message):
    with pytest.raises(InputError, match=message):
        parse_objectives(text)


def test_values_are_those_of_the_best_epoch_and_costs_those_of_the_whole_trial():
    lines = [{"metrics": {"auc": value}, "fold_epochs": 5 * epoch, "parameters": 70} for epoch, value in ((1, 0.9), (2, None))]
    record = SimpleNamespace(best=lines[0], epochs=lines, seconds=12.5)
    assert [objective(name, record) for name in ("auc", "seconds", "fold_epochs", "parameters")] == [0.9, 12.5, 10, 70]
    earlier = SimpleNamespace(best=lines[1], epochs=[{"fold_epochs": 5}], seconds=1.0)
    assert np.isnan([objective(name, earlier) for name in ("auc", "parameters")]).all()


def test_less_is_better_after_the_turn():
    assert lower_is_better("auc", np.array([0.5, 0.9])).tolist() == [-0.5, -0.9]
    assert lower_is_better("log_loss", np.array([0.5])).tolist() == lower_is_better("seconds", np.array([0.5])).tolist() == [0.5]
