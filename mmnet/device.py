"""Which device computes, and in what precision."""

import platform
from contextlib import AbstractContextManager, nullcontext

import torch

BFLOAT16_FLAGS = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# as CUDA, cuBLAS, cuDNN, MPS and the host say it where they raise a plain RuntimeError
NO_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED", "not enough memory")


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the host, had no more memory to give."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words.lower() in str(error).lower() for words in NO_MEMORY)


def free_unused(device: torch.device) -> None:
    """Give back what the allocator keeps for later, so that what is asked for next need not fit between its pieces."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The precision of what runs within, see `precision_of`; float16 needs a gradient scaler."""
    return torch.autocast(device.type, dtype=DTYPES[precision]) if precision in DTYPES else nullcontext()


def machine_name(device: torch.device) -> str:
    """The GPU, or the processor and what it has for bfloat16 (one name may stand for several generations)."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    about: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo") as file:
            about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in file)}
    except OSError:
        pass
    model = about.get("model name") or platform.processor() or platform.machine()
    return " ".join([model, *sorted(set(about.get("flags", "").split()) & BFLOAT16_FLAGS)])
