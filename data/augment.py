"""Batched augmentation: a whole batch of uint8 images becomes augmented floats in a few tensor operations.

Every function takes images (B, 3, H, W) and an explicit generator on the same device; nothing runs per sample.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Ruifrok & Johnston 2001: optical density of hematoxylin, eosin and a residual, one stain a row
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


def to_float(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1]."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def _uniform(shape: tuple[int, ...], low: float, high: float, images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.empty(shape, device=images.device).uniform_(low, high, generator=generator)


def dihedral(images: Tensor, generator: torch.Generator, *, flip: bool, turn: bool) -> Tensor:
    """Random horizontal and vertical flips and 90° turns: tissue has no up. Images must be square to be turned."""
    chosen = torch.randint(0, 16, (len(images), 1, 1, 1), device=images.device, generator=generator)
    if flip:
        images = torch.where(chosen & 1 > 0, images.flip(-1), images)
        images = torch.where(chosen & 2 > 0, images.flip(-2), images)
    if turn:
        images = torch.where(chosen & 4 > 0, images.rot90(1, (-2, -1)), images)
        images = torch.where(chosen & 8 > 0, images.rot90(2, (-2, -1)), images)
    return images


def crop(images: Tensor, generator: torch.Generator, *, smallest: float) -> Tensor:
    """Cut a random square of `smallest` to 1 of the side and resize it back; every sample its own place and scale."""
    scale = _uniform((len(images),), smallest, 1.0, images, generator)
    room = (1 - scale)[:, None]
    shift = _uniform((len(images), 2), -1.0, 1.0, images, generator) * room
    affine = torch.zeros(len(images), 2, 3, device=images.device)
    affine[:, 0, 0] = affine[:, 1, 1] = scale
    affine[:, :, 2] = shift
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def color(images: Tensor, generator: torch.Generator, *, strength: float) -> Tensor:
    """Random brightness, contrast and saturation factors in 1 ± strength, as one affine map of the channels a sample."""
    brightness, contrast, saturation = _uniform((3, len(images), 1, 1), 1 - strength, 1 + strength, images, generator)
    gray = torch.full((3, 3), 1 / 3, device=images.device)
    mix = saturation * torch.eye(3, device=images.device) + (1 - saturation) * gray  # (B, 3, 3)
    mean = images.mean((1, 2, 3))[:, None, None]  # (B, 1, 1)
    matrix, offset = brightness * contrast * mix, brightness * (1 - contrast) * mean
    return (torch.baddbmm(offset, matrix, images.flatten(2))).view_as(images).clamp_(0, 1)


def stain(images: Tensor, generator: torch.Generator, *, strength: float) -> Tensor:
    """Random amount of each stain: optical density -> stains · (1 ± strength) ± strength / 10 -> back.

    Tellez et al., Whole-Slide Mitosis Detection in H&E Breast Histology, IEEE TMI 2018 (HED augmentation).
    """
    stains = torch.tensor(STAINS, device=images.device)
    stains = stains / stains.norm(dim=1, keepdim=True)
    factor = _uniform((len(images), 3), 1 - strength, 1 + strength, images, generator)
    extra = _uniform((len(images), 3), -strength / 10, strength / 10, images, generator)
    matrix = stains.T @ torch.diag_embed(factor) @ torch.linalg.inv(stains.T)  # (B, 3, 3), acts on density columns
    offset = (extra @ stains)[:, :, None]  # (B, 3, 1)
    density = images.clamp(1 / 255, 1).log().neg().flatten(2)
    return torch.baddbmm(offset, matrix, density).neg_().exp_().view_as(images).clamp_(0, 1)


def erase(images: Tensor, generator: torch.Generator, *, probability: float) -> Tensor:
    """Fill a random rectangle (side 10-40 %) with the image's mean colour. Zhong et al., Random Erasing, AAAI 2020."""
    count, _, height, width = images.shape
    size = _uniform((2, count, 1), 0.1, 0.4, images, generator)
    start = _uniform((2, count, 1), 0.0, 1.0, images, generator) * (1 - size)
    rows = torch.arange(height, device=images.device) / height
    columns = torch.arange(width, device=images.device) / width
    inside_rows = (rows >= start[0]) & (rows < start[0] + size[0])  # (B, H)
    inside_columns = (columns >= start[1]) & (columns < start[1] + size[1])  # (B, W)
    chosen = _uniform((count, 1, 1, 1), 0.0, 1.0, images, generator) < probability
    inside = (inside_rows[:, None, :, None] & inside_columns[:, None, None, :]) & chosen
    return torch.where(inside, images.mean((2, 3), keepdim=True), images)


def mixup(inputs: Tensor, mask: Tensor, target: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Blend each view with another of the batch: inputs (B, M, …), mask (B, M), target (B,).

    Zhang et al., mixup, ICLR 2018: λ ~ Beta(α, α), one a view. Only magnifications that both views have are blended and
    kept; views that share none stay as they are.
    """
    gamma = torch._standard_gamma(torch.full((2, len(inputs)), alpha, device=inputs.device), generator=generator)
    share = gamma[0] / gamma.sum(0).clamp_min(1e-8)
    partner = torch.randperm(len(inputs), device=inputs.device, generator=generator)
    both = mask & mask[partner]
    share = torch.where(both.any(1), share, torch.ones_like(share))
    wide = share.view(-1, *[1] * (inputs.dim() - 1))
    kept = torch.where(both.any(1, keepdim=True), both, mask)
    mixed = (wide * inputs + (1 - wide) * inputs[partner]).masked_fill(~kept.view(*kept.shape, *[1] * (inputs.dim() - 2)), 0)
    return mixed, kept, share * target + (1 - share) * target[partner]
