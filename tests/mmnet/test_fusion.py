"""Fusion: masked weights that sum to one, and branches that see nothing without weight."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from mmnet.fusion import HybridCrossMagFusion, MagnificationImportance
from tests.mmnet.tiny import randomise, tiny_config

TOKENS = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
BRANCHES = list(itertools.product((True, False), (True, False), ("learned", "equal")))


def fusion(cross_attention=True, concatenation=True, mixing="learned", importance=True, magnifications=4) -> HybridCrossMagFusion:
    config = tiny_config(
        {
            "model.cross_attention": cross_attention,
            "model.concatenation": concatenation,
            "model.mixing": mixing,
            "model.importance": importance,
        }
    )
    return HybridCrossMagFusion(magnifications, config.model, config.dropout).eval()


def weighted_mean(weights: torch.Tensor) -> torch.Tensor:
    return (weights[:, :, None] * F.layer_norm(TOKENS, (8,))).sum(1)


@pytest.mark.parametrize("importance", [True, False])
def test_weights_sum_to_one_and_are_zero_where_masked(importance):
    _, weights = randomise(fusion(importance=importance))(TOKENS, MASK)
    torch.testing.assert_close(weights.sum(1), torch.ones(4))
    assert (weights[~MASK] == 0).all() and (weights[MASK] > 0).all()


def test_without_learned_importance_all_that_is_there_counts_the_same():
    _, weights = randomise(fusion(importance=False))(TOKENS, MASK)
    torch.testing.assert_close(weights, MASK / MASK.sum(1, keepdim=True))


def test_learned_importance_starts_equal_and_then_depends_on_prior_and_content():
    module = MagnificationImportance(4, 8)
    torch.testing.assert_close(module(TOKENS, MASK), MASK / MASK.sum(1, keepdim=True))
    with torch.no_grad():
        module.prior[0] = 1.0
    prior = module(TOKENS, torch.ones_like(MASK))
    assert (prior[:, 0] > prior[:, 1]).all() and torch.equal(prior[0], prior[1])
    assert not torch.allclose(*randomise(module)(TOKENS, torch.ones_like(MASK))[:2])


@pytest.mark.parametrize(("cross_attention", "concatenation"), [branches[:2] for branches in BRANCHES[::2]])
def test_learned_mixing_starts_at_the_weighted_mean_of_normalised_tokens(cross_attention, concatenation):
    fused, weights = fusion(cross_attention, concatenation)(TOKENS, MASK)
    torch.testing.assert_close(fused, weighted_mean(weights))


@pytest.mark.parametrize(("cross_attention", "concatenation"), [(True, False), (False, True)])
def test_equal_mixing_adds_its_branch_from_the_start(cross_attention, concatenation):
    fused, weights = fusion(cross_attention, concatenation, "equal")(TOKENS, MASK)
    assert not torch.allclose(fused, weighted_mean(weights), atol=1e-3)


def test_a_longer_token_counts_no_more():
    module = randomise(fusion())
    longer = TOKENS * torch.tensor([1.0, 1000.0, 1.0, 1.0])[:, None]
    torch.testing.assert_close(module(longer, MASK)[0], module(TOKENS, MASK)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("cross_attention", "concatenation", "mixing"), BRANCHES)
def test_a_magnification_without_weight_has_no_way_into_the_result(cross_attention, concatenation, mixing):
    module = randomise(fusion(cross_attention, concatenation, mixing))
    with torch.no_grad():
        module.importance.content.weight.zero_()
        module.importance.prior.copy_(torch.tensor([0.0, 0.0, -1e4, 0.0]))
    everything, other = torch.ones_like(MASK), TOKENS.clone()
    other[:, 2] = 5 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    fused, weights = module(TOKENS, everything)
    assert (weights[:, 2] == 0).all()
    torch.testing.assert_close(module(other, everything)[0], fused)
    other[:, 1] = other[:, 2]
    assert not torch.allclose(module(other, everything)[0], fused, atol=1e-3)


@pytest.mark.parametrize("mixing", ["learned", "equal"])
def test_attention_over_magnifications_goes_on_as_if_a_masked_one_did_not_exist(mixing):
    module = randomise(fusion(concatenation=False, mixing=mixing))
    there = [0, 2, 3]  # of the second view
    fewer = fusion(concatenation=False, mixing=mixing, magnifications=3)
    state = module.state_dict()
    fewer.load_state_dict(state | {"importance.prior": state["importance.prior"][there]})
    expected = module(TOKENS[1:2], MASK[1:2])
    fused, weights = fewer(TOKENS[1:2, there], MASK[1:2, there])
    torch.testing.assert_close(fused, expected[0])
    torch.testing.assert_close(weights, expected[1][:, there])


@pytest.mark.parametrize(("cross_attention", "concatenation", "mixing"), BRANCHES)
@pytest.mark.parametrize("importance", [True, False])
def test_a_single_magnification_is_fused_with_weight_one(cross_attention, concatenation, mixing, importance):
    fused, weights = randomise(fusion(cross_attention, concatenation, mixing, importance, magnifications=1))(
        TOKENS[:, :1], MASK[:, :1] | True
    )
    assert fused.shape == (4, 8) and torch.isfinite(fused).all()
    assert (weights == 1).all()
