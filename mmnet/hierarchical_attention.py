"""Attention between magnifications: from the overview to the detail, as a pathologist looks."""

import math

import torch
from torch import Tensor, nn

from mmnet.dropout import Dropout
from mmnet.stochastic_depth import StochasticDepth


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention over tokens with a boolean permission per (query, key). Vaswani et al. 2017, eq. 1."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.query, self.key_value, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor, allowed: Tensor) -> Tensor:
        """queries (B, Q, D), tokens (B, T, D), allowed (B, Q, T) bool with one True per query -> (B, Q, D)."""

        def split(x: Tensor) -> Tensor:  # (B, T, D) -> (B, heads, T, D / heads)
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

        key, value = self.key_value(tokens).chunk(2, dim=2)
        # written out: with four tokens a fused kernel gains nothing, and those of the CPU cannot run the networks of k folds at once
        scores = split(self.query(queries)) @ split(key).mT / math.sqrt(key.shape[2] // self.heads)  # (B, heads, Q, T)
        weights = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(3)
        mixed = self.dropout(weights) @ split(value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class HierarchicalMagnificationAttention(nn.Module):
    """One pre-norm residual attention block over the magnifications of a view.

    `causal`: each magnification attends to itself and to lower ones (40 → 100 → 200 → 400X); `bidirectional`: to all.
    """

    def __init__(self, width: int, heads: int, *, causal: bool, dropout: float, path_dropout: float):
        super().__init__()
        self.causal = causal
        self.norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, dropout)
        self.path = StochasticDepth(path_dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, M, D), mask (B, M) bool -> (B, M, D); masked tokens are never attended to."""
        count = tokens.shape[1]
        itself = torch.eye(count, dtype=torch.bool, device=tokens.device)  # so that masked queries have a key, too
        allowed = mask[:, None, :].expand(-1, count, -1)
        if self.causal:
            allowed = allowed & torch.ones(count, count, dtype=torch.bool, device=tokens.device).tril()
        normed = self.norm(tokens)
        return tokens + self.path(self.attention(normed, normed, allowed | itself))
