"""Frozen features: computed once, the same as the backbone gives, and never those of another backbone."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.augment import to_float
from data.errors import InputError
from mmnet.backbones import build_backbone
from mmnet.features import with_features
from tests.mmnet.tiny import CPU, pixel_dataset, tiny_config

pytestmark = pytest.mark.usefixtures("own_cache")
DATASET = pixel_dataset(patients=5)  # 40 images: two batches
OTHER_PIXELS = replace(DATASET, images=255 - DATASET.images)  # by its fingerprint the same: what is computed of it is not what is cached


def compute(dataset=DATASET, progress=None, **values):
    named = {name.replace("__", "."): value for name, value in values.items()}
    return with_features(dataset, tiny_config({"model.frozen": True} | named), CPU.type, progress).features


def is_computed(dataset=DATASET, **values) -> bool:
    """Whether features are computed now, of which the progress tells, or come from the cache."""
    told = []
    compute(dataset, lambda done, total: told.append(done), **values)
    return bool(told)


def test_features_are_what_the_backbone_gives():
    config = tiny_config({"model.frozen": True})
    with torch.inference_mode():
        expected = build_backbone(config.model, 32, config.seed)(to_float(torch.from_numpy(DATASET.images)))
    found = compute()
    assert found.dtype == np.float16 and found.shape == (40, 64, 4, 4)
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)


def test_features_replace_the_pixels():
    dataset = with_features(DATASET, tiny_config({"model.frozen": True}), CPU.type)
    assert dataset.images is None and dataset.table is DATASET.table and dataset.fingerprint == DATASET.fingerprint
    with pytest.raises(ValueError, match="no pixels"):
        with_features(dataset, tiny_config({"model.frozen": True}), CPU.type)


def test_they_are_computed_once_for_every_configuration_of_the_head():
    first = compute()
    other = {"model__width": 16, "optim__lr": 0.1, "dropout__classifier": 0.0, "data__folds": 3}
    np.testing.assert_array_equal(compute(OTHER_PIXELS, **other), first)
    assert not is_computed(**other)


def test_they_are_computed_again_for_all_that_decides_them(tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        body = build_backbone(tiny_config({"model.backbone": "timm:test_vit"}).model, 32, seed).body.model
        torch.save(body.state_dict(), tmp_path / f"{name}.pth")
    vit = {"model__backbone": "timm:test_vit"}
    wanted = [
        {},
        {"seed": 1},  # of random weights
        {"optim__precision": "bfloat16"},
        vit,
        vit | {"model__weights": str(tmp_path / "one.pth")},
        vit | {"model__weights": str(tmp_path / "two.pth")},
        {"dataset": pixel_dataset(patients=5, size=48)},
        {"dataset": pixel_dataset(patients=5, seed=1)},
        {"dataset": DATASET.select_rows(np.arange(20))},
    ]
    assert [is_computed(**values) for values in wanted] == [True] * 9
    assert [is_computed(**values) for values in wanted] == [False] * 9


def test_progress_is_told_in_images():
    told = []
    compute(progress=lambda done, total: told.append((done, total)))
    assert told == [(32, 40), (40, 40)]


def test_a_computation_that_breaks_leaves_nothing_behind(own_cache):
    def full(done, total):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        compute(progress=full)
    assert list((own_cache / "features").iterdir()) == []
    assert is_computed() and compute().shape[0] == 40


def test_pooled_features_are_the_mean_of_the_maps_and_take_a_place_of_their_own():
    maps = compute()
    pooled = compute(OTHER_PIXELS, model__pooled=True)  # made of the cached maps
    assert pooled.dtype == np.float16 and pooled.shape == (40, 64, 1, 1)
    np.testing.assert_allclose(pooled, maps.astype(np.float32).mean((2, 3), keepdims=True), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(compute(), maps)
    np.testing.assert_array_equal(compute(model__pooled=True), pooled)


def test_pooled_features_do_not_depend_on_whether_the_maps_were_cached(own_cache):
    alone = np.array(compute(model__pooled=True))
    (kept,) = (own_cache / "features").iterdir()  # no maps are kept for it
    compute()
    shutil.rmtree(kept)
    assert is_computed(model__pooled=True)
    np.testing.assert_array_equal(compute(model__pooled=True), alone)


def test_features_of_shrunk_images_are_their_own():
    large = pixel_dataset(size=64)
    whole, shrunk = (compute(large, data__image_size=64, model__input_size=size) for size in (None, 32))
    assert whole.shape[2:] == (8, 8) and shrunk.shape[2:] == (4, 4)
