"""Focal loss of two or more classes with soft targets."""

import torch
from torch import Tensor
from torch.nn import functional as F


def log_probabilities(logit: Tensor) -> Tensor:
    """(B, L) logits -> (B, K) log-probabilities: one logit is that of the second of two classes."""
    if logit.shape[1] > 1:
        return F.log_softmax(logit, 1)
    return torch.cat([F.logsigmoid(-logit), F.logsigmoid(logit)], 1)


def focal_loss(logit: Tensor, target: Tensor, *, alpha: float, gamma: float, label_smoothing: float) -> Tensor:
    """Mean loss of logits (B, L) against targets (B, K) that sum to 1; soft ones come from mixup and label smoothing.

    Of hard targets the focal loss of Lin et al., ICCV 2017, eq. 5: α_t (1 − p_t)^γ CE. For soft targets its focus is how far the
    probabilities are from the target, ½ Σ |y − p|, which is 1 − p_t where the target is hard: the quality focal loss of Li et al.,
    NeurIPS 2020, eq. 3, for any number of classes. With 1 − p_t in its place, as published, a view that is blended half and half
    would go on being weighted as if it were half wrong when it is predicted perfectly. `alpha` weighs the second of two classes, 1 − alpha the
    first; more classes weigh 1/2 each (sampling balances them). γ = 0, α = 0.5 is half the cross-entropy.
    """
    classes = target.shape[1]
    target = target * (1 - label_smoothing) + label_smoothing / classes
    log_p = log_probabilities(logit)
    weight = target.new_tensor([1 - alpha, alpha] if classes == 2 else [0.5] * classes)
    loss = -(weight * target * log_p).sum(1)
    if gamma:
        # from below 0 a power less than 1 has no finite slope
        loss = loss * (0.5 * (target - log_p.exp()).abs().sum(1)).clamp(min=1e-6).pow(gamma)
    return loss.mean()
