"""One set of out-of-fold predictions, seen as images, views and patients."""

import json
from dataclasses import replace

import numpy as np
import pytest

from analysis.predictions import LEVELS, Predictions, chosen_trial, read_arrays, study_predictions, trial_predictions
from data.errors import InputError
from data.views import MISSING
from mmnet.metrics import evaluate
from study.records import read_trial, write_status

# slide a, fold 1: images 0 and 1 at 40X, 2 at 100X; b, fold 0: image 3 at 40X; c, fold 1: image 4 at 100X
HAND = Predictions(
    probability=np.array([0.9, 0.2, 0.6, 0.1]),
    label=np.array([0, 1, 1, 0]),
    slide=np.array(["b", "a", "a", "c"]),
    patient=np.array(["1", "2", "2", "3"]),
    subtype=np.array(["A", "DC", "DC", "F"]),
    fold=np.array([0, 1, 1, 1]),
    rows=np.array([[3, MISSING], [0, 2], [1, 2], [MISSING, 4]]),
    magnifications=(40, 100),
)


def test_an_image_has_the_mean_of_the_views_that_show_it_and_missing_cells_count_for_nothing():
    image = HAND.level("image")  # by row of the table: 0 to 4
    np.testing.assert_allclose(image.probability, [0.2, 0.6, 0.4, 0.9, 0.1])
    assert image.label.tolist() == [1, 1, 1, 0, 0]
    assert image.slide.tolist() == ["a", "a", "a", "b", "c"]
    assert image.patient.tolist() == ["2", "2", "2", "1", "3"]
    assert image.fold.tolist() == [1, 1, 1, 0, 1]
    assert image.magnification.tolist() == [40, 40, 100, 40, 100]


def test_a_view_has_what_the_network_said():
    view = HAND.level("view")
    assert [column.tolist() for column in view[:5]] == [
        [0.9, 0.2, 0.6, 0.1],
        [0, 1, 1, 0],
        ["b", "a", "a", "c"],
        ["1", "2", "2", "3"],
        [0, 1, 1, 1],
    ]
    assert not view.magnification.any()


def test_a_patient_has_the_mean_of_its_views():
    patient = HAND.level("patient")
    assert patient.patient.tolist() == ["1", "2", "3"]
    np.testing.assert_allclose(patient.probability, [0.9, 0.4, 0.1])
    assert (patient.label.tolist(), patient.slide.tolist(), patient.fold.tolist()) == ([0, 1, 0], ["b", "a", "c"], [0, 1, 1])
    assert not patient.magnification.any()


def test_two_slides_of_a_patient_are_one_unit_and_a_patient_of_two_classes_two():
    one = replace(HAND, patient=np.array(["1", "2", "2", "1"])).level("patient")
    assert one.patient.tolist() == ["1", "2"] and one.probability.tolist() == pytest.approx([0.5, 0.4])
    both = replace(HAND, patient=np.array(["2", "2", "2", "3"])).level("patient")
    assert both.patient.tolist() == ["2", "2", "3"] and both.label.tolist() == [0, 1, 0]
    assert both.probability.tolist() == pytest.approx([0.9, 0.4, 0.1])


def test_a_patient_drawn_twice_is_two_patients_whose_slides_are_two_each():
    drawn = HAND.level("view").drawn(np.array([1, 2, 1, 2]), np.array([0, 0, 1, 1]))
    assert drawn.patient.tolist() == [0, 0, 1, 1] and drawn.probability.tolist() == [0.2, 0.6, 0.2, 0.6]
    assert drawn.slide[0] == drawn.slide[1] != drawn.slide[2] == drawn.slide[3]


def test_files_of_earlier_versions_that_call_a_patient_case_are_read(study):
    path = study / "trials" / "0001" / "predictions.npz"
    now = trial_predictions(read_trial(path.parent))
    with np.load(path) as saved:
        columns = {name: saved[name] for name in saved.files}
    slide, patient = columns.pop("slide"), columns.pop("patient")
    np.savez(path, **columns, patient=slide, case=patient)
    before = trial_predictions(read_trial(path.parent))
    assert before.slide.tolist() == now.slide.tolist() and before.patient.tolist() == now.patient.tolist()


