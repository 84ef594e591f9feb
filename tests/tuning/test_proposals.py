"""Proposals: configurations of a space, conditional ones included, as points and back."""

import numpy as np
import pytest
from optuna.trial import FixedTrial

from mmnet.config import Config
from search_spaces import get_space
from search_spaces.space import Dimension, Space
from tuning.proposals import coordinates, counts, draw, parameters, propose
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


def test_what_is_drawn_is_even_over_its_range_and_whole_numbers_reach_both_ends():
    whole = Space("any", (Dimension("model.heads", "scientific", "why", low=2, high=4), SPACE.dimensions[2]))
    points = draw(whole, Config(), np.random.default_rng(0), 3000)
    heads = [parameters(whole, point)["model.heads"] for point in points]
    assert {head: round(heads.count(head) / 3000, 1) for head in (2, 3, 4)} == dict.fromkeys((2, 3, 4), 0.3)
    assert (points >= 0).all() and (points <= 1).all() and points[:, 1].mean() == pytest.approx(0.5, abs=0.02)


def test_a_whole_number_on_a_logarithmic_scale_keeps_its_value():
    whole = Space("any", (Dimension("model.width", "scientific", "why", low=16, high=512, log=True),))
    points = draw(whole, Config(), np.random.default_rng(0), 200)
    widths = [parameters(whole, point)["model.width"] for point in points]
    assert all(isinstance(width, int) and 16 <= width <= 512 for width in widths) and len(set(widths)) > 50
    assert [coordinates(whole, {"model.width": width}) for width in widths] == [pytest.approx(point) for point in points]


def test_where_a_value_was_drawn_is_where_it_lies():
    points = draw(SPACE, Config(), np.random.default_rng(0), 20)
    assert all(coordinates(SPACE, parameters(SPACE, point)) == pytest.approx(point, nan_ok=True) for point in points)


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_drawn_has_the_conditions_of_the_space(frozen):
    base = Config().with_values({"model.frozen": frozen})
    space = get_space("full", base)
    for point in draw(space, base, np.random.default_rng(0), 200):
        params = parameters(space, point)
        kept = set(space.sample(FixedTrial(params), base))  # raises where a value is missing or outside
        assert kept == set(params)


def test_a_condition_on_what_is_not_searched_or_not_there_goes_by_the_base():
    gamma = SPACE.dimensions[1]
    alone = Space("any", (gamma,))
    assert not np.isnan(draw(alone, Config().with_values({"loss.name": "focal"}), np.random.default_rng(0), 5)).any()
    assert np.isnan(draw(alone, Config().with_values({"loss.name": "cross_entropy"}), np.random.default_rng(0), 5)).all()


def test_the_proposal_is_a_whole_configuration_near_the_good_ones_and_the_same_for_a_seed():
    def learned(generator):
        points = draw(SPACE, Config(), generator, 80)
        score = points[:, 2] + (points[:, 0] == 0)  # small learning rates and focal loss are good
        rows = np.arange(80)
        return Surrogate(Observations(features(points, counts(SPACE)), rows, np.full(80, 27), score), 27)

    surrogate = learned(np.random.default_rng(0))
    proposals = [propose(SPACE, Config(), surrogate, np.random.default_rng(seed)) for seed in range(6)]
    assert proposals[0] == propose(SPACE, Config(), surrogate, np.random.default_rng(0))
    assert all(params["loss.name"] == "focal" and "loss.gamma" in params for params in proposals)
    assert np.median([params["optim.lr"] for params in proposals]) < 1e-4
