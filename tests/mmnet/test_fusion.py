"""Fusion: the published computation by hand, its ablations, and what a missing magnification may do: nothing."""

import itertools

import pytest
import torch

from mmnet.config import DropoutConfig
from mmnet.fusion import HybridCrossMagFusion
from mmnet.hierarchical_attention import attend
from tests.mmnet.tiny import randomise, tiny_config

TOKENS = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
SHARE = MASK / MASK.sum(1, keepdim=True)
BRANCHES = list(itertools.product((True, False), (True, False), (True, False)))


def fusion(importance=True, attention=True, concatenation=True, mixing="learned", width=8, heads=2, magnifications=4):
    named = {
        "model.importance": importance,
        "model.cross_attention": attention,
        "model.concatenation": concatenation,
        "model.mixing": mixing,
    }
    config = tiny_config({**named, "model.width": width, "model.heads": heads})
    return HybridCrossMagFusion(magnifications, width, config.model, DropoutConfig(fusion=0.0, attention=0.0))


def test_it_has_the_published_parameters_part_by_part():
    with torch.device("meta"):
        whole = fusion(width=1280, heads=8)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in whole.named_children()}
    assert parts == {"align": 6_568_960, "importance": 410_241, "cross_attention": 6_558_720, "concatenation": 16_392_960}
    assert sum(p.numel() for p in whole.parameters()) == 29_930_882


def test_the_whole_by_hand():
    module = randomise(fusion()).eval()
    fused, weights = module(TOKENS, MASK)
    aligned = torch.stack([align(TOKENS[:, m]) for m, align in enumerate(module.align)], 1) * MASK[:, :, None]
    expected = module.importance.score(aligned).squeeze(2).masked_fill(~MASK, -torch.inf).softmax(1)
    torch.testing.assert_close(weights, expected)
    weighted = aligned * weights[:, :, None]
    seen = attend(module.cross_attention, weighted, weighted, MASK)
    attention = torch.stack([view[there].mean(0) for view, there in zip(seen, MASK, strict=True)])
    concatenation = module.concatenation(aligned.flatten(1))
    torch.testing.assert_close(fused, module.ratio * attention + (1 - module.ratio) * concatenation)


@pytest.mark.parametrize("importance", [True, False])
def test_weights_sum_to_one_are_zero_where_masked_and_equal_where_nothing_is_learned(importance):
    _, weights = randomise(fusion(importance))(TOKENS, MASK)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert (weights[~MASK] == 0).all()
    assert torch.allclose(weights, SHARE) != importance


def test_both_branches_count_the_same_at_the_start_and_the_ratio_is_learned_unless_it_is_to_be_equal():
    assert fusion().ratio.item() == 0.5 and fusion().ratio.requires_grad
    assert fusion(mixing="equal").ratio.item() == 0.5 and not fusion(mixing="equal").ratio.requires_grad


@pytest.mark.parametrize(("importance", "attention", "concatenation"), BRANCHES)
def test_every_parameter_moves_with_the_first_step(importance, attention, concatenation):
    module = fusion(importance, attention, concatenation)
    module(TOKENS, torch.ones_like(MASK))[0].square().sum().backward()
    still = [name for name, p in module.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    # equal for all magnifications, so that a softmax over them does not see it; and what concatenation alone does not look at
    unseen = {"importance.score.2.bias"} | (
        {f"importance.score.{n}" for n in ("0.weight", "0.bias", "2.weight")} if not attention and concatenation else set()
    )
    assert set(still) - {"cross_attention.in_proj_bias"} <= unseen


def test_without_both_branches_it_is_the_weighted_mean_of_the_aligned():
    module = randomise(fusion(attention=False, concatenation=False)).eval()
    fused, weights = module(TOKENS, MASK)
    aligned = torch.stack([align(TOKENS[:, m]) for m, align in enumerate(module.align)], 1)
    torch.testing.assert_close(fused, (aligned * weights[:, :, None]).sum(1))


@pytest.mark.parametrize(("importance", "attention", "concatenation"), BRANCHES)
def test_what_is_masked_changes_nothing(importance, attention, concatenation):
    module = randomise(fusion(importance, attention, concatenation)).eval()
    other = torch.where(MASK[:, :, None], TOKENS, 100.0)
    for first, second in zip(module(TOKENS, MASK), module(other, MASK), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize(("importance", "attention", "concatenation"), BRANCHES)
def test_a_single_magnification_has_weight_one(importance, attention, concatenation):
    fused, weights = randomise(fusion(importance, attention, concatenation, magnifications=1))(TOKENS[:, :1], MASK[:1, :1].expand(3, 1))
    assert fused.shape == (3, 8) and (weights == 1).all()
