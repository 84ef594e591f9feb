"""Nested cross-validation: everybody is judged once, by networks, epochs and thresholds that never saw them."""

import io
import json
import shutil
import signal

import numpy as np
import pytest
from rich.console import Console

from analysis import nested as module
from analysis.nested import print_nested, write_nested
from analysis.performance import decision_metrics, performance
from analysis.predictions import LEVELS, study_predictions, trial_predictions
from analysis.thresholds import max_balanced_accuracy
from data.errors import LeakageError
from data.splits import Splits
from data.views import MISSING
from main import planned_trials
from mmnet.batches import Batches
from mmnet.metrics import evaluate
from mmnet.predict import load_networks, predict
from study.command_line import Prepared
from study.folder import StudyFolder
from study.records import read_trials
from study.training import train_all
from tests.mmnet.tiny import CPU, deal, feature_dataset, tiny_config

CONFIG = tiny_config({"model.frozen": True, "optim.epochs": 2})
DATASET = feature_dataset(patients=20)
DEALT = deal(DATASET, 5)
PREPARED = Prepared(DATASET, Splits(DEALT.folds[:4], DEALT.folds[4], "patient", "dealt"), CONFIG)  # 16 patients in development, 4 sealed
DEVELOPMENT = PREPARED.development
OUTER = 3


