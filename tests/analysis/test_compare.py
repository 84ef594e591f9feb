"""Two studies are compared on the patients that both judged, and the reader is told what else differs."""

import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from analysis import compare
from analysis.compare import AT_PATIENTS, differences, every_metric, partition, print_comparison, shared, verdict, write_comparison
from analysis.predictions import Level
from data.errors import InputError
from mmnet.metrics import METRICS
from study.records import read_trial


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(compare, "RESAMPLES", 30)


def level(slides, labels=None, patients=None, folds=None):
    count = len(slides)
    labels = [n % 2 for n in range(count)] if labels is None else labels
    columns = (np.linspace(0, 1, count), np.array(labels), np.array(slides), np.array(patients or slides))
    return Level(*columns, np.array(folds or [0] * count), np.zeros(count))


def shown(report, study):
    out = io.StringIO()
    print_comparison(report, study, Console(file=out, width=120))
    return " ".join(out.getvalue().split())


def test_a_study_is_not_apart_from_itself(study, tmp_path):
    other = shutil.copytree(study, tmp_path / "other")
    report = write_comparison(study, other)
    assert list(report["metrics"]) == [*METRICS, *(f"patient_{name}" for name in AT_PATIENTS)]
    for row in report["metrics"].values():
        assert row["first"] == row["second"] and row["difference"] == row["low"] == row["high"] == 0
    assert report["differences"] == [] and report["left_out"] == [0, 0] and report["patients"] == 8
    assert json.loads((study / "results" / "compare_other.json").read_text())["metrics"] == report["metrics"]
    text = shown(report, study)
    assert "SYNTHETIC DATA" in text and "8 patients" in text and "chosen by these predictions, so optimistic" in text


def test_values_are_those_of_each_studys_chosen_trial(study, tmp_path):
    other = shutil.copytree(study, tmp_path / "other")
    shutil.rmtree(other / "trials" / "0001")  # the best; the next one stands for it then
    report = write_comparison(study, other)
    trials = {"first": read_trial(study / "trials" / "0001"), "second": read_trial(other / "trials" / "0000")}
    for name in METRICS:
        row = report["metrics"][name]
        for place, trial in trials.items():
            assert row[place] == pytest.approx(trial.best["metrics"][name], abs=1e-5)
        assert row["difference"] == row["first"] - row["second"] and row["low"] <= row["difference"] <= row["high"]
    assert report["metrics"]["log_loss"]["first"] < report["metrics"]["log_loss"]["second"]


def test_patients_that_only_one_study_judged_are_left_out_and_counted(study, tmp_path):
    other = shutil.copytree(study, tmp_path / "other")
    path = other / "trials" / "0001" / "predictions.npz"
    with np.load(path) as saved:
        columns = {name: saved[name] for name in saved.files}
    kept = columns["patient"] != columns["patient"][0]
    columns |= {name: columns[name][kept] for name in ("label", "slide", "patient", "subtype", "fold", "rows")}
    np.savez(path, **columns | {"oof": columns["oof"][:, kept]})
    report = write_comparison(study, other)
    assert report["patients"] == 7 and report["left_out"] == [1, 0]
    text = shown(report, study)
    assert "of tiny are not in the other" in text and "of other are not in the other" not in text


def test_decisions_are_judged_by_the_mean_over_a_patients_views():
    # means 0.55 and 0.4 of malignant patients, 0.3 and 0.45 of benign ones
    columns = np.array([0.9, 0.2, 0.6, 0.2, 0.1, 0.5, 0.3, 0.6]), np.repeat([1, 1, 0, 0], 2), np.repeat(list("abcd"), 2)
    found = every_metric(Level(*columns, columns[2], np.zeros(8, int), np.zeros(8, int)))
    assert (found["patient_sensitivity"], found["patient_specificity"], found["patient_kappa"]) == (0.5, 1, 0.5)
    assert found["patient_f1"] == pytest.approx(2 / 3) and found["patient_pr_auc"] == pytest.approx(1 / 2 + 2 / 3 / 2)


def test_only_the_patients_of_both_are_compared():
    one, other = shared(level(["a", "b", "c", "d"]), level(["c", "d", "x"], labels=[0, 1, 0]))
    assert one.patient.tolist() == other.patient.tolist() == ["c", "d"]


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (level(["x", "y"]), r"no patient is in both studies \(2 and 2 patients, such as a and x\)"),
        (level(["a", "b"], labels=[1, 1]), "a has another label"),
        (level(["a", "b"], patients=["a", "q"]), "b has another patient"),
        (level(["a", "x"]), "of one class"),
    ],
)
def test_what_cannot_be_compared_is_refused(second, expected):
    with pytest.raises(InputError, match=expected):
        shared(level(["a", "b"]), second)


def test_other_partitions_epochs_and_data_are_said():
    def about(**more):
        return {
            "config": {"optim": {"epochs": 3}, "metric": "auc", "data": {"magnifications": [40], "image_size": 32}},
            "data": {"fingerprint": "f"},
        } | more

    same, turned = level(["a", "b"], folds=[0, 1]), level(["a", "b"], folds=[1, 0])
    assert differences((about(), about()), (same, turned)) == []  # the same partition under other numbers
    other = {"optim": {"epochs": 9}, "metric": "brier", "data": {"magnifications": [40, 100], "image_size": 64}}
    found = differences((about(), about(data={"fingerprint": "g"}, config=other)), (same, level(["a", "b"], folds=[0, 0])))
    assert found[0] == "data: fingerprint f and g" and found[1].startswith("partition: other folds")
    assert found[2:4] == ["optim.epochs: 3 and 9", "metric: auc and brier"]
    assert found[4:] == ["data.magnifications: [40] and [40, 100]", "data.image_size: 32 and 64"]
    assert partition({"a": 0, "b": 0, "c": 1}) == {frozenset("ab"), frozenset("c")}


def test_who_is_better_depends_on_what_is_measured():
    assert (verdict("auc", 0.1, 0.2), verdict("log_loss", 0.1, 0.2)) == ("first", "second")
    assert (verdict("auc", -0.2, -0.1), verdict("log_loss", -0.2, -0.1)) == ("second", "first")
    assert verdict("auc", -0.1, 0.1) == verdict("auc", float("nan"), float("nan")) == "tied"
