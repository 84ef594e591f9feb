"""The best trials: ranked, with a file to run each, and the honest number beside the optimistic."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from analysis.best import cross_fitted_choice, print_best_trials, write_best_trials
from data.errors import InputError
from mmnet.config import Config, load_config
from study.records import read_trials, write_status
from tests.analysis.studies import record


def ranking(study):
    """Trials with a score, the lowest log loss first."""
    return sorted((trial for trial in read_trials(study) if trial.status in ("done", "stopped")), key=lambda trial: trial.score)


def shown(report):
    out = io.StringIO()
    print_best_trials(report, Console(file=out, width=200))
    return out.getvalue()


def test_each_of_the_best_has_a_file_that_runs_it(study):
    best = ranking(study)[:2]
    report = write_best_trials(study, 2)
    assert [(trial["trial"], trial["score"]) for trial in report["trials"]] == [(trial.name, trial.score) for trial in best]
    for place, (told, trial) in enumerate(zip(report["trials"], best, strict=True), start=1):
        assert load_config(told["file"]) == Config().with_values(trial.config)
        lines = told["file"].read_text().splitlines()
        assert lines[0].startswith(f"# place {place} of study tiny: trial {trial.name}") and "SYNTHETIC DATA" in lines[1]


def test_more_than_there_are_gives_all_that_have_a_score(study):
    assert [trial["trial"] for trial in write_best_trials(study, 99)["trials"]] == [trial.name for trial in ranking(study)]
    with pytest.raises(InputError, match="--n 0: expected at least 1"):
        write_best_trials(study, 0)


def test_a_study_without_a_score_is_an_error(study):
    for folder in (study / "trials").glob("000[0-4]"):
        write_status(folder, "failed", "")
    with pytest.raises(InputError, match="no trial has a score yet"):
        write_best_trials(study, 1)


def on_record(folder, number, oof):
    """A trial with these predictions after each epoch, of four views: two folds of one malignant and one benign."""
    trial = replace(record(number, [0.5] * len(oof)), folder=folder / f"{number:04d}")
    trial.folder.mkdir()
    columns = {name: np.arange(4) for name in ("patient", "subtype", "rows")}
    np.savez(trial.folder / "predictions.npz", oof=np.array(oof), label=np.array([1, 0, 1, 0]), fold=np.array([0, 0, 1, 1]), **columns)
    return trial


def test_the_honest_number_is_that_of_a_choice_by_the_other_folds(tmp_path):
    good, bad, fair = [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]
    trials = [on_record(tmp_path, 0, [good + bad, bad + fair]), on_record(tmp_path, 1, [fair + good])]
    # the second fold chooses trial 1, which is fair on the first; the first chooses trial 0 after epoch 1, which is bad on the second
    assert cross_fitted_choice(trials, "log_loss") == pytest.approx(-(np.log(0.6) + np.log(0.1)) / 2)
    assert cross_fitted_choice(trials[:1], "log_loss") is None and cross_fitted_choice([], "log_loss") is None


def test_the_page_shows_both_numbers_and_the_commands(study):
    report = write_best_trials(study, 2)
    text = shown(report)
    first, honest = report["trials"][0]["score"], report["honest"]
    assert f"log_loss {first:.3f} chose the first, so it is optimistic; where the other folds choose, it is {honest:.3f}\n" in text
    assert "SYNTHETIC DATA" in text
    for trial in report["trials"]:
        assert f"optim.lr={trial['params']['optim.lr']:.4g}" in text and f"python main.py --config {trial['file']}\n" in text


def test_a_study_of_one_trial_on_other_data_has_no_honest_number_and_says_nothing_of_synthetic_data(study):
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | {"data": {"synthetic": False}}))
    for number in (1, 2, 3, 4):
        write_status(study / "trials" / f"{number:04d}", "failed", "")
    report = write_best_trials(study, 2)
    assert [trial["trial"] for trial in report["trials"]] == ["0000"] and report["honest"] is None
    text = shown(report) + report["trials"][0]["file"].read_text()
    assert "optimistic;" not in text and "SYNTHETIC" not in text
