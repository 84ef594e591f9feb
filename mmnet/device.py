"""Which device computes, and in what precision."""

from contextlib import nullcontext

import torch


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the host, had no more memory to give."""
    return isinstance(error, torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and "allocate memory" in str(error))


def free_unused(device: torch.device) -> None:
    """Give back what the allocator keeps for later, so that what is asked for next need not fit between its pieces."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def autocast(device: torch.device, enabled: bool):
    """bfloat16 on CUDA, nothing elsewhere: bfloat16 needs no loss scaling."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if enabled and device.type == "cuda" else nullcontext()
