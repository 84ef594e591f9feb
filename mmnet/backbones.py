"""Backbones: images (B, 3, H, W) in [0, 1] -> feature maps (B, C, h, w), by torchvision name, `timm:<name>` or `tiny`."""

import difflib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mmnet.config import ConfigError, ModelConfig
from mmnet.torchvision_ops import import_torchvision

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Normalises as the weights expect, runs the body, and returns maps in (B, C, h, w)."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: tuple[float, ...], std: tuple[float, ...], prefix_tokens: int = 0, nhwc: bool = False):
        super().__init__()
        # convolutions run up to 1.6 times faster with channels innermost, on CPUs as on tensor cores (bench/RESULTS.md)
        self.body = nn.utils.convert_conv2d_weight_memory_format(body, torch.channels_last)
        self.prefix_tokens, self.nhwc = prefix_tokens, nhwc
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._compiled: Callable[[Backbone, Tensor], Tensor] | None = None
        self._compiled_for = 0

    def compile_for(self, images: int) -> None:
        """Training passes of exactly so many images run compiled from now on; the first one of such a network in a process compiles."""
        self._compiled = torch.compile(Backbone._maps, dynamic=False)  # not the bound method: it would keep its network alive
        self._compiled_for = images

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w)."""
        if self._compiled is not None and self.training and len(images) == self._compiled_for:
            return self._compiled(self, images.contiguous())  # another layout would be compiled for itself
        return self._maps(images)

    def _maps(self, images: Tensor) -> Tensor:
        maps = self.body(((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        if maps.dim() == 3:  # tokens of a vision transformer: (B, prefix + h·w, C)
            side = round((maps.shape[1] - self.prefix_tokens) ** 0.5)
            return maps[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, (side, side))
        return maps.permute(0, 3, 1, 2) if self.nhwc else maps


def tiny() -> nn.Sequential:
    """Three strided convolutions, 64 channels at stride 8: for tests and the synthetic default."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(4, outputs), nn.SiLU()]
    return nn.Sequential(*layers)


def build_backbone(config: ModelConfig, image_size: int, seed: int) -> Backbone:
    """The backbone that a configuration names, with its weights; random ones are drawn from `seed`.

    Raises ConfigError for an unknown name, an unreachable hub, and weights that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.backbone == "tiny":
            if config.weights is not None:
                raise ConfigError(f"model.weights = {config.weights!r}: the tiny backbone has no weights; pass --weights none")
            return Backbone(tiny(), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        if config.backbone.startswith("timm:"):
            return _timm(config, image_size)
        return _torchvision(config)


def check_backbone(config: ModelConfig, image_size: int) -> None:
    """Raises ConfigError, as `build_backbone` would; weights of the hub are not asked for."""
    hub = config.weights == "imagenet" and config.backbone != "tiny"
    build_backbone(replace(config, weights=None) if hub else config, image_size, seed=0)


def obtainable(names: tuple[str, ...], config: ModelConfig, image_size: int) -> dict[str, str]:
    """{name: ""} of those backbones that can be built here with the configuration's weights, {name: reason} of the others."""
    reasons = {}
    for name in names:
        try:
            build_backbone(replace(config, backbone=name), image_size, seed=0)
            reasons[name] = ""
        except ConfigError as error:
            reasons[name] = str(error)
    return reasons


def _timm(config: ModelConfig, image_size: int) -> Backbone:
    import_torchvision()  # timm imports it
    import timm

    name = config.backbone.removeprefix("timm:")
    if not timm.is_model(name):
        raise _unknown(config.backbone, [f"timm:{model}" for model in timm.list_models()])
    hub = config.weights == "imagenet"
    try:
        options: dict[str, Any] = {"pretrained": hub, "num_classes": 0, "global_pool": ""}
        try:
            model: Any = timm.create_model(name, img_size=image_size, **options)
        except TypeError:  # convolutional networks take any size and no such argument
            model = timm.create_model(name, **options)
    except Exception as error:
        if hub:
            raise _no_hub(config, error) from error
        raise ConfigError(f"model.backbone = {config.backbone!r} cannot be built at {image_size} px: {error}") from error
    if config.weights and not hub:
        classifier = model.pretrained_cfg.get("classifier") or ()
        _load(model, config, (classifier,) if isinstance(classifier, str) else tuple(classifier))
    body = _Features(model)
    prefix = getattr(model, "num_prefix_tokens", 0)
    return Backbone(body, model.pretrained_cfg["mean"], model.pretrained_cfg["std"], prefix, getattr(model, "output_fmt", "NCHW") == "NHWC")


