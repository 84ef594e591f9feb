"""From a configuration to a network: seeds, backbones, parameter groups."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from mmnet import build
from mmnet.build import build_networks, channels_of, outputs_of, parameter_groups
from mmnet.config import ConfigError
from mmnet.crossval import CrossValidation
from tests.mmnet.tiny import CPU, deal, feature_dataset, pixel_dataset, tiny_config, train

PIXELS, FEATURES = pixel_dataset(), feature_dataset(channels=6)


def build_network(config, dataset):
    return build_networks(config, dataset, 1)[0]


def weights(seed, values=None, dataset=PIXELS):
    return build_network(tiny_config({**(values or {}), "seed": seed}), dataset).state_dict()


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(("values", "dataset"), [({}, PIXELS), ({"model.frozen": True}, FEATURES)], ids=["fine-tuned", "frozen"])
def test_the_seed_decides_every_weight_and_the_state_of_the_generator_none(values, dataset):
    torch.manual_seed(1)
    first = weights(0, values, dataset)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)  # building drew nothing from the global generator
    assert same(first, weights(0, values, dataset))
    assert not same(first, weights(1, values, dataset))


def test_frozen_features_need_no_backbone_and_set_the_channels():
    network = build_network(tiny_config({"model.frozen": True}), FEATURES)
    assert len(network.backbones) == 0
    maps = torch.from_numpy(FEATURES.features[:4]).float()[None]  # 6 channels
    assert network(maps, torch.ones(1, 4, dtype=torch.bool)).logit.shape == (1, 1)


@pytest.mark.parametrize(("shared", "count"), [(True, 1), (False, 4)])
def test_backbones_are_shared_or_one_for_each_magnification(shared, count):
    network = build_network(tiny_config({"model.shared": shared}), PIXELS)
    assert len(network.backbones) == count
    assert len({id(parameter) for parameter in network.backbones.parameters()}) == count * len(list(network.backbones[0].parameters()))


def test_the_head_starts_the_same_whatever_the_backbone_drew():
    def heads(values):
        return {key: value for key, value in weights(0, values).items() if key.startswith("head.")}

    assert same(heads({"model.shared": True}), heads({"model.shared": False}))


def test_asking_for_channels_leaves_the_backbone_as_it_was():
    backbone = build_network(tiny_config(), PIXELS).backbones[0].train()
    assert channels_of(backbone, 32) == 64
    assert backbone.training


def test_every_parameter_stands_in_one_group_with_its_share_and_only_weights_of_products_decay():
    config = tiny_config({"optim.backbone_lr": 0.1, "optim.weight_decay": 0.05})
    network = build_network(config, PIXELS)
    groups = parameter_groups(network, config.optim)
    placed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(placed) == sorted(id(parameter) for parameter in network.parameters())
    backbone = {id(parameter) for parameter in network.backbones.parameters()}
    weights = {id(p) for name, p in network.named_parameters() if name.endswith("weight") and p.dim() > 1}
    for group in groups:
        for parameter in group["params"]:
            assert group["share"] == (0.1 if id(parameter) in backbone else 1.0)
            assert group["weight_decay"] == (0.05 if id(parameter) in weights else 0.0)


def test_a_frozen_network_has_groups_of_its_head_only():
    config = tiny_config({"model.frozen": True})
    groups = parameter_groups(build_network(config, FEATURES), config.optim)
    assert {group["share"] for group in groups} == {1.0}


def test_the_folds_begin_with_the_same_backbone_and_heads_of_their_own():
    first, second = build_networks(tiny_config(), PIXELS, 2)
    assert same(first.backbones.state_dict(), second.backbones.state_dict())
    assert not same(first.head.state_dict(), second.head.state_dict())
    assert {p.data_ptr() for p in first.parameters()}.isdisjoint({p.data_ptr() for p in second.parameters()})


def test_the_backbone_is_built_once_for_all_folds_and_magnifications(monkeypatch):
    built, real = [], build.build_backbone
    monkeypatch.setattr(build, "build_backbone", lambda *given: built.append(given) or real(*given))
    build_networks(tiny_config({"model.shared": False}), PIXELS, 3)
    assert len(built) == 1


def test_more_than_two_classes_have_a_logit_each():
    table = replace(PIXELS.table, classes=("a", "b", "c"))
    network = build_network(tiny_config(), replace(PIXELS, table=table))
    assert network(torch.rand(2, 4, 3, 32, 32), torch.ones(2, 4, dtype=torch.bool)).logit.shape == (2, 3)


# networks of one's own ------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """A linear layer on the mean of everything that is shown."""

    def __init__(self, inputs, classes, scale):
        super().__init__()
        self.layer, self.scale = nn.Linear(inputs, classes), scale

    def forward(self, images, mask):
        return self.layer(images.mean((1, 3, 4))) * self.scale


def own(config, shape, magnifications, classes):
    assert magnifications == config.data.magnifications
    return Mean(shape[0], len(classes), config.model.params.get("scale", 1.0))


def no_module(config, shape, magnifications, classes):
    return "a network"


def too_few(config):
    return None


NAME = "tests.mmnet.test_build:own"


@pytest.mark.parametrize(("values", "dataset"), [({}, PIXELS), ({"model.frozen": True}, FEATURES)], ids=["pixels", "features"])
def test_a_network_of_ones_own_is_trained_judged_and_restored_like_any_other(values, dataset):
    config = tiny_config(values | {"model.name": NAME, "model.params.scale": 2.0})
    whole, reports = train(config, dataset)
    assert isinstance(whole.networks[0], Mean) and whole.networks[0].scale == 2.0
    assert reports[-1].probability.shape == (len(whole.out_of_fold.label), 2)
    torch.testing.assert_close(torch.from_numpy(reports[0].importance.sum(1)), torch.ones(len(reports[0].importance)))
    again = CrossValidation(config, dataset, deal(dataset), CPU)
    next(again)
    restored = CrossValidation(config, dataset, deal(dataset), CPU)
    restored.load_state_dict(again.state_dict())
    assert [report.metrics for report in restored] == [report.metrics for report in reports[1:]]


def test_what_it_says_has_equal_weights_of_what_is_there():
    mask = torch.tensor([[True, True, False, False]])
    output = outputs_of(Mean(3, 2, 1.0), torch.rand(1, 4, 3, 8, 8), mask)
    assert output.importance.tolist() == [[0.5, 0.5, 0.0, 0.0]] and output.logit.shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.at:all", "No module named 'nowhere'"),
        ("tests.mmnet.test_build:absent", "has no attribute 'absent'"),
        ("tests.mmnet.test_build", "expected mmnet, or package.module:function"),
        ("tests.mmnet.test_build:NAME", r"expected a function of \(configuration, shape, magnifications, classes\)"),
        ("tests.mmnet.test_build:too_few", r"expected a function of \(configuration, shape, magnifications, classes\)"),
        ("tests.mmnet.test_build:no_module", "it gave str, expected a torch.nn.Module"),
    ],
)
def test_a_name_that_builds_nothing_is_one_error_that_says_what_was_expected(name, said):
    with pytest.raises(ConfigError, match=said):
        build_network(tiny_config({"model.name": name}), PIXELS)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda views, grad: grad.expand(views), r"gave a tensor \(\d+,\) for \d+ views; expected logits \(\d+, K\)"),
        (lambda views, grad: grad.expand(7 * views, 2), r"gave a tensor \(\d+, 2\) for \d+ views"),
        (lambda views, grad: {"logit": grad}, "gave dict for"),
        (lambda views, grad: grad.expand(views, 5), "gave 5 logits of 2 classes; expected 1 or 2"),
    ],
)
def test_what_is_no_logits_of_the_classes_is_one_error(made, said, monkeypatch):
    class Says(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, images, mask):
            return made(len(images), self.weight)

    monkeypatch.setattr(build, "own_builder", lambda config: lambda *_: Says())
    with pytest.raises(ConfigError, match=said):
        train(tiny_config({"model.name": "somewhere:function"}), PIXELS)
