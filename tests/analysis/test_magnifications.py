"""What a magnification contributes: by hand, and found where it was planted."""

import csv
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from analysis import magnifications, missing
from analysis.magnifications import (
    contributions,
    group_weights,
    mean_and_sd,
    print_magnifications,
    verdict,
    weights_of_patients,
    write_magnifications,
)
from analysis.predictions import Predictions, chosen_trial, trial_predictions
from analysis.summary import write_results
from data.errors import InputError
from data.views import MISSING
from mmnet.crossval import CrossValidation
from mmnet.metrics import evaluate
from study.folder import FORMAT
from study.records import TrialWriter
from tests.analysis.test_plots import assert_shows_something
from tests.mmnet.tiny import CPU, MAGNIFICATIONS, deal, feature_dataset, tiny_config

INFORMATIVE = 200


def planted_dataset():
    """24 patients of which only the 200X images know the class."""
    dataset = feature_dataset(patients=24, images=2, signal=0.0, signature=0.3)
    maps = dataset.features.copy()
    maps[:, 0] += np.where(dataset.table.magnification == INFORMATIVE, 2 * (2 * dataset.table.label - 1), 0)[:, None, None].astype(
        np.float16
    )
    return replace(dataset, features=maps)


def make_study(study, dataset, values):
    """Train one configuration and leave its study; (study, data set, configuration)."""
    config = tiny_config({"model.frozen": True, "optim.epochs": 8, "optim.patience": None, "dropout.classifier": 0.2} | values)
    splits = deal(dataset, 2)
    writer, trial = TrialWriter(study / "trials" / "0000", 0, {}, config), CrossValidation(config, dataset, splits, CPU)
    writer.load(trial)
    for _ in trial:
        writer.report(trial)
    writer.status("done", "")
    data = {"synthetic": True, "fingerprint": dataset.fingerprint}
    about = {"format": FORMAT, "verb": "main", "name": study.name, "config": config.to_dict(), "data": data, "splits": splits.to_json()}
    (study / "study.json").write_text(json.dumps(about))
    write_results(study)
    return study, dataset, config


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(magnifications, "RESAMPLES", 100)
    monkeypatch.setattr(magnifications, "REPEATS", 2)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(study, data set, configuration) of a network trained where only 200X knows something, and its report. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(magnifications, "RESAMPLES", 100)
        patch.setattr(magnifications, "REPEATS", 2)
        made = make_study(tmp_path_factory.mktemp("planted") / "study", planted_dataset(), {})
        return made, write_magnifications(*made, CPU)


def by_hand(rows: list[list[int]]) -> Predictions:
    """Two patients of each class, each a patient of its own; one view a row."""
    names = np.array([f"p{n}" for n in range(len(rows))])
    label = np.arange(len(rows)) % 2
    return Predictions(np.full(len(rows), 0.5), label, names, names, names, np.zeros(len(rows), int), np.array(rows), (40, 100))


