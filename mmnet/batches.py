"""Rows of the table -> network inputs on the device: everything a step needs, in one batched pass."""

import numpy as np
import torch
from torch import Tensor

from data import augment
from data.dataset import Dataset
from data.views import MISSING
from mmnet.config import Config


class Batches:
    """Holds the data set's pixels (uint8) or frozen features (float16) on the device for the whole trial."""

    def __init__(self, dataset: Dataset, config: Config, device: torch.device):
        self.config, self.device = config, device
        self.frozen = config.model.frozen
        source = dataset.features if self.frozen else dataset.images
        if source is None:
            raise ValueError(f"the data set holds no {'features: see mmnet.features.with_features' if self.frozen else 'pixels'}")
        self.source = _as_tensor(source).to(device)

    def evaluation(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """rows (B, M) -> inputs (B, M, …) with zeros where missing, mask (B, M)."""
        mask = torch.from_numpy(rows != MISSING).to(self.device)
        return self._scatter(self._gather(rows), mask), mask

    def training(self, rows: np.ndarray, label: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """As `evaluation`, augmented, with targets (B,) that mixup may have softened."""
        settings = self.config.augment
        mask = torch.from_numpy(rows != MISSING).to(self.device)
        values = self._gather(rows)
        if not self.frozen:
            if settings.flip or settings.turn:
                values = augment.dihedral(values, generator, flip=settings.flip, turn=settings.turn)
            if settings.crop < 1:
                values = augment.crop(values, generator, smallest=settings.crop)
            if settings.color:
                values = augment.color(values, generator, strength=settings.color)
            if settings.stain:
                values = augment.stain(values, generator, strength=settings.stain)
            if settings.erase:
                values = augment.erase(values, generator, probability=settings.erase)
        elif settings.feature_noise:
            noise = torch.empty(values.shape[:2], device=self.device).normal_(1.0, settings.feature_noise, generator=generator)
            values = values * noise[:, :, None, None]
        inputs = self._scatter(values, mask)
        target = torch.from_numpy(label).to(self.device, torch.float32)
        if settings.mixup:
            return augment.mixup(inputs, mask, target, alpha=settings.mixup, generator=generator)
        return inputs, mask, target

    def _gather(self, rows: np.ndarray) -> Tensor:
        """The K images or feature maps that are there, (K, C, H, W) float32."""
        values = self.source[torch.from_numpy(rows[rows != MISSING]).to(self.device)]
        return values.to(torch.float32) if self.frozen else augment.to_float(values)

    def _scatter(self, values: Tensor, mask: Tensor) -> Tensor:
        """(K, …) values of the K True places of mask (B, M) -> (B, M, …), zero elsewhere."""
        if len(values) == mask.numel():
            return values.unflatten(0, tuple(mask.shape))
        whole = values.new_zeros(*mask.shape, *values.shape[1:])
        whole[mask] = values
        return whole


def _as_tensor(array: np.ndarray) -> Tensor:
    """Share the array's memory. It may be read-only, which torch only warns about; nothing here writes to it."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)
