"""Channel attention: which feature channels matter in this image."""

import torch
from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """Gates of the channels from their means and maxima over the positions, side by side. After Woo et al., CBAM, ECCV 2018, eq. 2."""

    def __init__(self, channels: int, dropout: float, reduction: int = 12):
        super().__init__()
        hidden = max(channels // reduction, 8)
        self.gate = nn.Sequential(
            nn.Linear(2 * channels, hidden, bias=False), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, channels, bias=False), nn.Sigmoid()
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C) gates in (0, 1), which the pool applies."""
        return self.gate(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))
