"""Files of weights as people have them: found, named and fitted, or refused by a line that says what would load them."""

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch

from mmnet.backbones import build_backbone
from mmnet.config import ConfigError
from mmnet.torchvision_ops import import_torchvision
from tests.mmnet.tiny import randomise, tiny_config

VIT = "timm:test_vit"


def timm_state(name="test_vit", seed=0, **options):
    import_torchvision()
    import timm

    return randomise(timm.create_model(name, num_classes=0, **options), seed).state_dict()


def under(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def build(path, backbone=VIT, size=160, **values):
    return build_backbone(replace(tiny_config({"model.backbone": backbone, "model.weights": str(path)}).model, **values), size, 0)


def loaded(backbone):
    return backbone.body.model.state_dict()


def equal(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


STATE, OTHER = timm_state(), timm_state(seed=1)
FORMS = {
    "plain": STATE,
    "module": {"state_dict": under("module.", STATE), "epoch": 3},
    "teacher": {"student": under("module.backbone.", OTHER), "teacher": under("backbone.", STATE), "epoch": 100},
    "student": {"student": under("module.backbone.", STATE)},
    "lightning": {"state_dict": under("model.net.", STATE), "hyper_parameters": {"lr": 1e-3}},
    "numpy": {"state_dict": under("model.", STATE), "best": np.float64(0.3), "epoch": np.int64(3)},
    "averaged": {"model": OTHER, "model_ema": STATE},
    "compiled": {"model_state_dict": under("_orig_mod.module.encoder.", STATE)},
    "contrast": {"state_dict": under("module.encoder_k.", OTHER) | under("module.encoder_q.", STATE) | {"module.queue": torch.zeros(2)}},
    "reconstructing": {"model": STATE | {"mask_token": torch.zeros(1, 1, 64), "decoder_embed.weight": torch.zeros(8, 64)}},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_under_whatever_they_are_named(tmp_path, form):
    torch.save(FORMS[form], tmp_path / "weights.pth")
    assert equal(loaded(build(tmp_path / "weights.pth")), STATE)


@pytest.mark.parametrize(
    ("form", "left"),
    [
        ("teacher", f"student ({len(OTHER)})"),
        ("reconstructing", "decoder_embed (1), mask_token (1)"),
        ("contrast", f"state_dict ({len(OTHER) + 1})"),
        ("lightning", ""),
    ],
)
def test_what_is_left_out_is_told(tmp_path, form, left):
    torch.save(FORMS[form], tmp_path / "weights.pth")
    told = [note.partition("left out: ")[2] for note in build(tmp_path / "weights.pth").notes if "left out" in note]
    assert told == ([left] if left else [])


def test_halves_are_loaded(tmp_path):
    torch.save({key: value.half() for key, value in STATE.items()}, tmp_path / "weights.bin")
    found = loaded(build(tmp_path / "weights.bin"))
    assert all(torch.equal(found[key], STATE[key].half().float()) for key in STATE)


def test_position_embeddings_of_another_image_size_are_resampled(tmp_path):
    torch.save(timm_state(img_size=96), tmp_path / "weights.pth")
    backbone = build(tmp_path / "weights.pth")
    assert loaded(backbone)["pos_embed"].shape == STATE["pos_embed"].shape and any(
        "resampled: pos_embed" in note for note in backbone.notes
    )


def test_position_embeddings_of_torchvision_are_resampled(tmp_path):
    models = import_torchvision().models
    torch.save(models.vit_b_32(image_size=224).state_dict(), tmp_path / "weights.pth")
    assert build(tmp_path / "weights.pth", "vit_b_32", 64)(torch.rand(1, 3, 64, 64)).shape == (1, 768, 2, 2)


def test_layer_scale_needs_an_argument_and_the_line_says_which(tmp_path):
    state = timm_state(init_values=1e-5)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match=r'set model.kwargs = {"init_values": 1e-05}'):
        build(tmp_path / "weights.pth")
    assert equal(loaded(build(tmp_path / "weights.pth", kwargs={"init_values": 1e-5})), state)


def test_registers_are_never_left_out_silently(tmp_path):
    torch.save(timm_state(reg_tokens=2), tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="reg_tokens"):
        build(tmp_path / "weights.pth")


def test_old_names_of_torchvision_are_known(tmp_path):
    models = import_torchvision().models
    state = models.densenet121().state_dict()
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv1.", ".conv.1.") if "denselayer" in key else key: value
        for key, value in state.items()
    }
    torch.save(old, tmp_path / "weights.pth")
    found = build(tmp_path / "weights.pth", "densenet121", 64).state_dict()
    name = "features.denseblock1.denselayer1.conv1.weight"
    assert torch.equal(next(value for key, value in found.items() if key.endswith(name)), state[name])


def as_transformers(state):
    """A timm vision transformer under the names of Hugging Face transformers, as Phikon comes."""
    found = {}
    for key, value in state.items():
        for ours, theirs in (
            ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
            ("pos_embed", "embeddings.position_embeddings"),
            ("cls_token", "embeddings.cls_token"),
            ("blocks.", "encoder.layer."),
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            ("attn.proj", "attention.output.dense"),
            ("mlp.fc1", "intermediate.dense"),
            ("mlp.fc2", "output.dense"),
        ):
            key = key.replace(ours, theirs)
        key = key.replace("norm.", "layernorm.") if key.startswith("norm.") else key
        if "attn.qkv" in key:
            found |= {
                key.replace("attn.qkv", f"attention.attention.{part}"): third
                for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True)
            }
        else:
            found[key] = value
    return found


