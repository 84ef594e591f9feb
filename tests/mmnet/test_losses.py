"""The focal loss against formulas: the paper's, torchvision's and cross-entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from mmnet.losses import focal_loss
from mmnet.torchvision_ops import import_torchvision

GENERATOR = torch.Generator().manual_seed(0)
LOGIT = 3 * torch.randn(64, generator=GENERATOR, dtype=torch.float64)
SOFT = torch.rand(64, generator=GENERATOR, dtype=torch.float64)
HARD = (SOFT > 0.5).double()


def plain(logit, target, alpha, gamma, smoothing):
    """Lin et al. 2017, eq. 5, one number at a time."""
    total = 0.0
    for x, y in zip(logit.tolist(), target.tolist(), strict=True):
        y = y * (1 - smoothing) + smoothing / 2
        p = 1 / (1 + math.exp(-x))
        total -= alpha * y * (1 - p) ** gamma * math.log(p) + (1 - alpha) * (1 - y) * p**gamma * math.log(1 - p)
    return total / len(logit)


@pytest.mark.parametrize("target", [HARD, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("alpha", [0.5, 0.2])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_reference_the_formula_of_the_paper(target, alpha, gamma, smoothing):
    value = focal_loss(LOGIT, target, alpha=alpha, gamma=gamma, label_smoothing=smoothing)
    assert value.item() == pytest.approx(plain(LOGIT, target, alpha, gamma, smoothing), rel=1e-12)


def test_without_focus_it_is_half_the_cross_entropy():
    value = focal_loss(LOGIT, SOFT, alpha=0.5, gamma=0.0, label_smoothing=0.0)
    torch.testing.assert_close(value, F.binary_cross_entropy_with_logits(LOGIT, SOFT) / 2)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 3.0), (0.8, 0.0)])
def test_reference_torchvision_for_hard_labels(alpha, gamma):
    expected = import_torchvision().ops.sigmoid_focal_loss(LOGIT, HARD, alpha=alpha, gamma=gamma, reduction="mean")
    torch.testing.assert_close(focal_loss(LOGIT, HARD, alpha=alpha, gamma=gamma, label_smoothing=0.0), expected)


def test_focusing_lowers_the_share_of_easy_views():
    easy, hard = torch.tensor([4.0]), torch.tensor([-1.0])
    one = torch.ones(1)

    def share(gamma):
        return focal_loss(easy, one, alpha=0.5, gamma=gamma, label_smoothing=0.0) / focal_loss(
            hard, one, alpha=0.5, gamma=gamma, label_smoothing=0.0
        )

    assert share(3.0) < share(1.0) < share(0.0)


def test_label_smoothing_has_its_least_loss_at_a_finite_logit():
    logit = torch.zeros(1, requires_grad=True)
    least = math.log(0.9 / 0.1)  # the smoothed target of 1 is 0.9 where the share is 0.2
    gradient = [
        torch.autograd.grad(focal_loss(logit + x, torch.ones(1), alpha=0.5, gamma=0.0, label_smoothing=0.2), logit)[0].item()
        for x in (least - 1, least, least + 1)
    ]
    assert gradient[0] < -0.01 and abs(gradient[1]) < 1e-6 and gradient[2] > 0.01


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_loss_and_gradient_are_finite_at_extreme_logits(gamma, target):
    logit = torch.tensor([-1e4, -200.0, -90.0, 0.0, 90.0, 200.0, 1e4], requires_grad=True)
    loss = focal_loss(logit, torch.full_like(logit, target), alpha=0.5, gamma=gamma, label_smoothing=0.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logit.grad).all()
