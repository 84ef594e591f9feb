"""Backbones: images (B, 3, H, W) in [0, 1] -> feature maps (B, C, h, w), by torchvision name, `timm:<name>` or `tiny`."""

import difflib
import sys
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmnet.config import ConfigError, ModelConfig
from mmnet.torchvision_ops import adapted, before_pooling, import_torchvision
from mmnet.weights import load, read_weights

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Backbone", "build_backbone", "check_backbone", "obtainable", "read_weights"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Normalises as the weights expect, runs the body, and returns maps in (B, C, h, w), as the network's own pooling sees them.

    Where a layer norm follows that pooling, as in ConvNeXt, it is applied to the map by the statistics of the map's mean, so that
    the mean over positions is in every case what the network's own last layers are given. `notes` is what to tell the user.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        prefix_tokens: int = 0,
        nhwc: bool = False,
        norm: nn.LayerNorm | None = None,
        notes: list[str] | None = None,
    ):
        super().__init__()
        # convolutions run up to 1.6 times faster with channels innermost, on CPUs as on tensor cores (bench/RESULTS.md)
        self.body = nn.utils.convert_conv2d_weight_memory_format(body, torch.channels_last)
        self.norm, self.prefix_tokens, self.nhwc, self.notes = norm, prefix_tokens, nhwc, notes or []
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, h, w)."""
        maps = self.body(((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        if maps.dim() == 3:  # tokens of a vision transformer: (B, prefix + h·w, C)
            side = int((maps.shape[1] - self.prefix_tokens) ** 0.5)  # not all of timm's say how many prefix tokens they have
            maps = maps[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
        elif self.nhwc:
            maps = maps.permute(0, 3, 1, 2)
        return maps if self.norm is None else _normed(maps, self.norm)


def _normed(maps: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Maps (B, C, h, w) whose mean over positions is the layer norm of what it was."""
    variance, centre = torch.var_mean(maps.float().mean((2, 3), keepdim=True), 1, correction=0, keepdim=True)
    weight, bias = norm.weight.view(-1, 1, 1), norm.bias.view(-1, 1, 1)
    return (maps - centre) * (variance + norm.eps).rsqrt() * weight + bias


def _pooled_norm(head: object) -> nn.LayerNorm | None:
    """The layer norm with which the part behind the pooling begins, if it does."""
    layers = head.modules() if isinstance(head, nn.Module) else ()
    first = next((layer for layer in layers if any(True for _ in layer.parameters(recurse=False))), None)
    return first if isinstance(first, nn.LayerNorm) and first.bias is not None else None


def tiny() -> nn.Sequential:
    """Three strided convolutions, 64 channels at stride 8: for tests and the synthetic default."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(4, outputs), nn.SiLU()]
    return nn.Sequential(*layers)


def build_backbone(config: ModelConfig, image_size: int, seed: int) -> Backbone:
    """The backbone that a configuration names, with its weights; random ones are drawn from `seed`.

    Raises ConfigError for an unknown name, an argument that it does not take, an unreachable hub, and weights that do not fit.
    """
    for name, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and len(values) != 3:
            raise ConfigError(f"model.{name} = {values}: expected three numbers, one a channel of red, green, blue")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.backbone == "tiny":
            if config.weights is not None or config.kwargs:
                raise ConfigError(
                    f"model.weights = {config.weights!r}: the tiny backbone has no weights and takes no model.kwargs; pass --weights none"
                )
            return Backbone(tiny(), config.mean or (0.5, 0.5, 0.5), config.std or (0.25, 0.25, 0.25))
        return _timm(config, image_size) if config.backbone.startswith("timm:") else _torchvision(config, image_size)


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
    if ":" not in name and not timm.is_model(name):
        raise _unknown(config.backbone, [f"timm:{model}" for model in timm.list_models()])
    hub = config.weights == "imagenet"
    options = _arguments(config) | {"pretrained": hub, "num_classes": 0}
    try:
        try:
            model: Any = timm.create_model(name, **{"img_size": image_size} | options)
        except TypeError:  # convolutional networks take any size and no such argument
            model = timm.create_model(name, **options)
    except Exception as error:
        raise _no_hub(config, error) if hub or ":" in name else _not_built(config, image_size, error) from error
    notes = []
    if config.weights and not hub:
        adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        notes = load(model, set(model.state_dict()), config.weights, config.backbone, adapt and (lambda state: adapt(state, model)))
    norm = _pooled_norm(getattr(model, "fc_norm", None)) or _pooled_norm(getattr(model, "head", None))
    mean, std = _normalisation(config, model.pretrained_cfg["mean"], model.pretrained_cfg["std"], notes)
    prefix, nhwc = getattr(model, "num_prefix_tokens", 0), getattr(model, "output_fmt", "NCHW") == "NHWC"
    return Backbone(_Features(model), mean, std, prefix, nhwc, norm, notes)


def _arguments(config: ModelConfig) -> dict[str, Any]:
    """model.kwargs with classes and functions for their names: "timm.layers.SwiGLUPacked", "torch.nn.SiLU"."""
    import timm.layers

    places = {"timm.layers": timm.layers, "torch.nn": nn}
    arguments = {}
    for name, value in config.kwargs.items():
        place, _, part = value.rpartition(".") if isinstance(value, str) else ("", "", "")
        if name in ("features_only", "checkpoint_path", "pretrained") or (place in places and not hasattr(places[place], part)):
            raise ConfigError(
                f"model.kwargs.{name} = {value!r}: expected an argument that shapes the network, with names of timm.layers or torch.nn as text; "
                "its weights are model.weights"
            )
        arguments[name] = getattr(places[place], part) if place in places else _number(value)
    return arguments


def _number(value: Any) -> Any:
    """A number for its text: YAML takes 1e-5 for a word."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _normalisation(
    config: ModelConfig, mean: tuple[float, ...], std: tuple[float, ...], notes: list[str]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation as configured, else those given; a file's own are not known, which is noted."""
    unsaid = " and ".join(f"model.{name}" for name in ("mean", "std") if getattr(config, name) is None)
    mean, std = tuple(config.mean or mean), tuple(config.std or std)
    if unsaid and config.weights not in (None, "imagenet"):
        whose = "ImageNet's" if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD) else f"those of {config.backbone}"
        notes.append(
            f"model.weights = {config.weights!r}: mean {mean} and standard deviation {std} are assumed, {whose}; set {unsaid} if it was trained with others"
        )
    return mean, std


