"""Ensembles: fitted as published, and judged on folds whose labels they never saw."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from analysis.bootstrap import Interval
from analysis.ensembles import (
    METHODS,
    Candidates,
    Fitting,
    Judged,
    cross_fit,
    fit,
    greedy,
    judge,
    mean_of_best,
    prepare,
    print_ensembles,
    read_candidates,
    recommend,
    stacked,
    write_ensembles,
)
from data.errors import InputError
from mmnet.metrics import METRICS, evaluate, evaluate_one
from study.records import read_trials
from tests.analysis.studies import record, run_trial

EVERYONE = np.ones(48, dtype=bool)


def fitting(*probability: list[float], label: list[int], metric: str = "brier") -> Fitting:
    """Every view is a patient of its own."""
    return Fitting(np.array(probability), np.array(label), np.arange(len(label)), np.arange(len(label)) % 2, metric)


def random_candidates(seed: int = 0, trials: int = 6, signal: float = 0.5) -> Candidates:
    """4 folds of 6 patients with 2 views each; trials of 3 or 4 epochs that know something."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(24), 2)
    label, fold = patient % 2, patient // 6
    oof = [1 / (1 + np.exp(-rng.normal(signal * (2 * label - 1), 1, (3 + t % 2, 48)))) for t in range(trials)]
    return Candidates([f"{t:04d}" for t in range(trials)], oof, label, patient, fold)


# methods -------------------------------------------------------------------------------------------------------------


def test_the_mean_of_the_best_weighs_them_equally():
    data = fitting([0.9, 0.1], [0.8, 0.2], [0.7, 0.3], label=[1, 0])
    assert mean_of_best(1)(data).tolist() == [1, 0, 0]
    assert mean_of_best(2)(data).tolist() == [0.5, 0.5, 0]
    assert mean_of_best(10)(data).tolist() == pytest.approx([1 / 3] * 3)


def test_greedy_selection_adds_what_complements_the_best():
    data = fitting([0.9, 0.4, 0.1, 0.4], [0.4, 0.9, 0.4, 0.1], [0.0, 0.0, 1.0, 1.0], label=[1, 1, 0, 0])
    assert greedy(data).tolist() == [0.5, 0.5, 0]  # Brier 0.135 each, 0.0925 together


def test_greedy_selection_draws_with_replacement():
    data = fitting([0.8, 0.3], [0.6, 0.0], label=[1, 0])  # A 0.0650, AB 0.0563, AAB 0.0556, AABB 0.0563, AAABB 0.0554
    assert greedy(data, rounds=2).tolist() == [0.5, 0.5]
    assert greedy(data, rounds=4).tolist() == pytest.approx([2 / 3, 1 / 3])
    assert greedy(data, rounds=5).tolist() == pytest.approx([3 / 5, 2 / 5])


def test_greedy_selection_keeps_the_best_alone_where_nothing_helps():
    data = fitting([0.9, 0.8, 0.1, 0.2], [0.7, 0.3, 0.6, 0.4], label=[1, 1, 0, 0])
    assert greedy(data).tolist() == [1, 0]


@pytest.mark.parametrize("metric", ["log_loss", "auc", "patient_brier", "balanced_accuracy"])
def test_more_rounds_never_cost_greedy_selection_a_better_score_on_what_it_was_fitted_on(metric):
    sign = 1 if METRICS[metric] == "min" else -1
    for seed in range(3):
        candidates = random_candidates(seed)
        _, probability = prepare(candidates, EVERYONE, metric)
        data = Fitting(probability, candidates.label, candidates.patient, candidates.fold, metric)
        scores = [sign * data.score(greedy(data, rounds) @ probability) for rounds in range(1, 12)]
        assert scores[0] == pytest.approx(min(sign * data.score(single) for single in probability))
        assert all(after <= before + 1e-12 for before, after in zip(scores, scores[1:], strict=False))
        if metric == "log_loss":
            assert scores[-1] < scores[0]


