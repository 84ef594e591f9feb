"""Grad-CAM: by hand on a tiny network, the right network for each view, and panels that say what they cannot show."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn

from analysis import gradcam
from analysis.gradcam import (
    HOT,
    Explained,
    blend,
    choose,
    explain,
    grad_cam,
    hottest_share,
    nearest_view,
    networks_on_pixels,
    one_class_each,
    plot_group,
    print_gradcam,
    short_name,
    write_gradcam,
)
from analysis.predictions import Level, Predictions, chosen_trial, trial_predictions
from data.augment import to_float
from data.errors import InputError
from data.views import MISSING
from mmnet.backbones import Backbone, build_backbone
from mmnet.config import DropoutConfig
from mmnet.crossval import CrossValidation
from mmnet.features import with_features
from mmnet.network import Head, MMNet, Output
from study.folder import FORMAT
from study.records import TrialWriter, write_weights
from tests.analysis.test_plots import assert_shows_something
from tests.mmnet.tiny import CPU, deal, pixel_dataset, randomise, tiny_config

EVERY = pixel_dataset(patients=8)
ALONE = EVERY.table.patient[0]  # has images at 100X only
DATASET = EVERY.select_rows((EVERY.table.patient != ALONE) | (EVERY.table.magnification == 100))


def level(probability: list[float], label: list[int]) -> Level:
    """Patients a, b, c, …, of one slide each."""
    count = len(label)
    names = np.array([chr(ord("a") + n) for n in range(count)])
    return Level(np.array(probability), np.array(label), names, names, np.zeros(count, int), np.zeros(count, int))


def test_patients_of_each_group_by_hand():
    #                 a     b     c     d     e     f     g     h     i     j
    patients = level([0.99, 0.95, 0.90, 0.10, 0.60, 0.97, 0.02, 0.45, 0.55, 0.48], [1, 1, 1, 0, 1, 0, 1, 0, 1, 1])
    assert choose(patients, 4) == {"right": ["a", "b", "h", "d"], "wrong": ["f", "j", "g"], "uncertain": ["c", "e", "i"]}
    assert choose(patients, 2) == {"right": ["a", "d"], "wrong": ["f", "g"], "uncertain": ["j", "h"]}


def test_a_class_without_right_patients_leaves_its_places_to_the_other():
    assert choose(level([0.9, 0.8, 0.7], [1, 1, 1]), 2) == {"right": ["a", "b"], "wrong": [], "uncertain": ["c"]}


def test_fewer_patients_than_asked_for_are_each_shown_once():
    chosen = choose(level([0.9, 0.4, 0.6], [1, 1, 0]), 4)
    assert chosen == {"right": ["a"], "wrong": ["c", "b"], "uncertain": []}


def test_half_is_called_malignant_and_ties_go_by_order():
    assert choose(level([0.5, 0.5, 0.9, 0.9], [1, 0, 1, 1]), 1) == {"right": ["c"], "wrong": ["b"], "uncertain": ["a"]}
    assert choose(level([0.9, 0.1], [0, 1]), 1)["wrong"] == ["a"]  # equally far from 0.5, though not in floating point


def test_a_patient_with_views_of_both_classes_is_shown_as_two():
    predictions = Predictions(
        probability=np.array([0.9, 0.8, 0.7, 0.1, 0.7]),
        label=np.array([1, 0, 1, 0, 1]),
        slide=np.array(list("stuvw")),
        patient=np.array(["a", "a", "a", "b", "c"]),
        subtype=np.array([""] * 5),
        fold=np.zeros(5, int),
        rows=np.arange(5)[:, None],
        magnifications=(40,),
    )
    apart = one_class_each(predictions)
    assert apart.patient.tolist() == ["a malignant", "a benign", "a malignant", "b", "c"]
    assert apart.level("patient").probability.tolist() == predictions.level("patient").probability.tolist()
    assert choose(apart.level("patient"), 4) == {"right": ["a malignant", "c", "b"], "wrong": ["a benign"], "uncertain": []}


def test_the_view_that_stands_for_a_patient_is_nearest_to_its_mean():
    probability = np.array([0.0, 0.9, 0.5, 0.1, 0.7])
    assert nearest_view(probability, np.array([1, 2, 3, 4])) == 2  # mean 0.55
    assert nearest_view(probability, np.array([1, 4])) == 1  # both 0.1 away
    assert nearest_view(probability, np.array([3])) == 3


def test_share_of_the_evidence_in_the_hottest_part():
    assert hottest_share(np.ones((10, 10)), HOT) == pytest.approx(0.1)
    heat = np.zeros((10, 10))
    assert np.isnan(hottest_share(heat, HOT))
    heat[3, 4] = 2.0
    assert hottest_share(heat, HOT) == 1.0
    heat[:, 0] = 1.0  # 11 cells are warm, the ten hottest hold 11 of 12
    assert hottest_share(heat, HOT) == pytest.approx(11 / 12)


MASKS = {"all there": [True, True, True], "the middle missing": [True, False, True], "one alone": [False, False, True]}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("malignant", [True, False], ids=["malignant", "benign"])
@pytest.mark.parametrize("backbones", [1, 3], ids=["shared", "one each"])
def test_grad_cam_is_what_the_paper_says(backbones, malignant, mask):
    config = tiny_config().model
    network = MMNet([build_backbone(config, 32, seed) for seed in range(backbones)], Head(64, 3, 1, config, DropoutConfig()))
    randomise(network.head).eval()
    network.eval()
    images, there = torch.rand(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.tensor([mask])
    images[~there] = 0
    found = grad_cam(network, images, there, malignant=malignant)

    columns = [m for m in range(3) if mask[m]]
    maps = [network.backbones[m % backbones](images[:, m]).detach().requires_grad_() for m in columns]  # each (1, 64, 4, 4)
    whole = torch.stack([maps[columns.index(m)] if m in columns else torch.zeros_like(maps[0]) for m in range(3)], 1)
    logit = network.head(whole, there).logit.sum() * (1 if malignant else -1)
    for number, (map_, gradient) in enumerate(zip(maps, torch.autograd.grad(logit, maps), strict=True)):
        weighted = sum(gradient[0, c].mean() * map_[0, c] for c in range(64))
        torch.testing.assert_close(found[number], weighted.clamp(min=0).detach(), rtol=1e-4, atol=1e-6)
    assert found.shape == (len(columns), 4, 4) and found.any()


def test_explaining_leaves_no_gradient_behind():
    network = MMNet([build_backbone(tiny_config().model, 32, 0)], Head(64, 1, 1, tiny_config().model, DropoutConfig())).eval()
    found = grad_cam(network, torch.rand(1, 1, 3, 32, 32), torch.tensor([[True]]), malignant=True)
    assert not found.requires_grad and all(parameter.grad is None for parameter in network.parameters())


class Difference(nn.Module):
    """A head that calls one colour malignant and another benign."""

    def __init__(self, malignant: int, benign: int):
        super().__init__()
        self.malignant, self.benign = malignant, benign

    def forward(self, maps: torch.Tensor, mask: torch.Tensor) -> Output:
        colour = maps.mean((3, 4))  # (B, M, 3)
        return Output((colour[:, :, self.malignant] - colour[:, :, self.benign]).sum(1, keepdim=True), mask / mask.sum(1, keepdim=True))


RED, GREEN, BLUE = range(3)


def sees(malignant: int, benign: int) -> MMNet:
    """A network that tells colours apart, on maps of 8 px a cell."""
    return MMNet([Backbone(nn.AvgPool2d(8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))], Difference(malignant, benign))


def test_evidence_stands_where_it_was_planted():
    images = torch.zeros(1, 2, 3, 32, 32)
    images[0, 0, RED, :8, 24:] = 1  # 40X: red in the upper right corner
    images[0, 1, BLUE, 24:, :16] = 0.5  # 100X: blue at the lower left
    mask = torch.ones(1, 2, dtype=torch.bool)
    red, nothing = grad_cam(sees(RED, BLUE), images, mask, malignant=True)
    assert red.nonzero().tolist() == [[0, 3]] and not nothing.any()
    nothing, blue = grad_cam(sees(RED, BLUE), images, mask, malignant=False)
    assert blue.nonzero().tolist() == [[3, 0], [3, 1]] and not nothing.any()


@pytest.mark.parametrize(("probability", "place"), [(0.2, (slice(24, 32), slice(0, 8))), (0.8, (slice(0, 8), slice(24, 32)))])
def test_a_patient_is_explained_by_its_own_fold_for_the_class_that_it_was_called(probability, place):
    pixels = np.zeros((len(EVERY.table), 32, 32, 3), np.uint8)
    pixels[:, :8, 24:, RED] = 255
    pixels[:, 24:, :8, GREEN] = 255
    pixels[:, 24:, 24:, BLUE] = 255
    predictions = Predictions(
        probability=np.array([probability, 0.9]),
        label=np.array([1, 0]),
        slide=np.array(["1", "2"]),
        patient=np.array(["shown", "other"]),
        subtype=np.array(["DC", "A"]),
        fold=np.array([1, 0]),
        rows=np.array([[MISSING, 5], [3, 4]]),
        magnifications=(40, 100),
    )
    entry, tiles, heat = explain(
        "shown", predictions, [sees(BLUE, RED), sees(RED, GREEN)], replace(EVERY, images=pixels), tiny_config(), CPU
    )
    assert (entry["patient"], entry["fold"], entry["view"], entry["called"]) == ("shown", 2, 0, int(probability >= 0.5))
    assert not heat[0].any() and not tiles[0].any() and entry["images"]["40X"] is None
    np.testing.assert_array_equal(tiles[1], pixels[5])
    row, column = np.unravel_index(heat[1].argmax(), heat[1].shape)
    assert place[0].start <= row < place[0].stop and place[1].start <= column < place[1].stop
    assert heat[1][place].sum() > 0.5 * heat[1].sum()
    assert entry["images"]["100X"] == {
        "row": 5,
        "path": EVERY.table.path[5],
        "importance": 1.0,
        "peak": 1.0,
        "hottest_tenth": hottest_share(heat[1], HOT),
    }


def make_study(study, frozen: bool):
    """Two folds trained on pixels, or on features of a frozen backbone -> (folder, configuration)."""
    config = tiny_config({"model.frozen": frozen, "optim.epochs": 4, "optim.patience": None, "optim.lr": 5e-3})
    trial = CrossValidation(config, with_features(DATASET, config, CPU.type) if frozen else DATASET, deal(DATASET), CPU)
    writer = TrialWriter(study / "trials" / "0000", 0, {}, config)
    for _ in trial:
        writer.report(trial)
    writer.status("done", "")
    write_weights(study / "models", trial)
    about = {"format": FORMAT, "verb": "main", "name": study.name, "config": config.to_dict(), "data": {"synthetic": True}}
    (study / "study.json").write_text(json.dumps(about))
    return study, config


@pytest.fixture(scope="module", params=[False, True], ids=["trained backbone", "frozen backbone"])
def explained_study(request, tmp_path_factory):
    """(folder, configuration, report) of a study after `write_gradcam`. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMNET_CACHE", str(tmp_path_factory.mktemp("gradcam_cache")))
        study, config = make_study(tmp_path_factory.mktemp("gradcam") / "tiny", request.param)
        return study, config, write_gradcam(study, DATASET, config, CPU)


