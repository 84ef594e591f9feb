"""The worth of a mechanism: what was planted is found, in the direction of the metric, and what was not is "nothing"."""

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import log_loss, roc_auc_score

from analysis import ablation
from analysis.ablation import Scores, effect, interval, pairs_of, print_ablation, scores, verdict, write_ablation
from analysis.bootstrap import Interval, resamples
from analysis.predictions import Predictions
from data.synthetic import generate
from mmnet.config import Config
from mmnet.records import TrialRecord, read_trials, write_json, write_status
from mmnet.study_folder import FORMAT
from search_spaces.ablation import space
from tests.mmnet.tiny import tiny_config
from tests.test_imports import ROOT

BASE = tiny_config({"seed": 3})
MECHANISMS = {mechanism.name: mechanism for mechanism in space(BASE).mechanisms}


def as_stored(mechanism):
    return json.loads(json.dumps(asdict(mechanism)))


def record(number, values, status="done", seconds=1.0, base=BASE):
    """A trial of the base configuration but for `values`."""
    epochs = [{"epoch": 1, "seconds": seconds, "score": 0.5, "best_epoch": 1, "fold_epochs": 2, "metrics": {}, "fold_metrics": []}]
    config = json.loads(json.dumps(base.with_values(values).to_dict()))
    return TrialRecord(Path(f"{number:04d}"), number, values, config, status, "", epochs, seconds, 1.0)


def numbers_of(pairs):
    return [trial.number for trial in pairs.on], [trial.number for trial in pairs.off]


# pairs ---------------------------------------------------------------------------------------------------------------

PLAN = [
    record(number, {"seed": seed} | values)
    for number, (seed, values) in enumerate(
        [
            (3, {}),
            (3, {"model.channel_attention": False}),
            (3, {"augment.mixup": 0.2}),
            (3, {"model.cross_attention": False, "model.concatenation": False}),
            (3, {"model.pool_scales": ()}),
            (4, {}),
            (4, {"model.channel_attention": False}),
            (4, {"augment.mixup": 0.2}),
        ]
    )
]


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("channel attention", [0, 5], [1, 6]),
        ("mixup", [2, 7], [0, 5]),  # off in the base: the base is the off side
        ("magnification fusion", [0], [3]),
        ("spatial pooling scales", [0], [4]),
        ("focal loss", [], []),
    ],
)
def test_a_pair_is_the_base_and_the_trial_of_the_same_seed_with_this_mechanism_turned(name, on, off):
    assert numbers_of(pairs_of(as_stored(MECHANISMS[name]), BASE.to_dict(), PLAN)) == (on, off)
    assert numbers_of(pairs_of(as_stored(MECHANISMS[name]), BASE.to_dict(), PLAN[::-1])) == (on, off)


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_side_that_is_not_done_makes_no_pair(number, status):
    trials = [record(0, {}), record(1, {"model.channel_attention": False})]
    trials[number] = record(number, trials[number].params, status)
    assert numbers_of(pairs_of(as_stored(MECHANISMS["channel attention"]), BASE.to_dict(), trials)) == ([], [])


def test_a_trial_that_differs_in_something_else_as_well_makes_no_pair():
    both = record(1, {"model.channel_attention": False, "optim.lr": 0.5})
    half = record(2, {"model.cross_attention": False})
    trials = [record(0, {}), both, half]
    for name in ("channel attention", "magnification fusion"):
        assert numbers_of(pairs_of(as_stored(MECHANISMS[name]), BASE.to_dict(), trials)) == ([], [])


def test_every_pair_of_a_plan_is_found():
    planned = space(BASE)
    trials = [
        record(n, {key: tuple(v) if isinstance(v, list) else v for key, v in decoded(planned, n).items()}) for n in range(planned.trials)
    ]
    block = 1 + len(planned.mechanisms)
    for which, mechanism in enumerate(planned.mechanisms, start=1):
        on, off = numbers_of(pairs_of(as_stored(mechanism), BASE.to_dict(), trials))
        base, turned = [0, block, 2 * block], [which, block + which, 2 * block + which]
        assert (on, off) == ((turned, base) if mechanism.name in ("mixup", "masked magnifications") else (base, turned))


