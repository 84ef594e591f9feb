"""What stands at the end of a study, and that it belongs to the best trial."""

import csv
import io
import json
import platform
import shutil

import pytest
from rich.console import Console

from analysis.summary import print_summary, write_results
from mmnet.config import Config, load_config
from mmnet.predict import load_networks
from study.records import read_trial, write_status
from tests.analysis.studies import DATASET
from tests.mmnet.tiny import CPU


@pytest.fixture(scope="module")
def finished(trained_study, tmp_path_factory):
    """(study, its best trial) with its results in place. Read only."""
    study = shutil.copytree(trained_study, tmp_path_factory.mktemp("finished") / "tiny")
    return study, write_results(study)


def test_results_figures_models_and_the_best_configuration_are_written(finished):
    study, best = finished
    assert best.name == "0001"
    written = {path.relative_to(study).as_posix() for path in study.rglob("*") if path.is_file() and "trials" not in path.parts}
    figures = ("importance", "learning_curves", "optimisation_history", "parallel_coordinates")
    assert written == {
        "study.json",
        "best_config.yaml",
        "results/leaderboard.csv",
        "results/fold_1.json",
        "results/fold_2.json",
        "models/network.json",
        "models/fold_1.safetensors",
        "models/fold_2.safetensors",
        "results/summary.csv",
        *(f"plots/{name}.{kind}" for name in figures for kind in ("png", "pdf")),
    }


def test_the_best_configuration_loads_and_fits_its_models(finished):
    study, best = finished
    config = load_config(study / "best_config.yaml")
    assert config == Config().with_values(best.config) and config.model.pool == "softmax"
    assert "SYNTHETIC DATA" in (study / "best_config.yaml").read_text()
    assert len(load_networks(study / "models", config, DATASET, CPU)) == 2


def test_weights_of_other_trials_are_removed_and_writing_again_changes_nothing(finished, tmp_path):
    study = shutil.copytree(finished[0], tmp_path / "tiny")
    assert [path.parent.name for path in study.glob("trials/*/weights")] == ["0001"]
    first = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    write_results(study)
    assert {path: path.read_bytes() for path in study.rglob("*") if path.is_file()} == first


def test_a_fold_file_holds_each_patient_of_the_fold_once(finished):
    study, best = finished
    folds = [json.loads((study / "results" / f"fold_{number}.json").read_text()) for number in (1, 2)]
    patients = [row["patient"] for fold in folds for row in fold["patients"]]
    assert len(patients) == len(set(patients)) == 8
    for number, fold in enumerate(folds):
        assert fold["metrics"] == best.best["fold_metrics"][number]
        right = [(row["probability"] >= 0.5) == row["label"] for row in fold["patients"]]
        assert sum(right) / len(right) == fold["metrics"]["patient_accuracy"]


def test_the_summary_of_folds_has_their_mean_spread_and_the_pooled_value(finished):
    study, best = finished
    with (study / "results" / "summary.csv").open() as file:
        rows = {row["fold"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["1", "2", "mean", "sd", "pooled"]
    one, two = (fold["auc"] for fold in best.best["fold_metrics"])
    shown = [float(rows[name]["auc"]) for name in rows]
    assert shown == pytest.approx([one, two, (one + two) / 2, abs(one - two) / 2**0.5, best.best["metrics"]["auc"]], abs=1e-6)


def test_models_never_belong_to_another_trial_than_the_best(finished, tmp_path):
    study = shutil.copytree(finished[0], tmp_path / "tiny")
    line = json.loads((study / "trials/0002/epochs.jsonl").read_text())  # stopped early, so without weights
    (study / "trials/0002/epochs.jsonl").write_text(json.dumps(line | {"score": 0.0}) + "\n")
    assert write_results(study).name == "0002"
    assert not (study / "models").exists()


def test_a_study_without_a_score_leaves_its_leaderboard_and_no_best(study):
    for folder in (study / "trials").glob("000[0-4]"):
        write_status(folder, "failed", "no luck")
    assert write_results(study) is None
    assert "no luck" in (study / "results" / "leaderboard.csv").read_text()
    assert not (study / "best_config.yaml").exists()


def test_a_training_has_no_search_figures(study):
    about = json.loads((study / "study.json").read_text()) | {"verb": "main"}
    (study / "study.json").write_text(json.dumps(about))
    assert write_results(study).name == "0000"
    assert {path.stem for path in (study / "plots").iterdir()} == {"learning_curves"}


@pytest.mark.parametrize("trial", ["0000", "0001"])
def test_the_page_of_text_has_the_scores_the_costs_and_what_failed(trained_study, trial):
    study, out = trained_study, io.StringIO()
    print_summary(study, read_trial(study / "trials" / trial), Console(file=out, width=200), 12.0)
    text = out.getvalue()
    best = read_trial(study / "trials" / trial).best
    for expected in (
        "SYNTHETIC DATA",
        f"trial {trial}",
        f"{best['metrics']['patient_auc']:.3f}",
        "16 fold-epochs of 30",
        "2 failed",
        "loss is nan",
    ):
        assert expected in text


def test_the_page_says_which_machines_trained_how_many_trials_where_there_were_several(study):
    def page():
        out = io.StringIO()
        print_summary(study, read_trial(study / "trials" / "0000"), Console(file=out, width=200), 12.0)
        return out.getvalue()

    assert "machine" not in page()
    write_status(study / "trials" / "0001", "done", "", node="gpu2")
    assert f"trials by the machine that they trained on last: {platform.node()} 4, gpu2 1\n" in page()
