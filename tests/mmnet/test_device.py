"""Device and precision."""

import torch

from mmnet.crossval import default_batch_size
from mmnet.device import autocast, best_device, is_out_of_memory


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


def test_what_counts_as_out_of_memory():
    memory = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
    other = [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("cannot allocate memory for that many names")]
    assert [is_out_of_memory(error) for error in memory + other] == [True, True, False, False]
