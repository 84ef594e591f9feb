"""The magnifications of a view -> one vector."""

import torch
from torch import Tensor, nn

from mmnet.config import DropoutConfig, ModelConfig
from mmnet.hierarchical_attention import attend

MIXINGS = ("learned", "equal")


class MagnificationImportance(nn.Module):
    """Softmax weights of the magnifications that are there, from what each of them shows."""

    def __init__(self, width: int):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, 1))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """tokens (B, M, D), mask (B, M) with one True a row -> (B, M), rows sum to 1, 0 where masked."""
        return self.score(tokens).squeeze(2).masked_fill(~mask, -torch.inf).softmax(1)


class HybridCrossMagFusion(nn.Module):
    """r · attention + (1 − r) · concatenation of the aligned magnifications, as published.

    Attention runs over the magnifications times their importance, concatenation over all as they are; r is learned and starts at
    0.5, so that both branches learn from the first step (`mixing` equal: it stays there). One branch alone, or without both the
    importance-weighted mean, are the ablations. LayerNorm stands where BatchNorm is published: it has as many parameters, does not
    mix the views of a batch, nor those that lack a magnification with others, and takes a last batch of one.
    """

    def __init__(self, magnifications: int, width: int, config: ModelConfig, dropout: DropoutConfig):
        super().__init__()
        self.align = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU()) for _ in range(magnifications))
        self.importance = MagnificationImportance(width) if config.importance else None
        self.cross_attention = (
            nn.MultiheadAttention(width, config.heads, dropout.attention, batch_first=True) if config.cross_attention else None
        )
        self.concatenation = (
            nn.Sequential(
                nn.Linear(magnifications * width, 2 * width),
                nn.LayerNorm(2 * width),
                nn.ReLU(),
                nn.Dropout(dropout.fusion),
                nn.Linear(2 * width, width),
            )
            if config.concatenation
            else None
        )
        both = config.cross_attention and config.concatenation
        self.ratio = nn.Parameter(torch.tensor(0.5), requires_grad=config.mixing == "learned") if both else None

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (B, M, D), mask (B, M) -> fused (B, D), weights (B, M) that sum to 1."""
        present = mask.to(tokens.dtype)
        aligned = torch.stack([align(token) for token, align in zip(tokens.unbind(1), self.align, strict=True)], 1) * present[:, :, None]
        weights = self.importance(aligned, mask) if self.importance else present / present.sum(1, keepdim=True)
        weighted = aligned * weights[:, :, None]
        branches = []
        if self.cross_attention:
            seen = attend(self.cross_attention, weighted, weighted, mask) * present[:, :, None]
            branches.append(seen.sum(1) / present.sum(1, keepdim=True))
        if self.concatenation:
            branches.append(self.concatenation(aligned.flatten(1)))
        if not branches:
            return weighted.sum(1), weights
        return (branches[0] if self.ratio is None else self.ratio * branches[0] + (1 - self.ratio) * branches[1]), weights