class _Features(nn.Module):
    """A timm model whose forward is its `forward_features`."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        maps = self.model.forward_features(images)
        if not isinstance(maps, Tensor):
            raise ConfigError(
                f"model.backbone: {type(self.model).__name__} gives several maps of an image, expected one; choose another network of timm"
            )
        return maps


def _torchvision(config: ModelConfig, image_size: int) -> Backbone:
    models = import_torchvision().models
    name, hub = config.backbone, config.weights == "imagenet"
    if name not in models.list_models(module=models):
        raise _unknown(name, models.list_models(module=models))
    sizes: dict[str, dict[str, Any]] = {"vit": {"image_size": image_size}, "maxvit": {"input_size": (image_size, image_size)}}
    sized = sizes.get(name.partition("_")[0], {})
    with warnings.catch_warnings(action="ignore"):  # of initial values in other versions, and of graphs that differ in training
        try:
            model = models.get_model(name, weights="DEFAULT" if hub and not sized else None, **sized | _arguments(config))
            if hub and sized:
                model.load_state_dict(adapted(models.get_model_weights(name).DEFAULT.get_state_dict(progress=False), model))
        except Exception as error:
            raise _no_hub(config, error) if hub else _not_built(config, image_size, error) from error
        body = before_pooling(model)
    if body is None:
        raise ConfigError(
            f"model.backbone = {name!r}: torchvision gives no feature maps of this one; use timm:{name} or a convolutional network"
        )
    norm, notes = _pooled_norm(getattr(model, "classifier", None)), []
    if config.weights and not hub:
        own = {id(values) for part in (body, norm) if part is not None for values in part.state_dict(keep_vars=True).values()}
        needed = {key for key, values in model.state_dict(keep_vars=True).items() if id(values) in own}
        notes = load(model, needed, config.weights, name, lambda state: adapted(state, model))
    mean, std = _normalisation(config, IMAGENET_MEAN, IMAGENET_STD, notes)
    return Backbone(body, mean, std, prefix_tokens=1 if name.startswith("vit_") else 0, norm=norm, notes=notes)


def _unknown(name: str, known: list[str]) -> ConfigError:
    near = ", ".join(difflib.get_close_matches(name, known, n=3, cutoff=0.4)) or "tiny"
    return ConfigError(f"model.backbone = {name!r} is unknown: expected a torchvision name, timm:<name> or tiny; near: {near}")


def _not_built(config: ModelConfig, image_size: int, error: Exception) -> ConfigError:
    given = f" with model.kwargs = {config.kwargs}" if config.kwargs else ""
    return ConfigError(f"model.backbone = {config.backbone!r} cannot be built at {image_size} px{given}: {_line(error)}")


def _no_hub(config: ModelConfig, error: Exception) -> ConfigError:
    remedy = "pass --weights FILE (.safetensors or .pth), or --weights none for random weights"
    if ":" in config.backbone.removeprefix("timm:"):  # neither its weights nor what it is
        remedy = "name its architecture as model.backbone = timm:<name>, with model.kwargs as its model card says, and pass --weights FILE"
    return ConfigError(f"model.weights = {config.weights!r}: {config.backbone} could not be downloaded ({_line(error)}); {remedy}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
