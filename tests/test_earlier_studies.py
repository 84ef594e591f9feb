"""A study that version 2 of the records left behind still opens, with two trials stopped, one failed and a conditional parameter."""

import csv
import shutil
from pathlib import Path

import pytest

from mmnet.config import load_config
from study.folder import read_study
from study.records import read_trials

FIXTURE = Path(__file__).parent / "fixtures" / "study_v2"


@pytest.fixture
def study(tmp_path):
    """A copy to write in; it holds neither networks nor results."""
    return shutil.copytree(FIXTURE, tmp_path / "study_v2")


@pytest.fixture
def analysis(run, tmp_path):
    return lambda *words, **more: run("-m", "analysis", *words, "--output", tmp_path, **more).stdout


def test_its_records_are_read():
    records = read_trials(FIXTURE)
    assert [record.status for record in records] == ["done", "stopped", "done", "failed", "stopped", "done"]
    assert "loss.gamma" in records[0].params and "loss.gamma" not in records[1].params
    about = read_study(FIXTURE)
    assert about["data"]["synthetic"] and about["earlier"]


def test_what_it_calls_case_and_patient_is_a_patient_and_a_slide():
    """Its words: 48 patients of 40 cases."""
    about = read_study(FIXTURE)
    assert (about["format"], about["splits"]["grouping"], about["patient_leaks"]) == (3, "patient", {})
    assert (about["data"]["slides"], about["data"]["patients"]) == (48, 40)
    assert about["data"]["slides_of_class"] == {"benign": 19, "malignant": 29}
    config = load_config(FIXTURE / "best_config.yaml")
    assert config.data.grouping == "patient"


def test_it_is_not_gone_on_with(study, run, tmp_path):
    done = run("tune_mmnet.py", "--resume", "--name", "study_v2", "--output", tmp_path, expect=2)
    assert done.stderr.startswith(f"error: study {study}: an earlier version began it, whose numbers this one does not continue")
    assert done.stderr.count("\n") == 1


def test_its_best_trials_have_configurations_that_load(study, analysis):
    shown = analysis("best", "study_v2", "--n", 3)
    assert "log_loss 0.390 chose the first" in shown and "0.436" in shown
    for trial in ("0005", "0002", "0000"):
        assert load_config(study / "results" / "best" / f"{trial}.yaml").optim.epochs == 9


def test_it_is_exported(study, analysis):
    analysis("export", "study_v2")
    with (study / "results" / "leaderboard.csv").open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == ["0005", "0002", "0000", "0001", "0004", "0003"]
    assert (study / "results" / "performance.tex").exists() and (study / "results" / "leaderboard.tex").exists()


def test_it_is_compared_by_its_path_and_watched_to_its_end(study, analysis, tmp_path):
    other = shutil.copytree(study, tmp_path / "elsewhere" / "other")
    assert "32 patients" in " ".join(analysis("compare", "study_v2", other).split())
    assert "6/6 trials: 0 running, 2 stopped early, 3 done, 1 failed" in analysis("watch", study)


def test_a_name_that_is_nearly_right_is_one_clear_line(study, run, tmp_path):
    done = run("-m", "analysis", "watch", "study_v3", "--output", tmp_path, expect=2)
    assert done.stderr.startswith("error: study study_v3: no readable study.json in") and "did you mean study_v2?" in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


def test_eval_opens_it_without_its_networks(study, run, tmp_path):
    shown = run(
        "eval.py", "--study", "study_v2", "--output", tmp_path, "--table", "--thresholds", "--ensembles", "--learning-curves"
    ).stdout
    assert "32 patients" in shown and "ensembles of 5 trials" in shown


def test_its_results_are_made_again(study):
    from analysis.summary import write_results

    best = write_results(study)
    assert best is not None and best.name == "0005"
    assert (study / "plots" / "importance.png").exists() and load_config(study / "best_config.yaml").loss.name == "cross_entropy"


def test_help_names_every_verb(run):
    shown = run("-m", "analysis", "--help").stdout
    assert all(verb in shown for verb in ("report", "compare", "export", "best", "watch"))
    assert "the one to compare with" in run("-m", "analysis", "compare", "--help").stdout
