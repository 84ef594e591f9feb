"""Multi-scale attention pooling against a naive one that scores, smooths and gates whole maps."""

import pytest
import torch
from torch.nn import functional as F

from mmnet.attention_pool import MultiScaleAttentionPool
from tests.mmnet.tiny import randomise

SIZE = (4, 5)
MAPS = torch.randn(3, 2, 6, *SIZE, generator=torch.Generator().manual_seed(0))  # of two magnifications
GATE = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(1))


def naive(pool: MultiScaleAttentionPool, maps: torch.Tensor) -> torch.Tensor:
    """Smooth the features, then score them; a softmax over positions at each scale; maps (B, M, C, H, W) -> (M, B, C)."""
    tokens = []
    for weight, mix, own in zip(pool.weight, pool.mix, maps.unbind(1), strict=True):
        pooled = []
        for number, scale in enumerate(pool.scales):
            smooth = F.avg_pool2d(own, scale, stride=1, padding=scale // 2, count_include_pad=False)
            score = torch.einsum("c,bchw->bhw", weight[number], smooth)
            attention = score.flatten(1).softmax(1).view_as(score)
            pooled.append(torch.einsum("bhw,bchw->bc", attention, own))
        tokens.append(sum(share * part for share, part in zip(mix.softmax(0), pooled, strict=True)))
    return torch.stack(tokens)


def mean(maps):
    return maps.mean((3, 4)).transpose(0, 1)


def pooled(pool, maps, gate=None):
    return pool(maps.flatten(3), gate, tuple(maps.shape[3:]))


@pytest.mark.parametrize("scales", [(1,), (3,), (1, 3, 5), (7,)])
def test_score_then_smooth_is_smooth_then_score(scales):
    pool = randomise(MultiScaleAttentionPool(2, 6, scales))
    torch.testing.assert_close(pooled(pool, MAPS), naive(pool, MAPS))


@pytest.mark.parametrize("scales", [(), (1,), (1, 3, 5)])
def test_pooling_with_a_gate_is_pooling_of_gated_maps(scales):
    pool = randomise(MultiScaleAttentionPool(2, 6, scales))
    torch.testing.assert_close(pooled(pool, MAPS, GATE), pooled(pool, MAPS * GATE.transpose(0, 1)[..., None, None]))
    assert not torch.allclose(pooled(pool, MAPS, GATE), pooled(pool, MAPS))


@pytest.mark.parametrize("scales", [(), (1,), (1, 3, 5)])
def test_it_starts_as_average_pooling(scales):
    torch.testing.assert_close(pooled(MultiScaleAttentionPool(2, 6, scales), MAPS), mean(MAPS))


def test_a_high_score_draws_the_result_to_its_position():
    pool = MultiScaleAttentionPool(2, 6, (1,))
    with torch.no_grad():
        pool.weight[1, 0, 2] = 1000.0
    where = MAPS[0, 1, 2].flatten().argmax()
    torch.testing.assert_close(pooled(pool, MAPS)[1, 0], MAPS[0, 1].flatten(1)[:, where])


def test_one_position_is_its_own_mean():
    pool = randomise(MultiScaleAttentionPool(2, 6, (1, 3)))
    torch.testing.assert_close(pooled(pool, MAPS[..., :1, :1]), MAPS[..., 0, 0].transpose(0, 1))


def test_without_scales_nothing_is_learned():
    assert list(MultiScaleAttentionPool(2, 6, ()).parameters()) == []
