"""A mean of members: the mean of what they are on record to have said, in every place that speaks for the study."""

import csv
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from analysis import calibration, members, new_patients, performance_table, roc_curves, sealed_test
from analysis.material import read_material
from analysis.members import print_mean, write_mean
from analysis.model_card import model_card
from analysis.new_patients import predict_patients, print_predictions
from analysis.predictions import mean_of, member_predictions, study_predictions
from analysis.report import report_page
from analysis.sealed_test import open_sealed_test, print_sealed_test
from analysis.summary import write_results
from analysis.trust import write_trust
from data.errors import InputError
from mmnet.config import Config
from mmnet.metrics import METRICS, evaluate
from mmnet.predict import predict_ensemble
from study.records import read_trials
from tests.analysis.studies import CONFIG, DATASET, MEMBERS, make_mean, patients_of, splits
from tests.analysis.test_new_patients import strangers
from tests.mmnet.tiny import CPU


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """See `make_mean`. Read only: tests share it."""
    return make_mean(tmp_path_factory.mktemp("studies") / "mean")


@pytest.fixture(scope="module")
def finished(trained, tmp_path_factory):
    """A copy of it with its results and models, as main.py leaves them. Read only."""
    study = shutil.copytree(trained, tmp_path_factory.mktemp("finished") / "mean")
    write_results(study)
    return study


@pytest.fixture
def study(finished, tmp_path, monkeypatch):
    """A copy of that to write in."""
    for module in (calibration, members, new_patients, performance_table, roc_curves, sealed_test):
        monkeypatch.setattr(module, "RESAMPLES", 50)
    return shutil.copytree(finished, tmp_path / "mean")


def on_record(study) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """((T, V) the probability of malignant by each member at its best epoch, the columns of the first) as it stands on disk."""
    saved = [np.load(study / "trials" / f"{number:04d}" / "predictions.npz") for number in range(len(MEMBERS))]
    said = np.stack([one["oof"][int(one["best_epoch"]) - 1, :, 1].astype(np.float64) for one in saved])
    return said, {name: saved[0][name] for name in ("label", "patient", "fold", "rows")}


