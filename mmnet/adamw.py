"""AdamW for one network, or for k networks whose parameters lie side by side in the same tensors."""

from typing import Any

import torch
from torch import Tensor


class AdamW:
    """Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019, algorithm 2, by torch's fused kernel.

    Each of k networks has its own norm to clip, its own steps and its own right to rest. torch.optim's class knows one
    network, and making one imports torch._dynamo: 77 MB and a second of CPU in every worker.
    """

    BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's defaults

    def __init__(self, groups: list[dict[str, Any]], clip: float, networks: int | None = None):
        """Groups of {"params", "share", "weight_decay"}; with `networks` = k every parameter is (k, …), a slice a network.

        `clip`: norm to which each network's gradient is scaled down (as torch.nn.utils.clip_grad_norm_).
        """
        self.groups, self.clip, self.networks = [group | {"lr": 0.0} for group in groups], clip, networks or 1
        self._stacked = networks is not None
        self.parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self.moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in self.parameters]
        self.steps = [torch.zeros((), device=self.parameters[0].device) for _ in range(self.networks)]
        self._values = [self._slices(parameter.detach()) for parameter in self.parameters]
        self._first, self._second = ([self._slices(pair[which]) for pair in self.moments] for which in (0, 1))

    def step(self, trains: list[bool] | None = None) -> None:
        """One step of each network, or of those that train, along `grad` of the parameters; then the gradients are dropped."""
        gradients = [[] if p.grad is None else self._slices(p.grad) for p in self.parameters]
        for network in range(self.networks):
            if trains is not None and not trains[network]:
                continue
            own = [parts[network] for parts in gradients if parts]
            norm = torch.stack(torch._foreach_norm(own)).norm()
            torch._foreach_mul_(own, (self.clip / (norm + 1e-6)).clamp(max=1.0))
            self.steps[network] += 1
            place = 0
            for group in self.groups:
                places = [i for i in range(place, place + len(group["params"])) if gradients[i]]
                place += len(group["params"])
                if not places:
                    continue
                torch._fused_adamw_(
                    [self._values[i][network] for i in places],
                    [gradients[i][network] for i in places],
                    [self._first[i][network] for i in places],
                    [self._second[i][network] for i in places],
                    [],
                    [self.steps[network]] * len(places),
                    lr=group["lr"],
                    beta1=self.BETAS[0],
                    beta2=self.BETAS[1],
                    weight_decay=group["weight_decay"],
                    eps=self.EPSILON,
                    amsgrad=False,
                    maximize=False,
                )
        self.zero_grad()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def _slices(self, whole: Tensor) -> list[Tensor]:
        return list(whole.unbind(0)) if self._stacked else [whole]

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.moments, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, of the same parameters."""
        for own, saved in zip(self.moments, state["moments"], strict=True):
            for whole, part in zip(own, saved, strict=True):
                whole.copy_(part)
        for step, saved in zip(self.steps, state["steps"], strict=True):
            step.copy_(saved)