def decoded(planned, number):
    """The values of a planned trial as its configuration holds them."""
    point = planned.point(number, BASE)
    scales = {"model.pool_scales": () if point["model.pool_scales"] == "none" else tuple(map(int, point["model.pool_scales"].split(",")))}
    return point | scales


# effects -------------------------------------------------------------------------------------------------------------


def made(rng, quality, cases=40, noise=1.0):
    """Two views of each of `cases` cases, every other malignant: logit = quality * (±1 by class) + noise."""
    case = np.repeat(np.arange(cases), 2)
    label = case % 2
    logit = quality * (2 * label - 1) + noise * rng.normal(size=2 * cases)
    names = np.array([f"p{c:02d}" for c in case])
    rows = np.stack([np.arange(2 * cases)] * 4, axis=1)
    return Predictions(1 / (1 + np.exp(-logit)), label, names, names, names, case % 4 // 2, rows, (40, 100, 200, 400))


def test_scores_are_the_metrics_of_everyone_and_of_each_resample_a_case_drawn_twice_counted_twice():
    predictions = made(np.random.default_rng(0), 0.0, cases=8)
    samples = resamples(predictions.label, predictions.case, 20, np.random.default_rng(1))
    found = scores(("auc", "log_loss", "patient_auc"), predictions, samples)

    def expected(rows, patient):
        p, y = predictions.probability[rows], predictions.label[rows]
        mean = [p[patient == one].mean() for one in np.unique(patient)]
        of = [y[patient == one][0] for one in np.unique(patient)]
        return [roc_auc_score(y, p), log_loss(y, p), roc_auc_score(of, mean)]  # classes are of equal size: balanced as it is

    np.testing.assert_allclose(found.value, expected(np.arange(16), predictions.patient))
    assert any(len(np.unique(predictions.case[rows])) < 8 for rows, _ in samples)
    for (rows, draw), values in zip(samples, found.drawn, strict=True):
        np.testing.assert_allclose(values, expected(rows, draw))


def test_an_effect_is_on_minus_off_of_each_seed_and_resample():
    on = [Scores(np.array([1.0, 5.0]), np.array([[1.0, 5.0], [2.0, 7.0]]))]
    off = [Scores(np.array([0.5, 7.0]), np.array([[0.0, 8.0], [0.5, 6.0]]))]
    value, drawn = effect(on, off, np.random.default_rng(0))
    assert value.tolist() == [[0.5, -2.0]] and drawn.tolist() == [[1.0, -3.0], [1.5, 1.0]]


def test_seeds_are_drawn_with_replacement_beside_the_cases():
    """Seeds with effects 0 and 1 whatever the cases: means of two draws are 0, 1/2, 1 with shares 1/4, 1/2, 1/4."""
    nothing = Scores(np.zeros(1), np.zeros((8000, 1)))
    one = Scores(np.ones(1), np.ones((8000, 1)))
    value, drawn = effect([nothing, one], [nothing, nothing], np.random.default_rng(0))
    assert value[:, 0].tolist() == [0, 1]
    found, count = np.unique(drawn, return_counts=True)
    assert found.tolist() == [0, 0.5, 1]
    np.testing.assert_allclose(count / 8000, [0.25, 0.5, 0.25], atol=0.02)


def test_an_interval_holds_its_share_of_the_draws():
    found = interval(7.0, np.arange(1001.0), 0.95)
    assert found == Interval(7.0, pytest.approx(25), pytest.approx(975))


@pytest.mark.parametrize(
    ("low", "high", "of_min", "of_max"),
    [(-0.3, -0.1, "helps", "hurts"), (0.1, 0.3, "hurts", "helps"), (-0.1, 0.1, "nothing", "nothing"), (0, 0.1, "nothing", "nothing"),
     (-0.1, 0, "nothing", "nothing"), (float("nan"), float("nan"), "nothing", "nothing")],
)  # fmt: skip
def test_the_verdict_follows_the_direction_of_the_metric(low, high, of_min, of_max):
    assert verdict("log_loss", Interval(0.0, low, high)) == verdict("patient_brier", Interval(0.0, low, high)) == of_min
    assert verdict("auc", Interval(0.0, low, high)) == verdict("patient_balanced_accuracy", Interval(0.0, low, high)) == of_max


# a study -------------------------------------------------------------------------------------------------------------

NAMES = ("channel attention", "mixup", "focal loss", "balancing", "hierarchical attention")
# logit units by which a trial with the mechanism on is better in every case; the rest are noise about the same
PLANTED = {"channel attention": 1.5, "mixup": -1.5}


def write_trial(study, number, config, predictions, status="done", seconds=1.0):
    folder = study / "trials" / f"{number:04d}"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {"number": number, "params": {}, "config": config.to_dict()})
    line = {"epoch": 1, "seconds": seconds, "score": 0.5, "best_epoch": 1, "fold_epochs": 2, "metrics": {}, "fold_metrics": []}
    (folder / "epochs.jsonl").write_text(json.dumps(line) + "\n")
    columns = {name: getattr(predictions, name) for name in ("label", "patient", "case", "subtype", "fold", "rows")}
    np.savez(folder / "predictions.npz", oof=predictions.probability[None], best_epoch=1, **columns)
    write_status(folder, status, "" if status == "done" else "for this test", 1.0)


