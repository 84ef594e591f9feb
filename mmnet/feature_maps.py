"""A frozen backbone's pass over all images, a batch at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.augment import shrink, to_float
from data.dataset import Values
from mmnet.backbones import build_backbone
from mmnet.build import channels_of
from mmnet.config import Config
from mmnet.device import autocast
from mmnet.device_kind import precision_of

BATCH = 32  # images at once


@torch.inference_mode()
def computed(images: Values, config: Config, kind: str, tell: Callable[[str], None] = lambda note: None) -> Iterator[Tensor]:
    """The maps of BATCH images at a time, (B, C, h, w) float16, by a device of that kind. `tell`: what is to be said of the weights."""
    device = torch.device(kind)
    size = config.model.input_size or images.shape[1]
    backbone = build_backbone(config.model, size, config.seed).eval()
    for note in backbone.notes:
        tell(note)
    channels_of(backbone, size)  # raises where it cannot take this size
    backbone.to(device)
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
        with autocast(device, precision_of(config.optim.precision, kind)):
            values = backbone(shrink(to_float(batch), config.model.input_size))
        yield values.to(torch.float16).cpu()


def stored(path: Path) -> Iterator[Tensor]:
    """Those that an earlier pass left in a .npy file."""
    maps = np.load(path, mmap_mode="r")
    for start in range(0, len(maps), BATCH):
        yield torch.from_numpy(np.array(maps[start : start + BATCH]))


def pooled(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 1, 1), of the rounded maps: so cached maps and new ones give the same numbers."""
    return maps.to(torch.float32).mean((2, 3), keepdim=True).to(torch.float16)
