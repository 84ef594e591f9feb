"""What is known of the device without torch, and decided by that alone."""

import importlib.metadata

import pytest
import torch

from mmnet import device
from mmnet.device_kind import computes_in_bfloat16, device_kind, untimed
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


def test_what_nothing_decided_is_bfloat16_on_cuda_only():
    kinds = ("cuda", "cpu", "mps")
    assert [computes_in_bfloat16(kind, "auto") for kind in kinds] == [True, False, False]
    assert [computes_in_bfloat16(kind, "bfloat16") for kind in kinds] == [True, True, False]
    assert not any(computes_in_bfloat16(kind, "float32") for kind in kinds)


@pytest.mark.parametrize(
    ("values", "kind", "decided"),
    [
        ({}, "cuda", ("bfloat16", False)),
        ({}, "cpu", ("float32", False)),
        ({}, "mps", ("float32", False)),
        ({"optim.precision": "bfloat16"}, "cpu", ("bfloat16", False)),
        ({"optim.precision": "float32", "optim.compile": True}, "cuda", ("float32", True)),
    ],
)
def test_with_a_frozen_backbone_what_is_left_open_is_decided_by_the_kind(values, kind, decided):
    optim = untimed(tiny_config({"model.frozen": True} | values), kind).optim
    assert (optim.precision, optim.compile) == decided