def test_masked_and_alone_against_all_by_hand_with_a_network_that_reads_100x_only(few_draws):
    predictions = by_hand([[0, 1], [2, 3], [4, 5], [6, 7], [8, MISSING], [10, MISSING]])

    def judge(rows, fold):
        sure = np.where(rows[:, 1] == MISSING, 0.5, 0.8)
        return np.where(predictions.label == 1, sure, 1 - sure)

    everything = judge(predictions.rows, predictions.fold)
    found = {row["shown"]: row for row in contributions(judge, predictions, everything, np.random.default_rng(0))}
    assert list(found) == ["without 40X", "without 100X", "40X alone", "100X alone"]
    assert [row["views"] for row in found.values()] == [4, 6, 6, 4]  # two views show nothing but 40X
    right, nothing = -np.log(0.8), np.log(2)
    whole = (2 * right + nothing) / 3
    assert found["without 100X"]["all"]["log_loss"] == pytest.approx(whole)
    assert found["without 100X"]["scores"]["log_loss"] == pytest.approx(nothing)
    change = found["without 100X"]["minus_all"]
    assert change["log_loss"]["value"] == pytest.approx(nothing - whole)
    assert change["log_loss"]["low"] <= change["log_loss"]["value"] <= change["log_loss"]["high"]
    assert change["patient_auc"]["value"] == pytest.approx(0.5 - (8 + 0.5) / 9)  # of 9 pairs, 8 in order and one tied
    for name in ("without 40X", "100X alone"):  # both sides on the four views that can see: no difference in any resample
        assert found[name]["minus_all"]["log_loss"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert found[name]["all"]["log_loss"] == pytest.approx(right)


def test_where_no_view_of_a_class_can_see_there_is_no_number_and_no_crash():
    predictions = by_hand([[0, 1], [2, MISSING], [4, 5], [6, MISSING]])  # 100X of class 0 only
    rows = contributions(lambda rows, fold: np.full(len(rows), 0.5), predictions, np.full(4, 0.5), np.random.default_rng(0))
    alone = next(row for row in rows if row["shown"] == "100X alone")
    assert alone["views"] == 2 and np.isnan(alone["minus_all"]["log_loss"]["value"]) and np.isnan(alone["scores"]["auc"])


def test_weights_are_means_over_a_patients_views_and_nothing_where_it_has_no_image():
    importance = np.array([[0.2, 0.8], [1.0, 0.0], [0.4, 0.6], [1.0, 0.0]])
    predictions = replace(by_hand([[0, 1], [2, MISSING], [3, 4], [5, MISSING]]), label=np.array([1, 0, 1, 1]), patient=np.array(["b", "a", "b", "b"]))
    weights, first = weights_of_patients(importance, predictions)
    np.testing.assert_allclose(weights, [[1.0, np.nan], [1.6 / 3, 0.7]])  # a slide without 100X says nothing of its weight
    assert first.tolist() == [1, 0]


def test_mean_and_sd_are_over_the_patients_that_have_the_magnification():
    weights = np.array([[0.2, 0.8, np.nan], [0.4, 0.6, np.nan], [1.0, np.nan, np.nan]])
    found = mean_and_sd(weights)
    assert found["patients"] == 3
    np.testing.assert_allclose(found["mean"], [1.6 / 3, 0.7, np.nan])
    np.testing.assert_allclose(found["sd"], [np.std([0.2, 0.4, 1.0], ddof=1), np.std([0.8, 0.6], ddof=1), np.nan])
    groups = group_weights(weights, np.array(["DC", "A", "DC"]))
    assert list(groups) == ["all", "A", "DC"] and [group["patients"] for group in groups.values()] == [3, 1, 2]
    np.testing.assert_allclose(groups["DC"]["mean"], [0.6, 0.8, np.nan])
    np.testing.assert_allclose(groups["A"]["sd"], [np.nan] * 3)  # of one patient there is none


def masked(*changes):
    """Rows as `contributions` gives them, of 40X and 100X."""
    return [
        {"way": "without", "magnification": m, "minus_all": {"log_loss": dict(zip(("value", "low", "high"), change, strict=True))}}
        for m, change in zip(MAGNIFICATIONS, changes, strict=False)
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(0.1, 0.05, 0.2), (0.02, -0.1, 0.1)], ["40X is missed most", "+0.100", "an interval that excludes 0"]),
        ([(0.01, 0.005, 0.02), (0.1, 0.05, 0.2)], ["100X is missed most", "excludes 0, and that of 40X excludes it"]),
        ([(0.1, -0.05, 0.2), (0.02, -0.1, 0.1)], ["40X is missed most", "but that interval holds 0, and so does every other"]),
        ([(0.1, -0.05, 0.2), (0.02, 0.01, 0.1)], ["40X is missed most", "but that interval holds 0, and that of 100X excludes it"]),
        ([(-0.1, -0.2, 0.1), (-0.02, -0.1, 0.1)], ["No magnification is missed"]),
        ([(0.1, 0.05, 0.2), (-0.1, -0.2, -0.05)], ["40X is missed most", "masking 100X lowers it, and that interval excludes 0"]),
    ],
)
def test_the_sentence_says_which_is_missed_most_and_whether_by_more_than_chance(changes, words):
    text = verdict(masked(*changes))
    assert all(part in text for part in words), text
    assert text.endswith(".") and ". " not in text  # one sentence
    assert ("lowers" in text) == any(high < 0 for _, _, high in changes)


def test_the_only_informative_magnification_is_missed_most_and_does_best_alone(planted):
    _, report = planted
    loss = {row["shown"]: row["minus_all"]["log_loss"] for row in report["rows"]}
    masked_loss = {m: loss[f"without {m}X"]["value"] for m in MAGNIFICATIONS}
    assert max(masked_loss, key=masked_loss.get) == INFORMATIVE and loss[f"without {INFORMATIVE}X"]["low"] > 0.05
    alone = {m: loss[f"{m}X alone"]["value"] for m in MAGNIFICATIONS}
    assert min(alone, key=alone.get) == INFORMATIVE
    assert sum(report["importance"]["all"]["mean"]) == pytest.approx(1, abs=1e-5)
    assert report["verdict"].startswith(f"{INFORMATIVE}X is missed most")
    curve = report["missing"]["slide"]
    everything, *less = (point["log_loss"]["mean"] for point in curve)
    assert everything < min(less)


