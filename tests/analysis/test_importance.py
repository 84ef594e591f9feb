"""Which parameters mattered: found where planted, compared at one epoch, not claimed of too few trials."""

import numpy as np
import optuna
import pytest

from analysis.bootstrap import Interval
from analysis.importance import Comparable, Importance, comparable_trials, importance_intervals, in_words, parameter_importance
from tests.analysis.studies import record


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """(path, parameters of 30 trials) of a stored study with one parameter that will matter and one that will not."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = tmp_path_factory.mktemp("importance") / "optuna.db"
    study = optuna.create_study(storage=f"sqlite:///{path}", sampler=optuna.samplers.RandomSampler(seed=0))
    params = []
    for _ in range(30):
        trial = study.ask()
        params.append(
            {"loss.gamma": trial.suggest_float("loss.gamma", 0.0, 5.0), "dropout.path": trial.suggest_float("dropout.path", 0.0, 0.5)}
        )
    return path, params


def test_the_planted_parameter_is_found_at_the_epoch_that_half_the_trials_reached(database):
    path, params = database
    epochs = [1] * 10 + [2] * 12 + [3] * 8
    records = [record(n, [2.0 - values["loss.gamma"] / 5] * epochs[n], params=values) for n, values in enumerate(params)]
    importance = parameter_importance(path, records, "log_loss")
    assert list(importance.share) == ["loss.gamma", "dropout.path"]
    assert importance.share["loss.gamma"] > 2 * importance.share["dropout.path"]
    assert (importance.epoch, importance.trials) == (2, 20)


def test_failed_trials_and_scores_that_are_none_are_left_out(database):
    path, params = database
    records = [record(n, [2.0 - values["loss.gamma"] / 5], params=values) for n, values in enumerate(params)]
    spoiled = [
        record(n, [99.0 * (n % 2)], "failed", params[n]) if n < 5 else record(n, [None], params=params[n]) if n < 8 else records[n]
        for n in range(30)
    ]
    importance = parameter_importance(path, spoiled, "log_loss")
    assert importance.trials == 22 and list(importance.share)[0] == "loss.gamma"


def test_nothing_is_claimed_of_too_few_trials_or_of_equal_scores(database):
    path, params = database
    assert parameter_importance(path, [record(n, [0.5 + n]) for n in range(9)], "log_loss") == Importance({}, 0, 9)
    alike = parameter_importance(path, [record(n, [0.5], params=values) for n, values in enumerate(params)], "log_loss")
    assert len(set(alike.share.values())) <= 1


@pytest.mark.parametrize("method", ["ped_anova", "fanova"])
def test_intervals_over_trials_hold_the_share_and_repeat_by_seed(database, method):
    path, params = database
    records = [record(n, [2.0 - values["loss.gamma"] / 5], params=values) for n, values in enumerate(params)]
    trials = comparable_trials(path, records).trials
    one, two = (importance_intervals(trials, "log_loss", method, rng=np.random.default_rng(0), count=4) for _ in range(2))
    assert one == two and list(one)[0] == "loss.gamma"
    assert all(found.low <= found.value <= found.high for found in one.values())


def test_the_words_say_when_the_first_cannot_be_told_from_the_second_and_when_there_is_too_little():
    enough = Comparable([None] * 30, 3, 30)
    clear = {"lr": Interval(0.6, 0.5, 0.7), "gamma": Interval(0.2, 0.1, 0.3)}
    assert "lr matters most: 60%" in in_words(enough, clear) and "not enough" not in in_words(enough, clear)
    assert "not enough to tell it from gamma" in in_words(enough, clear | {"lr": Interval(0.6, 0.2, 0.7)})
    assert in_words(Comparable([], 0, 9), {}).startswith("not enough trials: 9")
