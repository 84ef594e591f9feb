"""Curves of epochs that are those on record, their mean and spread, and one line an outer fold where the study is nested."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from analysis.figure import BLUE
from analysis.fold_curves import curves_of, print_fold_curves, summary, write_fold_curves
from analysis.predictions import chosen_trial
from data.errors import InputError
from study.records import read_trials, write_status
from tests.analysis.studies import record
from tests.analysis.test_plots import assert_shows_something


def made_up(folds, train_loss, pooled, metric="auc"):
    """A record of E epochs with these metrics of its folds (E, K), training losses (E, K) and pooled metric (E,)."""
    made = record(0, [0.5] * len(folds), metric="log_loss")
    for line, of_folds, losses, value in zip(made.epochs, folds, train_loss, pooled, strict=True):
        line |= {"fold_metrics": [{metric: fold} for fold in of_folds], "train_loss": losses, "metrics": {metric: value}}
    return made


def nest(study):
    """Turn the study into a nested one: its trials with a score are outer folds."""
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | {"verb": "main", "nested": [{}, {}, {}]}))
    return study


def rows_of(study):
    return list(csv.DictReader((study / "results" / "fold_curves.csv").open()))


def printed(report):
    console = Console(file=io.StringIO(), width=80)
    print_fold_curves(report, console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def written(trained_study, tmp_path_factory):
    """(a study, its curves). Read only."""
    study = shutil.copytree(trained_study, tmp_path_factory.mktemp("fold_curves") / "tiny")
    return study, write_fold_curves(study)


def test_mean_and_spread_over_folds_by_hand():
    curves = curves_of(made_up([[0.6, 0.8], [0.7, 0.9]], [[1.0, 3.0], [0.5, 1.5]], [0.65, 0.85]), "auc")
    assert curves.mean == pytest.approx([0.7, 0.8])
    assert curves.sd == pytest.approx([np.std([0.6, 0.8], ddof=1)] * 2)
    assert curves.pooled.tolist() == [0.65, 0.85] and curves.mean_train_loss == pytest.approx([2.0, 1.0])
    assert curves.epoch.tolist() == [1, 2]


def test_a_fold_without_the_metric_is_left_out_of_the_mean():
    curves = curves_of(made_up([[0.6, None, 0.8], [None, None, 0.9], [None] * 3], [[1.0] * 3] * 3, [0.65, 0.85, None]), "auc")
    assert curves.mean == pytest.approx([0.7, 0.9, np.nan], nan_ok=True)
    assert curves.sd == pytest.approx([np.std([0.6, 0.8], ddof=1), np.nan, np.nan], nan_ok=True)
    lines = printed({"synthetic": False, "metric": "auc", "nested": False, "trials": [summary("0000", curves)]}).splitlines()
    (last,) = [line.split() for line in lines if line.startswith("last")]
    assert last == ["last", "3", "–", "±", "–", "–", "1.000"]


def test_the_summary_stands_at_the_best_epoch_and_at_the_last():
    made = made_up([[0.6, 0.8], [0.7, 0.9], [0.5, 0.7]], [[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]], [0.65, 0.85, 0.6])
    made.epochs[-1]["best_epoch"] = 2
    found = summary("0000", curves_of(made, "auc"))
    assert (found["best_epoch"], found["last_epoch"], found["folds"]) == (2, 3, 2)
    assert found["best"] == pytest.approx({"mean": 0.8, "sd": np.std([0.7, 0.9], ddof=1), "pooled": 0.85, "train_loss": 2.0})
    assert found["last"] == pytest.approx({"mean": 0.6, "sd": np.std([0.5, 0.7], ddof=1), "pooled": 0.6, "train_loss": 1.0})


def test_a_study_shows_its_standing_trial_as_it_is_on_record(written):
    study, report = written
    standing = chosen_trial(study)
    assert [trial["trial"] for trial in report["trials"]] == [standing.name] == ["0001"]
    rows = rows_of(study)
    assert list(rows[0]) == ["epoch", "fold 1", "fold 2", "mean", "sd", "pooled", "train loss mean"]
    for row, line in zip(rows, standing.epochs, strict=True):
        folds = [fold["log_loss"] for fold in line["fold_metrics"]]
        expected = [line["epoch"], *folds, np.mean(folds), np.std(folds, ddof=1), line["metrics"]["log_loss"], np.mean(line["train_loss"])]
        assert [float(value) for value in row.values()] == pytest.approx(expected, abs=1e-6)
    assert report["trials"][0]["best_epoch"] == standing.best["epoch"]
    assert report["trials"][0]["best"]["pooled"] == standing.score


def test_the_figure_shows_something(written):
    study, _ = written
    assert_shows_something(study / "plots" / "fold_curves.png")
    assert (study / "plots" / "fold_curves.pdf").read_bytes().startswith(b"%PDF")


def test_a_training_shows_its_first_trial_whatever_the_others_score(study):
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | {"verb": "main", "nested": []}))
    assert [trial["trial"] for trial in write_fold_curves(study)["trials"]] == ["0000"]


def test_a_nested_study_has_a_curve_an_outer_fold(study):
    report = write_fold_curves(nest(study))
    ranked = [trial for trial in read_trials(study) if trial.ranked]
    assert [trial["trial"] for trial in report["trials"]] == [trial.name for trial in ranked] == ["0000", "0001", "0002"]
    rows = rows_of(study)
    assert [(int(row["outer fold"]), int(row["epoch"])) for row in rows] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1)]
    pooled = [line["metrics"]["log_loss"] for trial in ranked for line in trial.epochs]
    assert [float(row["pooled"]) for row in rows] == pytest.approx(pooled, abs=1e-6)
    assert_shows_something(study / "plots" / "fold_curves.png")
    assert "outer fold 3, best" in printed(report)


def test_a_trial_of_one_epoch_has_a_point_in_its_figure(study):
    trial = study / "trials" / "0000"
    (trial / "epochs.jsonl").write_text((trial / "epochs.jsonl").read_text().splitlines(keepends=True)[0])
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | {"verb": "main"}))
    assert write_fold_curves(study)["trials"][0]["last_epoch"] == 1
    with Image.open(study / "plots" / "fold_curves.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    axes = pixels[:, : pixels.shape[1] * 6 // 10]  # the rest is the legend
    assert (axes == tuple(bytes.fromhex(BLUE[1:]))).all(-1).sum() > 100  # the colour of what is pooled


def test_a_study_without_a_score_is_an_error(study):
    for path in (study / "trials").glob("*/epochs.jsonl"):
        path.write_text("")
        write_status(path.parent, "stopped", "")
    with pytest.raises(InputError, match="no trial has a score"):
        write_fold_curves(study)


def test_the_printed_table_says_best_and_last(written):
    _, report = written
    text, trial = printed(report), report["trials"][0]
    assert "SYNTHETIC DATA" in text and "…" not in text
    for which in ("best", "last"):
        assert f"{trial[which]['mean']:.3f} ± {trial[which]['sd']:.3f}" in text and f"{trial[which]['pooled']:.3f}" in text
