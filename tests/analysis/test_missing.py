"""Hiding at random: something always stays, nothing is invented, and only the networks that may judge do."""

import numpy as np
import pytest
import torch

from analysis.missing import (
    SHARES,
    Remaining,
    embed_once,
    hide_images,
    hide_in_slides,
    hide_in_views,
    keep_one,
    out_of_fold_judge,
    score_by_share,
    showing,
)
from analysis.predictions import Predictions
from data.dataset import Dataset
from data.views import MISSING
from mmnet.batches import Batches
from mmnet.metrics import log_loss
from mmnet.predict import predict_out_of_fold
from tests.mmnet.tiny import CPU, MAGNIFICATIONS, feature_dataset, pixel_dataset, randomise, tiny_config, train

FULL = np.arange(8000).reshape(2000, 4)
GAPPY = np.where(np.random.default_rng(1).random(FULL.shape) < 0.3, MISSING, FULL)
GAPPY = GAPPY[(GAPPY != MISSING).any(1)]


def predictions_of(trial, dataset: Dataset) -> Predictions:
    oof = trial.out_of_fold
    probability = predict_out_of_fold(trial.networks, trial.batches, oof.rows, oof.fold)[:, 1]
    return Predictions(probability, oof.label, oof.slide, oof.patient, oof.subtype, oof.fold, oof.rows, trial.config.data.magnifications)


@pytest.fixture(scope="module")
def judged():
    """(predictions, table) of 8 patients in 2 folds; one patient lacks 40X."""
    dataset = feature_dataset(patients=8, images=3)
    lacks = (dataset.table.slide == dataset.table.slides()[2]) & (dataset.table.magnification == 40)
    dataset = dataset.select_rows(~lacks)
    trial, _ = train(tiny_config({"model.frozen": True, "optim.epochs": 1}), dataset)
    return predictions_of(trial, dataset), dataset.table


