"""Which parameters mattered: found where planted, compared at one epoch, not claimed of too few trials."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution

from analysis.bootstrap import Interval
from analysis.importance import Comparable, Importance, comparable_trials, importance_intervals, in_words, parameter_importance
from tests.analysis.studies import record


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """(path, parameters of 30 trials) of a stored study with one parameter that will matter and one that will not."""
    path, rng = tmp_path_factory.mktemp("importance") / "optuna.db", np.random.default_rng(0)
    ranges = {"loss.gamma": FloatDistribution(0.0, 5.0), "dropout.path": FloatDistribution(0.0, 0.5)}
    params = [{name: rng.uniform(0, float(values.high)) for name, values in ranges.items()} for _ in range(30)]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=f"sqlite:///{path}")
    study.add_trials([optuna.trial.create_trial(params=values, distributions=ranges, value=0.0) for values in params])
    return path, params


def test_the_planted_parameter_is_found_at_the_epoch_that_half_the_trials_reached(database):
    """At epoch 2 the score follows one parameter; before and after it, where too many or too few trials are, the other."""
    path, params = database

    def record_of(number, values):
        early, late = 3.0 - values["dropout.path"], 0.5 - values["dropout.path"]
        return record(number, [early, 2.0 - values["loss.gamma"] / 5, late][: 1 if number < 10 else 2 if number < 22 else 3], params=values)

    records = [record_of(n, values) for n, values in enumerate(params)]
    found = comparable_trials(path, records)
    assert [trial.value for trial in found.trials] == [2.0 - values["loss.gamma"] / 5 for values in params[10:]]
    importance = parameter_importance(path, records, "log_loss")
    assert list(importance.share) == ["loss.gamma", "dropout.path"]
    assert importance.share["loss.gamma"] > 2 * importance.share["dropout.path"]
    assert (importance.epoch, importance.trials) == (2, 20)


def test_what_matters_among_the_best_follows_the_direction_of_the_metric(database):
    """Low scores are those of one parameter's low values, high scores those of the other's."""
    path, params = database

    def score(values):
        return values["loss.gamma"] if values["loss.gamma"] < 1.5 else 10 - values["dropout.path"] if values["dropout.path"] < 0.15 else 5.0

    records = [record(n, [score(values)], params=values) for n, values in enumerate(params)]
    assert next(iter(parameter_importance(path, records, "log_loss").share)) == "loss.gamma"
    assert next(iter(parameter_importance(path, records, "auc").share)) == "dropout.path"


def test_failed_trials_and_scores_that_are_none_are_left_out(database):
    path, params = database
    records = [record(n, [2.0 - values["loss.gamma"] / 5], params=values) for n, values in enumerate(params)]
    for n in range(5):
        records[n] = record(n, [99.0 * (n % 2)], "failed", params[n])
    for n in range(5, 8):
        records[n] = record(n, [None], params=params[n])
    records[8] = record(8, [None, 0.0], params=params[8])  # has a score, but none at epoch 1, where trials compare
    found = comparable_trials(path, records)
    assert (found.epoch, found.reached, len(found.trials)) == (1, 22, 21)
    assert next(iter(parameter_importance(path, records, "log_loss").share)) == "loss.gamma"


def test_nothing_is_claimed_of_too_few_trials(database):
    path, params = database
    assert parameter_importance(path, [record(n, [0.5 + n], params=params[n]) for n in range(19)], "log_loss") == Importance({}, 0, 19)
    assert parameter_importance(path, [record(n, [0.5 + n], params=params[n]) for n in range(20)], "log_loss").trials == 20


@pytest.mark.xfail(strict=True, reason="PED-ANOVA of equal scores is no error: every parameter then has the same share")
def test_nothing_is_claimed_of_equal_scores(database):
    path, params = database
    alike = parameter_importance(path, [record(n, [0.5], params=values) for n, values in enumerate(params)], "log_loss")
    assert alike == Importance({}, 1, 30)


@pytest.mark.parametrize("method", ["ped_anova", "fanova"])
def test_intervals_over_trials_hold_the_share_and_repeat_by_seed(database, method):
    path, params = database
    records = [record(n, [2.0 - values["loss.gamma"] / 5], params=values) for n, values in enumerate(params)]
    trials = comparable_trials(path, records).trials
    one, two = (importance_intervals(trials, "log_loss", method, rng=np.random.default_rng(0), count=4) for _ in range(2))
    assert one == two and list(one) == ["loss.gamma", "dropout.path"]
    planted, other = one.values()
    assert 0 <= other.low <= other.value <= other.high < planted.low <= planted.value <= planted.high <= 1
    assert planted.low < planted.high


def test_the_words_say_when_the_first_cannot_be_told_from_the_second_and_when_there_is_too_little():
    enough = Comparable([None] * 30, 3, 30)
    clear = {"lr": Interval(0.6, 0.5, 0.7), "gamma": Interval(0.2, 0.1, 0.3)}
    assert "lr matters most: 60%" in in_words(enough, clear) and "not enough" not in in_words(enough, clear)
    assert "not enough to tell it from gamma" in in_words(enough, clear | {"lr": Interval(0.6, 0.2, 0.7)})
    assert in_words(Comparable([], 0, 9), {}).startswith("not enough trials: 9")
    assert in_words(enough, {}).startswith("nothing to say: the 30 trials compared at epoch 3 do not differ enough")
