"""Weights of patients give the metrics of mmnet.metrics: of everyone, of patients drawn several times, and worked by hand."""

import numpy as np
import pytest

from analysis.bootstrap import jackknife_weights, resamples
from analysis.patient_scores import BLOCK, patient_scores, weighted_scores
from mmnet.metrics import METRICS, evaluate_one, log_loss, patient_mean, recalibrated

# 10 patients of 1 to 4 views; probabilities in tenths, so that ties occur
PATIENT = np.repeat([f"p{n}" for n in range(10)], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2])
LABEL = (np.char.lstrip(PATIENT, "p").astype(int) < 4).astype(int)
PROBABILITY = np.random.default_rng(0).integers(1, 10, (3, len(PATIENT))) / 10


@pytest.mark.parametrize("metric", METRICS)
def test_equal_weights_give_the_metric_itself(metric):
    found = patient_scores(metric, PROBABILITY, LABEL, PATIENT).scores(np.ones((1, 10)))[:, 0]
    assert found == pytest.approx([evaluate_one(metric, row, LABEL, PATIENT) for row in PROBABILITY])


REFINEMENT = ("refinement", "patient_refinement")


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in REFINEMENT])
def test_a_weight_is_how_often_a_patient_is_drawn(metric):
    patient = np.unique(PATIENT, return_inverse=True)[1]
    for rows, draw in resamples(LABEL, PATIENT, 5, np.random.default_rng(1)):
        weights = np.bincount([patient[rows[draw == d][0]] for d in range(10)], minlength=10)[None].astype(float)
        drawn = [evaluate_one(metric, row[rows], LABEL[rows], draw) for row in PROBABILITY]
        assert patient_scores(metric, PROBABILITY, LABEL, PATIENT).scores(weights)[:, 0] == pytest.approx(drawn)


def test_refinement_keeps_the_slope_and_bias_of_all_patients_which_are_never_better_than_those_of_a_sample():
    patient = np.unique(PATIENT, return_inverse=True)[1]
    for rows, draw in resamples(LABEL, PATIENT, 20, np.random.default_rng(1)):
        patients = [patient[rows[draw == d][0]] for d in range(10)]
        weights = np.bincount(patients, minlength=10)[None].astype(float)
        found = {name: patient_scores(name, PROBABILITY, LABEL, PATIENT).scores(weights)[:, 0] for name in REFINEMENT}
        for number, row in enumerate(PROBABILITY):
            mean, first = patient_mean(row, LABEL, PATIENT)
            label = LABEL[first]
            assert found["refinement"][number] == pytest.approx(log_loss(recalibrated(row, LABEL)[rows], LABEL[rows]))
            assert found["patient_refinement"][number] == pytest.approx(log_loss(recalibrated(mean, label)[patients], label[patients]))
        for name, values in found.items():
            anew = [evaluate_one(name, row[rows], LABEL[rows], draw) for row in PROBABILITY]
            assert (values >= np.array(anew) - 1e-4).all()


def test_a_slope_and_bias_fitted_anew_would_move_the_refinement_of_many_patients_little():
    rng = np.random.default_rng(3)
    label = np.arange(200) % 2
    probability = np.clip(0.5 + 0.15 * (2 * label - 1) + rng.normal(0, 0.2, 200), 0.02, 0.98)
    scores = patient_scores("refinement", probability[None], label, np.arange(200))
    moved, fitted = [], []
    for rows, draw in resamples(label, np.arange(200), 50, rng):
        moved.append(scores.scores(np.bincount(rows, minlength=200)[None].astype(float))[0, 0])
        fitted.append(evaluate_one("refinement", probability[rows], label[rows], draw))
    assert np.std(moved) == pytest.approx(np.std(fitted), rel=0.1) and np.mean(moved) - np.mean(fitted) < 0.2 * np.std(moved)


def test_the_auc_by_hand():
    # positives 0.6 (patient a, weight 2), 0.4 (b); negatives 0.4 (c), 0.7 (d, weight 3): wins 2 x 1, tie 1 x 1 / 2, of 3 x 4 pairs
    scores = patient_scores("auc", np.array([[0.6, 0.4, 0.4, 0.7]]), np.array([1, 1, 0, 0]), np.array(list("abcd")))
    assert scores.scores(np.array([[2.0, 1, 1, 3]]))[0, 0] == pytest.approx(2.5 / 12)


def test_a_class_without_weight_has_no_score():
    weights = LABEL[np.unique(PATIENT, return_index=True)[1]][None].astype(float)
    for metric in ("log_loss", "auc", "patient_auc"):
        assert np.isnan(patient_scores(metric, PROBABILITY, LABEL, PATIENT).scores(weights)).all()


@pytest.mark.parametrize("metric", ["auc", "brier"])
def test_more_configurations_than_are_held_at_once_change_nothing(metric):
    many = np.random.default_rng(2).integers(1, 10, (2 * BLOCK + 3, len(PATIENT))) / 10
    weights = jackknife_weights(10)
    whole = patient_scores(metric, many, LABEL, PATIENT).scores(weights)
    assert weighted_scores(metric, many, LABEL, PATIENT, weights) == pytest.approx(whole)