@pytest.mark.parametrize("prefix", ["", "vit."])
def test_vision_transformers_of_transformers_are_renamed(tmp_path, prefix):
    torch.save(under(prefix, as_transformers(STATE)) | {"pooler.dense.weight": torch.zeros(64, 64)}, tmp_path / "weights.bin")
    assert equal(loaded(build(tmp_path / "weights.bin")), STATE)


def test_normalisation_that_is_assumed_is_told(tmp_path):
    torch.save(STATE, tmp_path / "weights.pth")
    assert any("assumed" in note and "set model.mean and model.std" in note for note in build(tmp_path / "weights.pth").notes)
    assert build(tmp_path / "weights.pth", mean=(0.5,) * 3, std=(0.5,) * 3).notes == []


def test_more_than_tensors_is_refused_by_name(tmp_path):
    torch.save({"teacher": STATE, "args": argparse.Namespace(lr=1e-3)}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="more than plain tensors: argparse.Namespace"):
        build(tmp_path / "weights.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    torch.save({"model": STATE | {"norm.weight": torch.full((64,), value)}}, tmp_path / "weights.pth")
    with pytest.raises(ConfigError, match="model.norm.weight holds NaN or infinity"):
        build(tmp_path / "weights.pth")


def test_a_file_of_another_network_is_told_in_one_line(tmp_path):
    models = import_torchvision().models
    torch.save(under("module.", models.resnet34().state_dict()), tmp_path / "weights.pth")
    with pytest.raises(ConfigError) as error:
        build(tmp_path / "weights.pth", "resnet18", 64)
    said = str(error.value)
    assert "\n" not in said and "120 of 120 keys fit" in said and "model.backbone = 'resnet34' would load it" in said
    with pytest.raises(ConfigError, match="'resnet34' would load it"):
        build(tmp_path / "weights.pth")


def test_a_vision_transformer_is_recognised(tmp_path):
    torch.save(under("module.", timm_state("vit_tiny_patch16_224")), tmp_path / "weights.pth")
    with pytest.raises(
        ConfigError, match="width 192, depth 12 and patches of 16 px; model.backbone = 'timm:vit_tiny_patch16_224' would load it"
    ):
        build(tmp_path / "weights.pth", "resnet18", 64)