def test_stacking_trusts_the_trial_that_knows():
    rng = np.random.default_rng(0)
    label = np.tile([0, 1], 30)
    knows = np.clip(0.5 + 0.3 * (2 * label - 1) + rng.normal(0, 0.15, 60), 0.02, 0.98)
    probability = np.stack([rng.uniform(0.1, 0.9, 60), knows, rng.uniform(0.1, 0.9, 60)])
    combined = stacked(Fitting(probability, label, np.arange(60), np.arange(60) // 12, "log_loss"))
    new = np.array([[0.9, 0.1, 0.5], [0.2, 0.8, 0.5], [0.9, 0.1, 0.5]])
    low, high, middle = combined(new)
    assert low < 0.35 < middle < 0.65 < high


def test_stacking_trials_that_know_nothing_says_nothing():
    """The penalty is chosen on folds left out: the weakest would learn the noise of these 10 trials by heart."""
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.1, 0.9, (10, 60))
    combined = stacked(Fitting(probability, np.tile([0, 1], 30), np.arange(60), np.arange(60) // 12, "log_loss"))
    assert np.abs(combined(probability) - 0.5).max() < 0.1


def test_stacking_can_be_fitted_on_one_fold():
    label = np.array([0, 1, 0, 1])
    combined = stacked(Fitting(np.array([[0.2, 0.8, 0.3, 0.9]]), label, np.arange(4), np.zeros(4, dtype=int), "log_loss"))
    low, high = combined(np.array([[0.1, 0.9]]))
    assert low < 0.5 < high


# honesty -------------------------------------------------------------------------------------------------------------


def test_the_epoch_and_the_order_of_trials_are_those_of_the_fitting_rows():
    good, bad, fair = [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]
    oof = [np.array([good + bad, bad + fair]), np.array([fair + good])]  # two trials, of two epochs and of one; two folds of two views
    candidates = Candidates(["a", "b"], oof, np.array([1, 0, 1, 0]), np.arange(4), np.array([0, 0, 1, 1]))
    first, second = candidates.fold == 0, candidates.fold == 1
    order, probability = prepare(candidates, first, "log_loss")
    assert order.tolist() == [0, 1] and probability.tolist() == [good + bad, fair + good]
    order, probability = prepare(candidates, second, "log_loss")
    assert order.tolist() == [1, 0] and probability.tolist() == [fair + good, bad + fair]
    honest = cross_fit(candidates, "log_loss")["best single"]
    assert honest.tolist() == fair + bad  # each fold by the trial and the epoch that the other chose


@pytest.mark.parametrize(("metric", "fold"), [("log_loss", 0), ("auc", 2), ("patient_balanced_accuracy", 3)])
def test_the_labels_of_a_fold_never_reach_its_own_predictions(metric, fold):
    candidates = random_candidates()
    here = candidates.fold == fold
    flipped = candidates._replace(label=np.where(here, 1 - candidates.label, candidates.label))
    before, after = cross_fit(candidates, metric), cross_fit(flipped, metric)
    assert set(before) == set(METHODS)
    for method in METHODS:
        np.testing.assert_array_equal(before[method][here], after[method][here], err_msg=method)
        assert (before[method] != after[method]).any()  # they do reach the other folds


def test_nothing_of_a_fold_moves_the_weights_that_judge_it():
    candidates = random_candidates()
    here = candidates.fold == 0
    turned = candidates._replace(
        oof=[np.where(here, 1 - oof, oof) for oof in candidates.oof], label=np.where(here, 1 - candidates.label, candidates.label)
    )
    for method, (combined, weights) in fit(candidates, ~here, "log_loss").items():
        combined_after, weights_after = fit(turned, ~here, "log_loss")[method]
        np.testing.assert_array_equal(weights, weights_after)
        np.testing.assert_array_equal(combined[~here], combined_after[~here])


def test_where_no_trial_knows_anything_only_the_optimistic_figure_says_otherwise():
    honest, optimistic = {method: [] for method in METHODS}, {method: [] for method in METHODS}
    for seed in range(16):
        candidates = random_candidates(seed, trials=8, signal=0.0)
        crossed, whole = cross_fit(candidates, "auc"), fit(candidates, EVERYONE, "auc")
        for method in METHODS:
            for found, probability in ((honest, crossed[method]), (optimistic, whole[method][0])):
                found[method].append(evaluate_one("auc", probability, candidates.label, candidates.patient))
    for method in METHODS:
        assert abs(np.mean(honest[method]) - 0.5) < 3 * np.std(honest[method]) / 4  # three standard errors of 16 studies
        assert np.mean(optimistic[method]) - 0.5 > 6 * np.std(optimistic[method]) / 4


def test_a_method_is_judged_by_what_was_cross_fitted_and_by_what_was_fitted_on_everything():
    candidates = random_candidates()
    label, patient = candidates.label, candidates.patient
    honest, whole = cross_fit(candidates, "log_loss"), fit(candidates, EVERYONE, "log_loss")
    for row in judge(candidates, "log_loss", np.random.default_rng(0)):
        assert row.honest == evaluate(honest[row.method], label, patient)
        assert row.optimistic == evaluate(whole[row.method][0], label, patient)
        single = evaluate_one("log_loss", honest["best single"], label, patient)
        assert row.difference.value == pytest.approx(row.honest["log_loss"] - single)
        assert row.difference.low <= row.difference.value <= row.difference.high
        # stacking is no weighted mean
        assert row.weights == {} if row.method == "stacked logistic" else sum(row.weights.values()) == pytest.approx(1, abs=1e-3)


# the verdict ---------------------------------------------------------------------------------------------------------


def verdict(metric: str, single: float, other: float, interval: tuple[float, float]) -> tuple[str, str]:
    rows = [
        Judged("best single", {metric: single}, {}, Interval(0, 0, 0), {}),
        Judged("greedy selection", {metric: other}, {}, Interval(other - single, *interval), {}),
    ]
    best, words = recommend(rows, metric)
    return best.method, words


@pytest.mark.parametrize(("metric", "sign"), [("log_loss", 1), ("auc", -1)])
def test_the_verdict_says_how_sure_it_is(metric, sign):
    def low_to_high(a: float, b: float) -> tuple[float, float]:
        return (min(sign * a, sign * b), max(sign * a, sign * b))

    assert verdict(metric, 0.5, 0.5 + sign * 0.1, low_to_high(0.05, 0.15)) == ("best single", "no ensemble beats the best single trial")
    assert verdict(metric, 0.5, 0.5, (-0.1, 0.1))[0] == "best single"
    assert verdict(metric, 0.5, 0.5 - sign * 0.1, low_to_high(-0.15, -0.05)) == (
        "greedy selection",
        "greedy selection beats the best single trial, and the interval of the difference excludes 0",
    )
    assert verdict(metric, 0.5, 0.5 - sign * 0.1, low_to_high(-0.3, 0.1)) == (
        "greedy selection",
        "greedy selection has the best honest score, but cannot be told from the best single trial on these patients",
    )


# studies -------------------------------------------------------------------------------------------------------------


def test_trials_on_other_views_without_a_score_or_predictions_are_left_out(tmp_path):
    views = {name: np.arange(4) for name in ("label", "patient", "fold")} | {"rows": np.arange(8).reshape(4, 2)}
    kept = {"0000": views, "0001": views | {"rows": np.arange(4)[:, None]}, "0002": views, "0003": views}
    records = [replace(record(n, [0.6, 0.5]), folder=tmp_path / f"{n:04d}") for n in range(5)]
    records[3] = replace(records[3], status="failed")
    for trial, arrays in kept.items():
        (tmp_path / trial).mkdir()
        np.savez(tmp_path / trial / "predictions.npz", oof=np.full((2, 4), 0.5, dtype=np.float32), **arrays)
    candidates = read_candidates(records)
    assert candidates.names == ["0000", "0002"]
    assert [oof.shape for oof in candidates.oof] == [(2, 4)] * 2 and candidates.fold.tolist() == [0, 1, 2, 3]
    with pytest.raises(InputError, match="no trial has predictions on record"):
        read_candidates(records[4:])


def test_two_trials_are_too_few(study):
    with pytest.raises(InputError, match=r"2 trial\(s\) with predictions; expected at least 3"):
        write_ensembles(study)


def test_the_report_of_a_study_names_a_method_and_the_trials_in_it(study):
    run_trial(study, 6, {"optim.lr": 1e-2}, "done", epochs=3)
    (study / "results").mkdir()
    report = write_ensembles(study)
    written = json.loads((study / "results" / "ensembles.json").read_text())
    assert written["trials"] == 3 and written["synthetic"] and written["recommended"] in METHODS
    assert [row["method"] for row in written["methods"]] == list(METHODS)
    best = min((r for r in read_trials(study) if r.ranked), key=lambda r: r.score)
    assert written["methods"][0]["weights"] == {best.name: 1.0}
    assert written["methods"][0]["optimistic"]["log_loss"] == pytest.approx(best.score)
    out = io.StringIO()
    print_ensembles(report, Console(file=out, width=80))
    text = out.getvalue()
    assert "SYNTHETIC DATA" in text and "ensembles of 3 trials" in text and "…" not in text and report["why"] in text
    assert f"{report['recommended']} *" in text
