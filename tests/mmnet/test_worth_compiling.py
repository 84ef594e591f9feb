"""Compiling is chosen where a trial is long enough, by one timing, and the same ever after."""

import json

import pytest
import torch
from rich.console import Console

import tune_mmnet
from data.views import ViewIndex
from mmnet import step_timing, study_folder, worth_compiling
from mmnet.config import ConfigError, save_config
from mmnet.crossval import CrossValidation
from mmnet.study_folder import StudyFolder, open_or_create
from mmnet.worth_compiling import decided, measure, passes_of_a_trial, pays
from tests.mmnet.tiny import CPU, deal, pixel_dataset, tiny_config

CUDA = torch.device("cuda")  # only its kind is asked for
PIXELS = pixel_dataset()
SPLITS = deal(PIXELS)
LONG = tiny_config({"model.backbone": "resnet18", "optim.batch_size": 3, "optim.epochs": 27})  # 27 x 2 folds x 2 steps of 3 = 108 passes
GAIN, LOSS = ({"eager": 1.0, "compiled": each, "compiling": 40.0} for each in (0.6, 1.1))  # seconds


@pytest.fixture(autouse=True)
def timed(tmp_path, monkeypatch):
    """Seconds an image of the plain backbone, with nothing on record; the keys of what is timed compiled."""
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(worth_compiling, "timing", lambda *_: {"float32": 0.1, "bfloat16": 0.05})
    monkeypatch.setattr(step_timing, "machine_name", lambda _: "a GPU")


def answer(monkeypatch, seconds):
    asked = []

    def apart(device, measure, *arguments):
        asked.append(arguments)
        return seconds

    monkeypatch.setattr(worth_compiling, "apart", apart)
    return asked


def no_timing(monkeypatch):
    monkeypatch.setattr(worth_compiling, "remembered", lambda *_: pytest.fail("timed"))


@pytest.mark.parametrize(
    ("passes", "eager", "compiled", "compiling", "expected"),
    [
        (8505, 0.030, 0.021, 41.0, True),  # saves 76.5 s
        (4000, 0.030, 0.021, 41.0, False),  # saves 36 s
        (10**6, 0.43, 0.44, 69.0, False),  # ResNet-18 on two cores: slower
        (100, 1.0, 0.6, 40.0, False),  # no better is not enough
        (0, 1.0, 0.5, 0.0, False),
    ],
)
def test_it_pays_where_all_passes_save_more_than_compiling_takes(passes, eager, compiled, compiling, expected):
    assert pays(passes, eager=eager, compiled=compiled, compiling=compiling) == expected


@pytest.mark.parametrize("shared", [True, False])
def test_a_trials_passes_are_those_that_it_makes(shared):
    """The steps of 2 folds that train on 8 views each, 3 + 3 + 2; sealed patients and the fold's own do not count."""
    config = LONG.with_values({"model.shared": shared})
    expected = (12, 108) if shared else (3, 4 * 108)
    assert passes_of_a_trial(config, CPU, PIXELS.table, SPLITS) == expected
    wider = pixel_dataset(patients=12)
    names = set(PIXELS.table.slides().tolist())
    assert names < set(wider.table.slides().tolist())  # the other 4 stand in no fold, as sealed ones do
    assert passes_of_a_trial(config, CPU, wider.table, SPLITS) == expected


def test_a_trial_has_the_views_that_were_counted():
    trial = CrossValidation(tiny_config({"sampling.views_per_slide": 5}), PIXELS, SPLITS, CPU)
    assert trial.views == [20, 20] and ViewIndex(PIXELS.table, (40,)).natural(None).tolist() == [2] * 8


@pytest.mark.parametrize(("seconds", "chosen"), [(GAIN, True), (LOSS, False)], ids=["faster", "slower"])
def test_a_long_trial_is_timed_once_and_told(monkeypatch, seconds, chosen):
    asked = answer(monkeypatch, seconds)
    for _ in range(2):
        config, line = decided(LONG, CUDA, PIXELS.table, SPLITS)
        assert config.optim.compile is chosen and config == LONG.with_values({"optim.compile": chosen})
        assert line.startswith("on: " if chosen else "off: ") and "108 steps of 12 images" in line and "takes 40 s" in line
    assert asked == [(LONG.model, 32, 12, "bfloat16", CUDA)]


@pytest.mark.parametrize(
    ("values", "device", "chosen"),
    [
        ({}, CPU, False),
        ({}, torch.device("mps"), False),
        ({"model.frozen": True}, CUDA, False),
        ({"model.backbone": "tiny"}, CUDA, False),
        ({"augment.masking": 0.2}, CUDA, False),
        ({"optim.epochs": 24}, CUDA, False),  # 96 passes of 12 images at 0.05 s: less than a minute
        ({"optim.compile": True}, CPU, True),
        ({"optim.compile": False}, CUDA, False),
    ],
    ids=["a CPU", "Apple's", "frozen", "tiny", "masked", "a short trial", "asked for", "not wanted"],
)
def test_what_needs_no_timing_gets_none(monkeypatch, values, device, chosen):
    no_timing(monkeypatch)
    config, line = decided(LONG.with_values(values), device, PIXELS.table, SPLITS)
    assert (config.optim.compile, line) == (chosen, "")


def test_where_it_cannot_be_compiled_it_is_off_and_one_line_says_why(monkeypatch):
    def apart(*_):
        raise RuntimeError("InductorError: no Triton\nmore")

    monkeypatch.setattr(worth_compiling, "apart", apart)
    config, line = decided(LONG, CUDA, PIXELS.table, SPLITS)
    assert config.optim.compile is False and line == "off: no timing of resnet18 (InductorError: no Triton)"


def test_both_ways_are_timed(monkeypatch):
    monkeypatch.setattr(worth_compiling, "BUDGET", 0.0)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    found = measure(LONG.model, 32, 2, "float32", CPU)
    assert found.keys() == {"eager", "compiled", "compiling"} and all(seconds > 0 for seconds in found.values())


def test_a_timing_says_why_there_is_none(monkeypatch):
    def broken(*_, **__):
        raise AssertionError("unsupported")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(RuntimeError, match="AssertionError: unsupported"):
        measure(tiny_config().model, 32, 2, "float32", CPU)


def test_a_study_records_the_choice_and_keeps_it(tmp_path, monkeypatch):
    answer(monkeypatch, GAIN)
    undecided = LONG.with_values({"optim.precision": "bfloat16"})
    monkeypatch.setattr(study_folder, "prepare", lambda config, *_: study_folder.Prepared(PIXELS, SPLITS, config))
    monkeypatch.setattr(study_folder, "describe", lambda *_: None)
    study = StudyFolder(tmp_path / "output" / "s", undecided, "nowhere", "tune")
    study.write(study.prepare(Console(quiet=True), CUDA.type))
    assert json.loads((study.path / "study.json").read_text())["config"]["optim"]["compile"] is True
    no_timing(monkeypatch)
    save_config(undecided, tmp_path / "undecided.yaml")
    given = ["--resume", "--name", "s", "--output", str(tmp_path / "output")]
    for more in ((), ("--config", str(tmp_path / "undecided.yaml")), ("--set", "optim.compile=null")):
        again = open_or_create(tune_mmnet.parse([*given, *more]), "tune")
        again.prepare(Console(quiet=True), CUDA.type)
        assert again.config.optim.compile is True
    with pytest.raises(ConfigError, match="optim.compile True -> False"):
        open_or_create(tune_mmnet.parse([*given, "--set", "optim.compile=off"]), "tune")
