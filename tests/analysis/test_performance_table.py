"""The table of a paper: folds, mean ± sd, pooled with its interval; in the terminal, for machines and for LaTeX."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score, roc_auc_score

from analysis import performance_table
from analysis.performance import NAMES
from analysis.performance_table import caption_of, performance_report, print_performance, write_performance, write_performance_tables
from analysis.predictions import LEVELS, Predictions, study_predictions
from tests.analysis.studies import CONFIG

REFERENCE = {
    "auc": lambda label, p: roc_auc_score(label, p),
    "balanced_accuracy": lambda label, p: balanced_accuracy_score(label, p >= 0.5),
    "f1": lambda label, p: f1_score(label, p >= 0.5),
    "brier": lambda label, p: brier_score_loss(label, p),
}


def made_up(folds, silent=None):
    """Three views of each of six patients a fold, every other malignant; in fold `silent` nothing is called malignant."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(6 * folds), 3)
    label, fold = patient % 2, patient // 2 % folds
    probability = np.where(fold == silent, 0.4, 1.0) * np.clip(0.5 + 0.3 * (2 * label - 1) + 0.3 * rng.normal(size=len(patient)), 0.01, 0.99)
    names = np.array([f"p{c:03d}" for c in patient])
    rows = np.arange(len(patient))[:, None]
    return Predictions(probability, label, names, names, names, fold, rows, (200,))


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(performance_table, "RESAMPLES", 50)
        yield


@pytest.fixture(scope="module")
def real(trained_study, tmp_path_factory):
    """(study, its report). Read only."""
    study = shutil.copytree(trained_study, tmp_path_factory.mktemp("performance") / "tiny")
    return study, write_performance(study)


def report_of(predictions, synthetic=False):
    return performance_report(predictions, 0, synthetic)


def text_of(report, folder, suffix):
    write_performance_tables(folder, report)
    return (folder / f"performance{suffix}").read_text()


@pytest.mark.parametrize("level", LEVELS)
def test_each_fold_and_all_of_them_are_judged_by_their_own_predictions(real, level):
    study, found = real
    units = study_predictions(study).level(level)
    parts = [units.select(units.fold == fold) for fold in range(2)]
    for metric, reference in REFERENCE.items():
        row = found["levels"][level]["metrics"][metric]
        folds = [reference(part.label, part.probability) for part in parts]
        np.testing.assert_allclose(row["folds"], folds)
        assert row["mean"] == pytest.approx(sum(folds) / 2)
        assert row["sd"] == pytest.approx(abs(folds[0] - folds[1]) / np.sqrt(2))
        assert row["pooled"]["value"] == pytest.approx(reference(units.label, units.probability))
        assert row["pooled"]["low"] <= row["pooled"]["value"] <= row["pooled"]["high"]
    assert found["levels"][level]["units"] == len(units.label) and found["levels"][level]["patients"] == 8


def test_a_fold_without_a_number_is_left_out_of_mean_and_sd_and_has_a_dash(tmp_path):
    found = report_of(made_up(folds=3, silent=1))
    precision = found["levels"]["view"]["metrics"]["precision"]
    first, silent, last = precision["folds"]
    assert np.isnan(silent) and precision["mean"] == pytest.approx((first + last) / 2)
    assert precision["sd"] == pytest.approx(abs(first - last) / np.sqrt(2))
    line = next(line for line in text_of(found, tmp_path, ".md").splitlines() if line.startswith("| view | precision"))
    assert [cell.strip() for cell in line.split("|")[3:6]] == [f"{first:.3f}", "–", f"{last:.3f}"]
    line = next(line for line in shown(found).splitlines() if line.startswith("precision"))
    assert line.split()[1:4] == [f"{first:.2f}", "–", f"{last:.2f}"]


def test_where_only_one_fold_has_a_number_there_is_no_spread():
    found = report_of(made_up(folds=2, silent=1))
    precision = found["levels"]["view"]["metrics"]["precision"]
    assert precision["mean"] == precision["folds"][0] and np.isnan(precision["sd"])


def test_json_and_csv_hold_every_number_of_the_report(real):
    study, found = real
    assert json.loads((study / "results" / "performance.json").read_text()) == json.loads(json.dumps(found).replace("NaN", "null"))
    with (study / "results" / "performance.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["level"], row["metric"]) for row in rows] == [(level, metric) for level in LEVELS for metric in NAMES]
    for row in rows:
        m = found["levels"][row["level"]]["metrics"][row["metric"]]
        told = [*m["folds"], m["mean"], m["sd"], *m["pooled"].values()]
        written = [float(row[column]) for column in ("fold 1", "fold 2", "mean", "sd", "pooled", "low", "high")]
        np.testing.assert_allclose(written, told, atol=1e-6)


def test_a_reader_of_the_table_alone_knows_what_it_shows(real):
    study, found = real
    auc = found["levels"]["patient"]["metrics"]["auc"]
    for suffix in (".md", ".tex"):
        text = (study / "results" / f"performance{suffix}").read_text()
        assert "SYNTHETIC DATA" in text and "8 patients" in text and "50 resamples" in text and "0.5" in text
        assert f"{auc['pooled']['value']:.3f}" in text and all(f"fold {n}" in text for n in (1, 2))
        assert text.count("PR-AUC") == len(LEVELS)


def test_real_data_are_not_called_synthetic(tmp_path):
    found = report_of(made_up(folds=2))
    text = text_of(found, tmp_path, ".md")
    assert "SYNTHETIC" not in text + shown(found) and caption_of(found) in text


def shown(found, width=80):
    console = Console(width=width, file=io.StringIO())
    print_performance(found, console)
    return console.file.getvalue()


@pytest.mark.parametrize(("folds", "columns"), [(2, 2), (5, 5), (6, 0)])
def test_it_fits_80_columns_and_leaves_folds_out_where_there_are_many(folds, columns):
    found = report_of(made_up(folds=folds), synthetic=True)
    text = shown(found)
    assert "…" not in text and max(map(len, text.splitlines()[:-2])) <= 80 and text.count("SYNTHETIC DATA") == len(LEVELS)
    lines = [line for line in text.splitlines() if line.startswith("AUC")]
    assert len(lines) == len(LEVELS)
    m = found["levels"]["image"]["metrics"]["auc"]
    assert lines[0].split()[1 : 1 + columns] == [f"{value:.2f}" for value in m["folds"][:columns]]
    assert f"{m['mean']:.3f} ± {m['sd']:.3f}" in lines[0] and lines[0].split()[1 + columns] == f"{m['mean']:.3f}"


def test_the_seed_decides_the_intervals(real):
    study, found = real
    again, other = (performance_report(study_predictions(study), seed, True) for seed in (CONFIG.seed, CONFIG.seed + 1))
    assert json.dumps(again) == json.dumps(found) != json.dumps(other)
