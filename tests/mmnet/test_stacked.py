"""k networks as one batched computation against the same networks one by one."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.views import balanced_counts
from mmnet import crossval
from mmnet.attention_pool import Product
from mmnet.build import parameter_groups
from mmnet.crossval import CrossValidation
from mmnet.network import Head, MMNet
from mmnet.stacked import Alone, Together, clip_each
from tests.mmnet.tiny import CPU, SWITCHES, deal, feature_dataset, randomise, tiny_config, train

FEATURES = feature_dataset()
STILL = {f"dropout.{place}": 0.0 for place in ("classifier", "fusion", "attention", "path")} | {"model.frozen": True}
GENERATOR = torch.Generator().manual_seed(0)
MAPS = torch.randn(6, 4, 8, 3, 3, generator=GENERATOR, dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
INPUTS = MAPS.masked_fill(~MASK[:, :, None, None, None], 0)
ALL = np.ones(3, dtype=bool)
EACH = np.ones((3, 6), dtype=bool)


def networks(config, count=3):
    # in double precision: where a gradient is zero but for rounding, AdamW makes a whole step of the rounding
    return [randomise(MMNet([], Head(8, 4, config.model, config.dropout)), seed).double().train() for seed in range(count)]


def together(values=None, count=3):
    """(k networks that train together, copies of them as they were, their configuration)."""
    config = tiny_config(STILL | (values or {}))
    each = networks(config, count)
    return Together(each, config.optim), copy.deepcopy(each), config


def step(learner, losses, trains):
    learner.accumulate(losses)
    learner.descend(trains)


def weights(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize(
    "values", [{}, *({path: value} for path, choices in SWITCHES.items() for value in choices)], ids=lambda v: str(v) if v else "default"
)
@pytest.mark.parametrize("inputs", [INPUTS, INPUTS[..., :1, :1], INPUTS[:1]], ids=["maps", "pooled", "batch of 1"])
def test_together_and_alone_give_the_same_logits_and_take_the_same_steps(values, inputs):
    stacked, each, config = together(values)
    mask = MASK[: len(inputs)]
    optimizers = [torch.optim.AdamW(parameter_groups(network, config.optim), lr=0.02, weight_decay=0.1) for network in each]
    for group in stacked.optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.02, 0.1 * bool(group["weight_decay"])
    for optimizer in optimizers:
        optimizer.param_groups[1]["weight_decay"] = 0.0
    for _ in range(3):
        logits = stacked.logits(inputs, mask, EACH[:, : len(inputs)])
        for number, (network, optimizer) in enumerate(zip(each, optimizers, strict=True)):
            logit = network(inputs, mask).logit
            torch.testing.assert_close(logits[number], logit)
            optimizer.zero_grad()
            logit.square().mean().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip)
            optimizer.step()
        step(stacked, logits.square().mean(1), ALL)
    for own, network in zip(stacked.networks, each, strict=True):
        torch.testing.assert_close(weights(own), weights(network))


@pytest.mark.parametrize("inputs", [INPUTS, INPUTS[..., :1, :1]], ids=["maps", "pooled"])
def test_a_network_judges_the_views_it_trains_on_whatever_the_others_train_on(inputs):
    stacked, each, _ = together()
    trains = np.array([[1, 0, 0, 0, 0, 0], [0, 1, 1, 0, 1, 1], [0, 0, 0, 1, 0, 1]], dtype=bool)
    logits = stacked.logits(inputs, MASK, trains)
    for number, network in enumerate(each):
        torch.testing.assert_close(logits[number][trains[number]], network(inputs, MASK).logit[trains[number]])


def test_one_network_alone_takes_the_steps_of_one_that_is_stacked():
    stacked, each, config = together(count=1)
    alone = Alone(each[0], config.optim)
    for _ in range(2):
        for learner in (stacked, alone):
            step(learner, learner.logits(INPUTS, MASK, EACH[:1]).square().mean(1), ALL[:1])
    torch.testing.assert_close(weights(stacked.networks[0]), weights(alone.networks[0]))


@pytest.mark.parametrize("before", [0, 2], ids=["in the first step", "later, when there is momentum"])
def test_a_network_that_does_not_train_in_a_step_does_not_move(before):
    stacked, _, _ = together()
    for _ in range(before):
        step(stacked, stacked.logits(INPUTS, MASK, EACH).square().mean(1), ALL)
    earlier = [weights(network) for network in stacked.networks]
    step(
        stacked, stacked.logits(INPUTS, MASK, EACH).square().mean(1) * torch.tensor([1.0, 0.0, 1.0]).double(), np.array([True, False, True])
    )
    assert [torch.equal(weights(network), old) for network, old in zip(stacked.networks, earlier, strict=True)] == [False, True, False]


def test_a_network_that_is_no_number_leaves_the_others_alone():
    stacked, _, _ = together()
    with torch.no_grad():
        next(stacked.networks[1].parameters()).fill_(torch.nan)
    step(stacked, stacked.logits(INPUTS, MASK, EACH).square().mean(1), ALL)
    assert [bool(weights(network).isfinite().all()) for network in stacked.networks] == [True, False, True]


def test_every_network_draws_its_own_dropout():
    config = tiny_config(STILL | {"dropout.classifier": 0.5, "dropout.path": 0.5})
    one = networks(config, 1)[0]
    logits = Together([one, copy.deepcopy(one), copy.deepcopy(one)], config.optim).logits(INPUTS, MASK, EACH)
    assert len({tuple(row) for row in logits.tolist()}) == 3


def test_the_norm_of_each_network_is_clipped_by_itself():
    gradients = [torch.tensor([[[3.0]], [[0.3]]]), torch.tensor([[4.0], [0.4]])]  # norms 5 and 0.5
    clip_each(gradients, 1.0)
    torch.testing.assert_close(torch.cat([part.flatten(1) for part in gradients], 1), torch.tensor([[0.6, 0.8], [0.3, 0.4]]))


@pytest.mark.parametrize("dims", [(0, None), (2, None), (0, 0), (None, 1), (1, 2)])
def test_the_product_with_shared_maps_is_the_product(dims):
    def drawn(dim, *shape):
        tensor = torch.randn(*(shape if dim is None else (5, *shape)), generator=torch.Generator().manual_seed(len(shape)))
        return (tensor if dim is None else tensor.movedim(0, dim)).double().requires_grad_()

    left, right = drawn(dims[0], 2, 3, 4), drawn(dims[1], 2, 4, 6)
    ours = torch.vmap(Product.apply, in_dims=dims)(left, right)
    expected = torch.vmap(torch.matmul, in_dims=dims)(left, right)
    torch.testing.assert_close(ours, expected)
    for one, two in zip(*(torch.autograd.grad(product.square().sum(), [left, right]) for product in (ours, expected)), strict=True):
        torch.testing.assert_close(one, two)


# in a trial ------------------------------------------------------------------------------------------------------------


def rows_by_fold(trial, monkeypatch):
    """Train an epoch -> [(table rows of a step's views, (K, V) whether a fold's loss heard of each)]."""
    seen, weighed = [], []
    training, loss = trial.batches.training, crossval.focal_loss
    monkeypatch.setattr(trial.batches, "training", lambda rows, *rest: seen.append(rows) or training(rows, *rest))
    monkeypatch.setattr(crossval, "focal_loss", lambda *a, weight, **k: weighed.append(weight.numpy()) or loss(*a, weight=weight, **k))
    next(trial)
    return seen, weighed


def test_no_fold_learns_from_a_view_of_its_held_out_patients_and_each_from_all_its_others(monkeypatch):
    dataset = feature_dataset(cases=12, images=3)
    trial = CrossValidation(tiny_config(STILL | {"sampling.balance": "none"}), dataset, deal(dataset, 3), CPU)
    seen, weighed = rows_by_fold(trial, monkeypatch)
    for fold, patients in enumerate(trial.train_patients):
        heard = [rows[weight[fold] > 0] for rows, weight in zip(seen, weighed, strict=True)]
        shown = np.concatenate(heard).ravel()
        assert sorted(shown) == np.flatnonzero(np.isin(dataset.table.patient, trial.index.patients[patients])).tolist()  # once each
        assert {len(rows) for rows in heard} <= {3, 4, 5} and len(heard) == 6  # 24 views in batches of 4
        np.testing.assert_allclose([weight[fold].sum() for weight in weighed], 1, rtol=1e-6)


@pytest.mark.parametrize("balance", ["none", "class", "patient", "class_patient"])
def test_each_fold_is_shown_what_its_own_balance_says(balance):
    """Mean views of each patient over epochs: those of `balanced_counts` of the fold's own patients, rounded at random."""
    dataset = feature_dataset(cases=9, images=3)
    trial = CrossValidation(tiny_config({"model.frozen": True}), dataset, deal(dataset, 3), CPU)
    index, rng, epochs = trial.index, np.random.default_rng(0), 200
    shown = np.zeros((3, 9))
    for _ in range(epochs):
        views, trains = index.training_together(trial.train_patients, balance=balance, per_patient=None, rng=rng)
        shown += [np.bincount(views.patient[part], minlength=9) for part in trains]
    for fold, patients in enumerate(trial.train_patients):
        natural, label = index.images[patients], index.label[patients]
        expected = np.zeros(9)
        expected[patients] = np.mean([balanced_counts(natural, label, balance, rng) for _ in range(epochs)], axis=0)
        np.testing.assert_allclose(shown[fold] / epochs, expected, atol=0.2)
        assert (shown[fold] == 0).tolist() == (~np.isin(np.arange(9), patients)).tolist()


