"""The precision of a study: decided by one timing, and the same ever after."""

import json

import numpy as np
import pytest
import torch
from rich.console import Console

import tune_mmnet
from mmnet import precision, study_folder
from mmnet.config import ConfigError, save_config
from mmnet.crossval import CrossValidation
from mmnet.precision import decided, faster, measure
from mmnet.study_folder import StudyFolder, open_or_create
from tests.mmnet.tiny import CPU, deal, feature_dataset, pixel_dataset, tiny_config

RESNET = tiny_config({"model.backbone": "resnet18"})
SLOWER, FASTER = {"float32": 0.25, "bfloat16": 0.24}, {"float32": 0.25, "bfloat16": 0.125}  # seconds an image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("half", "chosen"), [(0.5, "bfloat16"), (1 / 1.11, "bfloat16"), (1 / 1.09, "float32"), (2.0, "float32")])
def test_bfloat16_must_be_clearly_faster(half, chosen):
    assert faster({"float32": 1.0, "bfloat16": half}) == chosen


def test_a_timing_is_taken_once_for_a_backbone_and_a_size(monkeypatch):
    answers = [FASTER, SLOWER]
    monkeypatch.setattr(precision, "measure", lambda *_: answers.pop(0))
    found = [decided(config, CPU)[0].optim.precision for config in (RESNET, RESNET, RESNET.with_values({"data.image_size": 64}), RESNET)]
    assert found == ["bfloat16", "bfloat16", "float32", "bfloat16"]
    assert "bfloat16 8" in decided(RESNET, CPU)[1] and "float32 4" in decided(RESNET, CPU)[1]


@pytest.mark.parametrize(
    ("config", "device", "chosen"),
    [
        (tiny_config(), "cpu", "float32"),
        (RESNET, "mps", "float32"),
        (RESNET.with_values({"optim.precision": "bfloat16"}), "cpu", "bfloat16"),
    ],
    ids=["tiny", "mps", "given"],
)
def test_what_needs_no_timing_gets_none(monkeypatch, config, device, chosen):
    monkeypatch.setattr(precision, "remembered", lambda *_: pytest.fail("timed"))
    settled, line = decided(config, torch.device(device))
    assert (settled.optim.precision, line) == (chosen, "")


def test_where_timing_fails_nothing_is_decided_and_one_line_says_so(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory\nmore")

    monkeypatch.setattr(precision, "measure", fail)
    assert decided(RESNET, CPU) == (RESNET, "auto: no timing of resnet18 (CUDA out of memory)")


def test_a_size_that_the_backbone_cannot_take_is_an_error():
    with pytest.raises(ConfigError, match="--image-size"):
        decided(tiny_config({"model.backbone": "timm:test_vit", "data.image_size": 33}), CPU)


def test_both_precisions_are_timed(monkeypatch):
    monkeypatch.setattr(precision, "BUDGET", 0.0)
    monkeypatch.setattr(precision, "HOPELESS", 1e9)
    assert all(seconds > 0 for seconds in measure(RESNET.model, 32, CPU).values())


def test_a_glance_is_enough_where_bfloat16_takes_many_times_as_long(monkeypatch):
    trained = []

    def clock(module, images, kind):
        trained.append(module.training)
        return {"float32": 1.0, "bfloat16": 2.1}[kind] * len(images)

    monkeypatch.setattr(precision, "seconds_of_pass", clock)
    assert measure(RESNET.model, 32, CPU) == {"float32": 1.0, "bfloat16": 2.1} and not any(trained)


@pytest.mark.parametrize(
    ("values", "dataset"),
    [({}, pixel_dataset()), ({"model.frozen": True}, feature_dataset()), ({"model.backbone": "timm:test_efficientnet"}, pixel_dataset())],
    ids=["fine-tuned", "frozen", "batch normalisation"],
)
def test_a_trial_in_bfloat16_gives_nearly_the_numbers_of_float32(values, dataset):
    still = {f"dropout.{place}": 0.0 for place in ("classifier", "fusion", "attention", "path")} | {"optim.lr": 1e-4}
    reports = [
        next(CrossValidation(tiny_config(still | values | {"optim.precision": kind}), dataset, deal(dataset), CPU))
        for kind in ("float32", "bfloat16")
    ]
    assert not np.array_equal(reports[0].probability, reports[1].probability)
    np.testing.assert_allclose(reports[0].probability, reports[1].probability, atol=0.03)


# of a study ------------------------------------------------------------------------------------------------------------


def start(tmp_path, monkeypatch, seconds, **more):
    """A study of ResNet-18 whose data is already there, prepared and written."""
    dataset = pixel_dataset()
    monkeypatch.setattr(study_folder, "prepare", lambda config, *_: study_folder.Prepared(dataset, deal(dataset), config))
    monkeypatch.setattr(study_folder, "describe", lambda *_: None)
    monkeypatch.setattr(precision, "measure", lambda *_: seconds)
    study = StudyFolder(tmp_path / "output" / "s", RESNET, "nowhere", "tune")
    study.write(study.prepare(Console(quiet=True), CPU.type, **more))
    return study


def resume(tmp_path, *more):
    return open_or_create(tune_mmnet.parse(["--resume", "--name", "s", "--output", str(tmp_path / "output"), *more]), "tune")


def test_a_study_records_its_precision_and_keeps_it(tmp_path, monkeypatch):
    study = start(tmp_path, monkeypatch, FASTER)
    assert study.config.optim.precision == "bfloat16"
    assert json.loads((study.path / "study.json").read_text())["config"]["optim"]["precision"] == "bfloat16"
    monkeypatch.setattr(precision, "remembered", lambda *_: pytest.fail("timed again"))
    save_config(RESNET, tmp_path / "auto.yaml")
    for more in ((), ("--config", str(tmp_path / "auto.yaml")), ("--set", "optim.precision=auto")):
        again = resume(tmp_path, *more)
        again.prepare(Console(quiet=True), CPU.type)
        assert again.config.optim.precision == "bfloat16"
    with pytest.raises(ConfigError, match="optim.precision bfloat16 -> float32"):
        resume(tmp_path, "--set", "optim.precision=float32")


def test_a_study_that_trains_elsewhere_leaves_it_to_the_workers_device(tmp_path, monkeypatch):
    assert start(tmp_path, monkeypatch, FASTER, trains_here=False).config.optim.precision == "auto"


def test_an_earlier_study_goes_on_as_it_was(tmp_path, monkeypatch):
    path = start(tmp_path, monkeypatch, SLOWER).path / "study.json"
    about = json.loads(path.read_text())
    del about["config"]["optim"]["precision"]
    path.write_text(json.dumps(about | {"config": about["config"] | {"optim": about["config"]["optim"] | {"amp": True}}}))
    monkeypatch.setattr(precision, "remembered", lambda *_: pytest.fail("timed"))
    again = resume(tmp_path)
    again.prepare(Console(quiet=True), CPU.type)
    assert again.config.optim.precision == "auto"
