"""From a configuration to a network: seeds, backbones, parameter groups."""

import pytest
import torch

from mmnet.attention_pool import MultiScaleAttentionPool
from mmnet.build import build_network, channels_of, parameter_groups
from mmnet.magnification_linear import MagnificationLinear
from tests.mmnet.tiny import feature_dataset, pixel_dataset, tiny_config

PIXELS, FEATURES = pixel_dataset(), feature_dataset(channels=6)


def weights(seed, values=None, dataset=PIXELS):
    return build_network(tiny_config(values), dataset, seed).state_dict()


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
    network = build_network(tiny_config({"model.frozen": True}), FEATURES, 0)
    assert len(network.backbones) == 0
    maps = torch.from_numpy(FEATURES.features[:4]).float()[None]  # 6 channels
    assert network(maps, torch.ones(1, 4, dtype=torch.bool)).logit.shape == (1,)


@pytest.mark.parametrize(("shared", "count"), [(True, 1), (False, 4)])
def test_backbones_are_shared_or_one_for_each_magnification(shared, count):
    network = build_network(tiny_config({"model.shared": shared}), PIXELS, 0)
    assert len(network.backbones) == count
    assert len({id(parameter) for parameter in network.backbones.parameters()}) == count * len(list(network.backbones[0].parameters()))


def test_the_head_starts_the_same_whatever_the_backbone_drew():
    def heads(values):
        return {key: value for key, value in weights(0, values).items() if key.startswith("head.")}

    assert same(heads({"model.shared": True}), heads({"model.shared": False}))


def test_asking_for_channels_leaves_the_backbone_as_it_was():
    backbone = build_network(tiny_config(), PIXELS, 0).backbones[0].train()
    assert channels_of(backbone, 32) == 64
    assert backbone.training


def test_every_parameter_stands_in_one_group_with_its_share_and_only_weights_of_products_decay():
    config = tiny_config({"optim.backbone_lr": 0.1, "optim.weight_decay": 0.05})
    network = build_network(config, PIXELS, 0)
    groups = parameter_groups(network, config.optim)
    placed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(placed) == sorted(id(parameter) for parameter in network.parameters())
    backbone = {id(parameter) for parameter in network.backbones.parameters()}
    products = (torch.nn.Linear, torch.nn.Conv2d, MagnificationLinear, MultiScaleAttentionPool)
    weights = {id(module.weight) for module in network.modules() if isinstance(module, products)}
    for group in groups:
        for parameter in group["params"]:
            assert group["share"] == (0.1 if id(parameter) in backbone else 1.0)
            assert group["weight_decay"] == (0.05 if id(parameter) in weights else 0.0)


def test_a_frozen_network_has_groups_of_its_head_only():
    config = tiny_config({"model.frozen": True})
    groups = parameter_groups(build_network(config, FEATURES, 0), config.optim)
    assert {group["share"] for group in groups} == {1.0}
