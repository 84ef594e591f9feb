"""Feature maps -> one embedding, by spatial attention at several scales."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Product(torch.autograd.Function):
    """weights (B, Q, X) @ maps (B, X, Y) -> (B, Q, Y).

    Under vmap over the weights alone, as when k networks look at the same maps, their weights lie side by side in Q: one
    pass over the maps serves all of them, where torch's own rule would copy the maps k times.
    """

    @staticmethod
    def forward(weights: Tensor, maps: Tensor) -> Tensor:
        return weights @ maps

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weights, maps = (saved.to(grad.dtype) for saved in ctx.saved_tensors)  # autocast's, which rounds products, ends before this
        return grad @ maps.mT if ctx.needs_input_grad[0] else None, weights.mT @ grad if ctx.needs_input_grad[1] else None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], weights: Tensor, maps: Tensor) -> tuple[Tensor, int]:
        of_weights, of_maps = in_dims
        if of_maps is not None:
            whole = weights if of_weights is None else weights.movedim(of_weights, 0)
            return whole @ maps.movedim(of_maps, 0), 0
        assert of_weights is not None
        side_by_side = weights.movedim(of_weights, 1)  # (B, K, Q, X)
        product = Product.apply(side_by_side.flatten(1, 2), maps)
        return product.unflatten(1, side_by_side.shape[1:3]), 1


class MultiScaleAttentionPool(nn.Module):
    """Weighted means of the positions; the weights come from neighbourhoods of several sizes; each magnification has its own.

    Scale k scores each position by a linear map of the mean feature of its k x k neighbourhood (score, then smooth: the
    two commute, and smoothing one score map is C times cheaper), takes a softmax over positions (attention pooling: Ilse
    et al., Attention-based Deep Multiple Instance Learning, ICML 2018, eq. 8) and pools. A learned softmax mixes scales.
    Without scales it is global average pooling.
    """

    def __init__(self, magnifications: int, channels: int, scales: tuple[int, ...]):
        super().__init__()
        self.scales = scales
        if scales:
            self.weight = nn.Parameter(torch.zeros(magnifications, len(scales), channels))  # start as average pooling
            self.mix = nn.Parameter(torch.zeros(magnifications, len(scales)))

    def forward(self, maps: Tensor, gate: Tensor | None, size: tuple[int, int]) -> Tensor:
        """(B, M, C, P) maps of size = (H, W), P = H·W, channels scaled by gate (M, B, C) -> (M, B, C)."""
        if maps.shape[3] == 1:
            pooled = maps.squeeze(3)  # one position gets all the attention
        elif self.scales:
            weight = self.weight.expand(len(maps), -1, -1, -1)  # (B, M, S, C)
            if gate is not None:
                weight = weight * gate.transpose(0, 1)[:, :, None]
            flat = maps.flatten(0, 1)  # (B·M, C, P)
            scores = Product.apply(weight.flatten(0, 1), flat)  # (B·M, S, P)
            smooth = [
                F.avg_pool2d(scores[:, s].view(-1, 1, *size), k, stride=1, padding=k // 2, count_include_pad=False)
                for s, k in enumerate(self.scales)
            ]
            attention = torch.cat(smooth, 1).flatten(2).softmax(2).unflatten(0, maps.shape[:2])  # (B, M, S, P)
            weights = (self.mix.softmax(1)[:, :, None] * attention).sum(2)  # (B, M, P): scales mix linearly
            pooled = Product.apply(weights.flatten(0, 1)[:, None], flat.mT).unflatten(0, maps.shape[:2]).squeeze(2)
        else:
            pooled = maps.mean(3)
        pooled = pooled.transpose(0, 1)
        return pooled if gate is None else pooled * gate
