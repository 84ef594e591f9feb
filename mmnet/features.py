"""Frozen features: the backbone runs once per image, for every trial and every study on the same data."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.cache import atomic_folder, cache_root, require_space
from data.dataset import Dataset
from data.errors import InputError
from mmnet.config import Config, ConfigError, ModelConfig
from mmnet.device_kind import precision_of

FORMAT = 2


def with_features(
    dataset: Dataset,
    config: Config,
    kind: str,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] = lambda note: None,
) -> Dataset:
    """The data set with its pixels replaced by feature maps (N, C, h, w) float16, from the cache or computed now on a `kind` of device.

    Pooled features are the mean over the positions of the same maps, (N, C, 1, 1), made of cached ones where there are any.
    `tell`: what is to be said of the backbone's weights where it runs. The cache key is everything that decides a feature: the images' contents and order, their size, backbone and weights.
    """
    images = dataset.images
    if images is None:
        raise ValueError("the data set has no pixels to compute features of")
    key = {
        "format": FORMAT,
        "data": dataset.fingerprint,
        "rows": hashlib.sha256("\n".join(dataset.table.path.tolist()).encode()).hexdigest(),
        "size": config.model.input_size or images.shape[1],
        "fit": config.data.fit,
        "backbone": config.model.backbone,
        "kwargs": config.model.kwargs,
        "normalisation": [config.model.mean, config.model.std],
        "weights": weights_digest(config.model, config.seed),
        "precision": precision_of(config.optim.precision, kind),
    }
    maps, pooled = _place(key), _place(key | {"pooled": True})
    path = pooled if config.model.pooled else maps
    if not path.exists():
        from mmnet import feature_maps  # with torch, which a search that finds them in the cache starts without

        with atomic_folder(path.parent) as building:
            known = config.model.pooled and maps.exists()
            blocks = feature_maps.stored(maps) if known else feature_maps.computed(images, config, kind, tell)
            _write(building / path.name, map(feature_maps.pooled, blocks) if config.model.pooled else blocks, len(images), progress)
            (building / "key.json").write_text(json.dumps(key | {"pooled": config.model.pooled}, indent=1))
    try:
        features = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cache {path.parent}: damaged ({error}); remove that folder, it will be built again") from error
    return replace(dataset, features=features, images=None)


def weights_digest(config: ModelConfig, seed: int) -> str:
    """What decides a backbone's weights: the file's contents, the hub's name, or the seed of random ones."""
    if config.weights is None:
        return f"random-{seed}"
    if config.weights == "imagenet":
        return "imagenet"
    try:
        with Path(config.weights).expanduser().open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise ConfigError(f"model.weights = {config.weights!r}: cannot read it: {error.strerror}; pass imagenet, none or a file") from error


def _place(key: dict) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_root() / "features" / name / "maps.npy"


def _write(path: Path, blocks: Iterator[Any], count: int, progress: Callable[[int, int], None] | None) -> None:
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
