"""Dropout from a generator of the network's own."""

import pytest
import torch
from torch import nn

from mmnet.dropout import Dropout, drawing_from
from mmnet.stochastic_depth import StochasticDepth

VALUES = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))


def generator(seed=3):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("layer", [Dropout(0.3), StochasticDepth(0.3)], ids=["dropout", "stochastic depth"])
def test_an_own_generator_draws_what_the_global_one_draws_from_the_same_seed_and_leaves_it_alone(layer):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        expected = layer(VALUES), layer(VALUES)
        before = torch.get_rng_state()
        with drawing_from(layer, generator()):
            own = layer(VALUES), layer(VALUES)
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(one, two) for one, two in zip(own, expected, strict=True))
        assert not torch.equal(*own)
        layer(VALUES)
        assert not torch.equal(torch.get_rng_state(), before)  # afterwards it draws from the global one again


def test_survivors_are_scaled_and_their_gradients_too():
    layer, values = Dropout(0.25), torch.ones(10_000, requires_grad=True)
    with drawing_from(layer, generator()):
        dropped = layer(values)
    dropped.sum().backward()
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(values.grad, dropped)


@pytest.mark.parametrize("layer", [Dropout(0.5).eval(), Dropout(0.0)], ids=["judging", "probability 0"])
def test_nothing_is_drawn_where_nothing_is_dropped(layer):
    own = generator()
    before = own.get_state()
    with drawing_from(nn.Sequential(layer), own):
        assert torch.equal(layer(VALUES), VALUES)
    assert torch.equal(own.get_state(), before)
