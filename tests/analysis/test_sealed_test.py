"""The sealed test is opened once, on sealed patients only, read back ever after, and again only on demand."""

import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from analysis import sealed_test
from analysis.sealed_test import open_sealed_test, print_sealed_test, read_openings
from analysis.summary import write_results
from data.errors import InputError
from mmnet.config import load_config
from mmnet.metrics import evaluate
from mmnet.predict import predict_ensemble
from tests.analysis.studies import DATASET, patients_of, splits
from tests.mmnet.tiny import CPU


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sealed_test, "RESAMPLES", 50)
        yield


@pytest.fixture(scope="module")
def opened_once(trained_study, tmp_path_factory):
    """(study, its best configuration, the result of its sealed test). Read only."""
    study = shutil.copytree(trained_study, tmp_path_factory.mktemp("opened") / "tiny")
    write_results(study)
    config = load_config(study / "best_config.yaml")
    (result,), new = open_sealed_test(study, DATASET, splits(), CPU)
    assert new
    return study, config, result


@pytest.fixture
def opened(opened_once, tmp_path):
    """The same in a copy of the study to write in."""
    study, config, result = opened_once
    return shutil.copytree(study, tmp_path / "tiny"), config, result


def test_it_judges_the_sealed_patients_and_nobody_else(opened):
    study, config, result = opened
    assert [row["patient"] for row in result["patients"]] == sorted(patients_of(splits().test))
    by_model, views, index = predict_ensemble(study / "models", config, DATASET.select_slides(splits().test), CPU)
    by_model = by_model[..., 1]
    probability = by_model.mean(0)
    slide_of = {patient: slide for slide, patient in DATASET.table.of_slides("patient").items()}  # each has one
    expected = evaluate(probability, index.label[views.slide], index.slides[views.slide])
    for name, interval in result["metrics"].items():
        assert interval["value"] == expected[name]
        assert interval["low"] <= interval["value"] <= interval["high"]
    for single, metrics in zip(by_model, result["fold_models"], strict=True):
        of_one = evaluate(single, index.label[views.slide], index.slides[views.slide])
        assert metrics == {name: of_one[name] for name in metrics} and set(metrics) == set(result["metrics"])
    assert result["views"] == len(probability) and result["slides"] == 4 and result["fingerprint"] == DATASET.fingerprint
    np.testing.assert_allclose(
        [row["probability"] for row in result["patients"]],
        [probability[views.slide == index.slides.tolist().index(slide_of[row["patient"]])].mean() for row in result["patients"]],
        atol=1e-6,
    )


def test_it_is_recorded_and_never_evaluated_again(opened):
    study, config, result = opened
    shutil.rmtree(study / "models")  # without which nothing can be evaluated again
    openings, new = open_sealed_test(study, DATASET, splits(), CPU)
    assert not new and openings == [json.loads(json.dumps(result))]


def test_who_insists_opens_it_again_and_both_openings_stay_on_record(opened):
    study, config, result = opened
    first = json.loads(json.dumps(result)) | {"opened": "2001-02-03"}
    (study / "results" / "sealed_test.json").write_text(json.dumps([first]))
    openings, new = open_sealed_test(study, DATASET, splits(), CPU, again=True)
    assert new and openings == read_openings(study) and openings[0] == first
    today = openings[1]["opened"]
    assert openings[1] == first | {"opened": today} and today > result["opened"][:10] and first["fingerprint"] == DATASET.fingerprint
    text = shown(study, openings, new)
    assert f"second opening on {today}, first on 2001-02-03 (fingerprints {DATASET.fingerprint}" in text
    assert "not evaluated again" not in text and f"second opening on {today}" in shown(study, openings, False)


def test_the_record_of_an_earlier_version_is_the_first_opening(opened):
    study, config, result = opened
    (study / "results" / "sealed_test.json").write_text(json.dumps(result))
    assert open_sealed_test(study, DATASET, splits(), CPU) == ([json.loads(json.dumps(result))], False)
    assert len(open_sealed_test(study, DATASET, splits(), CPU, again=True)[0]) == 2


def test_another_study_that_looked_at_the_same_patients_is_named(opened):
    study, _, result = opened
    for name, change in (
        ("earlier", {"opened": "2000-01-01"}),
        ("later", {"opened": "9999"}),
        ("foreign", {"opened": "2000", "fingerprint": "x"}),
        ("strangers", {"opened": "2000", "patients": [{"patient": "somebody else"}]}),
    ):
        (study.parent / name / "results").mkdir(parents=True)
        (study.parent / name / "results" / "sealed_test.json").write_text(json.dumps([result | change]))
    text = shown(study, [result], True)
    assert "study earlier opened the sealed test of these patients on 2000-01-01" in text
    assert text.count("not the first look") == 1


@pytest.mark.parametrize("content", ["{", "[]", "[1]", '[{"opened": "2000"}]'])
def test_a_damaged_record_is_named_and_nothing_is_opened(opened, content):
    study, config, _ = opened
    (study / "results" / "sealed_test.json").write_text(content)
    with pytest.raises(InputError, match=r"sealed_test.json: damaged .* the only record"):
        open_sealed_test(study, DATASET, splits(), CPU, again=True)
    assert (study / "results" / "sealed_test.json").read_text() == content


def shown(study, openings, new) -> str:
    out = io.StringIO()
    print_sealed_test(study, openings, new, Console(file=out, width=200))
    return " ".join(out.getvalue().split())


def test_the_table_says_what_was_judged_and_that_it_was_opened_before(opened):
    study, _, result = opened
    text = shown(study, [result], False)
    assert "4 patients (2 malignant), 8 views" in text
    assert f"opened on {result['opened']}" in text and f"{result['metrics']['patient_auc']['value']:.3f}" in text