# what does not ask where the backbone came from is seen of one study
once = pytest.mark.parametrize("explained_study", [False], indirect=True, ids=["trained backbone"])


def test_networks_on_pixels_say_what_the_trial_recorded(explained_study):
    study, config, _ = explained_study
    predictions = trial_predictions(chosen_trial(study))
    networks = networks_on_pixels(study, DATASET, config, CPU)
    assert not any(network.training for network in networks)
    there = torch.from_numpy(predictions.rows != MISSING)
    images = to_float(torch.from_numpy(DATASET.images[predictions.rows.ravel()])).unflatten(0, tuple(there.shape))
    images[~there] = 0
    with torch.no_grad():
        said = np.stack([network(images, there).logit[:, 0].sigmoid().numpy() for network in networks])
    of_fold = np.arange(len(predictions.fold))
    np.testing.assert_allclose(said[predictions.fold, of_fold], predictions.probability, atol=2e-3)  # features are float16
    assert np.abs(said[1 - predictions.fold, of_fold] - predictions.probability).max() > 0.05


def test_the_report_holds_every_patient_it_shows(explained_study):
    study, config, report = explained_study
    predictions = trial_predictions(chosen_trial(study))
    chosen = choose(predictions.level("patient"), 4)
    assert [(entry["group"], entry["patient"]) for entry in report["patients"]] == [(g, p) for g, names in chosen.items() for p in names]
    assert json.loads((study / "gradcam" / "gradcam.json").read_text())["trial"] == "0000"
    for entry in report["patients"]:
        view, of_patient = entry["view"], predictions.patient == entry["patient"]
        assert predictions.patient[view] == entry["patient"] and predictions.fold[view] + 1 == entry["fold"]
        assert entry["view_probability"] == pytest.approx(predictions.probability[view], abs=2e-3)
        assert entry["probability"] == pytest.approx(predictions.probability[of_patient].mean())
        assert entry["called"] == (entry["probability"] >= 0.5) and entry["label"] == predictions.label[view]
        assert entry["group"] == "uncertain" or (entry["group"] == "right") == (entry["called"] == entry["label"])
        assert entry["cells"] == 16
        shown = [image for image in entry["images"].values() if image]
        assert [image["row"] for image in shown] == [row for row in predictions.rows[view] if row != MISSING]
        assert sum(image["importance"] for image in shown) == pytest.approx(1, abs=1e-5)
        assert max(image["peak"] for image in shown) in (0.0, 1.0)
        assert all(image["path"] == DATASET.table.path[image["row"]] for image in shown)
    assert any(image["peak"] == 1 for entry in report["patients"] for image in entry["images"].values() if image)


