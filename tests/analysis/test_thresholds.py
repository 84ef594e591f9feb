"""Thresholds: each rule cuts where it says, and no fold is called by a threshold that it chose."""

import csv
import io
import json
from fractions import Fraction

import numpy as np
import pytest
from rich.console import Console

from analysis.predictions import LEVELS, Level
from analysis.thresholds import (
    RULES,
    cross_fit,
    max_balanced_accuracy,
    max_f1,
    print_thresholds,
    target_sensitivity,
    threshold_reports,
    write_thresholds,
)

PROBABILITY = np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.8])
LABEL = np.array([0, 0, 1, 0, 1, 1])


def f1(called: np.ndarray, label: np.ndarray) -> Fraction:
    return Fraction(2 * int((called & (label == 1)).sum()), int(called.sum() + label.sum()))


def sensitivity(called: np.ndarray, label: np.ndarray) -> Fraction:
    return Fraction(int((called & (label == 1)).sum()), int(label.sum()))


def balanced_accuracy(called: np.ndarray, label: np.ndarray) -> Fraction:
    return (sensitivity(called, label) + sensitivity(~called, 1 - label)) / 2


def cuts(probability: np.ndarray) -> list[np.ndarray]:
    """All ways to call, from none to all."""
    return [probability >= cut for cut in (np.inf, *np.unique(probability)[::-1])]


def random_predictions(seed: int, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """With both classes and with ties."""
    rng = np.random.default_rng(seed)
    size = size or int(rng.integers(4, 25))
    label = rng.permutation(np.r_[0, 1, rng.integers(0, 2, size - 2)])
    return rng.integers(0, 12, size) / 12, label


def random_level(seed: int, folds: int = 5, each: int = 12, signal: float = 0.0) -> Level:
    """Both classes in every fold; without signal the labels mean nothing."""
    rng = np.random.default_rng(seed)
    label = np.tile([0, 1], folds * each // 2)
    name = np.arange(len(label))
    probability = np.clip(rng.random(len(label)) + signal * (label - 0.5), 0, 1)
    return Level(probability, label, name, name, np.repeat(np.arange(folds), each), np.zeros_like(label))


# rules ---------------------------------------------------------------------------------------------------------------


def test_max_f1_by_hand():
    assert max_f1(PROBABILITY, LABEL) == pytest.approx(0.25)  # 6/7 at 0.3, against 4/5 at 0.6: half way from 0.3 to 0.2


def test_max_balanced_accuracy_takes_the_highest_of_equals():
    assert max_balanced_accuracy(PROBABILITY, LABEL) == pytest.approx(0.5)  # 5/6 at 0.3 and at 0.6


def test_target_sensitivity_by_hand():
    assert target_sensitivity(PROBABILITY, LABEL) == pytest.approx(0.25)  # all three
    assert target_sensitivity(PROBABILITY, LABEL, target=0.6) == pytest.approx(0.5)  # two of three
    assert target_sensitivity(PROBABILITY, LABEL, target=0.1) == pytest.approx(0.7)  # one


def test_the_lowest_cut_is_the_lowest_probability_itself():
    assert max_f1(np.array([0.3, 0.7]), np.array([1, 1])) == 0.3


def test_predictions_that_are_upside_down_are_best_not_called_at_all():
    probability = np.array([0.1, 0.9])
    assert max_balanced_accuracy(probability, np.array([1, 0])) > 0.9


@pytest.mark.parametrize(("rule", "score"), [(max_f1, f1), (max_balanced_accuracy, balanced_accuracy)])
def test_a_rule_calls_as_the_highest_of_the_best_of_all_cuts(rule, score):
    for seed in range(100):
        probability, label = random_predictions(seed)
        best = max(cuts(probability), key=lambda called: score(called, label))  # noqa: B023 - called at once; the first of equals
        assert np.array_equal(probability >= rule(probability, label), best), seed


@pytest.mark.parametrize("target", [0.5, 0.8, 0.95, 1.0])
def test_target_sensitivity_is_the_highest_cut_that_reaches_it(target):
    for seed in range(60):
        probability, label = random_predictions(seed, size=seed + 4)
        wanted = Fraction(str(target))
        first = next(called for called in cuts(probability) if sensitivity(called, label) >= wanted)
        assert np.array_equal(probability >= target_sensitivity(probability, label, target), first), seed


# honest and optimistic -----------------------------------------------------------------------------------------------


def test_a_fold_is_cut_where_the_others_chose():
    level = random_level(0, signal=0.3)
    for rule in RULES.values():
        threshold = cross_fit(rule, level)
        for fold in range(5):
            others = level.fold != fold
            assert (threshold[~others] == rule(level.probability[others], level.label[others])).all()


@pytest.mark.parametrize("name", RULES)
def test_nothing_of_a_fold_moves_its_own_threshold(name):
    level = random_level(0, signal=0.3)
    here = level.fold == 2
    flipped = level._replace(
        probability=np.where(here, 1 - level.probability, level.probability), label=np.where(here, 1 - level.label, level.label)
    )
    before, after = cross_fit(RULES[name], level), cross_fit(RULES[name], flipped)
    assert np.array_equal(before[here], after[here])
    assert (before != after).any() == (name != "0.5")  # it does move those of others


def test_a_report_calls_honestly_optimistically_and_pooled():
    level = random_level(0, signal=0.3)
    for report in threshold_reports(level):
        rule = RULES[report.rule]
        own = np.empty(len(level.label))
        for fold in range(5):
            here = level.fold == fold
            own[here] = rule(level.probability[here], level.label[here])
        honest, pooled = cross_fit(rule, level), rule(level.probability, level.label)
        assert (report.threshold, report.lowest, report.highest) == (pooled, honest.min(), honest.max())
        for metrics, threshold in ((report.honest, honest), (report.optimistic, own), (report.pooled, pooled)):
            called = level.probability >= threshold
            assert metrics["f1"] == pytest.approx(float(f1(called, level.label)))
            assert metrics["balanced_accuracy"] == pytest.approx(float(balanced_accuracy(called, level.label)))


def test_where_nothing_is_known_only_the_optimistic_figure_says_otherwise():
    reports = [threshold_reports(random_level(seed)) for seed in range(60)]
    index = list(RULES).index("max bal. acc.")
    honest, optimistic, pooled = (
        np.mean([getattr(report[index], way)["balanced_accuracy"] for report in reports]) for way in ("honest", "optimistic", "pooled")
    )
    assert honest == pytest.approx(0.5, abs=0.02)
    assert optimistic > 0.6 and optimistic > pooled > honest


# what is written -----------------------------------------------------------------------------------------------------


def test_every_rule_stands_in_the_files_and_tables_of_every_level(study):
    (study / "results").mkdir()
    report = write_thresholds(study)
    assert json.loads((study / "results" / "thresholds.json").read_text())["synthetic"]
    with (study / "results" / "thresholds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["level"], row["rule"]) for row in rows] == [(level, rule) for level in LEVELS for rule in RULES]
    for row in rows:
        found = next(one for one in report["levels"][row["level"]] if one["rule"] == row["rule"])
        for way in ("honest", "optimistic", "pooled"):
            assert float(row[f"sensitivity_{way}"]) == pytest.approx(found[way]["sensitivity"], abs=1e-6)
        assert float(row["threshold"]) == pytest.approx(found["threshold"], abs=1e-6)
    out = io.StringIO()
    print_thresholds(report, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert sum("SYNTHETIC DATA" in line for line in lines) == len(LEVELS) and "…" not in out.getvalue()
    assert sum(line.startswith("max F1") for line in lines) == len(LEVELS)
