"""Batched augmentation: a whole batch of uint8 images becomes augmented floats in a few tensor operations.

What is done to each image is drawn beforehand, on the host: the draws are a few numbers an image, the same for a seed on every
device, and nothing ever waits for the device. `draw` makes the Plan of a batch, calling it does the work.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Ruifrok & Johnston 2001: optical density of hematoxylin, eosin and a residual, one stain a row
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
MIRROR_X, MIRROR_Y, TRANSPOSE = 1, 2, 4  # bits of a symmetry of the square: transposed first, then mirrored
CELLS, BEND = 32, 1.63  # of a field of displacements: cells a side, standard deviation in px
TURNS = (0, MIRROR_X | MIRROR_Y, TRANSPOSE | MIRROR_X, TRANSPOSE | MIRROR_Y)


Step = tuple[Callable[[Tensor, Tensor], Tensor], Tensor]  # a function of this module, and its draws (B, …)


@dataclass(frozen=True)
class Plan:
    """What is done to each of B images; any part of it can be done alone."""

    symmetry: Tensor  # (B,) int64, bits as above
    steps: tuple[Step, ...] = ()

    def part(self, where: slice) -> "Plan":
        """What is done to some of the images."""
        return Plan(self.symmetry[where], tuple((step, drawn[where]) for step, drawn in self.steps))

    def __call__(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 on any device -> (B, 3, H, W) float32 in [0, 1]."""
        if not self.steps:
            return to_float(dihedral(images, self.symmetry))
        values = dihedral(images, self.symmetry).permute(0, 3, 1, 2).contiguous()  # planes; cheaper to sort as bytes than as floats
        values = values.to(torch.float32).div_(255)
        for step, drawn in self.steps:
            values = step(values, send(drawn, values.device))
        return values


def nothing(count: int) -> Plan:
    """The plan that leaves every image as it is."""
    return Plan(torch.zeros(count, dtype=torch.int64))


def draw(
    count: int,
    generator: torch.Generator,
    *,
    flip: bool,
    turn: bool,
    crop: float,
    rotation: float,
    color: float,
    hue: float,
    stain: float,
    blur: float,
    elastic: float,
    erase: float,
) -> Plan:
    """The plan of `count` images; see `AugmentConfig` for the settings. What is switched off draws nothing and costs nothing."""
    symmetry = draw_symmetries(count, generator, flip=flip, turn=turn)
    steps: list[Step] = []
    if crop < 1 or rotation > 0:  # flips and turns are for free where the image is sampled anew
        steps.append((warp, draw_cuts(symmetry, generator, smallest=crop, degrees=rotation)))
        symmetry = torch.zeros_like(symmetry)
    if elastic > 0:
        steps.append((bend, draw_bends(count, generator, probability=elastic)))
    if color > 0 or hue > 0:
        factors = _uniform((count, 3), 1 - color, 1 + color, generator)
        steps.append((adjust_color, torch.cat([factors, _uniform((count, 1), -hue, hue, generator)], 1)))
    if stain > 0:
        steps.append((adjust_stain, draw_stains(count, generator, strength=stain)))
    if blur > 0:
        chosen = _uniform((count, 1), 0.0, 1.0, generator) < blur
        steps.append((soften, chosen * _uniform((count, 1), 0.1, 2.0, generator)))
    if erase > 0:
        steps.append((fill, draw_boxes(count, generator, probability=erase)))
    return Plan(symmetry, tuple(steps))


