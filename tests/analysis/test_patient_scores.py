"""Weights of patients give the metrics of mmnet.metrics: of everyone, of patients drawn several times, and worked by hand."""

import numpy as np
import pytest

from analysis.bootstrap import jackknife_weights, resamples
from analysis.patient_scores import BLOCK, patient_scores, weighted_scores
from mmnet.metrics import METRICS, evaluate_one

# 10 patients of 1 to 4 views; probabilities in tenths, so that ties occur
PATIENT = np.repeat([f"p{n}" for n in range(10)], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2])
LABEL = (np.char.lstrip(PATIENT, "p").astype(int) < 4).astype(int)
PROBABILITY = np.random.default_rng(0).integers(1, 10, (3, len(PATIENT))) / 10


@pytest.mark.parametrize("metric", METRICS)
def test_equal_weights_give_the_metric_itself(metric):
    found = patient_scores(metric, PROBABILITY, LABEL, PATIENT).scores(np.ones((1, 10)))[:, 0]
    assert found == pytest.approx([evaluate_one(metric, row, LABEL, PATIENT) for row in PROBABILITY])


@pytest.mark.parametrize("metric", METRICS)
def test_a_weight_is_how_often_a_patient_is_drawn(metric):
    patient = np.unique(PATIENT, return_inverse=True)[1]
    for rows, draw in resamples(LABEL, PATIENT, 5, np.random.default_rng(1)):
        weights = np.bincount([patient[rows[draw == d][0]] for d in range(10)], minlength=10)[None].astype(float)
        drawn = [evaluate_one(metric, row[rows], LABEL[rows], draw) for row in PROBABILITY]
        assert patient_scores(metric, PROBABILITY, LABEL, PATIENT).scores(weights)[:, 0] == pytest.approx(drawn)


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
