"""Stochastic depth: whole samples, the mean stays, nothing at evaluation."""

import pytest
import torch

from mmnet.stochastic_depth import StochasticDepth

BRANCH = torch.rand(4000, 3, 2, generator=torch.Generator().manual_seed(0)) + 1


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("probability", [0.2, 0.75])
def test_samples_are_dropped_as_a_whole_with_the_probability_and_the_mean_stays(probability):
    out = StochasticDepth(probability).train()(BRANCH)
    dropped = (out == 0).all((1, 2))
    torch.testing.assert_close(out[~dropped], BRANCH[~dropped] / (1 - probability))
    assert dropped.float().mean().item() == pytest.approx(probability, abs=0.03)
    assert out.mean().item() == pytest.approx(BRANCH.mean().item(), rel=0.1)


def test_nothing_is_dropped_at_evaluation_or_without_probability():
    assert StochasticDepth(0.9).eval()(BRANCH) is BRANCH
    assert StochasticDepth(0.0).train()(BRANCH) is BRANCH