class _Features(nn.Module):
    """A timm model whose forward is its `forward_features`."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_features(images)


def _torchvision(config: ModelConfig) -> Backbone:
    models = import_torchvision().models
    if config.backbone not in models.list_models(module=models):
        raise _unknown(config.backbone, models.list_models(module=models))
    hub = config.weights == "imagenet"
    try:
        model = models.get_model(config.backbone, weights="DEFAULT" if hub else None)
    except Exception as error:
        raise _no_hub(config, error) from error
    if config.weights and not hub:
        _load(model, config, ("fc", "classifier", "AuxLogits", "aux1", "aux2"))
    if hasattr(model, "permute"):  # Swin: maps are (B, h, w, C) before it
        body = nn.Sequential(model.features, model.norm, model.permute)
    elif hasattr(model, "features"):
        body = model.features
    elif hasattr(model, "layer4"):  # the ResNet family: everything before pooling and classifier
        body = nn.Sequential(*[module for name, module in model.named_children() if name not in ("avgpool", "fc")])
    else:
        raise ConfigError(
            f"model.backbone = {config.backbone!r}: torchvision gives no feature maps of this one; use timm:{config.backbone} or a convolutional network"
        )
    return Backbone(body, IMAGENET_MEAN, IMAGENET_STD)


def _unknown(name: str, known: list[str]) -> ConfigError:
    near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.4)) or "tiny"
    return ConfigError(f"model.backbone = {name!r} is unknown: expected a torchvision name, timm:<name> or tiny; near: {near}")


def _no_hub(config: ModelConfig, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(
        f"model.weights = 'imagenet': the weights of {config.backbone} could not be downloaded ({reason[:200]}); "
        "pass --weights FILE (.safetensors or .pth), or --weights none for random weights"
    )


def read_weights(path: str) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a .pth/.pt/.bin file read without executing anything in it."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"model.weights = {path!r}: no such file; pass imagenet, none, or a .safetensors or .pth file")
    try:
        state: Any = load_file(file) if file.suffix == ".safetensors" else torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    except Exception as error:  # pickle's own errors have no common class
        raise _damaged(path, error) from error
    if isinstance(state, dict):
        for wrapper in ("state_dict", "model", "model_state_dict"):
            state = state.get(wrapper, state) if isinstance(state.get(wrapper), dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"model.weights = {path!r}: expected a dictionary of tensors, got {type(state).__name__}")
    return state


def _damaged(path: str, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return ConfigError(
        f"model.weights = {path!r}: damaged, or more than plain tensors: {reason}; download it again or save it as .safetensors"
    )


def _load(model: nn.Module, config: ModelConfig, classifier: tuple[str, ...]) -> None:
    """Load a whole network's weights; only the classifier, which is not used, may be absent, extra or of another size."""
    assert config.weights is not None
    state = {key.removeprefix("module."): value for key, value in read_weights(config.weights).items()}
    expected = model.state_dict()

    def body(keys: set[str]) -> list[str]:
        return sorted(key for key in keys if key.partition(".")[0] not in classifier)

    missing = body(expected.keys() - state.keys())
    extra = body(state.keys() - expected.keys())
    misshaped = [key for key in body(expected.keys() & state.keys()) if expected[key].shape != state[key].shape]
    if missing or extra or misshaped:
        shown = [
            f"{len(keys)} {kind} (such as {keys[0]})"
            for kind, keys in (("missing", missing), ("unknown", extra), ("misshaped", misshaped))
            if keys
        ]
        raise ConfigError(
            f"model.weights = {config.weights!r} do not fit {config.backbone}: {', '.join(shown)}; pass the weights of this backbone"
        )
    usable = {key: value for key, value in state.items() if key in expected and expected[key].shape == value.shape}
    model.load_state_dict(usable, strict=False)
