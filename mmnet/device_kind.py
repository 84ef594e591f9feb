"""What kind of device computes: all that has to be known of it before anything is computed, without importing torch if that can be."""

import importlib.metadata
from contextlib import suppress

from mmnet.config import AUTO, Config, ModelConfig


def device_kind() -> str:
    """Of `mmnet.device.best_device`: "cuda", "mps" or "cpu". A torch that is built for CPUs only need not be asked, which takes 2 s."""
    with suppress(importlib.metadata.PackageNotFoundError):
        if importlib.metadata.version("torch").endswith("+cpu"):
            return "cpu"
    from mmnet.device import best_device

    return best_device().type


def precision_of(precision: str, kind: str) -> str:
    """What `auto` means on a kind of device: bfloat16 where a GPU computes it itself, float16 on other CUDA devices, else float32."""
    if precision != AUTO:
        return precision
    if kind != "cuda":
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def default_batch_size(model: ModelConfig, kind: str, views: int) -> int:
    """Views a step: as published for fine-tuning (16 CUDA, 8 MPS, 4 CPU).

    A step of a head on frozen features mostly reads and writes weights: as many as leave an epoch of `views` its 16 steps, 32 to 128.
    """
    if model.frozen:
        return min(max(32, views // 16), 128)
    return {"cuda": 16, "mps": 8}.get(kind, 4)


def resolved(config: Config, kind: str, views: int) -> Config:
    """What of precision and batch size the configuration leaves to the device, so that it is the same experiment on another one."""
    batch_size = config.optim.batch_size or default_batch_size(config.model, kind, views)
    return config.with_values({"optim.precision": precision_of(config.optim.precision, kind), "optim.batch_size": batch_size})
