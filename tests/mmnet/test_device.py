"""Device and precision."""

import pytest
import torch

from mmnet.batches import default_batch_size
from mmnet.config import ModelConfig
from mmnet.device import autocast, best_device, is_out_of_memory, machine_name


def test_the_best_device_can_hold_a_tensor():
    device = best_device()
    assert torch.zeros(1, device=device).device.type == device.type


@pytest.mark.parametrize(("precision", "expected"), [("auto", "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_the_precision_is_that_of_products(precision, expected):
    with autocast(torch.device("cpu"), precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, expected)


def test_a_processor_has_a_name():
    assert machine_name(torch.device("cpu")).strip()


def test_batch_sizes_are_the_published_ones_and_larger_for_features():
    sizes = [default_batch_size(ModelConfig(), torch.device(kind), 1000) for kind in ("cuda", "mps", "cpu")]
    assert sizes == [16, 8, 4]
    assert default_batch_size(ModelConfig(frozen=True), torch.device("cpu"), 1000) == 32


def test_an_epoch_of_pooled_features_has_sixteen_steps_as_long_as_they_are_of_a_sane_size():
    pooled = ModelConfig(frozen=True, pooled=True)
    assert [default_batch_size(pooled, torch.device("cpu"), views) for views in (0, 488, 1850, 10_000)] == [32, 32, 115, 256]


def test_what_counts_as_out_of_memory():
    memory = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
    other = [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("cannot allocate memory for that many names")]
    assert [is_out_of_memory(error) for error in memory + other] == [True, True, False, False]
