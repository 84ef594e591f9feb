"""New patients: nobody whom the study knows, one row each, and the metrics of those who have a label."""

import csv
import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from analysis import new_patients
from analysis.new_patients import check_new, predict_patients, print_predictions, usable
from analysis.predictions import chosen_trial
from analysis.summary import write_results
from data.errors import DataError, LeakageError
from data.table import UNKNOWN
from mmnet.config import Config
from mmnet.predict import predict_ensemble
from tests.analysis.studies import DATASET, splits
from tests.mmnet.tiny import CPU, MAGNIFICATIONS, feature_dataset


def altered(dataset, **columns):
    return replace(dataset, table=replace(dataset.table, **columns))


def strangers(patients=6, seed=7):
    """Patients and slides of other names than the study's; every other one is malignant."""
    dataset = feature_dataset(patients=patients, seed=seed)
    other = {name: np.char.replace(getattr(dataset.table, name), "10", "90") for name in ("slide", "patient")}
    return altered(dataset, **other)


def labelled(dataset, label):
    """`label` (P,) of the patients, sorted."""
    member = np.unique(dataset.table.patient, return_inverse=True)[1]
    return altered(dataset, label=np.array(label)[member])


@pytest.fixture(scope="module")
def finished(trained_study, tmp_path_factory):
    """The study with its models in place. Read only."""
    study = shutil.copytree(trained_study, tmp_path_factory.mktemp("finished") / "tiny")
    write_results(study)
    return study


@pytest.fixture
def study(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "tiny")


@pytest.fixture
def predicted(study, monkeypatch):
    """What predict_patients makes of a data set."""
    monkeypatch.setattr(new_patients, "RESAMPLES", 50)
    return lambda dataset: predict_patients(study, dataset, CPU)