def to_float(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [0, 1]."""
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def shrink(images: Tensor, size: int | None) -> Tensor:
    """(B, C, S, S) -> (B, C, size, size), antialiased: one stored copy serves all sizes. None: as they are."""
    return images if size is None else F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def send(few: Tensor, device: torch.device) -> Tensor:
    """A few numbers of the host, to a device that nobody waits for."""
    return few.to(device, non_blocking=device.type == "cuda")


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(low, high, generator=generator)


def draw_symmetries(count: int, generator: torch.Generator, *, flip: bool, turn: bool) -> Tensor:
    """(B,) random flips and 90° turns: tissue has no up."""
    if not (flip or turn):
        return torch.zeros(count, dtype=torch.int64)
    drawn = torch.randint(0, 8 if flip and turn else 4, (count,), generator=generator)
    return drawn if flip else torch.tensor(TURNS)[drawn]


def dihedral(images: Tensor, symmetry: Tensor) -> Tensor:
    """Flip and turn square images (B, S, S, C) of any type, those of the same symmetry (B,) together."""
    if not symmetry.any():
        return images
    done, order = [], []
    for code in symmetry.unique().tolist():
        members = (symmetry == code).nonzero().flatten()
        part = images.index_select(0, send(members, images.device))
        if code & TRANSPOSE:
            part = part.transpose(1, 2)
        axes = [axis for bit, axis in ((MIRROR_X, 2), (MIRROR_Y, 1)) if code & bit]
        done.append(part.flip(axes) if axes else part)
        order.append(members)
    return torch.cat(done).index_select(0, send(torch.cat(order).argsort(), images.device))


def draw_cuts(symmetry: Tensor, generator: torch.Generator, *, smallest: float, degrees: float) -> Tensor:
    """(B, 2, 3) affine maps, of output to input places in [-1, 1]: a square of `smallest` to 1 of the side, turned by up to ± `degrees`.

    The square lies anywhere within the image, or in its middle where it is turned too far to fit. `symmetry` (B,) is applied on top.
    """
    count = len(symmetry)
    scale = _uniform((count,), smallest, 1.0, generator)
    angle = _uniform((count,), -degrees, degrees, generator) * (math.pi / 180)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    room = (1 - cosine.abs() - sine.abs()).clamp_min(0)[:, None]
    shift = _uniform((count, 2), -1.0, 1.0, generator) * room
    signs = 1.0 - 2 * (symmetry[:, None] & torch.tensor([MIRROR_X, MIRROR_Y]) > 0)
    mirrored = torch.diag_embed(signs)
    mirrored = torch.where((symmetry & TRANSPOSE > 0)[:, None, None], mirrored.flip(1), mirrored)
    turned = torch.stack([cosine, -sine, sine, cosine], 1).view(count, 2, 2)
    return torch.cat([turned @ mirrored, shift[:, :, None]], 2)


def warp(images: Tensor, cuts: Tensor) -> Tensor:
    """Sample images (B, C, H, W) bilinearly through the affine maps (B, 2, 3); what lies outside is mirrored.

    The grid is along · x + across · y + offset with (x, y) pairs as complex numbers, one broadcast sum: F.affine_grid multiplies
    matrices pixel by pixel, which costs more than the sampling itself.
    """
    height, width = images.shape[2:]
    x, y = ((torch.arange(size, device=images.device) * 2 + 1) / size - 1 for size in (width, height))
    along, across, offset = torch.view_as_complex(cuts.transpose(1, 2).contiguous()).unbind(1)
    grid = (along[:, None] * x)[:, None, :] + (across[:, None] * y + offset[:, None])[:, :, None]
    return F.grid_sample(images, torch.view_as_real(grid), padding_mode="reflection", align_corners=False)


def draw_bends(count: int, generator: torch.Generator, *, probability: float) -> Tensor:
    """(B, 2, CELLS, CELLS) displacements in pixels, of neighbouring cells independent; none with 1 - `probability`.

    Simard et al., Best Practices for Convolutional Neural Networks, ICDAR 2003, with α 50 and σ 5 px as published: noise in ±1 that a Gaussian
    of 5 px has smoothed, times 50, has a standard deviation of 50 / √3 / (2 √π 5) = 1.63 px.
    """
    chosen = _uniform((count, 1, 1, 1), 0.0, 1.0, generator) < probability
    return chosen * torch.randn((count, 2, CELLS, CELLS), generator=generator) * BEND


def bend(images: Tensor, field: Tensor) -> Tensor:
    """Images (B, C, H, W) sampled where a smooth field of displacements (B, 2, CELLS, CELLS) leads; what lies outside is mirrored."""
    height, width = images.shape[2:]
    smooth = F.interpolate(field, (height, width), mode="bicubic", align_corners=False)
    x, y = ((torch.arange(size, device=images.device) * 2 + 1) / size - 1 for size in (width, height))
    grid = torch.stack([x + smooth[:, 0] * (2 / width), y[:, None] + smooth[:, 1] * (2 / height)], 3)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def soften(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with sigma (B, 1) pixels, 0 for none; 5 × 5, one axis after the other."""
    offset = torch.arange(-2, 3, device=images.device)
    kernel = torch.softmax(-(offset**2) / (2 * sigma.clamp_min(1e-3) ** 2), 1)  # (B, 5)
    count, channels = images.shape[:2]
    kernel = kernel.repeat_interleave(channels, 0)
    flat = F.pad(images.flatten(0, 1)[None], (2, 2, 2, 2), mode="reflect")  # (1, B·C, H + 4, W + 4)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=len(kernel))
    return F.conv2d(flat, kernel[:, None, None, :], groups=len(kernel))[0].unflatten(0, (count, channels))


def adjust_color(images: Tensor, factors: Tensor) -> Tensor:
    """Factors (B, 4) of brightness, contrast (about the image's mean), saturation, and turns of the hue about the grey axis, as one affine map."""
    brightness, contrast, saturation, turn = factors[:, :, None, None].unbind(1)
    gray, one = torch.full((3, 3), 1 / 3, device=images.device), torch.eye(3, device=images.device)
    # Rodrigues' rotation: what grey has not is turned
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=images.device) / math.sqrt(3)
    angle = 2 * math.pi * turn
    mix = gray + saturation * (angle.cos() * (one - gray) + angle.sin() * across)  # (B, 3, 3)
    mean = images.mean((1, 2, 3))[:, None, None]  # (B, 1, 1)
    matrix, offset = brightness * contrast * mix, brightness * (1 - contrast) * mean
    return torch.baddbmm(offset, matrix, images.flatten(2)).view_as(images).clamp_(0, 1)


