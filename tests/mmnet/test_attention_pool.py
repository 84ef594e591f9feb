"""Spatial attention: each pool by hand, with and without the gates of the channels."""

import pytest
import torch

from mmnet.attention_pool import MeanPool, MultiScaleAttentionPool, SoftmaxPool, build_pool
from tests.mmnet.tiny import randomise

MAPS = torch.randn(3, 8, 4, 5, generator=torch.Generator().manual_seed(0))
GATE = torch.rand(3, 8, generator=torch.Generator().manual_seed(1))
KINDS = ("gate", "softmax", "mean")


@pytest.mark.parametrize("kind", KINDS)
def test_pooling_with_gates_is_pooling_of_gated_maps(kind):
    pool = randomise(build_pool(kind, 8, (1, 2, 4)))
    torch.testing.assert_close(pool(MAPS, GATE), pool(MAPS * GATE[:, :, None, None], None))


@pytest.mark.parametrize("kind", KINDS)
def test_one_position_is_a_multiple_of_itself(kind):
    pooled = randomise(build_pool(kind, 8, (1, 2)))(MAPS[:, :, :1, :1], None)
    ratio = pooled / MAPS[:, :, 0, 0]
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))
    assert kind == "gate" or torch.allclose(pooled, MAPS[:, :, 0, 0])


def test_the_published_pool_has_the_published_parameters():
    pool = MultiScaleAttentionPool(1280, (1, 2, 4))
    assert sum(parameter.numel() for parameter in pool.parameters()) == 1_230_727


def test_a_gate_that_is_open_everywhere_is_the_mean_and_a_closed_one_nothing():
    pool = MultiScaleAttentionPool(8, (1, 2))
    torch.nn.init.constant_(pool.combine[0].bias, 100.0)
    torch.testing.assert_close(pool(MAPS, None), MAPS.mean((2, 3)))
    torch.nn.init.constant_(pool.combine[0].bias, -100.0)
    torch.testing.assert_close(pool(MAPS, None), torch.zeros(3, 8))


def test_the_gate_of_one_scale_by_hand():
    """One cell sees the mean of the map: the gate is the same everywhere."""
    pool = randomise(MultiScaleAttentionPool(8, (1,)))
    score, combine = pool.score[0], pool.combine[0]
    mean = MAPS.mean((2, 3))
    hidden = torch.relu(mean @ score[0].weight.flatten(1).T + score[0].bias)
    seen = torch.sigmoid(hidden @ score[2].weight.flatten(1).T + score[2].bias)
    gate = torch.sigmoid(seen * combine.weight.flatten() + combine.bias)
    torch.testing.assert_close(pool(MAPS, None), mean * gate)


def test_the_softmax_pool_starts_as_the_mean_and_follows_its_scores():
    pool = SoftmaxPool(8)
    torch.testing.assert_close(pool(MAPS, None), MeanPool()(MAPS, None))
    pool.score.data[0] = 1000.0
    place = MAPS[:, 0].flatten(1).argmax(1)
    torch.testing.assert_close(pool(MAPS, None), MAPS.flatten(2)[torch.arange(3), :, place])
