"""Stochastic depth: skip a residual branch for a random part of the batch."""

import torch
from torch import Tensor

from mmnet.dropout import Drawing


class StochasticDepth(Drawing):
    """Huang et al., Deep Networks with Stochastic Depth, ECCV 2016; survivors are scaled so that the mean stays."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """(B, …) -> (B, …), whole samples zeroed with the given probability while training."""
        if not self.training or self.probability == 0:
            return branch
        drawn = torch.rand(len(branch), *[1] * (branch.dim() - 1), generator=self.generator, device=branch.device)
        return branch * (drawn >= self.probability) / (1 - self.probability)
