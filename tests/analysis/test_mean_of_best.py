"""The mean of the best three trials: who is in it, and that it is judged by folds that others chose."""

from pathlib import Path

import numpy as np
import pytest

from analysis.ensembles import Candidates
from analysis.mean_of_best import FOLDER, MEMBERS, furthest, judge_mean, mean_in_words, write_members
from mmnet.config import load_config
from mmnet.metrics import evaluate, evaluate_one
from study.records import read_trials
from tests.analysis.studies import record

FOLD = np.repeat([0, 1], 6)
LABEL = np.tile([0, 1], 6)
PATIENT = np.array([f"c{number}" for number in range(12)])


def trials(count: int, seed: int = 0):
    """Candidates of one epoch, each right in its own way, and the records that they stand for."""
    rng = np.random.default_rng(seed)
    oof = [np.clip(0.5 + (LABEL - 0.5) * rng.uniform(-0.4, 1, 12), 0.01, 0.99) for _ in range(count)]
    records = [record(number, [evaluate_one("log_loss", p, LABEL, PATIENT)]) for number, p in enumerate(oof)]
    return Candidates([r.name for r in records], [p[None] for p in oof], LABEL, PATIENT, FOLD), records


def test_each_fold_is_judged_by_the_mean_of_the_three_that_were_best_on_the_other():
    candidates, records = trials(7)
    found = judge_mean(candidates, records, "log_loss", np.random.default_rng(0))
    oof, mean, single = np.stack([p[0] for p in candidates.oof]), np.empty(12), np.empty(12)
    for fold in (0, 1):
        other, here = fold != FOLD, fold == FOLD
        order = np.argsort([evaluate_one("log_loss", p[other], LABEL[other], PATIENT[other]) for p in oof])
        mean[here], single[here] = oof[order[:3]].mean(0)[here], oof[order[0]][here]
    assert found["honest"] == pytest.approx(evaluate(mean, LABEL, PATIENT)) and found["single"] == pytest.approx(evaluate(single, LABEL, PATIENT))
    best = np.argsort([r.score for r in records])[:3]
    assert found["trials"] == [records[place].name for place in best]
    assert found["difference"]["value"] == pytest.approx(found["honest"]["log_loss"] - found["single"]["log_loss"])


def test_full_length_trials_come_first_then_those_that_trained_longest():
    done, long, short, better = record(0, [0.5] * 9), record(1, [0.6] * 9, "stopped"), record(2, [0.5] * 3, "stopped"), record(3, [0.4])
    assert furthest([short, done, long]) == [0, 1, 2]
    assert furthest([short, done, long, record(4, [0.1], "stopped")]) == [0, 1, 2]
    assert furthest([short, done, long, better, record(5, [0.7])]) == [1, 3, 4]


def test_fewer_trials_than_members_have_no_mean():
    candidates, records = trials(MEMBERS - 1)
    assert judge_mean(candidates, records, "log_loss", np.random.default_rng(0)) is None


def test_the_folder_holds_the_configurations_of_its_members_and_no_earlier_ones(trained_study, tmp_path):
    records = {r.name: r for r in read_trials(trained_study)}
    write_members(tmp_path, records, ["0000", "0001"], "first")
    write_members(tmp_path, records, ["0001"], "second")
    (path,) = (tmp_path / FOLDER).iterdir()
    assert path.name == "0001.yaml" and "second" in path.read_text()
    assert load_config(path).to_dict() == records["0001"].config


def test_the_words_say_whether_it_did_better():
    found = {
        "trials": ["0004", "0002", "0009"],
        "honest": {"log_loss": 0.46},
        "single": {"log_loss": 0.53},
        "difference": {"value": -0.07, "low": -0.12, "high": 0.01},
    }
    words = mean_in_words(found, "log_loss", Path("s"))
    assert words.startswith(
        "Better than any one of them: the mean of trials 0004, 0002 and 0009 (python main.py --config s/recommended_mean)"
    )
    assert "log loss is 0.460 against 0.530" in words and "-0.070, 95 % -0.120 to +0.010" in words
    worse = found | {"difference": {"value": 0.02, "low": -0.1, "high": 0.1}}
    assert "no better here" in mean_in_words(worse, "log_loss", Path("s"))
    aucs = {"honest": {"auc": 0.9}, "single": {"auc": 0.8}}
    assert "no better here" in mean_in_words(found | aucs, "auc", Path("s"))  # -0.07 of what should be high
    assert mean_in_words(worse | aucs, "auc", Path("s")).startswith("Better than any one of them")
