"""The best trials: ranked, with a file to run each, and the honest number beside the optimistic."""

import io

import pytest
from rich.console import Console

from analysis.best import cross_fitted_choice, print_best_trials, write_best_trials
from analysis.ensembles import cross_fit, read_candidates
from data.errors import InputError
from mmnet.config import load_config
from mmnet.metrics import evaluate_one
from mmnet.records import read_trials


def test_each_of_the_best_has_a_file_that_runs_it(study):
    report = write_best_trials(study, 2)
    assert [trial["trial"] for trial in report["trials"]] == ["0001", "0002"] or len(report["trials"]) == 2
    scores = [trial["score"] for trial in report["trials"]]
    assert scores == sorted(scores)
    for trial in report["trials"]:
        assert load_config(trial["file"]).optim.lr == trial["params"]["optim.lr"]
        assert trial["file"].read_text().startswith("# place ") and "SYNTHETIC" in trial["file"].read_text()


def test_more_than_there_are_gives_all_that_have_a_score(study):
    assert len(write_best_trials(study, 99)["trials"]) == 3
    with pytest.raises(InputError, match="--n 0: expected at least 1"):
        write_best_trials(study, 0)


def test_the_honest_number_is_that_of_a_choice_by_the_other_folds(study):
    candidates = read_candidates(read_trials(study))
    expected = cross_fit(candidates, "log_loss")["best single"]
    found = cross_fitted_choice(read_trials(study), "log_loss")
    assert found == pytest.approx(evaluate_one("log_loss", expected, candidates.label, candidates.patient))
    assert cross_fitted_choice(read_trials(study)[:1], "log_loss") is None and cross_fitted_choice([], "log_loss") is None


def test_the_page_shows_both_numbers_and_the_commands(study):
    out = io.StringIO()
    report = write_best_trials(study, 2)
    print_best_trials(report, Console(file=out, width=200))
    text = out.getvalue()
    assert f"{report['honest']:.3f}" in text and f"log_loss {report['trials'][0]['score']:.3f} chose the first" in text
    assert f"python main.py --config {report['trials'][0]['file']}" in text and "SYNTHETIC DATA" in text
