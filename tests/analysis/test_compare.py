"""Two studies are compared on the patients that both judged, and the reader is told what else differs."""

import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from analysis import compare
from analysis.compare import differences, partition, print_comparison, shared, verdict, write_comparison
from analysis.predictions import Level, study_predictions
from data.errors import InputError


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(compare, "RESAMPLES", 30)


def level(patients, labels=None, cases=None, folds=None):
    count = len(patients)
    labels = [n % 2 for n in range(count)] if labels is None else labels
    columns = (np.linspace(0, 1, count), np.array(labels), np.array(patients), np.array(cases or patients))
    return Level(*columns, np.array(folds or [0] * count), np.zeros(count))


def shown(report, study):
    out = io.StringIO()
    print_comparison(report, study, Console(file=out, width=120))
    return " ".join(out.getvalue().split())


def test_a_study_is_not_apart_from_itself(study, tmp_path):
    other = shutil.copytree(study, tmp_path / "other")
    report = write_comparison(study, other)
    for row in report["metrics"].values():
        assert row["first"] == row["second"] and row["difference"] == row["low"] == row["high"] == 0
    assert report["differences"] == [] and report["left_out"] == [0, 0] and report["patients"] == 8
    assert json.loads((study / "results" / "compare_other.json").read_text())["metrics"] == report["metrics"]
    text = shown(report, study)
    assert "SYNTHETIC DATA" in text and "8 patients of 8 cases" in text and "chosen by these predictions, so optimistic" in text


def test_values_are_those_of_each_studys_chosen_trial(study, tmp_path):
    other = shutil.copytree(study, tmp_path / "other")
    shutil.rmtree(other / "trials" / "0001")  # the best; the next one stands for it then
    report = write_comparison(study, other)
    for name, place in (("log_loss", "first"), ("log_loss", "second")):
        of = study_predictions(study if place == "first" else other).level("view")
        assert report["metrics"][name][place] == pytest.approx(compare.every_metric(of)[name])
    row = report["metrics"]["log_loss"]
    assert row["difference"] == pytest.approx(row["first"] - row["second"]) and row["low"] <= row["difference"] <= row["high"]


def test_only_the_patients_of_both_are_compared():
    one, other = shared(level(["a", "b", "c", "d"]), level(["c", "d", "x"], labels=[0, 1, 0]))
    assert one.patient.tolist() == other.patient.tolist() == ["c", "d"]


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        (level(["x", "y"]), r"no patient is in both studies \(2 and 2 patients, such as a and x\)"),
        (level(["a", "b"], labels=[1, 1]), "a has another label"),
        (level(["a", "b"], cases=["a", "q"]), "b has another case"),
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
    longer = about(data={"fingerprint": "g"})
    longer["config"] = longer["config"] | {"optim": {"epochs": 9}}
    found = differences((about(), longer), (same, level(["a", "b"], folds=[0, 0])))
    assert [text.partition(":")[0] for text in found] == ["data", "partition", "optim.epochs"] and "3 and 9" in found[2]
    assert partition({"a": 0, "b": 0, "c": 1}) == {frozenset("ab"), frozenset("c")}


def test_who_is_better_depends_on_what_is_measured():
    assert (verdict("auc", 0.1, 0.2), verdict("log_loss", 0.1, 0.2)) == ("first", "second")
    assert (verdict("auc", -0.2, -0.1), verdict("log_loss", -0.2, -0.1)) == ("second", "first")
    assert verdict("auc", -0.1, 0.1) == verdict("auc", float("nan"), float("nan")) == "tied"
