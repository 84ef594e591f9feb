"""Attention between magnifications: who sees whom, and that nobody sees what is masked."""

import pytest
import torch
from torch import nn

from mmnet.hierarchical_attention import BidirectionalMagnificationAttention, HierarchicalMagnificationAttention, attend
from tests.mmnet.tiny import randomise

TOKENS = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
OTHER = torch.randn(8, generator=torch.Generator().manual_seed(1))
EVERYONE = torch.ones(3, 4, dtype=torch.bool)


def causal():
    return randomise(HierarchicalMagnificationAttention(4, 8, 2, 0.0)).eval()


def bidirectional():
    return randomise(BidirectionalMagnificationAttention(4, 8, 2, 0.0)).eval()


def test_it_has_the_published_parameters():
    with torch.device("meta"):
        whole = HierarchicalMagnificationAttention(4, 1280, 8, 0.1)
    assert sum(parameter.numel() for parameter in whole.parameters()) == 19_688_960


def test_the_lowest_magnification_passes():
    block = causal()
    torch.testing.assert_close(block(TOKENS, EVERYONE)[:, 0], TOKENS[:, 0] + block.embedding[0])


@pytest.mark.parametrize("changed", range(4))
def test_a_magnification_is_seen_by_itself_and_by_higher_ones_only(changed):
    block, other = causal(), TOKENS.clone()
    other[:, changed] += OTHER
    same = (block(other, EVERYONE) - block(TOKENS, EVERYONE)).abs().amax((0, 2)) < 1e-6
    assert same.tolist() == [number < changed for number in range(4)]


def test_of_two_magnifications_the_higher_one_by_hand():
    block = randomise(HierarchicalMagnificationAttention(2, 8, 2, 0.0)).eval()
    tokens = TOKENS[:, :2] + block.embedding
    attention = block.attention[0]
    value = tokens[:, 0] @ attention.in_proj_weight[16:].T + attention.in_proj_bias[16:]  # one token gets all the attention
    expected = block.norm[0](tokens[:, 1] + attention.out_proj(value))
    torch.testing.assert_close(block(TOKENS[:, :2], EVERYONE[:, :2])[:, 1], expected)


def test_where_no_lower_one_is_there_a_magnification_is_normed_only():
    block = causal()
    torch.testing.assert_close(block(TOKENS, MASK)[2, 3], block.norm[2](TOKENS[2, 3] + block.embedding[3]))


@pytest.mark.parametrize("make", [causal, bidirectional])
def test_what_is_masked_is_not_seen_and_gives_no_nan(make):
    block, other = make(), torch.where(MASK[:, :, None], TOKENS, 100.0)
    first, second = block(TOKENS, MASK), block(other, MASK)
    torch.testing.assert_close(first[MASK], second[MASK])
    assert torch.isfinite(first).all()


def test_bidirectional_attention_sees_all_that_are_there():
    block, other = bidirectional(), TOKENS.clone()
    other[:, 3] += OTHER
    assert ((block(other, EVERYONE) - block(TOKENS, EVERYONE)).abs().amax((0, 2)) > 1e-3).all()


def test_attention_to_nothing_is_zero():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    nothing = torch.zeros(3, 4, dtype=torch.bool)
    assert (attend(attention, TOKENS[:, :1], TOKENS, nothing) == 0).all()