def test_the_only_informative_magnification_has_the_largest_weight_where_none_has_seen_another(tmp_path, few_draws):
    report = write_magnifications(*make_study(tmp_path / "study", planted_dataset(), {"model.hierarchy": "none", "model.concatenation": False}), CPU)
    weights = report["importance"]["all"]["mean"]
    assert np.argmax(weights) == MAGNIFICATIONS.index(INFORMATIVE) and sum(weights) == pytest.approx(1, abs=1e-5)


def test_all_magnifications_score_as_the_trial_on_record(planted):
    (study, *_), report = planted
    recorded = trial_predictions(chosen_trial(study))
    expected = evaluate(recorded.probability, recorded.label, recorded.patient)
    assert report["all"] == pytest.approx({name: expected[name] for name in report["all"]}, abs=1e-4)
    for kind in report["missing"]:
        assert report["missing"][kind][0]["patient_auc"]["mean"] == pytest.approx(expected["patient_auc"])


def test_tables_and_figures_are_left_on_disk(planted):
    (study, *_), report = planted
    for name in ("magnifications", "importance_weights", "missing_magnifications"):
        assert_shows_something(study / "plots" / f"{name}.png")
        assert (study / "plots" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    table = {name: list(csv.DictReader((study / "results" / f"{name}.csv").open())) for name in ("magnifications", "importance", "missing")}
    assert [row["shown"] for row in table["magnifications"]] == [row["shown"] for row in report["rows"]]
    assert float(table["magnifications"][2]["log_loss_difference"]) == round(report["rows"][2]["minus_all"]["log_loss"]["value"], 4)
    assert list(table["importance"][0]) == ["patient", "subtype", "label", "40X", "100X", "200X", "400X"]
    assert len(table["importance"]) == 24
    mean = np.mean([float(row["200X"]) for row in table["importance"]])
    assert mean == pytest.approx(report["importance"]["all"]["mean"][2], abs=1e-4)
    assert {row["hidden_of"] for row in table["missing"]} == {"view", "slide", "image"}
    assert len(table["missing"]) == 3 * len(missing.SHARES)
    assert json.loads((study / "results" / "magnifications.json").read_text())["verdict"] == report["verdict"]


def printed(report) -> list[str]:
    out = io.StringIO()
    print_magnifications(report, Console(file=out, width=80))
    return out.getvalue().splitlines()


def test_what_is_printed_fits_80_columns_and_says_what_it_must(planted):
    _, report = planted
    lines = printed(report)
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= 80 and "…" not in text
    assert report["verdict"] in text and "SYNTHETIC DATA" in text and "without 400X" in text and "surprise at the gap" in text
    assert "surprise" not in " ".join(printed(report | {"masking_in_training": 0.3}))


def test_equal_weights_are_named_as_such_and_not_drawn(tmp_path, few_draws):
    made = make_study(tmp_path / "equal", feature_dataset(patients=8), {"model.importance": False, "optim.epochs": 1})
    report = write_magnifications(*made, CPU)
    assert report["importance"] is None and not (made[0] / "results" / "importance.csv").exists()
    assert "equal by design" in " ".join(printed(report))


def test_one_magnification_leaves_nothing_to_compare(tmp_path):
    dataset = feature_dataset(patients=8).select_magnifications((200,))
    made = make_study(tmp_path / "one", dataset, {"data.magnifications": (200,), "optim.epochs": 1})
    with pytest.raises(InputError, match="200X: there is nothing to compare"):
        write_magnifications(*made, CPU)


def test_networks_that_did_not_make_the_predictions_on_record_are_refused(planted, tmp_path):
    (study, dataset, config), _ = planted
    study = shutil.copytree(study, tmp_path / "other")
    first, second = (study / "models" / f"fold_{n}.safetensors" for n in (1, 2))
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)  # now each would judge the patients it was trained on
    with pytest.raises(InputError, match="differ by .* from those on record of trial 0000"):
        write_magnifications(study, dataset, config, CPU)
