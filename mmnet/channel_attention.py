"""Channel attention: which feature channels matter in this image."""

from torch import Tensor, nn

from mmnet.magnification_linear import MagnificationLinear


class ChannelAttention(nn.Module):
    """Squeeze-and-excitation gates, one network for each magnification. Hu et al., CVPR 2018, eq. 2-3, reduction 16.

    Returns the gate instead of the gated maps: the pooling that follows is linear in the maps, so it can apply the gate
    to its (M, B, C) result without ever writing a second copy of the (B, M, C, H, W) maps.
    """

    def __init__(self, magnifications: int, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.gate = nn.Sequential(
            MagnificationLinear(magnifications, channels, hidden),
            nn.ReLU(),
            MagnificationLinear(magnifications, hidden, channels),
            nn.Sigmoid(),
        )

    def forward(self, means: Tensor) -> Tensor:
        """(M, B, C) means of maps over their positions -> (M, B, C) gate in (0, 1)."""
        return self.gate(means)
