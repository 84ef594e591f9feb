"""The choice of a metric by hold-outs: its metrics are the product's, its splits keep cases apart, and it finds what was planted."""

import json
import sys

import numpy as np
import pytest

from bench import objective
from bench.objective import REFERENCE, cohorts, hold_outs, load, make_table, split
from mmnet.metrics import METRICS, evaluate

CASES, TILES = 10, 4
LABEL = np.repeat(np.arange(CASES) % 2, TILES)
NAMES = np.repeat([f"{100 + case}" for case in range(CASES)], TILES)
SLIDE = np.array([name + "AB"[place % 2] for place, name in enumerate(NAMES)])  # two slides a case
EVERY = np.ones(CASES, dtype=int)


def predictions(count=6, epochs=3, seed=0):
    """Eighths, so that many are equal, and float32 has no other ones."""
    return (np.random.default_rng(seed).integers(1, 8, (count, epochs, len(LABEL))) / 8).astype(np.float32)


def test_metrics_are_those_of_the_product():
    probability = predictions()
    table = make_table(probability, probability[:, -1:], LABEL, SLIDE, NAMES)
    for metric in METRICS:
        expected = [[evaluate(one, LABEL, SLIDE)[metric] for one in epochs] for epochs in probability]
        np.testing.assert_allclose(table.scores(metric, EVERY, np.arange(6)), expected, rtol=1e-4, atol=1e-5, err_msg=metric)


@pytest.mark.parametrize("metric", METRICS)
def test_a_case_that_was_drawn_twice_counts_as_two_and_one_that_was_not_as_none(metric):
    probability, drawn = predictions(), np.array([2, 1, 0, 0, 1, 3, 1, 0, 1, 1])
    table = make_table(probability, probability[:, -1:], LABEL, SLIDE, NAMES)
    rows = np.concatenate([np.flatnonzero(NAMES == f"{100 + case}") for case, times in enumerate(drawn) for _ in range(times)])
    copies = np.concatenate([np.repeat(f"c{copy}", TILES) for copy in range(drawn.sum())])
    patient = np.char.add(SLIDE[rows], copies)
    expected = [[evaluate(one[rows], LABEL[rows], patient)[metric] for one in epochs] for epochs in probability]
    np.testing.assert_allclose(table.scores(metric, drawn, np.arange(6)), expected, rtol=1e-4, atol=1e-5)


def test_a_split_keeps_every_case_on_one_side_and_both_classes_on_both():
    case_label, rng = np.arange(CASES) % 2, np.random.default_rng(0)
    for drawn in [EVERY, *cohorts(case_label, 20, rng)]:
        choosing, judging = split(case_label, drawn, rng)
        assert (choosing + judging == drawn).all() and not (choosing * judging).any()
        assert all((part[case_label == value] > 0).any() for part in (choosing, judging) for value in (0, 1))


def test_a_cohort_has_as_many_cases_of_each_class_as_there_are():
    case_label = np.array([0, 0, 0, 1, 1, 1, 1])
    for drawn in cohorts(case_label, 20, np.random.default_rng(0)):
        assert drawn[case_label == 0].sum() == 3 and drawn[case_label == 1].sum() == 4


def test_a_metric_that_sees_what_holds_chooses_better_than_one_that_does_not():
    """Configuration 0 is right everywhere; all others decide alike and are worse by probability, which accuracy cannot see."""
    truth = np.where(LABEL == 1, 0.95, 0.05)
    vague = np.where(LABEL == 1, 0.51, 0.49)
    probability = np.stack([truth, *[vague] * 5])[:, None].astype(np.float32)
    table = make_table(probability, probability, LABEL, SLIDE, NAMES)
    found = hold_outs(table, EVERY, 5, 20, np.random.default_rng(0))
    brier = objective.JUDGES.index("brier")
    assert found[REFERENCE][:, :, brier].mean() < found[objective.NOTHING][:, :, brier].mean()
    assert found[REFERENCE][:, :, brier].mean() < found["accuracy"][:, :, brier].mean()


def test_the_last_networks_are_judged_where_the_best_epoch_was_luck():
    """Its best epoch is the first one, but what holds is the last."""
    good, bad = np.where(LABEL == 1, 0.9, 0.1), np.where(LABEL == 1, 0.6, 0.4)
    probability = np.stack([np.stack([good, bad])] * 2).astype(np.float32)
    table = make_table(probability, probability[:, -1:], LABEL, SLIDE, NAMES)
    found = hold_outs(table, EVERY, 2, 3, np.random.default_rng(0))
    brier = objective.JUDGES.index("brier")
    np.testing.assert_allclose(found[REFERENCE][:, 0, brier], 0.01, atol=1e-6)
    for name in (objective.ITS_LAST, objective.BY_LAST):
        np.testing.assert_allclose(found[name][:, 0, brier], 0.16, atol=1e-6)


def test_a_table_with_slides_only_has_its_cases_by_their_numbers(tmp_path, monkeypatch, capsys):
    arrays = {"oof": predictions(), "oof_replicate": predictions()[:, -1], "label": LABEL, "slide": SLIDE}
    np.savez(tmp_path / "a.npz", config=[json.dumps({})] * 6, **arrays)
    np.savez(tmp_path / "b.npz", config=[json.dumps({})] * 6, case=NAMES, **arrays)
    one, other = load(tmp_path / "a.npz"), load(tmp_path / "b.npz")
    assert (one.views.case == other.views.case).all() and len(one.case_label) == CASES
    monkeypatch.setattr(
        sys, "argv", ["objective", str(tmp_path / "b.npz"), *"--splits 3 --cohorts 2 --splits-a-cohort 2 --configurations 4".split()]
    )
    objective.main()
    text = capsys.readouterr().out
    assert "6 configurations, 10 cases (5 benign); best of 4 configurations, 3 splits" in text
    assert text.count("  patient_auc ") == len(objective.JUDGES)
