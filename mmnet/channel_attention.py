"""Channel attention: which feature channels matter in this image."""

from torch import Tensor, nn


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation gate. Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, eq. 2-3, reduction 16.

    Returns the gate instead of the gated maps: the pooling that follows is linear in the maps, so it can apply the gate
    to its (B, C) result without ever writing a second copy of the (B, C, H, W) maps.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.gate = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, P) maps over P positions -> (B, C) gate in (0, 1)."""
        return self.gate(maps.mean(2))
