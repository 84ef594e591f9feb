"""Best epoch, patience and learning rate: worked by hand, and against torch."""

import math

import numpy as np
import pytest
import torch

from mmnet.schedule import PLATEAU_FACTOR, PLATEAU_PATIENCE, best_epoch, lr_factor, out_of_patience, plateau_factor

NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "metric", "best"),
    [
        ([], "log_loss", None),
        ([NAN, NAN], "log_loss", None),
        ([0.7, 0.5, 0.6], "log_loss", 1),
        ([0.7, 0.5, 0.6], "auc", 0),
        ([0.5, 0.5, 0.5], "log_loss", 0),
        ([NAN, 0.9, NAN, 0.8], "log_loss", 3),
        ([0.6, NAN], "auc", 0),
    ],
)
def test_the_best_epoch_is_the_first_of_the_best(scores, metric, best):
    assert best_epoch(scores, metric) == best


@pytest.mark.parametrize(
    ("scores", "patience", "out"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.6], 1, True),
        ([0.5, 0.6], 2, False),
        ([0.5, 0.6, 0.55], 2, True),
        ([0.5, 0.6, 0.4], 2, False),
        ([0.5, 0.5, 0.5], 2, True),
        ([NAN], 2, False),
        ([NAN, NAN], 2, True),
        ([0.5, NAN, NAN], 2, True),
        ([0.5] * 99, None, False),
    ],
)
def test_patience_counts_epochs_since_the_best(scores, patience, out):
    assert out_of_patience(scores, "log_loss", patience) is out


@pytest.mark.parametrize(
    ("scores", "factor"),
    [
        ([], 1),
        ([0.5], 1),
        ([0.5, 0.6, 0.6], 1),
        ([0.5, 0.6, 0.6, 0.6], 0.5),
        ([0.5, 0.6, 0.6, 0.4, 0.6, 0.6], 1),
        ([0.5] * 7, 0.25),
        ([0.5] * 6, 0.5),
        ([0.5, 0.6, 0.6, 0.6, 0.4, 0.5, 0.5, 0.5], 0.25),
        ([0.5, NAN, NAN, NAN], 0.5),
    ],
)
def test_the_plateau_factor_by_hand(scores, factor):
    assert plateau_factor(scores, "log_loss") == factor
    assert plateau_factor([1 - score for score in scores], "auc") == factor


@pytest.mark.parametrize(("metric", "mode"), [("log_loss", "min"), ("auc", "max")])
def test_reference_torch_reduces_at_the_same_epochs(metric, mode):
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = (rng.integers(0, 8, 40) / 8).tolist()  # with ties
        scores = [NAN if rng.random() < 0.1 else score for score in scores]
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        # torch waits until more than `patience` epochs were bad, here it is as many as PLATEAU_PATIENCE
        reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, mode=mode, factor=PLATEAU_FACTOR, patience=PLATEAU_PATIENCE - 1, threshold=0.0, eps=0.0
        )
        for epoch, score in enumerate(scores):
            reference.step(score)
            assert plateau_factor(scores[: epoch + 1], metric) == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("schedule", ["plateau", "cosine", "constant"])
def test_warm_up_grows_linearly_to_the_full_rate(schedule):
    factors = [lr_factor(schedule, done, 10, 0.8, [], "log_loss") for done in (0.2, 0.4, 0.6, 0.8)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert 0 < lr_factor(schedule, 0.0, 10, 0.8, [], "log_loss") < 0.01  # the first step is not lost


def test_cosine_values():
    for warmup in (0.0, 1.0):
        done = [warmup + share * (9 - warmup) for share in (0, 1 / 3, 1 / 2, 2 / 3, 1)]
        assert [lr_factor("cosine", epochs, 9, warmup, [], "auc") for epochs in done] == pytest.approx([1, 0.75, 0.5, 0.25, 0], abs=1e-12)


def test_after_warm_up_plateau_follows_the_scores_and_constant_does_not():
    scores = [0.5] * 4
    assert lr_factor("plateau", 4.0, 9, 0.5, scores, "log_loss") == 0.5
    assert lr_factor("constant", 4.0, 9, 0.5, scores, "log_loss") == 1.0