def make_ablation(study, metric="log_loss", seeds=3, broken=(), cases=40):
    """`seeds` blocks of a base and one trial a mechanism; `broken`: (block, name of mechanism) that failed."""
    base, rng, number = BASE.with_values({"metric": metric}), np.random.default_rng(0), 0
    for seed in range(seeds):
        for name in (None, *NAMES):
            values, quality, seconds = {"seed": base.seed + seed}, 1.0, 1.0
            if name:
                mechanism = MECHANISMS[name]
                was_on = name != "mixup"
                values |= mechanism.off if was_on else mechanism.on
                quality += PLANTED.get(name, 0.0) * (-1 if was_on else 1)
                seconds = 0.5 if name == "channel attention" else 1.0
            status = "failed" if (seed, name) in broken else "done"
            write_trial(study, number, base.with_values(values), made(rng, quality, cases), status, seconds)
            number += 1
    about = {"format": FORMAT, "verb": "tune", "name": study.name, "config": base.to_dict(), "data": {"synthetic": True}}
    write_json(study / "study.json", about | {"mechanisms": [asdict(MECHANISMS[name]) for name in NAMES]})
    return study


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(ablation, "RESAMPLES", 300)


@pytest.fixture
def make(tmp_path, quick):
    return lambda **options: make_ablation(tmp_path / "ablation", **options)


@pytest.mark.parametrize("metric", ["log_loss", "auc", "patient_auc"])
def test_what_was_planted_is_found_and_the_rest_is_nothing(make, metric):
    report = write_ablation(make(metric=metric))
    assert {row["mechanism"]: row["verdict"] for row in report["rows"]} == {
        "channel attention": "helps",
        "mixup": "hurts",
        "focal loss": "nothing",
        "balancing": "nothing",
        "hierarchical attention": "nothing",
    }
    helped = report["rows"][0]["effect"]
    assert helped["log_loss"]["high_of_all"] < 0 < helped["patient_auc"]["low_of_all"]  # each in its own direction


