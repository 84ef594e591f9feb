"""From a configuration to a network and its parameter groups."""

import torch
from torch import Tensor, nn

from data.dataset import Dataset
from mmnet.backbones import build_backbone
from mmnet.config import Config, ConfigError, OptimConfig
from mmnet.network import Head, MMNet


def build_network(config: Config, dataset: Dataset, seed: int) -> MMNet:
    """MMNet as configured, initialised from `seed`; without backbones where features are frozen."""
    count = len(config.data.magnifications)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.model.frozen:
            assert dataset.features is not None
            return MMNet([], Head(dataset.features.shape[1], count, config.model, config.dropout))
        size = config.input_size
        backbones = [build_backbone(config.model, size, seed) for _ in range(1 if config.model.shared else count)]
        torch.manual_seed(seed)  # the head starts the same whatever the backbone drew
        return MMNet(backbones, Head(channels_of(backbones[0], size), count, config.model, config.dropout))


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


def parameter_groups(network: MMNet, optim: OptimConfig) -> list[dict]:
    """Head and backbone with their shares of the learning rate, decayed and not."""
    groups = []
    for module, share in ((network.head, 1.0), (network.backbones, optim.backbone_lr)):
        for decayed in (True, False):
            members = [p for name, p in module.named_parameters() if p.requires_grad and decays(name, p) == decayed]
            if members:
                groups.append({"params": members, "share": share, "weight_decay": optim.weight_decay * decayed})
    return groups