def test_a_missing_magnification_is_reported_as_none(explained_study):
    entry = next(entry for entry in explained_study[2]["patients"] if entry["patient"] == ALONE)
    assert [name for name, image in entry["images"].items() if image is None] == ["40X", "200X", "400X"]
    assert entry["images"]["100X"]["importance"] == pytest.approx(1)


def test_there_is_a_figure_of_each_group_that_has_patients(explained_study):
    study, _, report = explained_study
    groups = {entry["group"] for entry in report["patients"]}
    expected = {"gradcam.json"} | {f"{group}{suffix}" for group in groups for suffix in (".png", ".pdf")}
    assert {path.name for path in (study / "gradcam").iterdir()} == expected and "right" in groups
    for group in groups:
        assert_shows_something(study / "gradcam" / f"{group}.png")


@once
def test_figures_of_an_earlier_call_do_not_stay(explained_study, tmp_path):
    study, config, _ = explained_study
    copied = shutil.copytree(study, tmp_path / study.name)
    for name in ("wrong.png", "wrong.pdf"):
        (copied / "gradcam" / name).write_text("old")
    path = copied / "trials" / "0000" / "predictions.npz"
    with np.load(path) as saved:
        columns = {name: saved[name] for name in saved.files}
    patients = trial_predictions(chosen_trial(study)).level("patient")
    called = dict(zip(patients.patient.tolist(), (patients.probability >= 0.5).astype(int).tolist(), strict=True))
    np.savez(path, **columns | {"label": np.array([called[patient] for patient in columns["patient"].tolist()])})  # all are right
    report = write_gradcam(copied, DATASET, config, CPU)
    expected = {"gradcam.json"} | {f"{group}{suffix}" for group in ("right", "uncertain") for suffix in (".png", ".pdf")}
    assert {path.name for path in (copied / "gradcam").iterdir()} == expected
    console = Console(file=io.StringIO(), width=80)
    print_gradcam(report, console)
    lines = console.file.getvalue().splitlines()
    assert "SYNTHETIC DATA" in lines[0]
    shown = [image for entry in report["patients"] if entry["group"] == "right" for image in entry["images"].values() if image]
    assert next(line for line in lines if "right" in line).split()[3:5] == ["4", str(len(shown))]
    assert "no figure" in next(line for line in lines if "wrong" in line)
    assert all(len(line) <= 80 and "…" not in line for line in lines)


