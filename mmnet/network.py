"""MMNet: one view (an image of each magnification) -> logits."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment import send
from mmnet.attention_pool import build_pool
from mmnet.channel_attention import ChannelAttention
from mmnet.config import DropoutConfig, ModelConfig
from mmnet.fusion import HybridCrossMagFusion
from mmnet.hierarchical_attention import BidirectionalMagnificationAttention, HierarchicalMagnificationAttention


class Output(NamedTuple):
    logit: Tensor  # (B, L): of two classes one logit, of the positive one; else one a class
    importance: Tensor  # (B, M), rows sum to 1, 0 where masked


class MagnificationEmbedding(nn.Module):
    """The feature maps of one magnification -> a token, as wide as the maps have channels or as `model.width` says."""

    def __init__(self, channels: int, config: ModelConfig, dropout: DropoutConfig):
        super().__init__()
        self.path = dropout.path
        self.attention = ChannelAttention(channels, dropout.attention) if config.channel_attention else None
        self.pool = build_pool(config.pool, channels, config.pool_scales)
        self.embed = (
            # a scale and a shift of each channel would only be the linear layer's own again
            nn.Sequential(
                nn.LayerNorm(channels, elementwise_affine=False), nn.Linear(channels, config.width), nn.GELU(), nn.Dropout(dropout.fusion)
            )
            if config.width
            else nn.Identity()
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D)."""
        if self.training and self.path:  # stochastic depth: Huang et al., ECCV 2016; whole maps, as published
            maps = maps * F.dropout(maps.new_ones(len(maps), 1, 1, 1), self.path)
        return self.embed(self.pool(maps, self.attention(maps) if self.attention else None))


class Head(nn.Module):
    """Everything after the backbone: all that is trained when the backbone is frozen."""

    def __init__(self, channels: int, magnifications: int, logits: int, config: ModelConfig, dropout: DropoutConfig):
        super().__init__()
        self.width = width = config.width or channels
        self.embeddings = nn.ModuleList(MagnificationEmbedding(channels, config, dropout) for _ in range(magnifications))
        kind = {"causal": HierarchicalMagnificationAttention, "bidirectional": BidirectionalMagnificationAttention}.get(config.hierarchy)
        # one token has nothing to attend to
        self.hierarchy = kind(magnifications, width, config.heads, dropout.attention) if kind and magnifications > 1 else None
        self.fusion = HybridCrossMagFusion(magnifications, width, config, dropout)
        hidden = config.hidden
        self.classifier = (
            nn.Sequential(
                nn.Dropout(dropout.classifier),
                nn.Linear(width, hidden),
                nn.LayerNorm(hidden),
                nn.ReLU(),
                nn.Dropout(dropout.classifier),
                nn.Linear(hidden, logits),
            )
            if hidden
            else nn.Sequential(nn.LayerNorm(width), nn.Dropout(dropout.classifier), nn.Linear(width, logits))
        )

    def forward(self, maps: Tensor, mask: Tensor) -> Output:
        """maps (B, M, C, H, W) finite, mask (B, M) bool with one True a row."""
        tokens = self.embed(maps).masked_fill(~mask[:, :, None], 0)
        if self.hierarchy:
            tokens = self.hierarchy(tokens, mask).masked_fill(~mask[:, :, None], 0)
        fused, importance = self.fusion(tokens, mask)
        return Output(self.classifier(fused), importance)

    def embed(self, maps: Tensor) -> Tensor:
        """(B, M, C, H, W) -> (B, M, D), each magnification by itself."""
        return torch.stack([embedding(of) for of, embedding in zip(maps.unbind(1), self.embeddings, strict=True)], 1)


class MMNet(nn.Module):
    """Backbones and head. `backbones`: one for all magnifications, one each, or none where inputs are feature maps."""

    def __init__(self, backbones: list[nn.Module], head: Head):
        super().__init__()
        self.backbones = nn.ModuleList(backbones)
        self.head = head

    def forward(self, images: Tensor, mask: Tensor) -> Output:
        """images (B, M, 3, H, W) in [0, 1] or maps (B, M, C, h, w), mask (B, M) bool, best the host's own: see `maps`."""
        return self.head(self.maps(images, mask), send(mask, images.device))

    def maps(self, images: Tensor, mask: Tensor) -> Tensor:
        """What the head sees of images (B, M, 3, H, W): maps (B, M, C, h, w), zero where masked (maps stay as they are).

        Only images that are there run through a backbone. How many those are only the host can know: it would have to wait for a
        device that holds the mask.
        """
        if len(self.backbones) == 0:
            return images
        there = mask.cpu().numpy()
        if len(self.backbones) == 1:
            return _of_present(self.backbones[0], images.flatten(0, 1), there.ravel()).unflatten(0, images.shape[:2])
        parts = [
            _of_present(backbone, images[:, m], there[:, m]) if there[:, m].any() else None for m, backbone in enumerate(self.backbones)
        ]
        like = next(part for part in parts if part is not None)
        return torch.stack([torch.zeros_like(like) if part is None else part for part in parts], 1)


def _of_present(backbone: nn.Module, images: Tensor, there: np.ndarray) -> Tensor:
    """Images (N, 3, H, W) -> maps (N, C, h, w) of those that are there, (N,) bool, zero elsewhere."""
    if there.all():
        return backbone(images)
    present = send(torch.from_numpy(np.flatnonzero(there)), images.device)
    maps = backbone(images.index_select(0, present))
    return maps.new_zeros(len(there), *maps.shape[1:]).index_copy(0, present, maps)
