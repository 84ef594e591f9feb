"""Device and precision."""

import torch

from mmnet.crossval import default_batch_size
from mmnet.device import autocast, best_device


def test_the_best_device_can_hold_a_tensor():
    device = best_device()
    assert torch.zeros(1, device=device).device.type == device.type


def test_autocast_changes_nothing_on_a_cpu():
    with autocast(torch.device("cpu"), enabled=True):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_batch_sizes_are_the_published_ones_and_larger_for_features():
    sizes = [default_batch_size(False, torch.device(kind)) for kind in ("cuda", "mps", "cpu")]
    assert sizes == [16, 8, 4]
    assert default_batch_size(True, torch.device("cpu")) == 32
