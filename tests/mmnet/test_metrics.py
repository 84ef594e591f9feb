"""Metrics against scikit-learn, over views and over patients."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, log_loss, roc_auc_score
from sklearn.metrics import confusion_matrix as reference_confusion
from sklearn.utils.class_weight import compute_sample_weight

from mmnet.metrics import METRICS, confusion_matrix, evaluate, evaluate_one, is_better, patient_mean, recalibrated, refinement

RNG = np.random.default_rng(0)
PATIENT = RNG.permutation(np.repeat([f"p{n}" for n in range(20)], RNG.integers(1, 8, 20)))
LABEL = (np.char.lstrip(PATIENT, "p").astype(int) < 13).astype(int)
PROBABILITY = np.clip(0.3 + 0.3 * LABEL + RNG.normal(0, 0.3, len(LABEL)), 0.01, 0.99)


def refined(p, y):
    """Log loss after scikit-learn has fitted slope and bias, all but unpenalised."""
    score = np.log(np.clip(p, 1e-7, 1) / np.clip(1 - p, 1e-7, 1))[:, None]
    fitted = LogisticRegression(C=1e5, class_weight="balanced", tol=1e-10, max_iter=1000).fit(score, y)
    return log_loss(y, fitted.predict_proba(score)[:, 1], sample_weight=compute_sample_weight("balanced", y))


REFERENCES = {
    "log_loss": lambda p, y: log_loss(y, p, sample_weight=compute_sample_weight("balanced", y)),
    "brier": lambda p, y: brier_score_loss(y, p, sample_weight=compute_sample_weight("balanced", y)),
    "auc": lambda p, y: roc_auc_score(y, p),
    "balanced_accuracy": lambda p, y: balanced_accuracy_score(y, p >= 0.5),
    "accuracy": lambda p, y: accuracy_score(y, p >= 0.5),
    "refinement": lambda p, y: refined(p, y),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_scikit_learn_over_views(name):
    assert evaluate(PROBABILITY, LABEL, PATIENT)[name] == pytest.approx(REFERENCES[name](PROBABILITY, LABEL), rel=1e-9, abs=1e-4 if name == "refinement" else 0)


@pytest.mark.parametrize("name", REFERENCES)
def test_reference_scikit_learn_over_patient_means(name):
    names = sorted(set(PATIENT.tolist()))
    mean = np.array([PROBABILITY[patient == PATIENT].mean() for patient in names])
    label = np.array([LABEL[patient == PATIENT][0] for patient in names])
    assert evaluate(PROBABILITY, LABEL, PATIENT)[f"patient_{name}"] == pytest.approx(REFERENCES[name](mean, label), rel=1e-9, abs=1e-3 if name == "refinement" else 0)


# several classes ------------------------------------------------------------------------------------------------------

THREE = RNG.integers(0, 3, 60)
OF_THREE = RNG.dirichlet(np.ones(3), 60) + 0.5 * np.eye(3)[THREE]
OF_THREE /= OF_THREE.sum(1, keepdims=True)


def test_reference_scikit_learn_for_three_classes():
    found, balanced = evaluate(OF_THREE, THREE, np.arange(60)), compute_sample_weight("balanced", THREE)
    called = OF_THREE.argmax(1)
    assert found["log_loss"] == pytest.approx(log_loss(THREE, OF_THREE, sample_weight=balanced))
    assert found["auc"] == pytest.approx(roc_auc_score(THREE, OF_THREE, multi_class="ovr", average="macro"))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(THREE, called))
    assert found["accuracy"] == pytest.approx(accuracy_score(THREE, called))
    squared = ((OF_THREE - np.eye(3)[THREE]) ** 2).sum(1) / 2
    assert found["brier"] == pytest.approx(np.mean([squared[THREE == label].mean() for label in range(3)]))
    np.testing.assert_array_equal(confusion_matrix(OF_THREE, THREE), reference_confusion(THREE, called))


@pytest.mark.parametrize("name", METRICS)
def test_two_columns_are_the_probability_of_the_second_class(name):
    both = np.stack([1 - PROBABILITY, PROBABILITY], 1)
    assert evaluate_one(name, both, LABEL, PATIENT) == pytest.approx(evaluate_one(name, PROBABILITY, LABEL, PATIENT), rel=1e-9)


def test_refinement_is_what_is_known_whatever_the_confidence():
    odds = np.log(PROBABILITY / (1 - PROBABILITY))
    for slope, bias in ((0.2, 0.0), (3.0, 1.0)):
        assert refinement(1 / (1 + np.exp(-slope * odds - bias)), LABEL) == pytest.approx(refinement(PROBABILITY, LABEL), abs=1e-3)
    assert refinement(1 - PROBABILITY, LABEL) == pytest.approx(np.log(2))  # a slope below 0 would know too much
    assert np.isnan(refinement(PROBABILITY[LABEL == 1], LABEL[LABEL == 1]))


def test_what_some_predictions_fitted_is_applied_to_others():
    np.testing.assert_allclose(recalibrated(PROBABILITY, LABEL, PROBABILITY), recalibrated(PROBABILITY, LABEL), rtol=1e-6)
    first, second = recalibrated(PROBABILITY, LABEL, np.array([0.3, 0.8]))[:, 1]
    np.testing.assert_allclose(recalibrated(PROBABILITY, LABEL, np.array([0.8]))[0, 1], second)
    assert first < second


def test_patient_mean_by_hand():
    mean, first = patient_mean(np.array([0.2, 0.9, 0.4, 0.1]), np.array([0, 1, 0, 1]), np.array(["b", "a", "b", "c"]))
    np.testing.assert_allclose(mean, [0.9, 0.3, 0.1])
    assert first.tolist() == [1, 0, 3]


def test_a_patient_with_views_of_both_classes_counts_once_in_each():
    mean, first = patient_mean(np.array([0.2, 0.9, 0.4, 0.1, 0.6]), np.array([0, 0, 1, 0, 0]), np.array(["a", "b", "a", "b", "a"]))
    np.testing.assert_allclose(mean, [0.4, 0.4, 0.5])  # a benign, a malignant, b benign
    assert first.tolist() == [0, 2, 1]


def test_there_is_a_direction_for_each_metric_and_evaluate_gives_them_all():
    assert METRICS.keys() == evaluate(PROBABILITY, LABEL, PATIENT).keys() == {*REFERENCES, *(f"patient_{name}" for name in REFERENCES)}
    for name, mode in METRICS.items():
        perfect, wrong = (evaluate_one(name, p, LABEL, PATIENT) for p in (LABEL * 0.98 + 0.01, 0.99 - LABEL * 0.98))
        assert (perfect < wrong) == (mode == "min")


@pytest.mark.parametrize("name", METRICS)
def test_one_metric_by_its_name_is_that_of_all(name):
    assert evaluate_one(name, PROBABILITY, LABEL, PATIENT) == evaluate(PROBABILITY, LABEL, PATIENT)[name]


@pytest.mark.parametrize("malignant", [1, 50, 99])
def test_knowing_nothing_costs_what_the_documentation_says_and_betting_on_the_larger_class_gains_nothing(malignant):
    label = (np.arange(100) < malignant).astype(int)
    values = evaluate(np.full(100, 0.5), label, np.arange(100))
    assert values["log_loss"] == pytest.approx(math.log(2))
    assert (values["brier"], values["auc"], values["balanced_accuracy"]) == pytest.approx((0.25, 0.5, 0.5))
    bet = evaluate(np.full(100, malignant / 100), label, np.arange(100))
    assert bet["log_loss"] >= values["log_loss"] and bet["brier"] >= values["brier"] and bet["balanced_accuracy"] == 0.5


def test_a_certain_mistake_costs_much_but_not_infinitely_much():
    values = evaluate(np.array([1.0, 0.0], dtype=np.float32), np.array([0, 1]), np.array([0, 1]))
    assert 10 < values["log_loss"] < 20


def test_one_class_only_leaves_the_auc_undefined_and_the_rest_defined():
    values = evaluate(np.array([0.2, 0.8]), np.array([1, 1]), np.array([0, 1]))
    assert math.isnan(values["auc"]) and math.isnan(values["patient_auc"])
    assert values["balanced_accuracy"] == 0.5


@pytest.mark.parametrize(
    ("metric", "value", "best", "better"),
    [
        ("log_loss", 0.4, 0.5, True),
        ("log_loss", 0.5, 0.5, False),
        ("log_loss", 0.6, 0.5, False),
        ("patient_auc", 0.6, 0.5, True),
        ("patient_auc", 0.5, 0.5, False),
        ("patient_auc", 0.4, 0.5, False),
        ("auc", 0.1, None, True),
        ("auc", math.nan, None, False),
        ("auc", math.nan, 0.5, False),
        ("log_loss", math.nan, 0.5, False),
    ],
)
def test_better_is_strictly_better_and_never_nan(metric, value, best, better):
    assert is_better(metric, value, best) is better
