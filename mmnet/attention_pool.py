"""Feature maps -> one vector, by spatial attention at several scales.

Every pool takes the gates of the channels beside the maps instead of gated maps: averages over positions are linear in the maps, so
that each gate can be applied to what comes out, and no second copy of the maps is ever written.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiScaleAttentionPool(nn.Module):
    """The mean over positions of the map times a gate (B, 1, H, W) that sees it at several scales, as published.

    Each scale s looks at the map averaged to s × s cells and scores each cell; the scores, enlarged to the map, become one gate.
    """

    def __init__(self, channels: int, scales: tuple[int, ...]):
        super().__init__()
        self.scales = scales
        self.score = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels // 4, 1), nn.ReLU(), nn.Conv2d(channels // 4, 1, 1), nn.Sigmoid()) for _ in scales
        )
        self.combine = nn.Sequential(nn.Conv2d(len(scales), 1, 1), nn.Sigmoid())

    def forward(self, maps: Tensor, gate: Tensor | None) -> Tensor:
        """maps (B, C, H, W), gate (B, C) of the channels or None -> (B, C)."""
        seen = []
        for scale, score in zip(self.scales, self.score, strict=True):
            cells = F.adaptive_avg_pool2d(maps, scale)
            cells = cells if gate is None else cells * gate[:, :, None, None]
            seen.append(F.interpolate(score(cells), maps.shape[2:], mode="bilinear", align_corners=False))
        weight = self.combine(torch.cat(seen, 1)).flatten(1) / maps[0, 0].numel()  # (B, P)
        return weighted_mean(maps, weight, gate)


class SoftmaxPool(nn.Module):
    """A weighted mean of the positions: a softmax of one linear score each. Ilse et al., Attention-based Deep MIL, ICML 2018, eq. 8.

    One number a channel where the published gate has a quarter of the channels squared; starts as the plain mean.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.score = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor, gate: Tensor | None) -> Tensor:
        """As `MultiScaleAttentionPool.forward`."""
        score = self.score.expand(len(maps), -1) if gate is None else self.score * gate  # (B, C)
        weight = torch.bmm(score[:, None], maps.flatten(2)).squeeze(1).softmax(1)  # (B, P)
        return weighted_mean(maps, weight, gate)


class MeanPool(nn.Module):
    """Global average pooling."""

    def forward(self, maps: Tensor, gate: Tensor | None) -> Tensor:
        """As `MultiScaleAttentionPool.forward`."""
        mean = maps.mean((2, 3))
        return mean if gate is None else mean * gate


def weighted_mean(maps: Tensor, weight: Tensor, gate: Tensor | None) -> Tensor:
    """maps (B, C, H, W), weight (B, H·W), gate (B, C) -> (B, C)."""
    mean = torch.bmm(maps.flatten(2), weight[:, :, None]).squeeze(2)
    return mean if gate is None else mean * gate


def build_pool(kind: str, channels: int, scales: tuple[int, ...]) -> nn.Module:
    """`gate`, `softmax` or `mean`."""
    if kind == "gate":
        return MultiScaleAttentionPool(channels, scales)
    return SoftmaxPool(channels) if kind == "softmax" else MeanPool()
