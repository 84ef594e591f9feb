"""From a configuration to the networks of a trial, and their parameter groups."""

import copy
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from data.dataset import Dataset
from mmnet.backbones import build_backbone
from mmnet.config import Config, ConfigError, OptimConfig
from mmnet.network import Head, MMNet, Output
from mmnet.seeds import derive_seed

Builder = Callable[[Config, tuple[int, ...], tuple[int, ...], tuple[str, ...]], nn.Module]


def build_networks(config: Config, dataset: Dataset, count: int) -> list[nn.Module]:
    """One network a fold, each initialised from (seed, fold). A backbone is built once and copied."""
    shape, classes = shape_of(config, dataset), dataset.table.classes
    builder = own_builder(config) if config.model.name != "mmnet" else None
    backbones = None if builder or config.model.frozen else build_backbones(config)
    networks: list[nn.Module] = []
    for fold in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.seed, fold))
            if builder:
                networks.append(_checked(config, builder(config, shape, config.data.magnifications, classes)))
            else:
                networks.append(build_mmnet(config, shape, classes, copy.deepcopy(backbones)))
        if config.optim.compile and not config.model.frozen:
            for backbone in getattr(networks[-1], "backbones", [networks[-1]]):
                backbone.compile(dynamic=True)  # batches come in several sizes
    return networks


def build_mmnet(config: Config, shape: tuple[int, ...], classes: tuple[str, ...], backbones: list[nn.Module] | None) -> MMNet:
    """MMNet as configured; without backbones for the maps of a frozen one, of which `shape` is that of one image: (C, h, w)."""
    channels = channels_of(backbones[0], config.input_size) if backbones else shape[0]
    logits = 1 if len(classes) == 2 else len(classes)
    return MMNet(backbones or [], Head(channels, len(config.data.magnifications), logits, config.model, config.dropout))


def build_backbones(config: Config) -> list[nn.Module]:
    """One for all magnifications, or one each."""
    first = build_backbone(config.model, config.input_size, config.seed)
    return [first, *(copy.deepcopy(first) for _ in config.data.magnifications[1:] if not config.model.shared)]


def shape_of(config: Config, dataset: Dataset) -> tuple[int, ...]:
    """What a network is shown of one image: (3, S, S) pixels in [0, 1], or (C, h, w) features of a frozen backbone."""
    if config.model.frozen:
        assert dataset.features is not None
        return tuple(dataset.features.shape[1:])
    return (3, config.input_size, config.input_size)


def own_builder(config: Config) -> Builder:
    """The function that `model.name` names, package.module:function. Raises ConfigError where there is none.

    It is called with (configuration, shape of one image, magnifications, names of the classes) and returns a module from
    images (B, M, *shape) and mask (B, M) bool to logits (B, K), of two classes also (B, 1). `model.params` are its own.
    """
    module, _, name = config.model.name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.name = {config.model.name!r}: {error}; expected mmnet, or package.module:function of a module that Python can import here"
        ) from error
    if not callable(found) or not _takes_four(found):
        raise ConfigError(f"model.name = {config.model.name!r}: expected a function of (configuration, shape, magnifications, classes)")
    return found


def _takes_four(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None, None, None)
    except (TypeError, ValueError):
        return False
    return True


def _checked(config: Config, network: Any) -> nn.Module:
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model.name = {config.model.name!r}: it gave {type(network).__name__}, expected a torch.nn.Module")
    return network


def outputs_of(network: nn.Module, inputs: Tensor, mask: Tensor) -> Output:
    """What a network says; of one that has no weights of its magnifications they are equal. Raises ConfigError where it is no logits."""
    found = network(inputs, mask)
    if isinstance(found, Output):
        return found
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(inputs):
        gave = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"model.name: its network gave {gave} for {len(inputs)} views; expected logits ({len(inputs)}, K) of K classes")
    present = mask.to(found.device, found.dtype)
    return Output(found, present / present.sum(1, keepdim=True))


@torch.inference_mode()
def channels_of(backbone: nn.Module, size: int) -> int:
    """How many channels a backbone's maps have, by asking it. Raises ConfigError when it cannot take images of `size` px."""
    training = backbone.training
    try:
        maps: Tensor = backbone.eval()(torch.zeros(1, 3, size, size))
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(
            f"images of {size} px: the backbone cannot take them ({str(error).splitlines()[0]}); choose another --image-size or model.input_size"
        ) from error
    backbone.train(training)
    return maps.shape[1]


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts on it: on the weights of products, not on biases, norms, gains, mixtures and embeddings of places."""
    return name.endswith("weight") and parameter.dim() > 1


def parameter_groups(network: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Backbones (of a network that calls some so) and the rest with their shares of the learning rate, decayed and not."""
    groups = []
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    for of_backbone, share in ((False, 1.0), (True, optim.backbone_lr)):
        for decayed in (True, False):
            members = [p for name, p in named if name.startswith("backbones.") == of_backbone and decays(name, p) == decayed]
            if members:
                groups.append({"params": members, "share": share, "lr": optim.lr, "weight_decay": optim.weight_decay * decayed})
    return groups