@once
def test_models_of_another_training_are_an_input_error(explained_study, tmp_path):
    study, config, _ = explained_study
    copied = shutil.copytree(study, tmp_path / study.name)
    path = copied / "models" / "fold_1.safetensors"
    weights = load_file(path)
    bias = next(name for name in reversed(list(weights)) if "classifier" in name and name.endswith("bias"))
    save_file(weights | {bias: weights[bias] + 1}, path)
    with pytest.raises(InputError, match="differ by 0.* in the mean from those on record of trial 0000"):
        write_gradcam(copied, DATASET, config, CPU)


@once
@pytest.mark.parametrize(
    "images",
    [EVERY, DATASET.select_rows(np.arange(8)), DATASET.select_rows(np.arange(len(DATASET.table))[::-1])],
    ids=["more", "few", "turned"],
)
def test_images_of_another_numbering_are_an_input_error(explained_study, images):
    study, config, _ = explained_study
    with pytest.raises(InputError, match="not those of the study's views"):
        write_gradcam(study, images, config, CPU)


IMAGE = {"row": 0, "path": "", "importance": 0.25, "peak": 0.5, "hottest_tenth": 0.3}
PATIENT = {
    "patient": "10001",
    "subtype": "DC",
    "label": 1,
    "called": 0,
    "probability": 0.125,
    "view_probability": 0.25,
    "cells": 16,
    "images": {"40X": IMAGE, "100X": IMAGE},
}


