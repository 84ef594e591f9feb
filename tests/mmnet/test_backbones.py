"""Backbones: maps of the promised shape from every source, and weights that fit or say why not."""

import copy
import pickle
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmnet.backbones import IMAGENET_MEAN, IMAGENET_STD, build_backbone, obtainable, read_weights
from mmnet.build import build_networks
from mmnet.config import ConfigError
from mmnet.features import weights_digest, with_features
from mmnet.torchvision_ops import import_torchvision
from tests.mmnet.tiny import CPU, pixel_dataset, randomise, tiny_config
from tests.test_imports import ROOT

LITE0 = ROOT.parent / "shared" / "weights" / "tf_efficientnet_lite0_imagenet.safetensors"
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(backbone, weights=None, size=64, seed=0, **values):
    config = replace(tiny_config({"model.backbone": backbone, "model.weights": weights}).model, **values)
    return build_backbone(config, size, seed).eval()


@torch.inference_mode()
def maps(backbone, weights=None, seed=0, images=IMAGES):
    return build(backbone, weights, images.shape[2], seed)(images)


def torchvision_model(name, **options):
    return import_torchvision().models.get_model(name, weights=None, **options)


def timm_model(name, **options):
    import_torchvision()
    import timm

    return timm.create_model(name, **options)


@pytest.mark.parametrize(
    ("backbone", "shape"),
    [
        ("tiny", (64, 8, 8)),
        ("resnet18", (512, 2, 2)),
        ("mobilenet_v3_small", (576, 2, 2)),
        ("swin_t", (768, 2, 2)),
        ("timm:test_efficientnet", (256, 2, 2)),
        ("timm:test_vit", (64, 4, 4)),
        ("timm:test_mambaout", (64, 2, 2)),
    ],
)
def test_maps_are_channels_by_height_by_width(backbone, shape):
    assert maps(backbone).shape == (2, *shape)


@pytest.mark.parametrize(("backbone", "cell"), [("tiny", 8), ("timm:test_vit", 16)])
def test_maps_lie_as_the_image_does(backbone, cell):
    with torch.inference_mode():
        other = IMAGES.clone()
        other[:, :, cell : cell + 8, 2 * cell : 2 * cell + 8] = 0
        difference = (maps(backbone) - maps(backbone, images=other)).abs().sum(1)[0]
    assert divmod(difference.argmax().item(), difference.shape[1]) == (1, 2)


@pytest.mark.parametrize("backbone", ["tiny", "resnet18", "timm:test_vit"])
def test_random_weights_come_from_the_seed(backbone):
    assert torch.equal(maps(backbone), maps(backbone))
    assert not torch.equal(maps(backbone), maps(backbone, seed=1))