def test_mechanisms_that_do_nothing_are_rarely_said_to_do_something(quick):
    """60 nulls of 3 seeds at 95 %: 3 would be wrong on average; 8 or more in 1 of 100 such tests."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(60):
        trials = [made(rng, 1.0, cases=30) for _ in range(6)]
        samples = resamples(trials[0].label, trials[0].case, 200, rng)
        judged = [scores(("log_loss",), trial, samples) for trial in trials]
        value, drawn = effect(judged[:3], judged[3:], rng)
        wrong += verdict("log_loss", interval(float(value.mean()), drawn[:, 0], 0.95)) != "nothing"
    assert wrong < 8


def test_an_effect_that_holds_for_one_mechanism_but_not_for_all_at_once_is_nothing(make, monkeypatch):
    drawn = np.linspace(-1.5, 98.5, 1001)  # 1.5 % below zero
    assert verdict("auc", interval(48.5, drawn, 0.95)) == "helps"
    assert verdict("auc", interval(48.5, drawn, 1 - 0.05 / 5)) == "nothing"
    monkeypatch.setattr(ablation, "interval", lambda value, _, confidence: interval(48.5, drawn, confidence))
    assert {row["verdict"] for row in write_ablation(make(metric="auc"))["rows"]} == {"nothing"}


def test_the_report_is_of_the_trials_and_the_verdict_of_the_interval_for_all_at_once(make):
    study = make()
    report = write_ablation(study)
    assert report["metric"] == "log_loss" and report["family"] == pytest.approx(0.99)
    losses = []
    for trial in read_trials(study):
        with np.load(trial.folder / "predictions.npz") as saved:
            losses.append(log_loss(saved["label"], saved["oof"][0]))
    block = 1 + len(NAMES)
    for which, row in enumerate(report["rows"], start=1):
        e = row["effect"]["log_loss"]
        seeds = [losses[s * block + which] - losses[s * block] for s in range(3)]
        np.testing.assert_allclose(e["seeds"], seeds if row["mechanism"] == "mixup" else np.negative(seeds))
        assert e["value"] == pytest.approx(np.mean(e["seeds"]))
        assert e["low_of_all"] <= e["low"] < e["high"] <= e["high_of_all"] and row["pairs"] == 3
        assert row["verdict"] == verdict("log_loss", Interval(e["value"], e["low_of_all"], e["high_of_all"]))
    assert [row["time"] for row in report["rows"]] == [2, 1, 1, 1, 1]  # channel attention: 1 s an epoch on, 0.5 s off


def test_the_seed_of_the_study_decides_every_number(make):
    study = make()
    assert write_ablation(study) == write_ablation(study)


def test_more_metrics_do_not_stand_twice(make):
    assert write_ablation(make(metric="auc"))["metrics"] == ("auc", "log_loss", "patient_auc")


# what is left behind -------------------------------------------------------------------------------------------------


def shown(report, width=80):
    console = Console(width=width, file=io.StringIO())
    print_ablation(report, console)
    return console.file.getvalue()


def test_mechanisms_without_a_finished_pair_are_named_and_the_others_keep_theirs(make):
    study = make(broken=[(0, "balancing"), (1, "balancing"), (2, "balancing"), (1, "mixup"), (2, "focal loss")])
    report = write_ablation(study)
    assert {row["mechanism"]: row["pairs"] for row in report["rows"]} == dict(zip(NAMES, (3, 2, 2, 0, 3), strict=True))
    lines = shown(report).splitlines()
    (line,) = [line for line in lines if line.startswith("balancing")]
    assert line.endswith("no pair") and not any("no pair" in other for other in lines if other != line)
    assert "0 to 3 seed(s)" in shown(report, 300)
    assert "verdict" not in report["rows"][3] and "balancing" not in (study / "results" / "ablation.csv").read_text()


@pytest.mark.parametrize("seeds", [0, 1])
def test_a_study_that_was_stopped_early_has_a_table_all_the_same(make, seeds):
    broken = [(0, name) for name in (None, *NAMES[1:])] if seeds else []
    report = write_ablation(make(seeds=seeds, broken=broken))
    assert [row["pairs"] for row in report["rows"]] == [0] * 5
    assert shown(report).count("no pair") == 5


def test_with_one_seed_there_is_no_spread_over_seeds(make):
    study = make(seeds=1)
    write_ablation(study)
    with (study / "results" / "ablation.csv").open() as file:
        assert {row["log_loss_sd_over_seeds"] for row in csv.DictReader(file)} == {"nan"}


def test_the_tables_hold_what_the_report_says(make):
    study = make()
    report = write_ablation(study)
    results = study / "results"
    assert json.loads((results / "ablation.json").read_text())["rows"] == json.loads(json.dumps(report["rows"]))
    with (results / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["mechanism"] for row in rows] == list(NAMES)
    for row, told in zip(rows, report["rows"], strict=True):
        assert (row["pairs"], row["verdict"], float(row["time_ratio"])) == ("3", told["verdict"], told["time"])
        for metric in ("log_loss", "auc", "patient_auc"):
            e = told["effect"][metric]
            written = [float(row[f"{metric}_{which}"]) for which in ("effect", "low", "high", "low_of_all", "high_of_all", "sd_over_seeds")]
            expected = [*(e[which] for which in ("value", "low", "high", "low_of_all", "high_of_all")), np.std(e["seeds"], ddof=1)]
            assert written == pytest.approx(expected, abs=1e-6)
    for suffix in (".md", ".tex"):
        text = (results / f"ablation{suffix}").read_text()
        assert "SYNTHETIC DATA" in text and "Bonferroni" in text and "lower is better" in text and all(name in text for name in NAMES)
    for suffix in (".png", ".pdf"):
        assert (study / "plots" / f"ablation{suffix}").stat().st_size > 5000


@pytest.mark.parametrize("metric", ["log_loss", "patient_balanced_accuracy"])
def test_the_table_fits_80_columns(make, metric):
    text = shown(write_ablation(make(metric=metric)))
    table = text.split("On minus off")[0]
    assert "SYNTHETIC DATA" in table and "…" not in table
    assert all(name in table for name in NAMES) and table.count("nothing") >= 3


def test_the_longest_names_fit_as_well():
    names = [mechanism.name for mechanism in space(Config()).mechanisms]
    one = {"value": -0.123, "low": -0.234, "high": -0.012}
    rows = [{"mechanism": name, "pairs": 3, "verdict": "nothing", "effect": {"log_loss": one, "patient_auc": one}} for name in names]
    text = shown({"metric": "log_loss", "synthetic": False, "family": 0.99, "rows": rows})
    assert "…" not in text and all(name in text for name in names) and "SYNTHETIC" not in text


# end to end ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_ablation_from_the_command_line_to_its_table_and_further_by_resume(own_cache, tmp_path):
    """The synthetic preset on its own data set: the embedded one, smaller."""
    data = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0)
    environment = os.environ | {"MMNET_CACHE": str(own_cache), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    where = ["--name", "a", "--output", str(tmp_path)]

    def run(*arguments):
        command = [sys.executable, "tune_mmnet.py", *map(str, arguments), *where]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    small = "--config synthetic --image-size 32 --folds 2 --epochs 2 --set model.width=8 --set model.heads=2".split()
    told = run("--data", data, "--space", "ablation", "--trials", 3, "--concurrency", 1, *small)
    assert "rungs     none" in told and "ablation (SYNTHETIC DATA): on − off" in told
    study = tmp_path / "a"
    about = json.loads((study / "study.json").read_text())
    base = Config().with_values(about["config"])
    names = [mechanism.name for mechanism in space(base).mechanisms]
    table = told.split("on − off")[1]
    assert [line.endswith("no pair") for line in table.splitlines() if line.startswith(tuple(names))] == [False] * 2 + [True] * 7

    told = run("--resume", "--trials", 12)
    assert "no pair" not in told and "1 to 2 seed(s)" in " ".join(told.split())
    with (study / "results" / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["mechanism"] for row in rows] == names and [row["pairs"] for row in rows] == ["2"] + ["1"] * 8
    records = read_trials(study)
    assert [record.status for record in records] == ["done"] * 12
    for trial in records:
        config = Config().with_values(trial.config)
        assert space(base).encode(config) == space(base).point(trial.number, base)
    difference = records[0].best["metrics"]["log_loss"] - records[1].best["metrics"]["log_loss"]
    again = records[10].best["metrics"]["log_loss"] - records[11].best["metrics"]["log_loss"]
    assert float(rows[0]["log_loss_effect"]) == pytest.approx((difference + again) / 2, abs=1e-5)
