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
from mmnet.build import parameter_groups
from mmnet.config import OptimConfig
from mmnet.network import MMNet


class Alone:
    """One network and its optimizer."""

    def __init__(self, network: MMNet, optim: OptimConfig):
        self.networks, self.clip = [network], optim.clip
        self.optimizer = _adamw(parameter_groups(network, optim), optim)

    def logits(self, inputs: Tensor, mask: Tensor, trains: np.ndarray) -> Tensor:
        """inputs (B, M, …), mask (B, M) -> logits (1, B). Every view is the network's own, so `trains` (1, B) is True."""
        return self.networks[0](inputs, mask).logit[None]

    def accumulate(self, losses: Tensor) -> None:
        """Add the gradient of the loss (1,) to what the next step will descend along."""
        losses.sum().backward()

    def descend(self, trains: np.ndarray) -> None:
        """Take a step along the gradients and forget them. There is but one network, so `trains` is [True]."""
        nn.utils.clip_grad_norm_(self.networks[0].parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class Together:
    """k networks without backbones that look at the same inputs, and the one optimizer of all of them."""

    def __init__(self, networks: list[MMNet], optim: OptimConfig):
        self.networks, self.clip = networks, optim.clip
        own = [dict(network.named_parameters()) for network in networks]
        self.stacked: dict[str, nn.Parameter] = {}  # (K, …), matrices as (K, in, out): so batched products write their gradients
        for name in own[0]:
            self.stacked[name] = nn.Parameter(torch.stack([_turned(of_network[name].detach()) for of_network in own]))
            for of_network, part in zip(own, self.stacked[name].detach(), strict=True):
                of_network[name].data = _turned(part)
        matrices = [parameter for parameter in self.stacked.values() if parameter.dim() == 3]
        vectors = [parameter for parameter in self.stacked.values() if parameter.dim() == 2]
        self.optimizer = _adamw([{"params": matrices, "share": 1.0}, {"params": vectors, "share": 1.0, "weight_decay": 0.0}], optim)

    def logits(self, inputs: Tensor, mask: Tensor, trains: np.ndarray) -> Tensor:
        """inputs (B, M, C, H, W), mask (B, M) -> logits (K, B); every network draws its own dropout.

        What a logit is where a network does not train on the view, trains (K, B) False, means nothing. Maps are large, so
        all networks share one pass over them; pooled features are small, so each network is shown its own views only.
        """

        def of_one(stacked: Mapping[str, Tensor], inputs: Tensor, mask: Tensor) -> Tensor:
            return functional_call(self.networks[0], {name: _turned(part) for name, part in stacked.items()}, (inputs, mask)).logit

        if inputs.shape[3:].numel() > 1:
            return torch.vmap(of_one, in_dims=(0, None, None), randomness="different")(self.stacked, inputs, mask)
        first = (~trains).argsort(1, kind="stable")[:, : trains.sum(1).max()]  # (K, B'), own views first
        own = send(torch.from_numpy(first), inputs.device)
        logit = torch.vmap(of_one, randomness="different")(self.stacked, inputs[own], mask[own])
        return logit.new_zeros(trains.shape).scatter(1, own, logit)

    def accumulate(self, losses: Tensor) -> None:
        """Add the gradients of each network's own loss (K,) to what the next step will descend along."""
        losses.sum().backward()

    def descend(self, trains: np.ndarray) -> None:
        """Each network takes a step along its gradients, but for those that do not train: nothing of them moves."""
        clip_each([parameter.grad for parameter in self.stacked.values() if parameter.grad is not None], self.clip)
        rest = send(torch.from_numpy(np.flatnonzero(~trains)), next(iter(self.stacked.values())).device)
        moments = [value for state in self.optimizer.state.values() for name, value in state.items() if name != "step"]
        resting = [(whole, whole[rest]) for whole in [*(p.detach() for p in self.stacked.values()), *moments]] if len(rest) else []
        self.optimizer.step()
        for whole, part in resting:
            whole[rest] = part
        self.optimizer.zero_grad(set_to_none=True)


def clip_each(gradients: list[Tensor], limit: float) -> None:
    """Scale gradients (K, …) in place so that the norm of each of the K networks' own is at most `limit`."""
    norms = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]).norm(dim=0)
    factor = (limit / (norms + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))


def _turned(parameter: Tensor) -> Tensor:
    return parameter.mT if parameter.dim() == 2 else parameter


def _adamw(groups: list[dict], optim: OptimConfig) -> torch.optim.AdamW:
    device = groups[0]["params"][0].device
    return torch.optim.AdamW(groups, weight_decay=optim.weight_decay, fused=device.type != "mps")
