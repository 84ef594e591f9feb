"""The choice of a metric by hold-outs: its metrics are the product's, its splits keep patients apart, and it finds what was planted."""

import json
import sys

import numpy as np
import pytest

from bench import objective
from bench.objective import REFERENCE, cohorts, hold_outs, load, make_table, split
from mmnet.metrics import METRICS, evaluate

PATIENTS, TILES = 10, 4
LABEL = np.repeat(np.arange(PATIENTS) % 2, TILES)
NAMES = np.repeat([f"{100 + number}" for number in range(PATIENTS)], TILES)
SLIDE = np.array([name + "AAAB"[place % TILES] for place, name in enumerate(NAMES)])  # two slides a patient, of three tiles and of one
EVERY = np.ones(PATIENTS, dtype=int)


def predictions(count=6, epochs=3, seed=0):
    """Eighths, so that many are equal, and float32 has no other ones."""
    return (np.random.default_rng(seed).integers(1, 8, (count, epochs, len(LABEL))) / 8).astype(np.float32)


def test_metrics_are_those_of_the_product():
    probability = predictions()
    table = make_table(probability, probability[:, -1:], LABEL, NAMES)
    for metric in METRICS:
        expected = [[evaluate(one, LABEL, NAMES)[metric] for one in epochs] for epochs in probability]
        np.testing.assert_allclose(table.scores(metric, EVERY, np.arange(6)), expected, rtol=1e-4, atol=1e-5, err_msg=metric)


@pytest.mark.parametrize("metric", METRICS)
def test_a_patient_that_was_drawn_twice_counts_as_two_and_one_that_was_not_as_none(metric):
    probability, drawn = predictions(), np.array([2, 1, 0, 0, 1, 3, 1, 0, 1, 1])
    table = make_table(probability, probability[:, -1:], LABEL, NAMES)
    rows = np.concatenate([np.flatnonzero(NAMES == f"{100 + number}") for number, times in enumerate(drawn) for _ in range(times)])
    copies = np.concatenate([np.repeat(f"c{copy}", TILES) for copy in range(drawn.sum())])
    patient = np.char.add(NAMES[rows], copies)
    expected = [[evaluate(one[rows], LABEL[rows], patient)[metric] for one in epochs] for epochs in probability]
    np.testing.assert_allclose(table.scores(metric, drawn, np.arange(6)), expected, rtol=1e-4, atol=1e-5)


def test_a_split_keeps_every_patient_on_one_side_and_both_classes_on_both():
    patient_label, rng = np.arange(PATIENTS) % 2, np.random.default_rng(0)
    for drawn in [EVERY, *cohorts(patient_label, 20, rng)]:
        choosing, judging = split(patient_label, drawn, rng)
        assert (choosing + judging == drawn).all() and not (choosing * judging).any()
        assert all((part[patient_label == value] > 0).any() for part in (choosing, judging) for value in (0, 1))


def test_a_cohort_has_as_many_patients_of_each_class_as_there_are():
    patient_label = np.array([0, 0, 0, 1, 1, 1, 1])
    for drawn in cohorts(patient_label, 20, np.random.default_rng(0)):
        assert drawn[patient_label == 0].sum() == 3 and drawn[patient_label == 1].sum() == 4


def test_a_metric_that_sees_what_holds_chooses_better_than_one_that_does_not():
    """Configuration 0 is right everywhere; all others decide alike and are worse by probability, which accuracy cannot see."""
    truth = np.where(LABEL == 1, 0.95, 0.05)
    vague = np.where(LABEL == 1, 0.51, 0.49)
    probability = np.stack([truth, *[vague] * 5])[:, None].astype(np.float32)
    table = make_table(probability, probability, LABEL, NAMES)
    found = hold_outs(table, EVERY, 5, 20, np.random.default_rng(0))
    brier = objective.JUDGES.index("brier")
    assert found[REFERENCE][:, :, brier].mean() < found[objective.NOTHING][:, :, brier].mean()
    assert found[REFERENCE][:, :, brier].mean() < found["accuracy"][:, :, brier].mean()


def test_the_last_networks_are_judged_where_the_best_epoch_was_luck():
    """Its best epoch is the first one, but what holds is the last."""
    good, bad = np.where(LABEL == 1, 0.9, 0.1), np.where(LABEL == 1, 0.6, 0.4)
    probability = np.stack([np.stack([good, bad])] * 2).astype(np.float32)
    table = make_table(probability, probability[:, -1:], LABEL, NAMES)
    found = hold_outs(table, EVERY, 2, 3, np.random.default_rng(0))
    brier = objective.JUDGES.index("brier")
    np.testing.assert_allclose(found[REFERENCE][:, 0, brier], 0.01, atol=1e-6)
    for name in (objective.ITS_LAST, objective.BY_LAST):
        np.testing.assert_allclose(found[name][:, 0, brier], 0.16, atol=1e-6)


def test_a_patient_with_slides_of_both_classes_counts_once_in_each():
    names = np.where(np.isin(NAMES, ("100", "101")), "100", NAMES)  # numbers 100 and 101, one benign and one malignant, are one person
    probability = predictions()
    table = make_table(probability, probability[:, -1:], LABEL, names)
    assert len(table.patient_label) == PATIENTS - 1 and len(table.patients.label) == PATIENTS
    for metric in METRICS:
        expected = [[evaluate(one, LABEL, names)[metric] for one in epochs] for epochs in probability]
        found = table.scores(metric, np.ones(PATIENTS - 1, dtype=int), np.arange(6))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=metric)


def test_a_table_with_slides_only_has_its_patients_by_their_numbers(tmp_path, monkeypatch, capsys):
    arrays = {"oof": predictions(), "oof_replicate": predictions()[:, -1], "label": LABEL}
    folder = np.array([f"SOB_B_{'AF'[place % 2]}_14-{name}" for place, name in enumerate(SLIDE)])  # of two subtypes
    for name, columns in {
        "slides": {"slide": SLIDE},
        "folders": {"slide": folder},
        "earlier": {"slide": SLIDE, "case": NAMES},  # what an earlier version called a patient
        "patients": {"slide": SLIDE, "patient": NAMES},
    }.items():
        np.savez(tmp_path / f"{name}.npz", config=[json.dumps({})] * 6, **columns, **arrays)
    tables = [load(path) for path in sorted(tmp_path.iterdir())]
    assert len(tables) == 4 and all(len(table.patient_label) == PATIENTS for table in tables)
    assert all((table.views.patient == tables[0].views.patient).all() for table in tables)
    monkeypatch.setattr(
        sys, "argv", ["objective", str(tmp_path / "patients.npz"), *"--splits 3 --cohorts 2 --splits-a-cohort 2 --configurations 4".split()]
    )
    objective.main()
    text = capsys.readouterr().out
    assert "6 configurations, 10 patients (5 benign); best of 4 configurations, 3 splits" in text
    assert text.count("  patient_auc ") == len(objective.JUDGES)
