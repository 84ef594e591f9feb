"""What is known of the device without torch, and decided by that alone."""

import importlib.metadata

import pytest
import torch

from mmnet import device
from mmnet.config import ModelConfig
from mmnet.device_kind import default_batch_size, device_kind, precision_of, resolved
from tests.mmnet.tiny import tiny_config


def test_the_kind_is_that_of_the_best_device():
    assert device_kind() == device.best_device().type


def test_a_torch_for_cpus_only_is_not_asked_and_every_other_one_is(monkeypatch):
    monkeypatch.setattr(device, "best_device", lambda: torch.device("cuda"))
    for version, kind in (("2.13.0+cpu", "cpu"), ("2.13.0+cu130", "cuda"), ("2.13.0", "cuda")):
        monkeypatch.setattr(importlib.metadata, "version", lambda _, version=version: version)
        assert device_kind() == kind


def test_a_torch_without_a_version_is_asked(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert device_kind() == device.best_device().type


def test_auto_is_bfloat16_where_a_gpu_computes_it_itself_float16_on_other_cuda_and_float32_elsewhere(monkeypatch):
    for native, expected in ((True, "bfloat16"), (False, "float16")):  # a T4 emulates it, and crawls
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native or including_emulation)
        assert precision_of("auto", "cuda") == expected
    assert [precision_of("auto", kind) for kind in ("cpu", "mps")] == ["float32", "float32"]
    assert [precision_of(name, "cpu") for name in ("float32", "bfloat16", "float16")] == ["float32", "bfloat16", "float16"]


def test_batch_sizes_are_the_published_ones_and_larger_for_features():
    assert [default_batch_size(ModelConfig(), kind, 1000) for kind in ("cuda", "mps", "cpu")] == [16, 8, 4]


@pytest.mark.parametrize("pooled", [False, True])
def test_an_epoch_of_features_has_sixteen_steps_as_long_as_they_are_of_a_sane_size(pooled):
    model = ModelConfig(frozen=True, pooled=pooled)
    assert [default_batch_size(model, "cpu", views) for views in (0, 488, 1850, 10_000)] == [32, 32, 115, 128]


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"optim.batch_size": None}, ("float32", 4)), ({"optim.batch_size": 7, "optim.precision": "bfloat16"}, ("bfloat16", 7))],
)
def test_what_is_left_to_the_device_is_recorded_and_what_is_given_stays(values, expected):
    optim = resolved(tiny_config(values), "cpu", 100).optim
    assert (optim.precision, optim.batch_size) == expected
