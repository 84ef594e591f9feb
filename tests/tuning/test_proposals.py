"""Proposals: configurations of a space, conditional ones included, as points and back."""

import numpy as np
import pytest

from mmnet.config import Config
from search_spaces.space import Dimension, Space
from tuning.proposals import Drawn, coordinates, counts, propose
from tuning.surrogate import Observations, Surrogate, features

SPACE = Space(
    "any",
    (
        Dimension("loss.name", "scientific", "why", choices=("cross_entropy", "focal")),
        Dimension("loss.gamma", "scientific", "why", low=0.0, high=5.0, when=("loss.name", ("focal",))),
        Dimension("optim.lr", "nuisance", "why", low=1e-5, high=1e-1, log=True),
    ),
)


def test_a_logarithmic_range_is_even_in_logarithms_and_what_does_not_apply_is_nan():
    assert counts(SPACE) == (2, 0, 0)
    assert coordinates(SPACE, {"loss.name": "focal", "loss.gamma": 2.5, "optim.lr": 1e-3}) == pytest.approx([1, 0.5, 0.5])
    assert coordinates(SPACE, {"loss.name": "cross_entropy", "optim.lr": 1e-5}) == pytest.approx([0, np.nan, 0], nan_ok=True)


def test_what_is_drawn_lies_in_its_range_and_whole_numbers_reach_both_ends():
    draw = Drawn(np.random.default_rng(0))
    assert {draw.suggest_int("n", 2, 4) for _ in range(60)} == {2, 3, 4}
    assert all(1e-5 <= draw.suggest_float("lr", 1e-5, 1e-1, log=True) <= 1e-1 for _ in range(60))


def test_where_a_value_was_drawn_is_where_it_lies():
    for seed in range(20):
        trial = Drawn(np.random.default_rng(seed))
        SPACE.sample(trial, Config())
        expected = [trial.shares.get(dimension.path, np.nan) for dimension in SPACE.dimensions]
        assert coordinates(SPACE, trial.params) == pytest.approx(expected, nan_ok=True)


def test_the_proposal_is_a_whole_configuration_near_the_good_ones_and_the_same_for_a_seed():
    def learned(generator):
        drawn = []
        for _ in range(80):
            trial = Drawn(generator)
            SPACE.sample(trial, Config())
            drawn.append(trial.params)
        points = np.stack([coordinates(SPACE, params) for params in drawn])
        score = points[:, 2] + (points[:, 0] == 0)  # small learning rates and focal loss are good
        rows = np.arange(80)
        return Surrogate(Observations(features(points, counts(SPACE)), rows, np.full(80, 27), score), 27)

    surrogate = learned(np.random.default_rng(0))
    proposals = [propose(SPACE, Config(), surrogate, np.random.default_rng(seed)) for seed in range(6)]
    assert proposals[0] == propose(SPACE, Config(), surrogate, np.random.default_rng(0))
    assert all(params["loss.name"] == "focal" and "loss.gamma" in params for params in proposals)
    assert np.median([params["optim.lr"] for params in proposals]) < 1e-4