def train_here(study, trials):
    """Training takes over SIGTERM of the process, which is the test run's here."""
    before = signal.getsignal(signal.SIGTERM)
    train_all(study, trials, CPU, Console(quiet=True))
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, outer splits) of a nested study as main.py leaves it. Read only."""
    study = StudyFolder(tmp_path_factory.mktemp("nested") / "n", CONFIG, "nowhere", "main")
    trials, nested = planned_trials(study, PREPARED, OUTER, [])
    study.path.mkdir()
    about = {"format": 2, "verb": "main", "config": CONFIG.to_dict(), "nested": [splits.to_json() for splits in nested]}
    (study.path / "study.json").write_text(json.dumps(about))
    train_here(study.path, trials)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RESAMPLES", 20)
        write_nested(study.path, DEVELOPMENT, CONFIG, nested, CPU)
    return study.path, nested


@pytest.fixture
def copied(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 20)
    return shutil.copytree(trained[0], tmp_path / "n"), trained[1]


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as saved:
        return {name: saved[name] for name in saved.files}


def report_of(study) -> dict:
    return json.loads((study / "results" / "nested.json").read_text())


def test_outer_splits_on_record_are_taken_again_and_held_against_the_data(trained, tmp_path):
    _, nested = trained
    stored = [splits.to_json() for splits in nested]
    trials, again = planned_trials(StudyFolder(tmp_path, CONFIG, "nowhere", "main", {"nested": stored}), PREPARED, OUTER, [])
    assert again == nested and [trial.splits for trial in trials] == nested
    assert len({id(trial.dataset) for trial in trials}) == 1  # no copy of the pixels for each
    stored[1] = stored[1] | {"folds": [[*stored[1]["folds"][0], stored[1]["test"][0]], stored[1]["folds"][1]]}
    with pytest.raises(LeakageError, match="nested 2 of 3: .* listed more than once"):
        planned_trials(StudyFolder(tmp_path, CONFIG, "nowhere", "main", {"nested": stored}), PREPARED, OUTER, [])


def test_the_patients_of_an_outer_fold_are_in_no_inner_fold(trained):
    study, nested = trained
    for record, splits in zip(read_trials(study), nested, strict=True):
        inner = set(arrays(record.folder / "predictions.npz")["slide"].tolist())
        outer = set(arrays(record.folder / "held_out.npz")["slide"].tolist())
        assert inner == set(splits.development()) and outer == set(splits.test)
        assert not inner & outer and inner | outer == set(DEVELOPMENT.table.slides().tolist())


def test_every_development_patient_is_judged_once_and_a_sealed_one_nowhere(trained):
    study, _ = trained
    patients = study_predictions(study).level("patient")
    assert patients.patient.tolist() == np.unique(DEVELOPMENT.table.patient).tolist()
    held_out = [arrays(record.folder / "held_out.npz")["slide"] for record in read_trials(study)]
    assert sum(len(set(names.tolist())) for names in held_out) == 16
    label_of, patient_of = DATASET.table.of_slides("label"), DATASET.table.of_slides("patient")
    for name, label, patient in zip(patients.slide.tolist(), patients.label.tolist(), patients.patient.tolist(), strict=True):
        assert (label, patient) == (label_of[name], patient_of[name])
    for name in PREPARED.splits.test:
        assert not [path for path in study.rglob("*.json*") if name in path.read_text()]
        for path in study.rglob("*.npz"):
            assert name not in arrays(path)["slide"].tolist()


def test_rows_are_those_of_the_development_table_so_that_no_two_outer_folds_share_an_image(trained):
    judged = study_predictions(trained[0])
    for column, magnification in enumerate(judged.magnifications):
        there = judged.rows[:, column] != MISSING
        rows = judged.rows[there, column]
        assert (DEVELOPMENT.table.slide[rows] == judged.slide[there]).all()
        assert (DEVELOPMENT.table.magnification[rows] == magnification).all()
    assert sorted(judged.rows.ravel().tolist()) == list(range(len(DEVELOPMENT.table)))
    image = judged.level("image")
    assert len(image.label) == len(DEVELOPMENT.table) and (image.patient == DEVELOPMENT.table.patient).all()


def test_a_patient_is_judged_by_the_mean_of_the_networks_of_its_inner_folds(trained):
    study, _ = trained
    judged = study_predictions(study)
    for number, record in enumerate(read_trials(study)):
        networks = load_networks(record.folder / "weights", CONFIG, DEVELOPMENT, CPU)
        assert len(networks) == CONFIG.data.folds
        here = judged.fold == number
        said = [predict(network, Batches(DEVELOPMENT, CONFIG, CPU), judged.rows[here])[0][:, 1] for network in networks]
        np.testing.assert_allclose(judged.probability[here], np.mean(said, axis=0), atol=1e-6)


def test_a_magnification_that_a_patient_lacks_is_missing_in_what_is_held_out(copied):
    study, nested = copied
    folder = read_trials(study)[0].folder
    lacking = nested[0].test[0]
    dataset = DEVELOPMENT.select_rows((DEVELOPMENT.table.patient != lacking) | (DEVELOPMENT.table.magnification != 100))
    module.write_held_out(folder, dataset, nested[0].test, CONFIG, CPU)
    found = arrays(folder / "held_out.npz")
    np.testing.assert_array_equal(found["rows"] == MISSING, (found["patient"] == lacking)[:, None] & [False, True, False, False])


def test_the_report_judges_all_patients_together_and_each_outer_fold(trained):
    study, _ = trained
    judged, report = study_predictions(study), report_of(study)
    assert (report["outer_folds"], report["patients"], report["patients"], report["synthetic"]) == (OUTER, 16, 16, False)
    assert report["outer"] == pytest.approx(evaluate(judged.probability, judged.label, judged.patient))
    for number, metrics in enumerate(report["outer_by_fold"]):
        here = judged.fold == number
        assert metrics == pytest.approx(evaluate(judged.probability[here], judged.label[here], judged.patient[here]))
    inner = [record.best["metrics"]["log_loss"] for record in read_trials(study)]
    assert report["inner_mean"]["log_loss"] == pytest.approx(np.mean(inner))
    for name in LEVELS:
        values = {metric: interval["value"] for metric, interval in report["levels"][name].items()}
        expected = performance(judged.level(name))
        assert values == pytest.approx({metric: None if value != value else value for metric, value in expected.items()})


def test_thresholds_come_from_the_inner_folds(trained):
    study, _ = trained
    report, patients = report_of(study), study_predictions(study).level("patient")
    for record, threshold in zip(read_trials(study), report["thresholds"], strict=True):
        inner = trial_predictions(record).level("patient")
        assert threshold == max_balanced_accuracy(inner.probability, inner.label)
    called = [p >= report["thresholds"][fold] for p, fold in zip(patients.probability, patients.fold, strict=True)]
    expected = decision_metrics(np.array(called), patients.label)
    assert report["patient_at_inner_thresholds"] == pytest.approx({k: None if v != v else v for k, v in expected.items()})


def test_what_was_held_out_moves_no_threshold_and_is_not_made_again(copied):
    study, nested = copied
    before = report_of(study)
    for record in read_trials(study):
        held = arrays(record.folder / "held_out.npz")
        np.savez(record.folder / "held_out.npz", **held | {"probability": 1 - held["probability"]})
        shutil.rmtree(record.folder / "weights")  # a resumed study needs them no more
    after = write_nested(study, DEVELOPMENT, CONFIG, nested, CPU)
    assert after["thresholds"] == before["thresholds"] and after["inner_mean"] == before["inner_mean"]
    assert after["outer"]["auc"] == pytest.approx(1 - before["outer"]["auc"])


def test_the_same_study_gives_the_same_report(copied):
    study, nested = copied
    before = report_of(study)
    for record in read_trials(study):
        (record.folder / "held_out.npz").unlink()
    write_nested(study, DEVELOPMENT, CONFIG, nested, CPU)
    assert report_of(study) == before


def test_the_table_fits_a_terminal_and_says_what_is_inner_and_outer(trained):
    study, _ = trained
    out = io.StringIO()
    report = report_of(study) | {"synthetic": True}
    print_nested(report, study, Console(file=out, width=80))
    text = out.getvalue()
    assert "SYNTHETIC DATA" in text and "16 patients" in " ".join(text.split()) and "…" not in text
    assert f"log_loss: outer {report['outer']['log_loss']:.3f} (by outer fold " in text
    assert f"inner, whose best epoch chose itself, {report['inner_mean']['log_loss']:.3f}" in text
