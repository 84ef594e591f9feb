"""What is trained by one optimizer: one network alone, or the networks of k folds as one batched computation.

Where the backbone is frozen a network is small, and k of them one after the other are mostly overhead and passes over the
same features. Together, each parameter of all folds is one tensor (K, …) and each operation runs on all folds at once;
every network's own parameter is a slice of that tensor, so it can be judged, saved and loaded like any other.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from data.augment import send
from mmnet.adamw import AdamW
from mmnet.build import decays, parameter_groups
from mmnet.config import OptimConfig
from mmnet.network import MMNet


class Alone:
    """One network and its optimizer."""

    def __init__(self, network: MMNet, optim: OptimConfig):
        self.networks = [network]
        self.optimizer = AdamW(parameter_groups(network, optim), optim.clip)

    def logits(self, inputs: Tensor, mask: Tensor, trains: np.ndarray) -> Tensor:
        """inputs (B, M, …), mask (B, M) -> logits (1, B). Every view is the network's own, so `trains` (1, B) is True."""
        return self.networks[0](inputs, mask).logit[None]

    def accumulate(self, losses: Tensor) -> None:
        """Add the gradient of the loss (1,)."""
        losses.sum().backward()

    def descend(self, trains: np.ndarray) -> None:
        """Take a step along the gradient. There is but one network, so `trains` is [True]."""
        self.optimizer.step()


class Together:
    """k networks without backbones that look at the same inputs, and the one optimizer of all of them."""

    def __init__(self, networks: list[MMNet], optim: OptimConfig):
        self.networks = networks
        own = [dict(network.named_parameters()) for network in networks]
        self.stacked: dict[str, nn.Parameter] = {}  # (K, …), matrices as (K, in, out): so batched products write their gradients
        for name in own[0]:
            self.stacked[name] = nn.Parameter(torch.stack([_turned(of_network[name].detach()) for of_network in own]))
            for of_network, part in zip(own, self.stacked[name].detach(), strict=True):
                of_network[name].data = _turned(part)
        groups = [
            {
                "params": [self.stacked[name] for name, parameter in own[0].items() if decays(name, parameter) == decayed],
                "share": 1.0,
                "weight_decay": optim.weight_decay * decayed,
            }
            for decayed in (True, False)
        ]
        self.optimizer = AdamW(groups, optim.clip, len(networks))

    def logits(self, inputs: Tensor, mask: Tensor, trains: np.ndarray) -> Tensor:
        """inputs (B, M, C, H, W), mask (B, M) -> logits (K, B); every network draws its own dropout.

        What a logit is where a network does not train on the view, trains (K, B) False, means nothing. Maps are large, so
        all networks share one pass over them; pooled features are small, so each network is shown its own views only.
        """

        def of_one(stacked: Mapping[str, Tensor], inputs: Tensor, mask: Tensor) -> Tensor:
            return functional_call(self.networks[0], {name: _turned(part) for name, part in stacked.items()}, (inputs, mask)).logit

        if inputs.shape[3:].numel() > 1:
            return torch.vmap(of_one, in_dims=(0, None, None), randomness="different")(self.stacked, inputs, mask)
        first = torch.from_numpy((~trains).argsort(1, kind="stable")[:, : trains.sum(1).max()])  # (K, B'), own views first
        own, its_mask = send(first, inputs.device), send(mask[first], inputs.device)
        # copied as (K, M, B', …), as the products of each magnification read them
        places = torch.arange(inputs.shape[1], device=inputs.device)
        shown = inputs.transpose(0, 1)[places[:, None], own[:, None]].transpose(1, 2)
        logit = torch.vmap(of_one, randomness="different")(self.stacked, shown, its_mask)
        return logit.new_zeros(trains.shape).scatter(1, own, logit)

    def accumulate(self, losses: Tensor) -> None:
        """Add the gradient of each network's own loss (K,)."""
        losses.sum().backward()

    def descend(self, trains: np.ndarray) -> None:
        """Each network takes a step along its own gradient, but for those that do not train, (K,) False: nothing of them moves."""
        self.optimizer.step(trains.tolist())


def _turned(parameter: Tensor) -> Tensor:
    return parameter.mT if parameter.dim() == 2 else parameter