@pytest.mark.parametrize("side", [2, 1], ids=["maps", "pooled"])
def test_held_out_features_do_not_touch_the_networks_of_their_fold_even_through_mixup(side):
    splits = deal(FEATURES)
    features = FEATURES.features[:, :, :side, :side].copy()
    features[np.isin(FEATURES.table.patient, splits.folds[0])] += 1

    def after_an_epoch(maps):
        values = STILL | {"augment.mixup": 1.0, "augment.feature_noise": 0.3, "augment.masking": 0.2, "optim.batch_size": 8}
        trial = CrossValidation(tiny_config(values), replace(FEATURES, features=maps), splits, CPU)
        next(trial)
        return [weights(network) for network in trial.networks]

    plain, altered = after_an_epoch(FEATURES.features[:, :, :side, :side]), after_an_epoch(features)
    assert torch.equal(plain[0], altered[0])
    assert not torch.equal(plain[1], altered[1])


def test_mixup_blends_views(monkeypatch):
    trial = CrossValidation(tiny_config(STILL | {"augment.mixup": 1.0, "optim.batch_size": 8}), FEATURES, deal(FEATURES), CPU)
    targets, loss = [], crossval.focal_loss
    monkeypatch.setattr(crossval, "focal_loss", lambda logit, target, **k: targets.append(target) or loss(logit, target, **k))
    next(trial)
    soft = torch.cat(targets)
    assert ((soft > 0.01) & (soft < 0.99)).any()


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_any_batch_size_trains_every_fold(size):
    dataset = feature_dataset(cases=10)
    _, reports = train(tiny_config({"model.frozen": True, "optim.batch_size": size, "optim.epochs": 1}), dataset, folds=5)
    assert all(np.isfinite(loss) and loss > 0 for loss in reports[0].train_loss)


def test_pooled_features_train_a_head_that_says_the_same_on_maps():
    """Attention over one position is all of it, so the scores stay at their start: the average."""
    dataset = replace(FEATURES, features=FEATURES.features.astype(np.float32).mean((2, 3), keepdims=True))
    trial, _ = train(tiny_config(STILL | {"model.pooled": True}), dataset)
    network = trial.networks[0].eval()
    maps = torch.from_numpy(FEATURES.features[:4].astype(np.float32))[None]
    there = torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(network(maps, there).logit, network(maps.mean((3, 4), keepdim=True), there).logit)
