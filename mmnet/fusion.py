"""The magnifications of a view -> one vector."""

import torch
from torch import Tensor, nn

from mmnet.config import DropoutConfig, ModelConfig
from mmnet.dropout import Dropout
from mmnet.hierarchical_attention import MultiHeadAttention
from mmnet.stochastic_depth import StochasticDepth

PRIOR_GAIN = 10.0  # Adam moves a parameter by about lr a step: without a gain, a prior could not leave 0 within a trial


class MagnificationImportance(nn.Module):
    """Masked softmax weights of the magnifications: a learned prior of each plus what the view's own token says."""

    def __init__(self, magnifications: int, width: int):
        super().__init__()
        self.prior = nn.Parameter(torch.zeros(magnifications))
        self.content = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.content.weight)  # start with equal weights

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, M, D), mask (B, M) with one True a row -> (B, M), rows sum to 1, 0 where masked."""
        scores = PRIOR_GAIN * self.prior + self.content(tokens).squeeze(2)
        return scores.masked_fill(~mask, -torch.inf).softmax(1)


class HybridCrossMagFusion(nn.Module):
    """Weighted mean of the magnifications plus residual branches: cross-attention and a concatenation MLP.

    Tokens are normalised first, so that a magnification cannot make up for a small weight by a long token, and every
    branch sees each token scaled by its weight (times how many there are, so that equal weights change nothing): a
    magnification without weight has no way into the result. `learned` mixing gives each
    branch a gain that starts at 0 (Bachlechner et al., ReZero, UAI 2021); `equal` adds them as they are.
    """

    def __init__(self, magnifications: int, config: ModelConfig, dropout: DropoutConfig):
        super().__init__()
        width = config.width
        self.importance = MagnificationImportance(magnifications, width) if config.importance else None
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.cross_attention = MultiHeadAttention(width, config.heads, dropout.attention) if config.cross_attention else None
        self.concatenation = (
            nn.Sequential(nn.Linear(magnifications * width, width), nn.GELU(), Dropout(dropout.fusion), nn.Linear(width, width))
            if config.concatenation
            else None
        )
        branches = int(config.cross_attention) + int(config.concatenation)
        self.gain = nn.Parameter(torch.zeros(branches)) if config.mixing == "learned" else None
        self.dropout = Dropout(dropout.fusion)
        self.path = StochasticDepth(dropout.path)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, M, D), mask (B, M) -> fused (B, D), weights (B, M) that sum to 1."""
        present = mask.to(tokens.dtype)
        tokens = self.norm(tokens)
        weights = self.importance(tokens, mask) if self.importance else present / present.sum(1, keepdim=True)
        mean = (weights[:, :, None] * tokens).sum(1)  # (B, D)
        scaled = tokens * (weights * present.sum(1, keepdim=True))[:, :, None]
        branches = []
        if self.cross_attention:
            branches.append(self.cross_attention(self.norm(mean)[:, None], scaled, mask[:, None]).squeeze(1))
        if self.concatenation:
            branches.append(self.concatenation(scaled.flatten(1)))
        fused = mean
        for number, branch in enumerate(branches):
            gain = 1.0 if self.gain is None else self.gain[number]
            fused = fused + gain * self.path(self.dropout(branch))
        return fused, weights
