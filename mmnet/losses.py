"""Binary focal loss with soft targets."""

from torch import Tensor
from torch.nn import functional as F


def focal_loss(
    logit: Tensor, target: Tensor, *, alpha: float, gamma: float, label_smoothing: float, weight: Tensor | None = None
) -> Tensor:
    """Mean focal loss of logits (B,) against targets (B,) in [0, 1]; soft targets come from mixup.

    With `weight` (K, B), the sums over logits (K, B) of K networks, each loss times its weight -> (K,).

    Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 5, per class and weighted by the target y:
    FL = -α y (1-p)^γ log p - (1-α) (1-y) p^γ log(1-p), with y smoothed to y (1-ε) + ε/2. γ = 0, α = 0.5 is half the
    cross-entropy.
    """
    target = target * (1 - label_smoothing) + 0.5 * label_smoothing
    log_p, log_q = F.logsigmoid(logit), F.logsigmoid(-logit)
    # exp(γ log q) instead of q^γ: its gradient stays finite when q underflows and γ < 1
    losses = -(alpha * target * (gamma * log_q).exp() * log_p + (1 - alpha) * (1 - target) * (gamma * log_p).exp() * log_q)
    return losses.mean() if weight is None else (losses * weight).sum(-1)
