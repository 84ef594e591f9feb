"""Repeated cross-validation: all seeds new, partitions new in pairs, and what each of the two moves."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from analysis import repeats as module
from analysis.predictions import trial_predictions
from analysis.repeats import print_repeats, repeat_plan, write_repeats
from data.errors import LeakageError
from main import planned_repeats
from mmnet.metrics import METRICS, evaluate
from study.command_line import Prepared
from study.folder import StudyFolder
from study.records import read_trials
from tests.analysis.test_nested import CONFIG, DATASET, PREPARED, train_here

REPEATS = 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, report) of five repeats as main.py leaves them. Read only."""
    study = StudyFolder(tmp_path_factory.mktemp("repeats") / "r", CONFIG, "nowhere", "main")
    trials = planned_repeats(study, PREPARED, REPEATS)
    study.write(PREPARED, settings={"repeats": REPEATS}, repeats=[trial.splits.to_json() for trial in trials])
    train_here(study.path, trials)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RESAMPLES", 30)
        return study.path, write_repeats(study.path)


def test_each_repeat_differs_in_the_seed_or_in_the_partition_and_the_own_are_in_none():
    config = CONFIG.with_values({"seed": 10, "data.split_seed": 4})
    assert repeat_plan(config, 5) == [(11, 5), (12, 5), (12, 6), (13, 6), (13, 7)]
    assert repeat_plan(config, 3) == repeat_plan(config, 5)[:3]  # more repeats leave the first as they are


def test_repeats_of_one_partition_share_folds_and_others_do_not(trained):
    study, _ = trained
    folds = json.loads((study / "study.json").read_text())["repeats"]
    assert folds[0] == folds[1] and folds[2] == folds[3]
    assert len({json.dumps(splits["folds"]) for splits in folds}) == 3
    assert [record.config["seed"] for record in read_trials(study)] == [1, 2, 2, 3, 3]


def test_a_sealed_patient_is_in_no_repeat(trained):
    study, _ = trained
    development = set(PREPARED.splits.development())
    for record in read_trials(study):
        assert set(trial_predictions(record).slide.tolist()) == development


def test_repeats_on_record_keep_their_partition_and_it_is_held_against_the_data(trained, tmp_path):
    about = json.loads((trained[0] / "study.json").read_text())
    turned = about | {"repeats": [about["repeats"][2], *about["repeats"][1:]]}
    more = planned_repeats(StudyFolder(tmp_path, CONFIG, "nowhere", "main", turned), PREPARED, 7)
    assert more[0].splits.folds == more[2].splits.folds and len(more) == 7
    sealed = Prepared(DATASET, PREPARED.splits, CONFIG)
    leaking = about["repeats"][0] | {
        "folds": [[*about["repeats"][0]["folds"][0], about["repeats"][0]["folds"][1][0]], *about["repeats"][0]["folds"][1:]]
    }
    with pytest.raises(LeakageError, match="listed more than once"):
        planned_repeats(StudyFolder(tmp_path, CONFIG, "nowhere", "main", about | {"repeats": [leaking]}), sealed, 2)


def test_the_report_gives_each_repeat_their_mean_and_their_spread(trained):
    study, report = trained
    records = read_trials(study)
    for name in METRICS:
        values = [record.best["metrics"][name] for record in records]
        assert [repeat["metrics"][name] for repeat in report["repeats"]] == values
        row = report["metrics"][name]
        assert (row["mean"], row["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)), abs=1e-6)
        assert row["low"] <= row["mean"] <= row["high"]
        by_seed, by_partition = ([(values[i] - values[i + 1]) ** 2 / 2 for i in pairs] for pairs in ((0, 2), (1, 3)))
        assert row["sd_by_seed"] == pytest.approx(np.sqrt(np.mean(by_seed)), abs=1e-6)
        assert row["sd_by_partition"] == pytest.approx(np.sqrt(np.mean(by_partition)), abs=1e-6)
    predictions = trial_predictions(records[0])
    again = evaluate(predictions.probability, predictions.label, predictions.patient)
    assert records[0].best["metrics"] == pytest.approx(again)
    stored = json.loads((study / "results" / "repeats.json").read_text())
    assert stored["patients"] == 16 and stored["synthetic"] is False


@pytest.mark.parametrize("count", [2, 5])
def test_the_table_fits_a_terminal_and_says_when_there_are_too_few(trained, count):
    study, report = trained
    out = io.StringIO()
    shown = report | {"synthetic": True, "repeats": report["repeats"][:count]}
    print_repeats(shown, study, Console(file=out, width=80))
    text = out.getvalue()
    assert "SYNTHETIC DATA" in text and "16 patients" in " ".join(text.split()) and "…" not in text
    assert ("2 repeats differ in the seed only" in text) == (count == 2)
    assert "sd by split" in text and "sealed test stays closed" in text
