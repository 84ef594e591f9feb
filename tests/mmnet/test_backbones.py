"""Backbones: maps of the promised shape from every source, and weights that fit or say why not."""

import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmnet.backbones import IMAGENET_MEAN, IMAGENET_STD, build_backbone, obtainable, read_weights
from mmnet.build import build_network
from mmnet.config import ConfigError
from mmnet.features import weights_digest, with_features
from mmnet.torchvision_ops import import_torchvision
from tests.mmnet.tiny import CPU, pixel_dataset, randomise, tiny_config
from tests.test_imports import ROOT

LITE0 = ROOT.parent / "shared" / "weights" / "tf_efficientnet_lite0_imagenet.safetensors"
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def build(backbone, weights=None, size=64, seed=0):
    return build_backbone(tiny_config({"model.backbone": backbone, "model.weights": weights}).model, size, seed).eval()


@torch.inference_mode()
def maps(backbone, weights=None, seed=0, images=IMAGES):
    return build(backbone, weights, images.shape[2], seed)(images)


def torchvision_model(name):
    return import_torchvision().models.get_model(name, weights=None)


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


def test_a_torchvision_network_without_feature_maps_is_refused():
    with pytest.raises(ConfigError, match="timm:shufflenet_v2_x0_5"):
        build("shufflenet_v2_x0_5")


@pytest.mark.parametrize("backbone", ["timm:test_vit", "timm:test_coatnet"])
def test_a_size_that_a_backbone_cannot_take_is_an_error(backbone):
    values = {"model.backbone": backbone, "data.image_size": 40}
    dataset = pixel_dataset(patients=2, images=1, size=40)
    with pytest.raises(ConfigError, match="images of 40 px: the backbone cannot take them"):
        build_network(tiny_config(values), dataset, 0)
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
