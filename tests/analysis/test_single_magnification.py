"""Fused against single: the same views on both sides, and a view that a network cannot see is not held against it."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from analysis import single_magnification
from analysis.predictions import Predictions, trial_predictions
from analysis.single_magnification import COMPARED, compare, mean_of_present, on_views, print_comparison, write_comparison
from data.views import MISSING
from mmnet.crossval import CrossValidation
from mmnet.metrics import evaluate
from study.records import TrialWriter, read_trial
from tests.analysis.studies import CONFIG
from tests.mmnet.tiny import CPU, deal, feature_dataset

# rows 0 to 2: patient a at 40X; 3: a at 100X; 4, 5: b at 100X
FUSED = Predictions(
    probability=np.array([0.6, 0.7, 0.8, 0.1, 0.2]),
    label=np.array([1, 1, 1, 0, 0]),
    slide=np.array(["a", "a", "a", "b", "b"]),
    patient=np.array(["1", "1", "1", "2", "2"]),
    subtype=np.array(["DC", "DC", "DC", "A", "A"]),
    fold=np.array([0, 0, 0, 1, 1]),
    rows=np.array([[0, 3], [1, 3], [2, 3], [MISSING, 4], [MISSING, 5]]),
    magnifications=(40, 100),
)


def single(rows: list[int], probability: list[float], magnification: int) -> Predictions:
    """Of a network of one magnification; only what `on_views` reads is meant."""
    column = np.array(rows)[:, None]
    return replace(FUSED, rows=column, probability=np.array(probability), magnifications=(magnification,))


def test_a_view_gets_what_the_single_network_says_of_the_image_it_shows():
    np.testing.assert_array_equal(on_views(single([2, 0, 1], [0.3, 0.1, 0.2], 40), FUSED), [0.1, 0.2, 0.3, np.nan, np.nan])
    np.testing.assert_array_equal(on_views(single([3, 4, 5], [0.9, 0.4, 0.5], 100), FUSED), [0.9, 0.9, 0.9, 0.4, 0.5])


def test_the_mean_of_the_single_networks_passes_over_what_one_cannot_see():
    said = np.array([[0.2, np.nan, np.nan], [0.4, 0.6, np.nan]])
    np.testing.assert_allclose(mean_of_present(said), [0.3, 0.6, np.nan])


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(single_magnification, "RESAMPLES", 50)


def test_both_are_judged_on_the_views_that_both_can_see(few_resamples):
    rng = np.random.default_rng(0)
    patient = np.repeat([f"p{n}" for n in range(8)], 3)
    label = np.repeat(np.arange(8) % 2, 3)
    fused = replace(FUSED, probability=rng.random(24), label=label, slide=patient, patient=patient)
    other = np.where(patient == "p3", np.nan, rng.random(24))
    row = compare(fused, other, "40X alone", rng)
    seen = patient != "p3"
    assert (row["against"], row["views"], row["patients"]) == ("40X alone", 21, 7)
    assert row["fused"] == evaluate(fused.probability[seen], label[seen], patient[seen])
    assert row["other"] == evaluate(other[seen], label[seen], patient[seen])
    for metric in COMPARED:
        difference = row["fused_minus_other"][metric]
        assert difference["value"] == pytest.approx(row["fused"][metric] - row["other"][metric])
        assert difference["low"] < difference["high"]


def test_a_network_against_itself_differs_by_nothing(few_resamples):
    row = compare(FUSED, FUSED.probability, "itself", np.random.default_rng(0))
    assert all(difference == {"value": 0.0, "low": 0.0, "high": 0.0} for difference in row["fused_minus_other"].values())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A fused network and those of 40X and 400X, of 8 patients one of whom has no image at 400X. Read only."""
    study = tmp_path_factory.mktemp("single")
    dataset = feature_dataset()
    lacking = dataset.table.slides()[0]
    dataset = dataset.select_rows((dataset.table.slide != lacking) | (dataset.table.magnification != 400))
    for number, params in ((0, {}), (1, {"data.magnifications": (40,)}), (4, {"data.magnifications": (400,)})):
        config = CONFIG.with_values(params | {"optim.epochs": 2})
        writer = TrialWriter(study / "trials" / f"{number:04d}", number, params, config)
        trial = CrossValidation(config, dataset, deal(dataset), CPU)
        for _ in trial:
            writer.report(trial)
        writer.status("done", "")
    (study / "results").mkdir()
    (study / "study.json").write_text(json.dumps({"format": 2, "config": config.to_dict(), "data": {"synthetic": True}}))
    return study, dataset.table.of_slides("patient")[lacking]


def test_a_trained_single_network_speaks_of_the_same_images_as_the_fused_one(trained):
    study, lacking = trained
    fused, alone = (trial_predictions(read_trial(study / "trials" / name)) for name in ("0000", "0004"))
    other = on_views(alone, fused)
    np.testing.assert_array_equal(np.isnan(other), fused.patient == lacking)
    of_image = {int(row): value for row, value in zip(alone.rows[:, 0], alone.probability, strict=True)}
    for view, value in zip(fused.rows, other, strict=True):
        assert view[3] == MISSING or of_image[int(view[3])] == value
    assert set(alone.patient.tolist()) == set(fused.patient.tolist()) - {lacking}
    for name, fold in zip(alone.patient, alone.fold, strict=True):
        assert set(fused.fold[fused.patient == name]) == {fold}


def test_the_comparison_is_written_with_a_row_of_each_network_and_of_their_mean(trained, few_resamples):
    study, _ = trained
    report = write_comparison(study)
    names = ["40X alone", "400X alone", "mean of the singles"]
    assert [(row["against"], row["patients"]) for row in report["rows"]] == list(zip(names, (8, 7, 8), strict=True))
    fused, *alone = (trial_predictions(read_trial(study / "trials" / name)) for name in ("0000", "0001", "0004"))
    mean = np.nanmean([on_views(one, fused) for one in alone], axis=0)
    assert report["rows"][2]["other"] == pytest.approx(evaluate(mean, fused.label, fused.patient))
    with (study / "results" / "single_magnification.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["against"] for row in rows] == names
    for row, found in zip(rows, report["rows"], strict=True):
        for metric in COMPARED:
            assert float(row[f"{metric}_fused"]) == pytest.approx(found["fused"][metric], abs=1e-4)
            assert float(row[f"{metric}_low"]) == pytest.approx(found["fused_minus_other"][metric]["low"], abs=1e-4)
    out = io.StringIO()
    print_comparison(report, Console(file=out, width=80))
    assert "SYNTHETIC DATA" in out.getvalue() and "…" not in out.getvalue() and all(name in out.getvalue() for name in names)