def drawn(tmp_path, monkeypatch, *entries: dict, heat: np.ndarray | None = None, weighted: bool = True) -> list[str]:
    """All texts of a figure of these entries, each image with the evidence `heat` (default: a slope)."""
    said: list[str] = []

    def read(figure, path, title, synthetic):
        said.append(title)
        for axes in figure.axes:
            said.extend([axes.get_title(), axes.get_xlabel(), axes.get_ylabel(), *(text.get_text() for text in axes.texts)])

    monkeypatch.setattr(gradcam, "save_figure", read)
    heat = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1)) if heat is None else heat
    members = []
    for entry in entries:
        count = len(entry["images"])
        members.append(Explained(entry, np.full((count, 32, 32, 3), 200, np.uint8), np.stack([heat] * count)))
    plot_group("Some", members, tmp_path / "some.png", weighted=weighted, synthetic=False)
    return [text for text in said if text]


def test_a_panel_says_who_is_shown_and_what_was_called(tmp_path, monkeypatch):
    said = drawn(tmp_path, monkeypatch, PATIENT, PATIENT | {"subtype": "", "label": 0, "called": 1})
    assert said[0] == "Some:\nGrad-CAM evidence for the class that was called"
    assert "10001\nDC, malignant\ncalled benign\nP(malignant) 0.12\nthis view 0.25" in said
    assert "10001\nbenign\ncalled malignant\nP(malignant) 0.12\nthis view 0.25" in said
    assert said.count("importance 0.25, peak 0.50") == 4 and said.count("40X") == said.count("100X") == 1
    assert any(text.startswith("Grad-CAM, share of the image's maximum\nimportance:") for text in said)
    assert drawn(tmp_path, monkeypatch, PATIENT, weighted=False).count("peak 0.50") == 2
    assert not any("peak" in text for text in drawn(tmp_path, monkeypatch, PATIENT | {"images": {"200X": IMAGE}}))


def test_a_panel_says_what_it_cannot_show(tmp_path, monkeypatch):
    assert drawn(tmp_path, monkeypatch, PATIENT | {"images": {"40X": None, "100X": IMAGE}}).count("no image") == 1
    assert drawn(tmp_path, monkeypatch, PATIENT, heat=np.zeros((32, 32), np.float32)).count("no evidence\nfor benign") == 2
    assert drawn(tmp_path, monkeypatch, PATIENT | {"cells": 1}).count("one cell: no\nplaces to compare") == 2
    assert not any(text.startswith(("no ", "one ")) for text in drawn(tmp_path, monkeypatch, PATIENT))


def test_the_veil_grows_denser_with_the_evidence():
    share = np.linspace(0, 1, 5)[None]
    white, black = (blend(np.full((1, 5, 3), value, np.uint8), share).astype(int) for value in (255, 0))
    through = (white - black).mean(-1)[0]  # what is left of the tissue
    assert (np.diff(through) < 0).all() and through[0] > 200 and through[-1] < 100
    red, grey = (blend(np.array([[colour]], np.uint8), np.zeros((1, 1))) for colour in ([255, 0, 0], [76, 76, 76]))
    assert (red == grey).all() and red.max() - red.min() <= 1  # grey as bright as the colour was


@pytest.mark.parametrize(
    ("patient", "short"),
    [
        ("SOB_B_PT_14-22704", "14-22704"),
        ("patient_7", "patient_7"),
        ("hospital-7-patient-000123", "…-7-patient-000123"),
    ],
)
def test_names_are_shortened_to_what_tells_them_apart(patient, short):
    assert short_name(patient) == short


@once
def test_other_pixels_than_those_on_record_are_an_input_error(explained_study):
    study, config, _ = explained_study
    with pytest.raises(InputError, match="differ by"):
        write_gradcam(study, replace(DATASET, images=np.full_like(DATASET.images, 255)), config, CPU)
