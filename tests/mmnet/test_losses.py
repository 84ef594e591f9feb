"""The loss against the formulas of the papers, for two classes and more, hard and soft targets."""

import pytest
import torch
from torch.nn import functional as F

from mmnet.losses import focal_loss, log_probabilities

LOGIT = torch.tensor([[-3.0], [-0.4], [0.0], [0.7], [5.0], [1.5]])
HARD = torch.tensor([0.0, 1, 1, 0, 1, 0])
THREE = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def both(target):
    """(B,) of the second class -> (B, 2)."""
    return torch.stack([1 - target, target], 1)


def loss(logit, target, alpha=0.5, gamma=0.0, smoothing=0.0):
    return focal_loss(logit, target, alpha=alpha, gamma=gamma, label_smoothing=smoothing)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 3.0), (0.8, 0.0), (0.5, 0.5)])
def test_hard_targets_of_two_classes_are_lin_et_al(alpha, gamma):
    p = LOGIT.squeeze(1).sigmoid()
    p_t, alpha_t = torch.where(HARD == 1, p, 1 - p), torch.where(HARD == 1, alpha, 1 - alpha)
    torch.testing.assert_close(loss(LOGIT, both(HARD), alpha, gamma), (-alpha_t * (1 - p_t) ** gamma * p_t.log()).mean())


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_hard_targets_of_three_classes_are_its_softmax_form(gamma):
    label = torch.tensor([0, 1, 2, 2, 1, 0])
    p_t = THREE.softmax(1)[torch.arange(6), label]
    torch.testing.assert_close(loss(THREE, F.one_hot(label, 3).float(), gamma=gamma), (-0.5 * (1 - p_t) ** gamma * p_t.log()).mean())


def test_without_focus_it_is_half_the_cross_entropy_also_with_label_smoothing():
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(THREE, torch.tensor([0, 1, 2, 2, 1, 0]), label_smoothing=smoothing) / 2
        torch.testing.assert_close(loss(THREE, F.one_hot(torch.tensor([0, 1, 2, 2, 1, 0]), 3).float(), smoothing=smoothing), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.9])
def test_a_soft_target_is_reached_exactly_and_focus_fades_there(gamma, target):
    logit = torch.logit(torch.tensor([[target]])).requires_grad_()
    (slope,) = torch.autograd.grad(loss(logit, both(torch.tensor([target])), gamma=gamma), logit)
    wrong = (logit.detach() + 1.0).requires_grad_()
    (steep,) = torch.autograd.grad(loss(wrong, both(torch.tensor([target])), gamma=gamma), wrong)
    assert slope.abs().item() < 0.05 * steep.item()


def test_quality_focal_loss_by_hand():
    p, y = torch.tensor(0.8), torch.tensor(0.6)
    cross_entropy = -(y * p.log() + (1 - y) * (1 - p).log())
    found = loss(torch.logit(p).view(1, 1), both(y.view(1)), gamma=2.0)
    torch.testing.assert_close(found, 0.5 * (y - p).abs() ** 2 * cross_entropy)


def test_one_logit_and_two_that_differ_by_it_say_the_same():
    two = torch.cat([torch.zeros_like(LOGIT), LOGIT], 1)
    torch.testing.assert_close(log_probabilities(two), log_probabilities(LOGIT))
    torch.testing.assert_close(loss(two, both(HARD), 0.3, 2.0), loss(LOGIT, both(HARD), 0.3, 2.0))


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_and_gradient_are_finite_at_extreme_logits(gamma, smoothing):
    logit = torch.tensor([[-200.0], [200.0], [0.0], [-200.0], [200.0]], requires_grad=True)
    value = loss(logit, both(torch.tensor([0.0, 1, 1, 1, 0])), gamma=gamma, smoothing=smoothing)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logit.grad).all()
