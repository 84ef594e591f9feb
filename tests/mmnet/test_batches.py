"""Rows of the table -> network inputs: the right pixels in the right place, augmented only in training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.views import MISSING
from mmnet import batches as module
from mmnet.batches import Batches, has_room
from tests.mmnet.tiny import CPU, feature_dataset, pixel_dataset, tiny_config

PIXELS, FEATURES = pixel_dataset(patients=4), feature_dataset(patients=4)
PLAIN = {"augment.flip": False, "augment.turn": False, "augment.crop": 1.0, "augment.color": 0.0, "augment.stain": 0.0}
ROWS = np.array([[0, 2, 4, 6], [9, MISSING, 12, 14], [MISSING, MISSING, MISSING, 31]])
PRESENT = ROWS != MISSING
LABEL = np.array([0, 1, 1])


def batches(values=None, frozen=False) -> Batches:
    return Batches(FEATURES if frozen else PIXELS, tiny_config({"model.frozen": frozen} | (values or {})), CPU)


def train(values, frozen=False, seed=0):
    return batches(values, frozen).training(ROWS, LABEL, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frozen", [False, True])
def test_evaluation_gives_what_the_data_set_holds_and_zeros_where_nothing_is(frozen):
    inputs, mask = batches(frozen=frozen).evaluation(ROWS)
    np.testing.assert_array_equal(mask, PRESENT)
    assert (inputs[~mask] == 0).all() and inputs.dtype == torch.float32
    expected = (
        FEATURES.features[ROWS[PRESENT]].astype(np.float32)
        if frozen
        else PIXELS.images[ROWS[PRESENT]].transpose(0, 3, 1, 2) / np.float32(255)
    )
    np.testing.assert_array_equal(inputs[mask], expected)


@pytest.mark.parametrize("frozen", [False, True])
def test_training_without_augmentation_is_evaluation_with_targets(frozen):
    inputs, mask, target = train(PLAIN, frozen)
    expected, _ = batches(frozen=frozen).evaluation(ROWS)
    torch.testing.assert_close(inputs, expected, rtol=0, atol=0)
    np.testing.assert_array_equal(mask, PRESENT)
    assert target.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "values",
    [{"flip": True}, {"turn": True}, {"crop": 0.6}, {"rotation": 90.0}, {"color": 0.3}, {"stain": 0.3}, {"erase": 1.0}, {"mixup": 1.0}],
    ids=lambda v: next(iter(v)),
)
def test_each_augmentation_changes_pixels_repeats_by_seed_and_leaves_missing_images_zero(values):
    values = PLAIN | {f"augment.{name}": value for name, value in values.items()}
    (inputs, mask, _), (again, _, _), (other, _, _) = train(values), train(values), train(values, seed=1)
    assert torch.equal(inputs, again)
    assert not torch.equal(inputs, other) and not torch.equal(inputs, train(PLAIN)[0])
    assert (inputs[~mask] == 0).all()


@pytest.mark.parametrize("values", [{}, {"augment.crop": 1.0}], ids=["sampled", "copied"])
def test_the_number_of_images_done_at_once_changes_nothing(monkeypatch, values):
    expected = train(values)[0]
    for part in (1, 3, 100):
        monkeypatch.setattr(module, "PART", part)
        torch.testing.assert_close(train(values)[0], expected)


def test_a_view_that_shows_nothing_is_all_zeros():
    inputs, mask = batches().evaluation(np.full((2, 4), MISSING))
    assert inputs.shape == (2, 4, 3, 32, 32) and not inputs.any() and not mask.any()


def test_the_data_set_goes_to_a_gpu_only_where_it_takes_less_than_half_of_what_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    assert has_room(torch.device("cuda"), 499) and not has_room(torch.device("cuda"), 500)
    assert has_room(CPU, 10**18)


def test_on_a_cpu_the_data_set_is_not_copied():
    assert batches().source.data_ptr() == PIXELS.images.ctypes.data


@pytest.mark.parametrize("frozen", [False, True])
def test_a_selection_is_read_from_the_whole_which_is_not_copied(frozen):
    whole = FEATURES if frozen else PIXELS
    rows = np.arange(len(whole.table))[::-3].copy()
    config = tiny_config({"model.frozen": frozen})
    selected = Batches(whole.select_rows(rows), config, CPU)
    values = whole.features if frozen else whole.images
    assert selected.source.data_ptr() == values.ctypes.data
    chosen = np.array([[0, 3, MISSING, 5], [9, 1, 2, 2]])
    inputs, mask = selected.evaluation(chosen)
    expected, there = Batches(whole, config, CPU).evaluation(np.where(chosen == MISSING, MISSING, rows[chosen]))
    assert torch.equal(inputs, expected) and torch.equal(mask, there)


def test_frozen_features_know_no_augmentation_of_pixels():
    assert torch.equal(train({}, frozen=True)[0], batches(frozen=True).evaluation(ROWS)[0])


def test_feature_noise_scales_whole_channels():
    noisy, mask, _ = train({"augment.feature_noise": 0.3}, frozen=True)
    ratio = noisy[mask] / batches(frozen=True).evaluation(ROWS)[0][mask]  # (K, C, 2, 2)
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
    assert ratio[:, :, 0, 0].std().item() == pytest.approx(0.3, abs=0.1) and ratio[:, :, 0, 0].mean().item() == pytest.approx(1, abs=0.15)
    assert (noisy[~mask] == 0).all()
    assert torch.equal(noisy, train({"augment.feature_noise": 0.3}, frozen=True)[0])
    assert not torch.equal(noisy, train({"augment.feature_noise": 0.3}, frozen=True, seed=1)[0])


def test_mixup_softens_targets():
    _, mask, target = train(PLAIN | {"augment.mixup": 5.0})
    assert ((target > 0) & (target < 1)).any()
    assert (mask <= torch.from_numpy(PRESENT)).all() and mask.any(1).all()


@pytest.mark.parametrize(("dataset", "frozen", "lacking"), [(PIXELS, True, "features"), (FEATURES, False, "pixels")])
def test_a_data_set_of_the_other_kind_is_refused(dataset, frozen, lacking):
    with pytest.raises(ValueError, match=f"no {lacking}"):
        Batches(dataset, tiny_config({"model.frozen": frozen}), CPU)


def test_images_are_shown_at_the_input_size_and_stored_once():
    """Antialiased: a checkerboard becomes grey, where picking pixels would keep one of its colours."""
    stored = pixel_dataset(patients=4, size=64)
    board = np.indices((64, 64)).sum(0) % 2 * 200
    stored = replace(stored, images=np.broadcast_to(board[None, :, :, None], stored.images.shape).astype(np.uint8))
    shrunk = Batches(stored, tiny_config({"data.image_size": 64, "model.input_size": 32} | PLAIN), CPU)
    inputs, mask = shrunk.evaluation(ROWS)
    assert inputs.shape == (3, 4, 3, 32, 32) and shrunk.source.shape[1:3] == (64, 64)
    torch.testing.assert_close(inputs[mask], torch.full_like(inputs[mask], 100 / 255), atol=0.02, rtol=0)
    trained, _, _ = shrunk.training(ROWS, LABEL, torch.Generator().manual_seed(0))
    torch.testing.assert_close(trained, inputs)
