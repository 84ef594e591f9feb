"""k networks as one batched computation against the same networks one by one."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.views import balanced_counts
from mmnet.attention_pool import Product
from mmnet.build import parameter_groups
from mmnet.crossval import CrossValidation
from mmnet.network import Head, MMNet
from mmnet.stacked import Alone, Together
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
    return with_rate(Together(each, config.optim)), copy.deepcopy(each), config


def with_rate(learner):
    for group in learner.optimizer.groups:
        group["lr"] = 0.02
    return learner


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
    stacked, each, config = together(values | {"optim.weight_decay": 0.1})
    mask = MASK[: len(inputs)]
    optimizers = [torch.optim.AdamW(parameter_groups(network, config.optim), lr=0.02) for network in each]
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
    alone = with_rate(Alone(each[0], config.optim))
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
        stacked,
        stacked.logits(INPUTS, MASK, EACH).square().mean(1) * torch.tensor([1.0, 0.0, 1.0]).double(),
        np.array([True, False, True]),
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


@pytest.mark.parametrize("balance", ["none", "class", "patient", "class_patient"])
def test_each_fold_is_shown_what_its_own_balance_says(balance):
    """Mean views of each slide over epochs: those of `balanced_counts` of the fold's own slides, rounded at random."""
    dataset = feature_dataset(patients=9, images=3)
    patient = np.where(dataset.table.patient == "1007", "1001", dataset.table.patient)  # one of two slides, which stand in one fold
    dataset = replace(dataset, table=replace(dataset.table, patient=patient))
    trial = CrossValidation(tiny_config({"model.frozen": True}), dataset, deal(dataset, 3), CPU)
    index, rng, epochs = trial.index, np.random.default_rng(0), 200
    shown = np.zeros((3, 9))
    for _ in range(epochs):
        views, trains = index.training_together(trial.train_slides, balance=balance, per_slide=None, rng=rng)
        shown += [np.bincount(views.slide[part], minlength=9) for part in trains]
    for fold, slides in enumerate(trial.train_slides):
        natural, label, patient = index.images[slides], index.label[slides], index.patient[slides]
        expected = np.zeros(9)
        expected[slides] = np.mean([balanced_counts(natural, label, patient, balance, rng) for _ in range(epochs)], axis=0)
        np.testing.assert_allclose(shown[fold] / epochs, expected, atol=0.2)
        assert (shown[fold] == 0).tolist() == (~np.isin(np.arange(9), slides)).tolist()


def test_pooled_features_train_a_head_that_says_the_same_on_maps():
    """Attention over one position is all of it, so the scores stay at their start: the average."""
    dataset = replace(FEATURES, features=FEATURES.features.astype(np.float32).mean((2, 3), keepdims=True))
    trial, _ = train(tiny_config(STILL | {"model.pooled": True}), dataset)
    network = trial.networks[0].eval()
    maps = torch.from_numpy(FEATURES.features[:4].astype(np.float32))[None]
    there = torch.ones(1, 4, dtype=torch.bool)
    torch.testing.assert_close(network(maps, there).logit, network(maps.mean((3, 4), keepdim=True), there).logit)