@pytest.mark.parametrize(
    ("backbone", "near"),
    [
        ("resnet81", "resnet18"),
        ("efficientnet-b0", "efficientnet_b0"),
        ("timm:test_vitt", "timm:test_vit"),
        ("?", "tiny"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_near_ones(backbone, near):
    with pytest.raises(ConfigError, match="is unknown") as error:
        build(backbone)
    said, _, named = str(error.value).partition("; near: ")
    assert repr(backbone) in said and near in named.split(", ")


FAMILIES = {  # a small network of each torchvision family, the layers behind its pooling, and the side that this makes
    "convnext_tiny": (64, lambda model: model.classifier[1:], 1),
    "densenet121": (64, lambda model: model.classifier, 1),
    "efficientnet_b0": (64, lambda model: model.classifier, 1),
    "googlenet": (64, lambda model: model.fc, 1),
    "inception_v3": (96, lambda model: model.fc, 1),
    "maxvit_t": (224, lambda model: model.classifier[3:], 1),
    "mnasnet0_5": (64, lambda model: model.classifier, 1),
    "mobilenet_v2": (64, lambda model: model.classifier, 1),
    "mobilenet_v3_small": (64, lambda model: model.classifier, 1),
    "regnet_y_400mf": (64, lambda model: model.fc, 1),
    "resnet18": (64, lambda model: model.fc, 1),
    "shufflenet_v2_x0_5": (64, lambda model: model.fc, 1),
    "squeezenet1_1": (64, lambda model: nn.Identity(), 1),
    "swin_t": (64, lambda model: model.head, 1),
    "swin_v2_t": (64, lambda model: model.head, 1),
    "vgg11": (64, lambda model: model.classifier, 7),
}


@pytest.mark.filterwarnings("ignore")  # torchvision's own, of GoogLeNet's initial values
@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_pooled_maps_and_its_own_last_layers_are_the_network_of_torchvision(name):
    size, head, side = FAMILIES[name]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    backbone = build(name, size=size)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision_model(name, **({"input_size": (size, size)} if name == "maxvit_t" else {})).eval()
    if backbone.norm is not None:
        next(layer for layer in model.classifier if isinstance(layer, nn.LayerNorm)).load_state_dict(randomise(backbone.norm).state_dict())
    logits = model((images - backbone.mean) / backbone.std)
    pooled = nn.functional.adaptive_avg_pool2d(backbone(images), side)
    found = head(model)(pooled if name == "convnext_tiny" else pooled.flatten(1)).flatten(1)
    torch.testing.assert_close(found / logits.std(), logits / logits.std(), rtol=1e-4, atol=1e-4)  # sums in another order


@torch.inference_mode()
def test_the_maps_of_a_torchvision_vision_transformer_are_its_last_tokens():
    backbone = build("vit_b_16")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, seen = torchvision_model("vit_b_16", image_size=64).eval(), []
    model.encoder.register_forward_hook(lambda *found: seen.append(found[2]))
    model((IMAGES - backbone.mean) / backbone.std)
    assert torch.equal(backbone(IMAGES).flatten(2).transpose(1, 2), seen[0][:, 1:])


@pytest.mark.parametrize(
    "name",
    ["test_convnext", "test_vit_relpos", "test_coatnet", "test_efficientnet", "test_resnet", "test_nfnet", "swin_tiny_patch4_window7_224"],
)
@torch.inference_mode()
def test_pooled_maps_are_the_embedding_of_a_timm_network(name):
    """CNNs, a vision transformer that averages its tokens, one with channels last; layer norms before and behind the pooling."""
    model = randomise(timm_model(name, num_classes=0)).eval()
    size = model.pretrained_cfg["input_size"][2]
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    backbone = build(f"timm:{name}", size=size)
    backbone.body.model.load_state_dict(model.state_dict())
    expected = model((images - backbone.mean) / backbone.std)
    torch.testing.assert_close(backbone(images).mean((2, 3)) / expected.std(), expected / expected.std(), rtol=1e-3, atol=1e-3)


def test_a_torchvision_network_without_pooling_is_refused(monkeypatch):
    import_torchvision()
    monkeypatch.setattr("torchvision.models.feature_extraction.get_graph_node_names", lambda model: (["conv1"], ["conv1", "fc"]))
    with pytest.raises(ConfigError, match="use timm:resnet18"):
        build("resnet18")


@pytest.mark.parametrize("training", [False, True])
def test_a_copied_backbone_trains_as_the_first(training):
    backbone = build("efficientnet_b0").train(training)
    copied = copy.deepcopy(backbone)
    found = []
    for module in (backbone, copied):
        torch.manual_seed(0)
        module(IMAGES).square().mean().backward()
        found.append(next(module.parameters()).grad)
    assert torch.equal(*found) and copied.training == training


GIVEN = {"mlp_layer": "timm.layers.SwiGLUPacked", "act_layer": "torch.nn.SiLU", "init_values": "1e-5", "dynamic_img_size": True}


def test_arguments_of_a_model_card_shape_the_network():
    backbone = build("timm:test_vit", kwargs=GIVEN)
    assert "GluMlp" in str(backbone.body.model.blocks[0]) and "SiLU" in str(backbone.body.model.blocks[0])
    assert backbone.body.model.blocks[0].ls1.gamma[0].item() == pytest.approx(1e-5)
    assert backbone(IMAGES).shape == (2, 64, 4, 4)


@pytest.mark.parametrize(
    ("backbone", "given"),
    [
        ("timm:test_vit", {"act_layer": "torch.nn.SiLUU"}),
        ("timm:test_vit", {"patchsize": 8}),
        ("timm:test_vit", {"features_only": True}),
        ("resnet18", {"depth": 3}),
        ("tiny", {"depth": 3}),
    ],
)
def test_an_argument_that_a_network_does_not_take_is_an_error_that_names_it(backbone, given):
    with pytest.raises(ConfigError, match=r"model\.kwargs") as error:
        build(backbone, kwargs=given)
    assert "tiny" in backbone or next(iter(given)) in str(error.value)


def test_mean_and_standard_deviation_are_as_configured():
    backbone = build("timm:test_vit", mean=(0.1, 0.2, 0.3))
    assert backbone.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3]) and backbone.std.flatten().tolist() == [0.5] * 3
    with pytest.raises(ConfigError, match="model.std"):
        build("resnet18", std=(1.0,))


@pytest.mark.parametrize("backbone", ["timm:test_vit", "timm:test_coatnet"])
def test_a_size_that_a_backbone_cannot_take_is_an_error(backbone):
    values = {"model.backbone": backbone, "data.image_size": 40}
    dataset = pixel_dataset(patients=2, images=1, size=40)
    with pytest.raises(ConfigError, match="images of 40 px: the backbone cannot take them"):
        build_networks(tiny_config(values), dataset, 1)
    with pytest.raises(ConfigError, match="images of 40 px: the backbone cannot take them"):
        with_features(dataset, tiny_config(values | {"model.frozen": True}), CPU.type)


def test_the_tiny_backbone_has_no_weights_to_load():
    with pytest.raises(ConfigError, match="--weights none"):
        build("tiny", "imagenet")


def _safetensors(state, path):
    save_file({key: value.contiguous() for key, value in state.items()}, path.with_suffix(".safetensors"))
    return str(path.with_suffix(".safetensors"))


def _pth(state, path):
    torch.save(state, path.with_suffix(".pth"))
    return str(path.with_suffix(".pth"))


def _wrapped(state, path):
    return _pth({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)


@torch.inference_mode()
def maps_of_torchvision(model):
    """What its average pooling is given."""
    seen = []
    model.avgpool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model((IMAGES - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1))
    return seen[0]


@torch.inference_mode()
def maps_of_timm(model):
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    return model.forward_features((IMAGES - mean) / std)


@pytest.mark.parametrize(
    ("backbone", "write"),
    [("resnet18", _pth), *(("timm:test_efficientnet", write) for write in (_safetensors, _pth, _wrapped))],
)
def test_weights_of_a_whole_network_are_loaded_from_any_file(tmp_path, backbone, write):
    model = (timm_model(backbone.removeprefix("timm:")) if ":" in backbone else torchvision_model(backbone)).eval()
    randomise(model)
    for name, values in model.named_buffers():
        if "running" in name:
            values.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    expected = (maps_of_timm if ":" in backbone else maps_of_torchvision)(model)
    found = maps(backbone, write(model.state_dict(), tmp_path / "weights"))
    torch.testing.assert_close(found / expected.std(), expected / expected.std(), rtol=1e-3, atol=1e-3)  # another memory layout


@pytest.mark.parametrize("classes", [0, 7])
def test_the_classifier_may_be_absent_or_of_another_size(tmp_path, classes):
    file = _safetensors(timm_model("test_vit", num_classes=classes).state_dict(), tmp_path / "weights")
    assert maps("timm:test_vit", file, images=torch.zeros(1, 3, 160, 160)).shape == (1, 64, 10, 10)  # at its own size


def test_weights_of_another_network_are_refused(tmp_path):
    file = _pth(torchvision_model("resnet34").state_dict(), tmp_path / "weights")
    with pytest.raises(ConfigError, match=r"do not fit resnet18: \d+ unknown \(such as layer1"):
        build("resnet18", file)


def test_weights_with_a_part_missing_or_misshaped_are_refused(tmp_path):
    state = torchvision_model("resnet18").state_dict()
    whole = {key: value for key, value in state.items() if key != "layer2.0.conv1.weight"}
    with pytest.raises(ConfigError, match=r"1 missing \(such as layer2.0.conv1.weight\)"):
        build("resnet18", _pth(whole, tmp_path / "missing"))
    with pytest.raises(ConfigError, match=r"1 misshaped \(such as layer2.0.conv1.weight\)"):
        build("resnet18", _pth(state | {"layer2.0.conv1.weight": torch.zeros(1)}, tmp_path / "misshaped"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"not weights" * 99])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path, suffix, damage):
    write = _safetensors if suffix == ".safetensors" else _pth
    file = Path(write({"a": torch.rand(99)}, tmp_path / "weights"))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ConfigError, match="damaged") as error:
        read_weights(str(file))
    assert str(file) in str(error.value)


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.write_text, (self.target, "executed")


