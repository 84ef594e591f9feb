"""Dropout from a generator of the network's own, for networks that train in threads beside one another."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Drawing(nn.Module):
    """A layer that draws random numbers while it trains: from torch's global generator, or within `drawing_from` from another."""

    generator: torch.Generator | None = None


class Dropout(Drawing):
    """Values zeroed with the given probability while training; the others are scaled so that the mean stays."""

    def __init__(self, probability: float):
        super().__init__()
        self.probability = probability

    def forward(self, values: Tensor) -> Tensor:
        if self.generator is None or not self.training or self.probability == 0:
            return F.dropout(values, self.probability, self.training)
        # as torch does it on a CPU, which takes no generator: the same seed drops the same
        kept = torch.empty_like(values).bernoulli_(1 - self.probability, generator=self.generator)
        return values * kept.div_(1 - self.probability)


@contextmanager
def drawing_from(network: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Meanwhile the network's layers draw from `generator`. Threads that drew from the global one would take each other's numbers."""
    layers = [layer for layer in network.modules() if isinstance(layer, Drawing)]
    for layer in layers:
        layer.generator = generator
    try:
        yield
    finally:
        for layer in layers:
            layer.generator = None
