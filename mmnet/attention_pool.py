"""Feature maps -> one embedding, by spatial attention at several scales."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiScaleAttentionPool(nn.Module):
    """Weighted means of the positions; the weights come from neighbourhoods of several sizes.

    Scale k scores each position by a linear map of the mean feature of its k x k neighbourhood (score, then smooth: the
    two commute, and smoothing one score map is C times cheaper), takes a softmax over positions (attention pooling: Ilse
    et al., Attention-based Deep Multiple Instance Learning, ICML 2018, eq. 8) and pools. A learned softmax mixes scales.
    Without scales it is global average pooling.
    """

    def __init__(self, channels: int, scales: tuple[int, ...]):
        super().__init__()
        self.scales = scales
        if scales:
            self.score = nn.Linear(channels, len(scales), bias=False)
            nn.init.zeros_(self.score.weight)  # start as average pooling
            self.mix = nn.Parameter(torch.zeros(len(scales)))

    def forward(self, maps: Tensor, gate: Tensor | None, size: tuple[int, int]) -> Tensor:
        """(B, C, P) maps of size = (H, W), P = H·W, channels scaled by gate (B, C) -> (B, C)."""
        if self.scales:
            weight = self.score.weight.expand(len(maps), -1, -1)  # (B, S, C)
            scores = (weight if gate is None else weight * gate[:, None]) @ maps  # (B, S, P)
            smooth = [
                F.avg_pool2d(scores[:, s].view(-1, 1, *size), k, stride=1, padding=k // 2, count_include_pad=False)
                for s, k in enumerate(self.scales)
            ]
            attention = torch.cat(smooth, 1).flatten(2).softmax(2)  # (B, S, P)
            weights = (self.mix.softmax(0) @ attention)[:, :, None]  # (B, P, 1): scales mix linearly
            pooled = (maps @ weights).squeeze(2)
        else:
            pooled = maps.mean(2)
        return pooled if gate is None else pooled * gate
