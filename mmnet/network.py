"""MMNet: one view (an image of each magnification) -> the logit of malignant."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.augment import send
from mmnet.attention_pool import MultiScaleAttentionPool
from mmnet.backbones import Backbone
from mmnet.channel_attention import ChannelAttention
from mmnet.config import DropoutConfig, ModelConfig
from mmnet.dropout import Dropout
from mmnet.fusion import HybridCrossMagFusion
from mmnet.hierarchical_attention import HierarchicalMagnificationAttention
from mmnet.magnification_linear import MagnificationLinear


class Output(NamedTuple):
    logit: Tensor  # (B,)
    importance: Tensor  # (B, M), rows sum to 1, 0 where masked


class MagnificationEmbeddings(nn.Module):
    """The feature maps of a view's magnifications -> a token each, by layers of their own that run as one batched product."""

    def __init__(self, channels: int, magnifications: int, config: ModelConfig, dropout: DropoutConfig):
        super().__init__()
        self.attention = ChannelAttention(magnifications, channels) if config.channel_attention else None
        self.pool = MultiScaleAttentionPool(magnifications, channels, config.pool_scales)
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)  # the linear layer that follows holds gain and shift
        self.embed = nn.Sequential(MagnificationLinear(magnifications, channels, config.width), nn.GELU(), Dropout(dropout.fusion))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, M, C, H, W) -> (M, B, D)."""
        flat = maps.flatten(3)  # (B, M, C, P)
        if flat.shape[3] == 1:
            flat = flat.transpose(0, 1).contiguous().transpose(0, 1)  # laid out once as the products of each magnification read it
        means = flat.squeeze(3) if flat.shape[3] == 1 else flat.mean(3)
        gate = self.attention(means.transpose(0, 1)) if self.attention else None
        return self.embed(self.norm(self.pool(flat, gate, tuple(maps.shape[3:]))))


class Head(nn.Module):
    """Everything after the backbone: all that is trained when the backbone is frozen."""

    def __init__(self, channels: int, magnifications: int, config: ModelConfig, dropout: DropoutConfig):
        super().__init__()
        self.embeddings = MagnificationEmbeddings(channels, magnifications, config, dropout)
        self.hierarchy = (
            HierarchicalMagnificationAttention(
                config.width,
                config.heads,
                causal=config.hierarchy == "causal",
                dropout=dropout.attention,
                path_dropout=dropout.path,
            )
            if config.hierarchy != "none" and magnifications > 1
            else None  # one token has nothing to attend to
        )
        self.fusion = HybridCrossMagFusion(magnifications, config, dropout)
        self.classifier = nn.Sequential(nn.LayerNorm(config.width), Dropout(dropout.classifier), nn.Linear(config.width, 1))

    def forward(self, maps: Tensor, mask: Tensor) -> Output:
        """maps (B, M, C, H, W) finite, mask (B, M) bool with one True a row."""
        tokens = self.embeddings(maps).transpose(0, 1)  # (B, M, D)
        tokens = tokens.masked_fill(~mask[:, :, None], 0)
        if self.hierarchy:
            tokens = self.hierarchy(tokens, mask).masked_fill(~mask[:, :, None], 0)
        fused, importance = self.fusion(tokens, mask)
        return Output(self.classifier(fused).squeeze(1), importance)


class MMNet(nn.Module):
    """Backbones and head. `backbones`: one for all magnifications, one each, or none where inputs are feature maps."""

    def __init__(self, backbones: list[Backbone], head: Head):
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
