"""Timings: once a machine, and on a GPU apart from the process that needs them."""

import os

import pytest
import torch

from mmnet.step_timing import apart, remembered
from tests.mmnet.tiny import CPU


def test_what_was_timed_once_is_read_ever_after(tmp_path, monkeypatch):
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path))
    answers = [{"eager": 1.0}, {"eager": 2.0}]
    found = [remembered({"size": size}, CPU, lambda: answers.pop(0)) for size in (32, 32, 64, 32)]
    assert found == [({"eager": 1.0}, True), ({"eager": 1.0}, False), ({"eager": 2.0}, True), ({"eager": 1.0}, False)]


@pytest.mark.slow
def test_on_a_gpu_the_timing_runs_in_a_process_of_its_own():
    """Seen on a CPU: the device's kind is what asks for the process."""
    assert apart(torch.device("cuda"), process_number, 1)["process"] != process_number(1)["process"]
    assert apart(CPU, process_number, 1) == process_number(1)


def process_number(_):
    return {"process": os.getpid()}
