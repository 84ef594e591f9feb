"""A linear layer of its own for each magnification, all of them as one batched product."""

import math

import torch
from torch import Tensor, nn


class MagnificationLinear(nn.Module):
    """M linear layers side by side: (M, B, in) -> (M, B, out), each initialised as torch's own `nn.Linear`."""

    def __init__(self, magnifications: int, inputs: int, outputs: int):
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(magnifications, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(magnifications, 1, outputs).uniform_(-bound, bound))

    def forward(self, values: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, values, self.weight)