@pytest.mark.parametrize("name", LEVELS)
def test_selecting_keeps_every_column_in_step(name):
    level = HAND.level(name)
    rows = np.flatnonzero(level.fold == 1)[::-1]
    chosen = level.select(rows)
    for column, of_chosen in zip(level, chosen, strict=True):
        assert of_chosen.tolist() == [column[row] for row in rows]


def test_a_trial_is_read_at_its_best_epoch_or_the_one_asked_for(study):
    folder = study / "trials" / "0001"
    with np.load(folder / "predictions.npz") as saved:
        arrays = {name: saved[name] for name in saved.files}
    np.savez(folder / "predictions.npz", **arrays | {"best_epoch": 2})
    *lines, last = (folder / "epochs.jsonl").read_text().splitlines()
    (folder / "epochs.jsonl").write_text("\n".join([*lines, json.dumps(json.loads(last) | {"best_epoch": 2})]) + "\n")
    record = read_trial(folder)
    assert record.best["epoch"] == 2 and len({line["metrics"]["log_loss"] for line in record.epochs}) == 3
    for epoch, line in [(None, record.best), *((line["epoch"], line) for line in record.epochs)]:
        found = trial_predictions(record, epoch)
        assert evaluate(found.probability, found.label, found.patient) == pytest.approx(line["metrics"])
    assert found.magnifications == (40, 100, 200, 400) and found.rows.shape == (len(found.label), 4)


def test_the_levels_of_a_trial_hold_every_image_view_and_patient_once(trained_study):
    found = trial_predictions(read_trial(trained_study / "trials" / "0001"))
    image, view, patient = (found.level(name) for name in LEVELS)
    assert len(image.label) == 8 * 4 * 2  # patients, magnifications, images
    assert len(view.label) == 8 * 2 and len(patient.label) == 8
    assert np.unique(image.magnification, return_counts=True)[1].tolist() == [16] * 4
    for level in (image, view):
        for name, fold, label in zip(patient.patient, patient.fold, patient.label, strict=True):
            assert set(level.fold[level.patient == name]) == {fold} and set(level.label[level.patient == name]) == {label}


def test_a_search_is_judged_by_its_best_trial_and_a_training_by_the_configured_one(study):
    assert chosen_trial(study).name == "0001"
    np.testing.assert_array_equal(study_predictions(study).probability, trial_predictions(chosen_trial(study)).probability)
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | {"verb": "main"}))
    assert chosen_trial(study).name == "0000"


def test_a_study_without_a_score_has_no_predictions(study):
    for folder in (study / "trials").glob("000[0-4]"):
        write_status(folder, "failed", "no luck")
    with pytest.raises(InputError, match="tiny: no trial has a score yet"):
        study_predictions(study)


def test_an_outer_fold_that_was_not_judged_yet_is_an_error(study):
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | {"nested": [about["splits"]]}))
    with pytest.raises(InputError, match=r"held_out.npz: absent or damaged .*--resume"):
        study_predictions(study)


WHOLE = {"oof": np.random.default_rng(0).random((2, 500)), "label": np.zeros(500, int), "best_epoch": 2}


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: b"nothing of the kind",
        *(lambda whole, place=place: whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :] for place in (70, 3000)),
    ],
    ids=["half", "empty", "other", "in the shape", "in the numbers"],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, damage):
    path = tmp_path / "predictions.npz"
    np.savez_compressed(path, **WHOLE)
    np.testing.assert_array_equal(read_arrays(path)["oof"], WHOLE["oof"])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match="predictions.npz: absent or damaged"):
        read_arrays(path)


@pytest.mark.parametrize(
    "wrong",
    [{"oof": np.full((2, 500), np.nan)}, {"label": np.zeros(499, int)}, {"best_epoch": 3}, {"best_epoch": 0}],
    ids=["no number", "of other views", "no such epoch", "no epoch at all"],
)
def test_a_file_that_contradicts_itself_is_damaged(tmp_path, wrong):
    np.savez_compressed(tmp_path / "predictions.npz", **WHOLE | wrong)
    with pytest.raises(InputError, match="predictions.npz: absent or damaged"):
        read_arrays(tmp_path / "predictions.npz")
