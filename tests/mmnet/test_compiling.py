"""A compiled backbone: the same numbers, one shape, one compilation for all; and where it cannot be, the plain way."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from mmnet.compiling import commonest_batch, compiles, images_of
from mmnet.crossval import CrossValidation
from tests.mmnet.test_crossval import numbers
from tests.mmnet.tiny import CPU, deal, pixel_dataset, tiny_config, train

PIXELS = pixel_dataset()  # 2 folds train on 8 views each: at 3 a step, 3 + 3 + 2
UNEVEN = {"optim.batch_size": 3, "optim.epochs": 2, "dropout.path": 0.2}
COMPILED = UNEVEN | {"optim.compile": True}


class Compiler:
    """A backend for torch.compile that runs what it is given, and keeps how many images each compilation and each pass saw."""

    def __init__(self):
        self.compiled, self.passes = [], []

    def __call__(self, graph, examples):
        (images,) = (example for example in examples if example.shape[1:] == (3, 32, 32))
        place = next(number for number, example in enumerate(examples) if example is images)
        self.compiled.append(len(images))

        def run(*inputs):
            self.passes.append(len(inputs[place]))
            return graph(*inputs)

        return run


@pytest.fixture
def compiler(monkeypatch):
    made = Compiler()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=made))
    yield made
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("views", "size", "commonest"),
    [
        ((8, 8), 3, (3, 4)),  # 3 + 3 + 2, twice
        ((1000,), 16, (16, 55)),  # 63 steps, 8 of which have one less
        ((100, 100), 16, (14, 10)),  # 15 + 15 + 14 x 5: none is as large as asked for
        ((12, 8), 4, (4, 5)),
        ((5, 5), 4, (3, 2)),  # 3 + 2: the larger of equals
        ((3,), 16, (3, 1)),
    ],
)
def test_the_commonest_batch_is_counted_over_all_folds(views, size, commonest):
    assert commonest_batch(views, size) == commonest
    dealt = [len(part) for count in views for part in np.array_split(np.arange(count), -(-count // size))]
    assert dealt.count(commonest[0]) == commonest[1] == max(dealt.count(each) for each in dealt)


def test_a_shared_backbone_sees_all_images_of_a_batch_at_once():
    assert [images_of(tiny_config({"model.shared": shared}), 3) for shared in (True, False)] == [12, 3]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"optim.compile": True}, True),
        ({"optim.compile": False}, False),
        ({}, False),
        ({"optim.compile": True, "model.frozen": True}, False),
        ({"optim.compile": True, "augment.masking": 0.1}, False),
    ],
    ids=["asked for", "not", "undecided", "nothing to train", "batches of all sizes"],
)
def test_what_compiles(values, expected):
    assert compiles(tiny_config(values)) == expected


@pytest.mark.parametrize("shared", [True, False], ids=["one backbone", "one each"])
def test_a_compiled_trial_gives_the_numbers_of_a_plain_one_and_compiles_once(compiler, shared):
    _, plain = train(tiny_config(UNEVEN | {"model.shared": shared}), PIXELS)
    assert compiler.passes == []
    images = 12 if shared else 3
    for _ in range(2):  # a second trial finds it there
        _, reports = train(tiny_config(COMPILED | {"model.shared": shared}), PIXELS)
        assert numbers(reports) == numbers(plain)
        assert [report.line()["compiled"] for report in reports] == ["yes", "yes"]
        assert compiler.compiled == [images]
    backbones = 1 if shared else 4
    assert compiler.passes == [images] * 2 * (1 + 2 * 2 * 2 * backbones)  # 2 trials: a rehearsal, 2 epochs x 2 folds x 2 of 3 steps
    assert [report.compiled for report in plain] == [None, None]


def test_what_cannot_be_compiled_is_trained_as_written_and_says_so_also_after_a_restart(monkeypatch):
    tried = []

    def broken(*_, **__):
        tried.append(True)
        raise RuntimeError("no C++ compiler\nmore")

    _, plain = train(tiny_config(UNEVEN), PIXELS)
    monkeypatch.setattr(torch, "compile", broken)
    trial = CrossValidation(tiny_config(COMPILED), PIXELS, deal(PIXELS), CPU)
    reports = [next(trial)]
    again = CrossValidation(tiny_config(COMPILED), PIXELS, deal(PIXELS), CPU)
    again.load_state_dict(trial.state_dict())
    reports.append(next(again))
    assert numbers(reports) == numbers(plain)
    assert [report.compiled for report in reports] == ["no: RuntimeError: no C++ compiler"] * 2 and len(tried) == 1


def test_a_compiled_trial_goes_on_as_if_never_stopped(compiler):
    trial, whole = train(tiny_config(COMPILED), PIXELS)
    stopped = CrossValidation(tiny_config(COMPILED), PIXELS, deal(PIXELS), CPU)
    next(stopped)
    again = CrossValidation(tiny_config(COMPILED), PIXELS, deal(PIXELS), CPU)
    again.load_state_dict(stopped.state_dict())
    before = len(compiler.passes)
    assert numbers([*stopped.history, next(again)]) == numbers(whole)
    assert again.history[-1].compiled == "yes" and len(compiler.passes) == before + 1 + 4


def test_micro_batches_run_as_written(compiler, monkeypatch):
    trial = CrossValidation(tiny_config(COMPILED), PIXELS, deal(PIXELS), CPU)
    trial.micro_batch = 2
    assert next(trial).compiled is None and compiler.compiled == []


OFF = """
import sys
from tests.mmnet.tiny import pixel_dataset, tiny_config, train
train(tiny_config({"optim.epochs": 1, "optim.compile": False}), pixel_dataset())
print(*sys.modules)
"""


@pytest.mark.slow
def test_a_trial_that_does_not_compile_does_not_import_the_compiler():
    done = subprocess.run([sys.executable, "-c", OFF], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch._dynamo" not in done.stdout.split()