def by_networks(study, dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """((T, K, V) probability by every member's fold networks, patient and label of the views)."""
    made = []
    for number, params in enumerate(MEMBERS.values()):
        probability, views, index = predict_ensemble(study / f"trials/{number:04d}/weights", CONFIG.with_values(params), dataset, CPU)
        made.append(probability[..., 1])
    return np.stack(made), index.slides[views.slide], index.label[views.slide]


def shown(show, *arguments, width=80) -> str:
    out = io.StringIO()
    show(*arguments, Console(file=out, width=width))
    return out.getvalue()


def test_the_mean_is_that_of_the_members_probabilities_view_by_view(trained):
    said, columns = on_record(trained)
    found = study_predictions(trained)
    np.testing.assert_allclose(found.probability, (said[0] + said[1] + said[2]) / 3, rtol=1e-12)
    assert np.ptp(said, axis=0).max() > 0.01  # the members differ
    for name, column in columns.items():
        np.testing.assert_array_equal(getattr(found, name), column)


@pytest.mark.parametrize("column", ["rows", "slide", "fold", "label"])
def test_members_judged_on_other_views_have_no_mean(trained, column):
    known = member_predictions(trained)
    known["0007"] = replace(known["0007"], **{column: np.roll(getattr(known["0007"], column), 1, axis=0)})
    with pytest.raises(InputError, match="members 0026 and 0007: judged on other views or folds .* train them together"):
        mean_of(known)


def test_a_study_that_is_not_done_yet_says_so(study):
    shutil.rmtree(study / "trials" / "0002")
    with pytest.raises(InputError, match="2 of its 3 members have begun; let it run, or --resume it"):
        study_predictions(study)


def test_the_mean_stands_beside_its_members_with_paired_differences(study):
    report = write_mean(study)
    said, columns = on_record(study)
    expected = evaluate(said.mean(0), columns["label"], columns["patient"])
    assert {name: interval["value"] for name, interval in report["mean"].items()} == pytest.approx(expected)
    assert [(row["member"], row["trial"]) for row in report["members"]] == [("0026", "0000"), ("0011", "0001"), ("0007", "0002")]
    for row, one, record in zip(report["members"], said, read_trials(study), strict=True):
        assert row["metrics"] == evaluate(one, columns["label"], columns["patient"]) == pytest.approx(record.best["metrics"])
        for metric in METRICS:
            difference = row["mean_minus_member"][metric]
            assert difference["value"] == pytest.approx(expected[metric] - row["metrics"][metric])
            assert difference["low"] <= difference["value"] <= difference["high"]
    assert report["best"] == min(report["members"], key=lambda row: row["metrics"]["log_loss"])["member"]
    with (study / "results" / "mean.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["member"] for row in rows] == [*MEMBERS, "mean"]
    assert [float(row["auc"]) for row in rows] == pytest.approx(
        [*(r["metrics"]["auc"] for r in report["members"]), expected["auc"]], abs=1e-6
    )
    assert rows[-1]["auc_difference"] == "" and float(rows[-1]["auc_low"]) == pytest.approx(report["mean"]["auc"]["low"], abs=1e-6)
    text = shown(print_mean, report)
    assert (
        "mean of 3 members (SYNTHETIC DATA), out of fold: 8 patients" in text
        and "…" not in text
        and f"{report['best']} *" in text
    )


def test_results_are_of_the_mean_and_every_members_networks_are_kept(finished):
    study = finished
    said, columns = on_record(study)
    mean = said.mean(0)
    with (study / "results" / "summary.csv").open() as file:
        pooled = list(csv.DictReader(file))[-1]
    assert float(pooled["log_loss"]) == pytest.approx(evaluate(mean, columns["label"], columns["patient"])["log_loss"], abs=1e-6)
    first = json.loads((study / "results" / "fold_1.json").read_text())
    here = columns["fold"] == 0
    assert first["metrics"]["auc"] == evaluate(mean[here], columns["label"][here], columns["patient"][here])["auc"]
    told = {row["patient"]: row["probability"] for row in first["patients"]}
    assert told == {name: pytest.approx(mean[columns["patient"] == name].mean(), abs=1e-6) for name in patients_of(splits().folds[0])}
    for number, name in enumerate(MEMBERS):
        for kept in (study / "models" / name, study / f"trials/{number:04d}/weights"):
            assert sorted(file.name for file in kept.iterdir()) == ["fold_1.safetensors", "fold_2.safetensors", "network.json"]
    assert not (study / "best_config.yaml").exists()  # no single configuration is the result


def test_the_sealed_test_is_opened_once_for_the_mean_over_members_and_folds(study):
    (result,), new = open_sealed_test(study, DATASET, splits(), CPU)
    by_member, patient, label = by_networks(study, DATASET.select_slides(splits().test))
    expected = evaluate(np.concatenate(by_member).mean(0), label, patient)
    assert new and {name: row["value"] for name, row in result["metrics"].items()} == pytest.approx(
        {name: expected[name] for name in result["metrics"]}
    )
    assert len(result["fold_models"]) == 6 and list(result["members"]) == list(MEMBERS)
    for name, of_folds in zip(MEMBERS, by_member, strict=True):
        alone = evaluate(of_folds.mean(0), label, patient)
        assert result["members"][name] == pytest.approx({metric: alone[metric] for metric in result["metrics"]})
    text = " ".join(shown(lambda console: print_sealed_test(study, [result], True, console), width=200).split())
    assert "mean of the 6 fold models of 3 members" in text and all(name in text for name in MEMBERS)
    shutil.rmtree(study / "models")  # without which nothing can be evaluated again
    assert open_sealed_test(study, DATASET, splits(), CPU) == ([json.loads(json.dumps(result))], False)


def test_new_patients_are_predicted_by_the_mean_over_members_and_folds(study):
    report = predict_patients(study, strangers(), CPU)
    by_member, patient, _ = by_networks(study, strangers())  # by slide, of which each patient has one
    slide_of = {patient: slide for slide, patient in strangers().table.of_slides("patient").items()}
    flat = np.concatenate(by_member)
    assert [row[0] for row in report["rows"]] == np.unique(strangers().table.patient).tolist()
    for row in report["rows"]:
        of_models = flat[:, patient == slide_of[row[0]]].mean(1)
        assert row[3:5] == pytest.approx([of_models.mean(), of_models.std(ddof=1)], abs=1e-6)
    assert (report["models"], report["members"]) == (6, list(MEMBERS))
    assert "mean of 6 fold models of 3 members of study" in " ".join(shown(print_predictions, report).split())


def test_the_page_and_the_model_card_speak_of_the_mean(study):
    material = read_material(study, write_trust(study))
    said, _ = on_record(study)
    np.testing.assert_allclose(material.judged.predictions.probability, said.mean(0), rtol=1e-12)
    card, page = model_card(material), report_page(material)
    assert "3 configurations were trained as they were given (0026, 0011, 0007)" in card and "nothing was chosen" not in card
    assert "| member 0011 | optim.lr=0.03, model.pool=mean, sampling.views\\_per\\_slide=3 |" in card
    assert "Out-of-fold predictions of the mean of 0026, 0011, 0007." in page


def test_each_members_networks_are_of_its_own_configuration(finished):
    for name, params in MEMBERS.items():
        saved = json.loads((finished / "models" / name / "network.json").read_text())
        assert Config().with_values(saved["config"]) == CONFIG.with_values(params)