def draw_stains(count: int, generator: torch.Generator, *, strength: float) -> Tensor:
    """(B, 3, 4): the map of a pixel's optical density, its 3x3 matrix and its offset, for stains · (1 ± strength) ± strength / 10.

    Tellez et al., Whole-Slide Mitosis Detection in H&E Breast Histology, IEEE TMI 2018 (HED augmentation).
    """
    stains = torch.tensor(STAINS)
    stains = stains / stains.norm(dim=1, keepdim=True)
    factor = _uniform((count, 3), 1 - strength, 1 + strength, generator)
    extra = _uniform((count, 3), -strength / 10, strength / 10, generator)
    matrix = stains.T @ torch.diag_embed(factor) @ torch.linalg.inv(stains.T)  # acts on density columns
    return torch.cat([matrix, (extra @ stains)[:, :, None]], 2)


def adjust_stain(images: Tensor, maps: Tensor) -> Tensor:
    """Images (B, 3, H, W) -> optical density -> maps (B, 3, 4) of it -> back; to base 2, which is the fastest of its kind."""
    matrix, offset = maps[:, :, :3], maps[:, :, 3:] / -math.log(2)
    density = images.clamp_min(1 / 255).log2_().flatten(2)
    return torch.baddbmm(offset, matrix, density).exp2_().clamp_max_(1).view_as(images)


def draw_boxes(count: int, generator: torch.Generator, *, probability: float) -> Tensor:
    """(B, 2, 2): start and end of the rows and of the columns of a rectangle, in sides of the image; empty with 1 - `probability`."""
    size = _uniform((count, 2), 0.1, 0.4, generator)
    start = _uniform((count, 2), 0.0, 1.0, generator) * (1 - size)
    chosen = _uniform((count, 1), 0.0, 1.0, generator) < probability
    return torch.stack([start, start + size * chosen], 2)


def fill(images: Tensor, boxes: Tensor) -> Tensor:
    """Fill a box (B, 2, 2) of each image with its mean colour. Zhong et al., Random Erasing, AAAI 2020."""
    rows, columns = (
        (place >= boxes[:, axis, :1]) & (place < boxes[:, axis, 1:])
        for axis, place in enumerate(torch.arange(size, device=images.device) / size for size in images.shape[2:])
    )  # (B, H), (B, W)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], images.mean((2, 3), keepdim=True), images)


def mixup(inputs: Tensor, mask: Tensor, target: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Blend each view with another of the batch: inputs (B, M, …), mask (B, M), target (B, K); generator and mask are the host's.

    Zhang et al., mixup, ICLR 2018: λ ~ Beta(α, α), one a view. Only magnifications that both views have are blended and
    kept; views that share none stay as they are.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))  # torch's own Beta takes no generator
    share = torch.from_numpy(rng.beta(alpha, alpha, len(inputs)).astype(np.float32))
    partner = torch.randperm(len(inputs), generator=generator)
    both = mask & mask[partner]
    share = torch.where(both.any(1), share, torch.ones_like(share))
    kept = torch.where(both.any(1, keepdim=True), both, mask)
    share, partner, hidden = (send(each, inputs.device) for each in (share, partner, ~kept))
    wide = share.view(-1, *[1] * (inputs.dim() - 1))
    mixed = wide * inputs + (1 - wide) * inputs[partner]
    mixed = mixed.masked_fill(hidden.view(*kept.shape, *[1] * (inputs.dim() - 2)), 0)
    return mixed, kept, share[:, None] * target + (1 - share[:, None]) * target[partner]
