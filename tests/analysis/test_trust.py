"""results/trust.json of a real study: the same numbers as the records, and a plain word where nothing can be said."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from analysis.mean_of_best import FOLDER
from analysis.trust import end_by_noise, print_trust, write_trust
from mmnet.metrics import METRICS
from study.records import read_trials, write_status


def with_stopped_predictions(study):
    """The stopped trial left what the first epoch of a trial of the same configuration did."""
    with np.load(study / "trials/0000/predictions.npz") as saved:
        arrays = {name: saved[name] for name in saved.files}
    np.savez(study / "trials/0002/predictions.npz", **arrays | {"oof": arrays["oof"][:1], "best_epoch": 1})
    return study


@pytest.fixture(scope="module")
def report(trained_study, tmp_path_factory):
    study = with_stopped_predictions(shutil.copytree(trained_study, tmp_path_factory.mktemp("trust") / "tiny"))
    return write_trust(study), study


def test_the_file_holds_what_is_returned_and_is_written_again_with_the_same_numbers(report):
    found, study = report
    text = (study / "results" / "trust.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(found).replace("NaN", "null"))
    write_trust(study)
    assert (study / "results" / "trust.json").read_text() == text


def test_counts_and_naive_scores_are_those_of_the_records(report):
    found, study = report
    assert found["trials"] == {"all": 5, "used": 3, "done": 2, "stopped": 1, "failed": 2, "running": 0}
    assert found["winner"]["trial"] == "0001" and found["patients"] == 8
    best = read_trials(study)[1].best
    assert found["winner"]["epoch"] == best["epoch"]
    for name in METRICS:
        assert found["winner"]["naive"][name]["value"] == pytest.approx(best["metrics"][name], abs=1e-5)
        assert found["corrected"]["winner"][name]["naive"] == pytest.approx(best["metrics"][name], abs=1e-5)


def test_the_tie_set_has_every_trial_once_and_one_recommended_full_length_trial(report):
    found, study = report
    rows = found["tie_set"]["rows"]
    assert {row["trial"] for row in rows} == {"0000", "0001", "0002"}
    assert [row["status"] for row in rows if row["recommended"]] == ["done"]
    assert [row["trial"] for row in rows if row["recommended"]] == [found["recommended"]["trial"]]
    stopped = next(row for row in rows if row["status"] == "stopped")
    assert stopped["epochs"] == 1 and stopped["state"] == ("undecided" if stopped["p"] > 0.05 else "stopped")
    best = next(row for row in rows if row["state"] == "best")
    assert (best["difference"], best["low"], best["high"], best["p"]) == (0, 0, 0, 1)
    with (study / "results" / "tie_set.csv").open() as file:
        assert [row["trial"] for row in csv.DictReader(file)] == [row["trial"] for row in rows]


def test_the_answer_is_four_sentences_the_last_of_which_is_the_mean_of_the_best_three(report):
    found, study = report
    out = io.StringIO()
    print_trust(found, Console(file=out, width=200))
    assert len(found["sentences"]) == 4 and all(sentence in out.getvalue() for sentence in found["sentences"])
    assert f"the mean of trials 0001, 0000 and 0002 (python main.py --config {study / FOLDER})" in found["sentences"][-1]
    assert "SYNTHETIC DATA" in out.getvalue() and "only 4 benign patients" in out.getvalue() and "not enough trials" in out.getvalue()


def test_a_study_without_predictions_says_so(study):
    for folder in (study / "trials").glob("000[0-4]"):
        write_status(folder, "failed", "no luck")
    found = write_trust(study)
    assert not found["ready"] and "no trial" in found["why"]
    assert json.loads((study / "results" / "trust.json").read_text()) == found
    out = io.StringIO()
    print_trust(found, Console(file=out))
    assert "cannot be judged yet" in out.getvalue()


def test_a_study_of_stopped_trials_alone_recommends_among_them(study):
    with_stopped_predictions(study)
    for name in ("0000", "0001"):
        write_status(study / "trials" / name, "stopped", "a rung")
    found = write_trust(study)
    assert found["ready"] and found["tie_set"]["compared"] == 3 and "no trial has reached its full length" in found["notes"]
    assert np.isfinite(found["corrected"]["recommended"]["auc"]["value"])


def search_of(study, signal):
    """The study as a search whose trials (T,) know so much of the class, beside noise of their own."""
    rng = np.random.default_rng(0)
    first = study / "trials" / "0000"
    with np.load(first / "predictions.npz") as saved:
        arrays = {name: saved[name] for name in saved.files}
    config, status, epochs = ((first / name).read_text() for name in ("config.json", "status.json", "epochs.jsonl"))
    shutil.rmtree(study / "trials")
    for number, known in enumerate(signal):
        folder = study / "trials" / f"{number:04d}"
        folder.mkdir(parents=True)
        for name, content in (
            ("config.json", json.dumps(json.loads(config) | {"number": number})),
            ("status.json", status),
            ("epochs.jsonl", epochs),
        ):
            (folder / name).write_text(content)
        logit = known * (2 * arrays["label"] - 1) + 0.3 * rng.normal(size=arrays["oof"].shape[:2])
        np.savez(folder / "predictions.npz", **arrays | {"oof": 1 / (1 + np.exp(np.stack([logit, -logit], -1)))})
    return study


@pytest.mark.parametrize(
    ("signal", "ends"),
    [(np.full(24, 0.5), True), (np.random.default_rng(0).exponential(size=24), False), (np.full(8, 0.5), False)],
    ids=["nothing to gain", "much to gain", "too early to say"],
)
def test_a_search_ends_at_the_noise_when_the_report_says_so(study, signal, ends):
    reason = end_by_noise(read_trials(search_of(study, signal)), "log_loss")
    noise = write_trust(study)["noise"]
    assert noise["stop"] == ends and reason == ("at the noise: " + noise["words"] if ends else "")


def test_a_search_without_predictions_goes_on(study):
    assert end_by_noise(read_trials(study), "log_loss") == "" and end_by_noise([], "log_loss") == ""
