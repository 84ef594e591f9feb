"""Frozen features: the backbone runs once per image, for every trial and every study on the same data."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from data.augment import to_float
from data.dataset import Dataset
from data.store import atomic_folder, cache_root, require_space
from mmnet.backbones import build_backbone, weights_digest
from mmnet.build import channels_of
from mmnet.config import Config
from mmnet.device import autocast

BATCH = 32  # images at once
FORMAT = 1


def with_features(dataset: Dataset, config: Config, device: torch.device, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The data set with its pixels replaced by feature maps (N, C, h, w) float16, from the cache or computed now.

    The cache key is everything that decides a feature: the images' contents and order, their size, backbone and weights.
    """
    images = dataset.images
    if images is None:
        raise ValueError("the data set has no pixels to compute features of")
    key = {
        "format": FORMAT,
        "data": dataset.fingerprint,
        "rows": hashlib.sha256("\n".join(dataset.table.path.tolist()).encode()).hexdigest(),
        "size": images.shape[1],
        "backbone": config.model.backbone,
        "weights": weights_digest(config.model, config.seed),
        "bfloat16": device.type == "cuda" and config.optim.amp,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_root() / "features" / name
    if not (folder / "maps.npy").exists():
        with atomic_folder(folder) as building:
            _compute(images, config, device, building, progress)
            (building / "key.json").write_text(json.dumps(key, indent=1))
    return replace(dataset, features=np.load(folder / "maps.npy", mmap_mode="r"), images=None)


@torch.inference_mode()
def _compute(images: np.ndarray, config: Config, device: torch.device, folder, progress) -> None:
    backbone = build_backbone(config.model, images.shape[1], config.seed).eval()
    channels_of(backbone, images.shape[1])  # raises where it cannot take this size
    backbone.to(device)
    maps = None
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
        with autocast(device, config.optim.amp):
            values = backbone(to_float(batch))
        if maps is None:
            shape = (len(images), *values.shape[1:])
            require_space(folder, int(np.prod(shape)) * 2)
            maps = np.lib.format.open_memmap(folder / "maps.npy", mode="w+", dtype=np.float16, shape=shape)
        maps[start : start + BATCH] = values.to(torch.float16).cpu().numpy()
        if progress:
            progress(min(start + BATCH, len(images)), len(images))
    if maps is not None:
        maps.flush()
