"""Frozen features: the backbone runs once per image, for every trial and every study on the same data."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.augment import shrink, to_float
from data.dataset import Dataset
from data.errors import InputError
from data.store import atomic_folder, cache_root, require_space
from mmnet.backbones import build_backbone, weights_digest
from mmnet.build import channels_of
from mmnet.config import Config
from mmnet.device import autocast, computes_in_bfloat16

BATCH = 32  # images at once
FORMAT = 1


def with_features(dataset: Dataset, config: Config, device: torch.device, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """The data set with its pixels replaced by feature maps (N, C, h, w) float16, from the cache or computed now.

    Pooled features are the mean over the positions of the same maps, (N, C, 1, 1), made of cached ones where there are any.
    The cache key is everything that decides a feature: the images' contents and order, their size, backbone and weights.
    """
    images = dataset.images
    if images is None:
        raise ValueError("the data set has no pixels to compute features of")
    key = {
        "format": FORMAT,
        "data": dataset.fingerprint,
        "rows": hashlib.sha256("\n".join(dataset.table.path.tolist()).encode()).hexdigest(),
        "size": config.model.input_size or images.shape[1],
        "backbone": config.model.backbone,
        "weights": weights_digest(config.model, config.seed),
        "bfloat16": computes_in_bfloat16(device, config.optim.precision),
    }
    maps, pooled = _place(key), _place(key | {"pooled": True})
    path = pooled if config.model.pooled else maps
    if not path.exists():
        with atomic_folder(path.parent) as building:
            blocks = _stored(maps) if config.model.pooled and maps.exists() else _compute(images, config, device)
            _write(building / path.name, map(_pool, blocks) if config.model.pooled else blocks, len(images), progress)
            (building / "key.json").write_text(json.dumps(key | {"pooled": config.model.pooled}, indent=1))
    try:
        features = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cache {path.parent}: damaged ({error}); remove that folder, it will be built again") from error
    return replace(dataset, features=features, images=None)


def _place(key: dict) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_root() / "features" / name / "maps.npy"


@torch.inference_mode()
def _compute(images: np.ndarray, config: Config, device: torch.device) -> Iterator[Tensor]:
    """The maps of BATCH images at a time, (B, C, h, w) float16."""
    size = config.model.input_size or images.shape[1]
    backbone = build_backbone(config.model, size, config.seed).eval()
    channels_of(backbone, size)  # raises where it cannot take this size
    backbone.to(device)
    for start in range(0, len(images), BATCH):
        batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)
        with autocast(device, config.optim.precision):
            values = backbone(shrink(to_float(batch), config.model.input_size))
        yield values.to(torch.float16).cpu()


def _stored(path: Path) -> Iterator[Tensor]:
    maps = np.load(path, mmap_mode="r")
    for start in range(0, len(maps), BATCH):
        yield torch.from_numpy(np.array(maps[start : start + BATCH]))


def _pool(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 1, 1), of the rounded maps: so cached maps and new ones give the same numbers."""
    return maps.to(torch.float32).mean((2, 3), keepdim=True).to(torch.float16)


def _write(path: Path, blocks: Iterator[Tensor], count: int, progress: Callable[[int, int], None] | None) -> None:
    """Blocks of `count` images in all -> one .npy file."""
    whole, done = None, 0
    for block in blocks:
        if whole is None:
            shape = (count, *block.shape[1:])
            require_space(path.parent, int(np.prod(shape)) * 2)
            whole = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        whole[done : done + len(block)] = block.numpy()
        done += len(block)
        if progress:
            progress(done, count)
    if whole is not None:
        whole.flush()
