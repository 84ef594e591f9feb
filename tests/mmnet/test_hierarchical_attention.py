"""Attention between magnifications: who may see whom, and the arithmetic against torch's own."""

import pytest
import torch
from torch import nn

from mmnet.hierarchical_attention import HierarchicalMagnificationAttention, MultiHeadAttention
from tests.mmnet.tiny import randomise

TOKENS = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
EVERYTHING = torch.ones(2, 4, dtype=torch.bool)


def block(causal: bool) -> HierarchicalMagnificationAttention:
    return randomise(HierarchicalMagnificationAttention(8, 2, causal=causal, dropout=0.0, path_dropout=0.0)).eval()


def moved(tokens: torch.Tensor, place: int) -> torch.Tensor:
    other = tokens.clone()
    other[:, place] += torch.linspace(-3, 3, tokens.shape[2])
    return other


def changed(causal: bool, place: int, mask: torch.Tensor = EVERYTHING) -> list[bool]:
    """Which magnifications' outputs (of the first view) change with the token at one place."""
    attention = block(causal)
    difference = (attention(TOKENS, mask) - attention(moved(TOKENS, place), mask)).abs().amax(2)
    return (difference[0] > 1e-4).tolist()


@pytest.mark.parametrize("place", range(4))
def test_causal_attention_hides_a_magnification_from_all_lower_ones(place):
    assert changed(True, place) == [m >= place for m in range(4)]


@pytest.mark.parametrize("place", range(4))
def test_bidirectional_attention_shows_it_to_all(place):
    assert changed(False, place) == [True] * 4


@pytest.mark.parametrize("causal", [True, False])
def test_a_masked_magnification_is_attended_to_by_none_but_itself(causal):
    mask = EVERYTHING.clone()
    mask[:, 1] = False
    assert changed(causal, 1, mask) == [False, True, False, False]


@pytest.mark.parametrize("causal", [True, False])
def test_a_view_of_masked_magnifications_only_gives_numbers(causal):
    assert torch.isfinite(block(causal)(TOKENS, torch.zeros_like(EVERYTHING))).all()


def test_reference_torch_multi_head_attention():
    ours, theirs = randomise(MultiHeadAttention(8, 2, 0.0)), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries = TOKENS[:, :3].flip(2)
    allowed = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    allowed[:, :, 0] = True
    expected, _ = theirs(queries, TOKENS, TOKENS, attn_mask=~allowed.repeat_interleave(2, 0))
    torch.testing.assert_close(ours(queries, TOKENS, allowed), expected)


def test_attention_weights_are_dropped_in_training_only():
    attention = randomise(MultiHeadAttention(8, 2, 0.5))
    allowed = torch.ones(2, 4, 4, dtype=torch.bool)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = (attention.train()(TOKENS, TOKENS, allowed) for _ in range(2))
        assert not torch.allclose(first, second)
    torch.testing.assert_close(attention.eval()(TOKENS, TOKENS, allowed), attention(TOKENS, TOKENS, allowed), rtol=0, atol=0)
