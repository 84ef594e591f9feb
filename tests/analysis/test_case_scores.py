"""Weights of cases give the metrics of mmnet.metrics: of everyone, of cases drawn several times, and worked by hand."""

import numpy as np
import pytest

from analysis.bootstrap import jackknife_weights, resamples
from analysis.case_scores import BLOCK, case_scores, weighted_scores
from mmnet.metrics import METRICS, evaluate_one

# 10 cases of 1 to 4 views; case 3 has two patients; probabilities in tenths, so that ties occur
CASE = np.repeat([f"c{n}" for n in range(10)], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2])
PATIENT = np.where((CASE == "c3") & (np.arange(len(CASE)) % 2 == 0), "c3b", CASE)
LABEL = (np.char.lstrip(CASE, "c").astype(int) < 4).astype(int)
PROBABILITY = np.random.default_rng(0).integers(1, 10, (3, len(CASE))) / 10


@pytest.mark.parametrize("metric", METRICS)
def test_equal_weights_give_the_metric_itself(metric):
    found = case_scores(metric, PROBABILITY, LABEL, PATIENT, CASE).scores(np.ones((1, 10)))[:, 0]
    assert found == pytest.approx([evaluate_one(metric, row, LABEL, PATIENT) for row in PROBABILITY])


@pytest.mark.parametrize("metric", METRICS)
def test_a_weight_is_how_often_a_case_is_drawn(metric):
    number = np.unique(PATIENT, return_inverse=True)[1]
    case = np.unique(CASE, return_inverse=True)[1]
    for rows, draw in resamples(LABEL, CASE, 5, np.random.default_rng(1)):
        weights = np.bincount([case[rows[draw == d][0]] for d in range(10)], minlength=10)[None].astype(float)
        drawn = [evaluate_one(metric, row[rows], LABEL[rows], draw * 100 + number[rows]) for row in PROBABILITY]
        assert case_scores(metric, PROBABILITY, LABEL, PATIENT, CASE).scores(weights)[:, 0] == pytest.approx(drawn)


def test_the_auc_by_hand():
    # positives 0.6 (case a, weight 2), 0.4 (b); negatives 0.4 (c), 0.7 (d, weight 3): wins 2 x 1, tie 1 x 1 / 2, of 3 x 4 pairs
    scores = case_scores("auc", np.array([[0.6, 0.4, 0.4, 0.7]]), np.array([1, 1, 0, 0]), np.arange(4), np.array(list("abcd")))
    assert scores.scores(np.array([[2.0, 1, 1, 3]]))[0, 0] == pytest.approx(2.5 / 12)


def test_a_class_without_weight_has_no_score():
    weights = LABEL[np.unique(CASE, return_index=True)[1]][None].astype(float)
    for metric in ("log_loss", "auc", "patient_auc"):
        assert np.isnan(case_scores(metric, PROBABILITY, LABEL, PATIENT, CASE).scores(weights)).all()


@pytest.mark.parametrize("metric", ["auc", "brier"])
def test_more_configurations_than_are_held_at_once_change_nothing(metric):
    many = np.random.default_rng(2).integers(1, 10, (2 * BLOCK + 3, len(CASE))) / 10
    weights = jackknife_weights(10)
    whole = case_scores(metric, many, LABEL, PATIENT, CASE).scores(weights)
    assert weighted_scores(metric, many, LABEL, PATIENT, CASE, weights) == pytest.approx(whole)
