"""Device and precision."""

import torch

from mmnet.config import ModelConfig
from mmnet.crossval import default_batch_size
from mmnet.device import autocast, best_device


def test_the_best_device_can_hold_a_tensor():
    device = best_device()
    assert torch.zeros(1, device=device).device.type == device.type


def test_autocast_changes_nothing_on_a_cpu():
    with autocast(torch.device("cpu"), enabled=True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_batch_sizes_are_the_published_ones_and_larger_for_features():
    sizes = [default_batch_size(ModelConfig(), torch.device(kind), 1000) for kind in ("cuda", "mps", "cpu")]
    assert sizes == [16, 8, 4]
    assert default_batch_size(ModelConfig(frozen=True), torch.device("cpu"), 1000) == 32


def test_an_epoch_of_pooled_features_has_sixteen_steps_as_long_as_they_are_of_a_sane_size():
    pooled = ModelConfig(frozen=True, pooled=True)
    assert [default_batch_size(pooled, torch.device("cpu"), views) for views in (0, 488, 1850, 10_000)] == [32, 32, 115, 256]
