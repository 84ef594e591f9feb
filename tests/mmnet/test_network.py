"""The whole network: what is masked cannot be seen, every switch switches, and any batch and any view works."""

import itertools

import pytest
import torch

from mmnet.backbones import build_backbone
from mmnet.config import load_config
from mmnet.network import Head, MMNet
from study.command_line import PRESETS
from tests.mmnet.tiny import SWITCHES, randomise, tiny_config

MASK = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]], dtype=torch.bool)
GENERATOR = torch.Generator().manual_seed(0)
MAPS = torch.randn(4, 4, 6, 2, 3, generator=GENERATOR)
IMAGES = torch.rand(4, 4, 3, 32, 32, generator=GENERATOR)
FUSIONS = [
    dict(zip(("model.importance", "model.cross_attention", "model.concatenation", "model.mixing"), choice, strict=True))
    for choice in itertools.product((True, False), (True, False), (True, False), ("learned", "equal"))
]
ONE_SWITCH = [{path: choice} for path, choices in SWITCHES.items() for choice in choices]
ALL_OFF = {
    "model.channel_attention": False,
    "model.pool": "mean",
    "model.hierarchy": "none",
    "model.importance": False,
    "model.cross_attention": False,
    "model.concatenation": False,
    "model.mixing": "equal",
}
NAMES = {"ids": lambda values: ",".join(f"{path.partition('.')[2]}={value}" for path, value in values.items()) or "defaults"}


def head(values, magnifications=4) -> Head:
    config = tiny_config(values)
    return Head(6, magnifications, 1, config.model, config.dropout).eval()


def network(shared=True) -> MMNet:
    config = tiny_config()
    backbones = [build_backbone(config.model, 32, seed) for seed in range(1 if shared else 4)]
    return randomise(MMNet(backbones, Head(64, 4, 1, config.model, config.dropout))).eval()


@pytest.mark.parametrize("hierarchy", ["causal", "bidirectional", "none"])
@pytest.mark.parametrize("fusion", FUSIONS, **NAMES)
def test_masked_feature_maps_change_nothing_and_get_no_gradient(hierarchy, fusion):
    module = randomise(head(fusion | {"model.hierarchy": hierarchy}))
    maps = MAPS.clone().requires_grad_()
    output = module(maps, MASK)
    other = torch.where(MASK[:, :, None, None, None], MAPS, 10 * torch.randn(MAPS.shape, generator=torch.Generator().manual_seed(1)))
    changed = module(other, MASK)
    torch.testing.assert_close(changed.logit, output.logit, rtol=0, atol=0)
    torch.testing.assert_close(changed.importance, output.importance, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(output.logit.sum(), maps)
    assert (gradient[~MASK] == 0).all() and (output.importance[~MASK] == 0).all()
    assert (gradient[MASK].abs().sum((1, 2, 3)) > 0).all()  # what is there does count


def test_the_whole_network_has_the_published_parameters():
    config = load_config(PRESETS / "published.yaml").with_values({"model.weights": None})
    model = config.model
    assert not model.shared and config.data.magnifications == (40, 100, 200, 400)
    with torch.device("meta"):
        whole = Head(1280, 4, 2, model, config.dropout)
        backbones = build_backbone(model, 224, 0)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in whole.named_children()}
    assert parts == {"embeddings": 4 * (407_040 + 1_230_727), "hierarchy": 19_688_960, "fusion": 29_930_882, "classifier": 657_922}
    assert 4 * sum(p.numel() for p in backbones.parameters()) + sum(parts.values()) == 72_859_024
    with torch.device("meta"):
        one_logit = Head(1280, 4, 1, model, config.dropout)
    assert sum(p.numel() for p in one_logit.parameters()) == sum(parts.values()) - 513