def rows_of(study):
    with (study / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


# who is new ----------------------------------------------------------------------------------------------------------


def test_strangers_are_new(trained_study):
    check_new(strangers(), trained_study)


@pytest.mark.parametrize("part", ["trained on", "sealed"])
def test_one_patient_of_the_study_among_new_ones_is_leakage_and_named(trained_study, part):
    known = splits().development()[0] if part == "trained on" else splits().test[0]
    dataset = strangers()
    first = dataset.table.slides()[0]
    slide = np.where(dataset.table.slide == first, known, dataset.table.slide)
    patient = dataset.table.of_slides("patient")[first]
    with pytest.raises(LeakageError, match=rf"1 of 6 patients belong to study tiny \({patient}\)"):
        check_new(altered(dataset, slide=slide), trained_study)


def test_another_slide_of_a_patient_that_was_trained_on_is_leakage(trained_study):
    dataset = strangers()
    first = dataset.table.slides()[0]
    trained = DATASET.table.of_slides("patient")[splits().development()[0]]
    patient = np.where(dataset.table.slide == first, trained, dataset.table.patient)
    with pytest.raises(LeakageError, match=rf"1 of 6 patients belong to study tiny \({trained}\)"):
        check_new(altered(dataset, patient=patient), trained_study)


def test_the_studys_own_data_are_refused_as_a_whole(trained_study):
    with pytest.raises(LeakageError, match=r"12 of 12 patients .* and 7 more"):
        check_new(DATASET, trained_study)


# which images --------------------------------------------------------------------------------------------------------


def test_images_at_other_magnifications_are_left_out_and_a_patient_who_has_no_others_is_named():
    dataset = replace(strangers(), skipped={"a.png": "damaged"})
    only_400 = np.unique(dataset.table.patient)[2]
    dataset = dataset.select_rows((dataset.table.patient != only_400) | (dataset.table.magnification == 400))
    left = usable(dataset, (40, 200))
    assert set(left.table.magnification.tolist()) == {40, 200}
    assert set(left.table.patient.tolist()) == set(strangers().table.patient.tolist()) - {only_400}
    assert left.skipped == {"a.png": "damaged", f"patient {only_400}": "no image at the study's magnifications 40,200"}
    assert len(left.features) == len(left.table)


def test_where_everyone_can_be_used_nobody_is_named():
    assert usable(strangers(), MAGNIFICATIONS).skipped == {}


def test_no_image_at_all_at_the_studys_magnifications_is_an_error():
    with pytest.raises(DataError, match="images at 40,100,200,400; expected some at the study's 20,80"):
        usable(strangers(), (20, 80))


# what is said of them ------------------------------------------------------------------------------------------------


def test_each_patient_has_one_row_with_mean_and_spread_of_the_fold_models(study, predicted):
    dataset = strangers()
    report = predicted(dataset)
    config = Config().with_values(chosen_trial(study).config)
    by_model, views, index = predict_ensemble(study / "models", config, dataset, CPU)
    rows = rows_of(study)
    assert [row["patient"] for row in rows] == np.unique(dataset.table.patient).tolist() and report["models"] == len(by_model) == 2
    patient_of = dataset.table.of_slides("patient")
    for row in rows:
        (number,) = (n for n, slide in enumerate(index.slides.tolist()) if patient_of[slide] == row["patient"])
        of_models = by_model[:, views.slide == number, 1].mean(1)
        told = [float(row[column]) for column in ("probability", "sd", "lowest", "highest")]
        assert told == pytest.approx([of_models.mean(), np.std(of_models, ddof=1), of_models.min(), of_models.max()], abs=1e-6)
        assert row["label"] == ("malignant" if index.label[number] else "benign")
        assert [row[f"images_{m}X"] for m in MAGNIFICATIONS] == ["2"] * 4
    assert [[str(cell) for cell in row] for row in report["rows"]] == [list(row.values()) for row in rows]


def test_calls_follow_one_half_and_the_threshold_of_the_studys_own_patients(study, predicted):
    probabilities = sorted(row[3] for row in predicted(strangers())["rows"])
    middle = (probabilities[2] + probabilities[3]) / 2
    path = chosen_trial(study).folder / "predictions.npz"
    with np.load(path) as saved:
        known = {name: saved[name] for name in saved.files}
    apart = np.tile(middle + 1e-3 * (2 * known["label"] - 1.0), (len(known["oof"]), 1))
    np.savez(path, **known | {"oof": apart})  # what was said of the study's own patients parts the classes in the middle
    assert predicted(strangers())["threshold"] == pytest.approx(middle)
    for row in rows_of(study):
        probability = float(row["probability"])
        assert row["call_at_0.5"] == ("malignant" if probability >= 0.5 else "benign")
        assert row["call_at_threshold"] == ("malignant" if probability >= middle else "benign")
    assert {row["call_at_threshold"] for row in rows_of(study)} == {"benign", "malignant"}


def test_a_label_changes_no_prediction(study, predicted):
    predicted(strangers())
    before = [row["probability"] for row in rows_of(study)]
    predicted(labelled(strangers(), [UNKNOWN] * 6))
    assert [row["probability"] for row in rows_of(study)] == before
    assert {row["label"] for row in rows_of(study)} == {""}


def test_a_patient_is_predicted_the_same_alone_and_in_company(study, predicted):
    dataset = strangers()
    together = predicted(dataset)["rows"][3]
    assert predicted(dataset.select_rows(dataset.table.patient == together[0]))["rows"] == [together]


def test_two_slides_of_a_patient_are_predicted_together(study, predicted):
    dataset = strangers()
    alone = {row[0]: row for row in predicted(dataset)["rows"]}
    first, second = [slide for slide, label in dataset.table.of_slides("label").items() if label == 1][:2]
    patient_of = dataset.table.of_slides("patient")
    joined = np.where(dataset.table.slide == second, patient_of[first], dataset.table.patient)
    rows = {row[0]: row for row in predicted(altered(dataset, patient=joined))["rows"]}
    assert set(rows) == set(alone) - {patient_of[second]}
    both = rows[patient_of[first]]
    assert both[3] == pytest.approx((alone[patient_of[first]][3] + alone[patient_of[second]][3]) / 2, abs=1e-5)  # as many views each
    assert both[-4:] == [4, 4, 4, 4]


def test_a_patient_who_lacks_magnifications_is_predicted_from_the_others(study, predicted):
    dataset = strangers()
    first = np.unique(dataset.table.patient)[0]
    whole = predicted(dataset)["rows"]
    report = predicted(dataset.select_rows((dataset.table.patient != first) | (dataset.table.magnification == 200)))
    some = report["rows"]
    assert some[0][-4:] == [0, 0, 2, 0] and 0 < some[0][3] < 1 and some[0][3] != whole[0][3]
    assert some[1:] == whole[1:]
    assert "1 of 6 patients lack a magnification" in shown(report)


@pytest.mark.parametrize(
    ("label", "judged"),
    [([0, 1, 0, 1, 0, 1], True), ([0, 1, 0, 1, UNKNOWN, UNKNOWN], True), ([1, 1, 1, UNKNOWN, 1, 1], False), ([UNKNOWN] * 6, False)],
)
def test_metrics_are_of_the_patients_with_a_label_where_these_are_of_both_classes(predicted, label, judged):
    report = predicted(labelled(strangers(), label))
    assert bool(report["metrics"]) == judged and len(report["rows"]) == 6
    if judged:
        known = np.array(label) != UNKNOWN
        probability, truth = np.array([row[3] for row in report["rows"]])[known], np.array(label)[known]
        assert report["metrics"]["auc"]["value"] == pytest.approx(roc_auc_score(truth, probability))
        assert report["metrics"]["balanced_accuracy"]["value"] == pytest.approx(balanced_accuracy_score(truth, probability >= 0.5))
        assert report["metrics"]["auc"]["low"] <= report["metrics"]["auc"]["value"] <= report["metrics"]["auc"]["high"]


# in the terminal -----------------------------------------------------------------------------------------------------


def shown(report, width=80):
    console = Console(width=width, file=io.StringIO())
    print_predictions(report, console)
    return console.file.getvalue()


def test_the_table_names_everyone_and_what_was_left_out(predicted):
    report = predicted(replace(strangers(), skipped={"x/[bold]y.png": "not an image", "patient p": "no image"}))
    text = " ".join(shown(report).split())
    assert "6 new patients (SYNTHETIC DATA), mean of 2 fold models of study tiny" in text and "…" not in text
    assert all(row[0] in text for row in report["rows"])
    assert "2 left out" in text and "x/[bold]y.png: not an image" in text and "patient p: no image" in text
    assert "AUC" in text and "predictions.csv" in text


def test_where_there_is_nothing_to_say_nothing_is_said(predicted):
    text = shown(predicted(labelled(strangers(), [UNKNOWN] * 6)))
    assert "left out" not in text and "AUC" not in text and "lack a magnification" not in text and "–" in text


def test_many_patients_are_counted_and_all_of_them_are_in_the_file(study, predicted):
    report = predicted(strangers(patients=23))
    text = shown(report)
    assert "… and 3 more" in text and report["rows"][19][0] in text and report["rows"][20][0] not in text
    assert len(rows_of(study)) == 23