@pytest.mark.parametrize("rows", [FULL, GAPPY], ids=["full", "gappy"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_hiding_in_views_invents_nothing_and_always_leaves_one(rows, share):
    left = hide_in_views(rows, share, np.random.default_rng(0)).rows
    assert ((left == rows) | (left == MISSING)).all()
    assert (left != MISSING).any(1).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_share_is_hit_but_for_the_one_that_stays(share):
    remaining = hide_in_views(FULL, share, np.random.default_rng(0))
    assert remaining.hidden == pytest.approx((remaining.rows == MISSING).mean())
    assert remaining.hidden == pytest.approx(share - share**4 / 4, abs=0.01)  # in share⁴ of the views all four would go


def test_what_was_missing_before_does_not_count_as_hidden():
    assert hide_in_views(GAPPY, 0.0, np.random.default_rng(0)).hidden == 0


def test_which_one_stays_is_drawn_evenly():
    left = hide_in_views(FULL, 1.0, np.random.default_rng(0)).rows
    np.testing.assert_allclose((left != MISSING).mean(0), 0.25, atol=0.04)


def test_a_magnification_hidden_from_a_slide_goes_from_all_of_its_views():
    slide = np.repeat(np.arange(400).astype(str), 5)
    remaining = hide_in_slides(FULL, slide, 0.5, np.random.default_rng(0))
    left = remaining.rows
    gone = (left == MISSING).reshape(400, 5, 4)
    assert (gone == gone[:, :1]).all() and not gone.all(2).any()
    assert remaining.hidden == pytest.approx(gone.mean()) == pytest.approx(0.5 - 0.5**4 / 4, abs=0.04)
    assert (left == FULL)[left != MISSING].all()


def test_each_group_keeps_one_and_only_one_when_all_should_go():
    group = np.repeat(["a", "b", "c"], [1, 2, 500])
    for seed in range(5):
        assert [keep_one(group, 1.0, np.random.default_rng(seed))[group == name].sum() for name in "abc"] == [1, 1, 1]
    assert keep_one(group, 0.0, np.random.default_rng(0)).all()
    assert keep_one(group, 0.3, np.random.default_rng(0))[3:].mean() == pytest.approx(0.7, abs=0.06)
    assert {int(np.flatnonzero(keep_one(group, 1.0, np.random.default_rng(seed)))[1]) for seed in range(10)} == {1, 2}


def test_views_of_fewer_images_show_each_that_stays_and_stay_with_their_slide(judged):
    predictions, table = judged
    everything = hide_images(predictions.rows, predictions.slide, table, MAGNIFICATIONS, 0.0, np.random.default_rng(0))
    assert everything.hidden == 0
    assert sorted(map(tuple, everything.rows)) == sorted(map(tuple, predictions.rows))
    hidden = []
    for seed in range(5):
        left = hide_images(predictions.rows, predictions.slide, table, MAGNIFICATIONS, 0.6, np.random.default_rng(seed))
        shown = left.rows != MISSING
        assert left.hidden == pytest.approx(1 - len(np.unique(left.rows[shown])) / len(table))
        hidden.append(left.hidden)
        view, column = np.nonzero(shown)
        assert (table.slide[left.rows[shown]] == predictions.slide[left.of][view]).all()
        assert (table.magnification[left.rows[shown]] == np.array(MAGNIFICATIONS)[column]).all()
        assert set(predictions.slide[left.of]) == set(predictions.slide)
    assert np.mean(hidden) == pytest.approx(0.6, abs=0.05)


def test_one_image_a_slide_is_one_view_of_one_magnification(judged):
    predictions, table = judged
    left = hide_images(predictions.rows, predictions.slide, table, MAGNIFICATIONS, 1.0, np.random.default_rng(0))
    assert left.rows.shape == (8, 4) and ((left.rows != MISSING).sum(1) == 1).all()
    assert sorted(predictions.slide[left.of]) == table.slides().tolist()


def test_a_view_that_would_be_empty_stays_as_it_was_and_is_not_seen():
    rows = np.array([[0, 1, 2], [3, MISSING, MISSING], [MISSING, 4, 5]])
    left, seen = showing(rows, [1, 2])
    assert left.tolist() == [[MISSING, 1, 2], [3, MISSING, MISSING], [MISSING, 4, 5]]
    assert seen.tolist() == [True, False, True]


@pytest.mark.parametrize(
    "values",
    [{"model.frozen": True}, {"model.shared": True}, {"model.shared": False, "model.hierarchy": "none", "model.importance": False}],
    ids=["frozen", "shared", "one backbone each"],
)
def test_judging_from_tokens_is_judging_with_the_whole_network_of_the_right_fold(values):
    dataset = (feature_dataset if values.get("model.frozen") else pixel_dataset)(patients=8)
    config = tiny_config(values | {"optim.epochs": 1})
    trial, _ = train(config, dataset)
    for seed, network in enumerate(trial.networks):
        randomise(network.head, seed)
    predictions = predictions_of(trial, dataset)
    judge = out_of_fold_judge(trial.networks, dataset, config, CPU, predictions)
    batches = Batches(dataset, config, CPU)
    for share in (0.0, 0.5, 1.0):
        rows = hide_in_views(predictions.rows, share, np.random.default_rng(0)).rows
        expected = predict_out_of_fold(trial.networks, batches, rows, predictions.fold)[:, 1]
        np.testing.assert_allclose(judge(rows, predictions.fold), expected, atol=1e-5)
    assert not np.allclose(judge(predictions.rows, 1 - predictions.fold), predictions.probability, atol=1e-3)


def test_where_memory_runs_out_half_as_many_are_embedded_at_once(monkeypatch):
    dataset = pixel_dataset(patients=8)
    trial, _ = train(tiny_config({"optim.epochs": 1}), dataset)
    given = trial.networks, trial.batches, len(dataset.table), trial.out_of_fold.rows, trial.out_of_fold.fold
    whole, tried = embed_once(*given), []
    for network in trial.networks:

        def short(images, mask, maps=network.maps):
            tried.append(len(images))
            if len(images) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return maps(images, mask)

        monkeypatch.setattr(network, "maps", short)
    np.testing.assert_allclose(embed_once(*given), whole, atol=1e-6)
    assert tried == [8, 4, *[2] * 4, *[2] * 4]  # the first network's 8 images a magnification, and the second's, which knows


def test_a_curve_holds_mean_and_range_of_the_draws_and_what_was_really_hidden(judged):
    predictions, _ = judged
    draws = iter([0.0, *[0.1, 0.3] * (len(SHARES) - 1)])

    def hider(share, rng):
        hidden = next(draws)
        return Remaining(np.full_like(predictions.rows, round(10 * hidden)), np.arange(len(predictions.rows)), hidden)

    def judge(rows, fold):  # the more hidden, the less sure of the right class
        sure = 0.9 - 0.1 * rows[:, 0]
        return np.where(predictions.label == 1, sure, 1 - sure)

    curve = score_by_share(hider, judge, predictions, 2, np.random.default_rng(0))
    assert [point["asked"] for point in curve] == list(SHARES)
    assert curve[0]["log_loss"] == pytest.approx(dict.fromkeys(("mean", "low", "high"), -np.log(0.9)))
    last = curve[-1]
    assert last["hidden"] == pytest.approx(0.2) and last["views"] == len(predictions.rows)
    assert last["log_loss"] == pytest.approx({"mean": -np.log([0.8, 0.6]).mean(), "low": -np.log(0.8), "high": -np.log(0.6)})
    assert last["patient_auc"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_a_view_is_judged_by_the_network_of_its_patients_fold_also_when_views_are_made_anew(judged):
    predictions, table = judged
    fold_of = dict(zip(predictions.patient.tolist(), predictions.fold.tolist(), strict=True))
    asked = []

    def judge(rows, fold):
        first = rows.max(1)
        asked.append(all(fold_of[str(table.patient[row])] == number for row, number in zip(first, fold, strict=True)))
        return np.where(fold == 0, 0.25, 0.75)

    def hider(share, rng):
        return hide_images(predictions.rows, predictions.slide, table, MAGNIFICATIONS, share, rng)

    curve = score_by_share(hider, judge, predictions, 2, np.random.default_rng(0))
    assert len(asked) == 2 * len(SHARES) - 1 and all(asked)
    left = hide_images(predictions.rows, predictions.slide, table, MAGNIFICATIONS, 0.0, np.random.default_rng(0))
    whole = log_loss(np.where(predictions.fold[left.of] == 0, 0.25, 0.75), predictions.label[left.of])
    assert curve[0]["log_loss"]["mean"] == pytest.approx(whole)