def test_all_parts_of_the_published_head_have_moved_after_a_few_steps():
    config = load_config(PRESETS / "published.yaml")
    torch.manual_seed(0)
    module = Head(16, 4, 1, config.model, config.dropout).train()
    before = {name: value.clone() for name, value in module.named_parameters()}
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)
    for _ in range(3):
        loss = (module(torch.rand(8, 4, 16, 3, 3), torch.ones(8, 4, dtype=torch.bool)).logit ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    still = [name for name, value in module.named_parameters() if torch.equal(value, before[name])]
    assert still == [] and module.fusion.ratio.item() != 0.5


@pytest.mark.parametrize("shared", [True, False], ids=["one backbone", "one backbone each"])
def test_masked_pixels_never_reach_the_network_not_even_as_no_number(shared):
    module = network(shared)
    poisoned = torch.where(MASK[:, :, None, None, None], IMAGES, torch.nan)
    torch.testing.assert_close(module(poisoned, MASK).logit, module(IMAGES, MASK).logit)
    seen = module(IMAGES.clone().index_fill_(1, torch.tensor([2]), 0.0), MASK).logit
    assert not torch.allclose(seen[:3], module(IMAGES, MASK).logit[:3])


@pytest.mark.parametrize("shared", [True, False], ids=["one backbone", "one backbone each"])
def test_only_images_that_are_there_run_through_a_backbone(shared):
    module, seen = network(shared), []
    for backbone in module.backbones:
        backbone.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    module(IMAGES, MASK)
    assert sum(seen) == MASK.sum()


def test_backbones_of_their_own_see_their_magnification():
    module = network(shared=False)
    before = module(IMAGES, MASK | True).logit
    randomise(module.backbones[3], seed=9)
    only_lower = MASK & torch.tensor([True, True, True, False])
    rows = only_lower.any(1)
    changed = module(IMAGES, MASK | True).logit
    assert not torch.allclose(changed, before)
    lower = module(IMAGES[rows], only_lower[rows]).logit
    randomise(module.backbones[3], seed=10)
    torch.testing.assert_close(module(IMAGES[rows], only_lower[rows]).logit, lower)


def test_a_shared_backbone_gives_what_equal_backbones_give():
    shared, own = network(), network(shared=False)
    for backbone in own.backbones:
        backbone.load_state_dict(shared.backbones[0].state_dict())
    own.head.load_state_dict(shared.head.state_dict())
    torch.testing.assert_close(shared(IMAGES, MASK).logit, own(IMAGES, MASK).logit)


@pytest.mark.parametrize("values", [{}, ALL_OFF, *ONE_SWITCH], **NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_of_one_works_and_alone_means_the_same_as_in_company(values, training):
    module = randomise(head(values | {f"dropout.{place}": 0 for place in ("classifier", "fusion", "attention", "path")})).train(training)
    together = module(MAPS, MASK)
    for row in range(4):
        alone = module(MAPS[row : row + 1], MASK[row : row + 1])
        assert alone.logit.shape == (1, 1)
        torch.testing.assert_close(alone.logit[0], together.logit[row])


@pytest.mark.parametrize("values", [{}, ALL_OFF, *ONE_SWITCH], **NAMES)
def test_one_magnification_works_and_has_all_the_weight(values):
    output = randomise(head(values, magnifications=1))(MAPS[:, :1], MASK[:, :1] | True)
    assert torch.isfinite(output.logit).all()
    assert (output.importance == 1).all()


@pytest.mark.parametrize("values", [values for values in ONE_SWITCH if values != {"model.mixing": "equal"}], **NAMES)
def test_every_switch_changes_what_the_network_computes(values):
    default, switched = randomise(head({})), randomise(head(values))
    shape_of = {key: value.shape for key, value in switched.state_dict().items()}
    common = {key: value for key, value in default.state_dict().items() if shape_of.get(key) == value.shape}
    switched.load_state_dict(common, strict=False)  # so that nothing but the switch differs
    assert not torch.allclose(switched(MAPS, MASK).logit, default(MAPS, MASK).logit, rtol=0, atol=1e-5)


def test_with_everything_off_only_embedding_alignment_and_classifier_are_left():
    module = head(ALL_OFF)
    assert {name.split(".")[0] for name, _ in module.named_parameters()} == {"embeddings", "fusion", "classifier"}
    assert {name.split(".")[1] for name, _ in module.named_parameters() if name.startswith("fusion")} == {"align"}


def test_inputs_are_feature_maps_where_there_is_no_backbone():
    module = head({})
    torch.testing.assert_close(MMNet([], module)(MAPS, MASK).logit, module(MAPS, MASK).logit)
