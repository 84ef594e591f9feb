"""Effects that were planted are drawn, and an interaction is told from a sum."""

import numpy as np
import optuna
import pytest

from analysis.marginals import interaction_share, marginal_effects

optuna.logging.set_verbosity(optuna.logging.ERROR)


def trials(score, count=120):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial):
        values = {"lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True), "gamma": trial.suggest_float("gamma", 0, 1), "name": trial.suggest_categorical("name", ["a", "b"])}  # fmt: skip
        if values["name"] == "a":
            trial.suggest_float("conditional", 0, 1)
        trial.suggest_float("fixed", 1, 1)
        return score(values)

    study.optimize(objective, n_trials=count)
    return study.trials


def effects(score, names=("lr", "gamma", "name", "conditional", "fixed")):
    return marginal_effects(trials(score), list(names), rng=np.random.default_rng(0), count=6)


def test_marginals_follow_the_planted_effect_within_a_band():
    found = effects(lambda v: np.log10(v["lr"]) + (v["name"] == "b"))["marginals"]
    assert list(found) == ["lr", "gamma", "name"]  # a conditional parameter has no marginal over all trials, a fixed one no effect
    lr = found["lr"]
    assert lr["kind"] == "log" and lr["mean"][-1] - lr["mean"][0] > 1.5
    assert np.all(np.diff(lr["x"]) > 0) and 1e-4 < lr["x"][0] < 3e-4 and 3e-2 < lr["x"][-1] < 1e-1  # as they were given
    assert all(low < mean < high for low, mean, high in zip(lr["low"], lr["mean"], lr["high"], strict=True))
    assert found["name"]["x"] == ["a", "b"] and found["name"]["mean"][1] - found["name"]["mean"][0] == pytest.approx(1, abs=0.4)
    assert np.ptp(found["gamma"]["mean"]) < 0.4


def test_the_share_of_an_interaction_by_hand():
    x = np.array([-1.0, 1.0])
    assert interaction_share(x[:, None] + 3 * x) == 0
    assert interaction_share(x[:, None] * x) == 1
    assert interaction_share(x[:, None] + x[:, None] * x) == pytest.approx(0.5)
    assert interaction_share(np.ones((3, 3))) == 0


def test_the_pair_that_acts_together_is_named():
    pair = effects(lambda v: v["lr"] + 3 * (v["gamma"] - 0.5) * (1 if v["name"] == "a" else -1))["interaction"]
    assert pair["pair"] == ["gamma", "name"] and pair["kinds"] == ["number", "choice"] and pair["y"] == ["a", "b"]
    strength = pair["strength"]
    assert strength["value"] > 0.5 and strength["low"] <= strength["value"] <= strength["high"]
    mean = np.array(pair["mean"])
    assert mean.shape == (len(pair["x"]), 2)
    assert mean[-1, 0] - mean[0, 0] > 1 and mean[-1, 1] - mean[0, 1] < -1  # gamma helps a and hurts b


def test_nothing_that_varies_has_no_effects():
    assert effects(lambda v: v["lr"], names=("absent", "fixed")) == {"marginals": {}, "interaction": None}