@pytest.mark.parametrize(
    "save", [lambda thing, path: torch.save(thing, path), lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))]
)
def test_code_in_a_weights_file_is_refused_and_never_run(tmp_path, save):
    target = tmp_path / "target"
    save({"a": Hostile(target)}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="more than plain tensors"):
        read_weights(str(tmp_path / "weights.pth"))
    assert not target.exists()


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, torch.zeros(1)])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="expected a dictionary of tensors"):
        read_weights(str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("name", ["nowhere.pth", "."])
def test_a_missing_file_is_an_error(tmp_path, name):
    with pytest.raises(ConfigError, match="no such file"):
        build("resnet18", str(tmp_path / name))


@pytest.mark.parametrize("backbone", ["resnet18", "timm:test_efficientnet", "timm:test_vit"])
def test_an_unreachable_hub_says_to_pass_a_file(monkeypatch, backbone):
    import_torchvision()
    import timm

    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr(import_torchvision().models, "get_model", unreachable)
    with pytest.raises(ConfigError, match="no route to host.*--weights FILE"):
        build(backbone, "imagenet")


def test_the_real_pretrained_backbone_gives_what_timm_gives():
    if not LITE0.exists():
        pytest.skip(f"{LITE0} is not on this machine")
    model = timm_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(load_file(LITE0), strict=True)
    with torch.inference_mode():
        expected = model.forward_features(2 * IMAGES - 1)
    assert expected.shape == (2, 1280, 2, 2)
    # another memory layout adds up in another order
    torch.testing.assert_close(maps("timm:tf_efficientnet_lite0", str(LITE0)), expected, atol=1e-4, rtol=1e-4)


def test_the_digest_of_weights_follows_what_decides_them(tmp_path):
    def digest(weights, seed=0):
        return weights_digest(tiny_config({"model.weights": weights}).model, seed)

    files = [_pth({"a": torch.full((1,), value)}, tmp_path / name) for name, value in (("one", 1.0), ("two", 2.0))]
    (tmp_path / "copy").write_bytes(Path(files[0]).read_bytes())
    assert digest(files[0]) == digest(files[0], seed=1) == digest(str(tmp_path / "copy"))
    assert len({digest(files[0]), digest(files[1]), digest("imagenet"), digest(None), digest(None, 1)}) == 5
    with pytest.raises(ConfigError, match="nowhere"):
        digest(str(tmp_path / "nowhere"))


def test_backbones_that_can_be_built_are_told_from_those_that_cannot():
    found = obtainable(("tiny", "timm:test_vit", "resnet19"), tiny_config().model, 32)
    assert list(found) == ["tiny", "timm:test_vit", "resnet19"] and found["tiny"] == found["timm:test_vit"] == ""
    assert "'resnet19' is unknown" in found["resnet19"]
