"""Layers side by side against torch's own, one by one."""

import pytest
import torch
from torch import nn

from mmnet.magnification_linear import MagnificationLinear


def test_reference_each_magnification_has_a_linear_layer_of_its_own():
    torch.manual_seed(0)
    ours, values = MagnificationLinear(3, 5, 4), torch.randn(3, 2, 5)
    for number, part in enumerate(values):
        theirs = nn.Linear(5, 4)
        with torch.no_grad():
            theirs.weight.copy_(ours.weight[number].T)
            theirs.bias.copy_(ours.bias[number, 0])
        torch.testing.assert_close(ours(values)[number], theirs(part))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_reference_it_starts_as_torch_starts_a_linear_layer(name):
    torch.manual_seed(0)
    ours, theirs = getattr(MagnificationLinear(50, 16, 64), name), getattr(nn.Linear(16, 64 * 50), name)
    assert ours.abs().max() <= 0.25 and theirs.abs().max() <= 0.25  # 1 / sqrt(16)
    torch.testing.assert_close(ours.std(), theirs.std(), rtol=0.05, atol=0)
