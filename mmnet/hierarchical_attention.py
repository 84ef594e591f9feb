"""Attention between magnifications: from the overview to the detail, as a pathologist looks."""

import torch
from torch import Tensor, nn

HIERARCHIES = ("causal", "bidirectional", "none")


def attend(attention: nn.Module, query: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """By a `nn.MultiheadAttention`: query (B, Q, D), tokens (B, T, D), mask (B, T) bool of the tokens that are there -> (B, Q, D), zero where there is none."""
    some = mask.any(1, keepdim=True)  # a softmax over no token is no number
    seen, _ = attention(query, tokens, tokens, key_padding_mask=~(mask | ~some), need_weights=False)
    return seen * some[:, :, None]


class HierarchicalMagnificationAttention(nn.Module):
    """Each magnification attends to all lower ones, which have attended before; the lowest passes. As published.

    A learned embedding says which magnification a token is; attention of its own for each, LayerNorm(query + attended).
    """

    def __init__(self, magnifications: int, width: int, heads: int, dropout: float):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(magnifications, width))
        higher = range(magnifications - 1)
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, heads, dropout, batch_first=True) for _ in higher)
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in higher)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, M, D), mask (B, M) bool -> (B, M, D); nothing attends to what is masked."""
        tokens = tokens + self.embedding
        lowest, *higher = tokens.split(1, dim=1)
        done = [lowest]
        for number, (query, attention, norm) in enumerate(zip(higher, self.attention, self.norm, strict=True), start=1):
            done.append(norm(query + attend(attention, query, torch.cat(done, 1), mask[:, :number])))
        return torch.cat(done, 1)


class BidirectionalMagnificationAttention(nn.Module):
    """One encoder block: every magnification attends to all that are there. The published variant; Vaswani et al. 2017, post-norm."""

    def __init__(self, magnifications: int, width: int, heads: int, dropout: float):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(magnifications, width))
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norm, self.last_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """As `HierarchicalMagnificationAttention.forward`."""
        tokens = tokens + self.embedding
        tokens = self.norm(tokens + attend(self.attention, tokens, tokens, mask))
        return self.last_norm(tokens + self.feed_forward(tokens))
