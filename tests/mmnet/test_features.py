"""Frozen features: computed once, the same as the backbone gives, and never those of another backbone."""

import shutil

import numpy as np
import pytest
import torch

from data.augment import to_float
from data.errors import InputError
from mmnet import feature_maps
from mmnet.backbones import build_backbone
from mmnet.features import with_features
from tests.mmnet.tiny import CPU, pixel_dataset, tiny_config

DATASET = pixel_dataset(cases=5)  # 40 images: two batches


def compute(dataset=DATASET, progress=None, **values):
    named = {name.replace("__", "."): value for name, value in values.items()}
    return with_features(dataset, tiny_config({"model.frozen": True} | named), CPU.type, progress).features


@pytest.fixture
def computed(monkeypatch):
    """How often features were really computed."""
    calls, original = [], feature_maps.computed
    monkeypatch.setattr(feature_maps, "computed", lambda *arguments: calls.append(1) or original(*arguments))
    return calls


def test_features_are_what_the_backbone_gives(computed):
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


def test_they_are_computed_once_for_every_configuration_of_the_head(computed):
    first = compute()
    again = compute(model__width=16, optim__lr=0.1, dropout__classifier=0.0, data__folds=3)
    np.testing.assert_array_equal(first, again)
    assert len(computed) == 1


def test_they_are_computed_again_for_all_that_decides_them(computed, tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        body = build_backbone(tiny_config({"model.backbone": "timm:test_vit"}).model, 32, seed).body.model
        torch.save(body.state_dict(), tmp_path / f"{name}.pth")
    compute()
    compute(seed=1)  # of random weights
    compute(model__backbone="timm:test_vit")
    compute(model__backbone="timm:test_vit", model__weights=str(tmp_path / "one.pth"))
    compute(model__backbone="timm:test_vit", model__weights=str(tmp_path / "two.pth"))
    compute(pixel_dataset(cases=5, size=48))
    compute(pixel_dataset(cases=5, seed=1))
    compute(DATASET.select_rows(np.arange(20)))
    assert len(computed) == 8


def test_progress_is_told_in_images():
    told = []
    compute(progress=lambda done, total: told.append((done, total)))
    assert told == [(32, 40), (40, 40)]


def test_a_computation_that_breaks_leaves_nothing_behind(own_cache, computed):
    def full(done, total):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        compute(progress=full)
    assert list((own_cache / "features").iterdir()) == []
    assert compute().shape[0] == 40 and len(computed) == 2


def test_pooled_features_are_the_mean_of_the_maps_and_take_a_place_of_their_own(computed):
    maps = compute()
    pooled = compute(model__pooled=True)
    assert pooled.dtype == np.float16 and pooled.shape == (40, 64, 1, 1)
    np.testing.assert_allclose(pooled, maps.astype(np.float32).mean((2, 3), keepdims=True), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(compute(), maps)
    np.testing.assert_array_equal(compute(model__pooled=True), pooled)
    assert len(computed) == 1  # made of the cached maps


def test_pooled_features_do_not_depend_on_whether_the_maps_were_cached(own_cache, computed):
    alone = np.array(compute(model__pooled=True))
    assert len(list((own_cache / "features").iterdir())) == 1  # no maps are kept for it
    compute()
    shutil.rmtree(next(path.parent for path in (own_cache / "features").glob("*/key.json") if '"pooled": true' in path.read_text()))
    np.testing.assert_array_equal(compute(model__pooled=True), alone)
    assert len(computed) == 2


def test_features_of_shrunk_images_are_their_own(computed):
    large = pixel_dataset(size=64)
    whole, shrunk = (compute(large, data__image_size=64, model__input_size=size) for size in (None, 32))
    assert whole.shape[2:] == (8, 8) and shrunk.shape[2:] == (4, 4) and len(computed) == 2
