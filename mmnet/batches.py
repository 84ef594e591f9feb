"""Rows of the table -> network inputs on the device: everything a step needs, in one batched pass.

A GPU that can spare the room holds all of the data set's pixels or features; else they stay with the host. Nothing here waits
for the device, so the host prepares and sends the next batch while the device still works on the last one.
"""

import warnings

import numpy as np
import torch
from torch import Tensor

from data import augment
from data.augment import send
from data.dataset import Dataset, Rows
from data.views import MISSING
from mmnet.config import Config

PART = 4  # images augmented at once on a CPU: what comes between stays in its cache
SPARE = 0.5  # share of a GPU's free memory that the data set may take


class Batches:
    """Holds the data set's pixels (uint8) or frozen features (float16) on the device, or beside it, for the whole trial."""

    def __init__(self, dataset: Dataset, config: Config, device: torch.device):
        self.config, self.device = config, device
        self.frozen = config.model.frozen
        source = dataset.features if self.frozen else dataset.images
        if source is None:
            raise ValueError(f"the data set holds no {'features: see mmnet.features.with_features' if self.frozen else 'pixels'}")
        moves = device.type != "cpu" and has_room(device, source.nbytes)
        if moves and isinstance(source, Rows):
            source = np.asarray(source)  # only what is selected goes to the device
        # (N, S, S, 3) uint8 or (N, C, H, W) float16; of a selection the whole array, which stays where it is
        self.source = _as_tensor(source.array if isinstance(source, Rows) else source)
        self._place = torch.from_numpy(source.rows) if isinstance(source, Rows) else None
        if moves:
            self.source = self.source.to(device)
        self.judged_at_once: int | None = None  # views, once more of them than that were too many for the device's memory
        # features of a step on a CPU, as stored and as shown: new arrays of this size cost more than what is written to them
        self._held = [torch.empty(0), torch.empty(0)]
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" and self.source.device.type == "cpu" else None

    def evaluation(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """rows (B, M) -> inputs (B, M, …) with zeros where missing, mask (B, M) that stays with the host.

        On a CPU the next call, or the next one of `training`, overwrites frozen features that this one returned.
        """
        there = rows != MISSING
        plan = augment.nothing(int(there.sum()))
        return self._inputs(rows, there, plan), torch.from_numpy(there)

    def training(self, rows: np.ndarray, target: np.ndarray, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """As `evaluation`, augmented, with targets (B, K) that mixup may have softened. The generator is the host's."""
        settings, there = self.config.augment, rows != MISSING
        if self.frozen:
            plan = augment.nothing(int(there.sum()))
        else:
            plan = augment.draw(
                int(there.sum()),
                generator,
                flip=settings.flip,
                turn=settings.turn,
                crop=settings.crop,
                rotation=settings.rotation,
                color=settings.color,
                hue=settings.hue,
                stain=settings.stain,
                blur=settings.blur,
                elastic=settings.elastic,
                erase=settings.erase,
            )
        inputs = self._inputs(rows, there, plan)
        if self.frozen and settings.feature_noise:
            seed = int(torch.randint(2**62, (), generator=generator))
            own = torch.Generator(self.device).manual_seed(seed)  # one number a channel is too much to send at every step
            noise = torch.empty(inputs.shape[:3], device=self.device).normal_(1.0, settings.feature_noise, generator=own)
            inputs = inputs * noise[..., None, None]
        mask, wanted = torch.from_numpy(there), send(torch.from_numpy(target), self.device)
        if settings.mixup:
            return augment.mixup(inputs, mask, wanted, alpha=settings.mixup, generator=generator)
        return inputs, mask, wanted

    def _inputs(self, rows: np.ndarray, there: np.ndarray, plan: augment.Plan) -> Tensor:
        """The K images or feature maps that are there, in their places of (B, M, …) float32, zeros elsewhere."""
        index = torch.from_numpy(rows[there])
        count = max(1, len(index))
        size = PART if self.device.type == "cpu" and not self.frozen else count
        parts = [slice(start, start + size) for start in range(0, count, size)]
        done = [self._values(index[part], plan.part(part)) for part in parts]
        values = done[0] if len(done) == 1 else torch.cat(done)
        if len(index) == rows.size:
            return values.unflatten(0, rows.shape)
        whole = values.new_zeros((rows.size, *values.shape[1:]))
        whole.index_copy_(0, send(torch.from_numpy(np.flatnonzero(there)), self.device), values)
        return whole.unflatten(0, rows.shape)

    def _values(self, index: Tensor, plan: augment.Plan) -> Tensor:
        """Rows (K,) of the source -> (K, C, H, W) float32 on the device, images at the size that the backbone is shown."""
        if not self.frozen:
            return augment.shrink(plan(self._gather(index)), self.config.model.input_size)
        if self.device.type != "cpu":
            return self._gather(index).to(torch.float32)
        if len(self._held[0]) < len(index):
            self._held = [torch.empty((len(index), *self.source.shape[1:]), dtype=kind) for kind in (self.source.dtype, torch.float32)]
        stored, values = (held[: len(index)] for held in self._held)
        torch.index_select(self.source, 0, index if self._place is None else self._place[index], out=stored)
        return values.copy_(stored)

    def _gather(self, index: Tensor) -> Tensor:
        """Rows (K,) of the data set as they are, on the device."""
        index = index if self._place is None else self._place[index]
        if self._copies is None:
            return self.source.index_select(0, send(index, self.source.device))
        pinned = torch.empty((len(index), *self.source.shape[1:]), dtype=self.source.dtype, pin_memory=True)
        torch.index_select(self.source, 0, index, out=pinned)
        with torch.cuda.stream(self._copies):  # beside the steps, so that it runs while the device computes the last one
            values = pinned.to(self.device, non_blocking=True)
        working = torch.cuda.current_stream(self.device)
        working.wait_stream(self._copies)
        values.record_stream(working)
        return values


def has_room(device: torch.device, needed: int) -> bool:
    """Whether `needed` bytes are best held on the device: always where it shares the host's memory, else while it can spare them."""
    return device.type != "cuda" or needed < SPARE * torch.cuda.mem_get_info(device)[0]


def _as_tensor(array: np.ndarray) -> Tensor:
    """Share the array's memory. It may be read-only, which torch only warns about; nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return torch.from_numpy(array)
