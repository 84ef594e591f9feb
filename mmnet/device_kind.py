"""What kind of device computes: all that has to be known of it before anything is computed, without importing torch if that can be."""

import importlib.metadata
from contextlib import suppress

from mmnet.config import AUTO, Config


def device_kind() -> str:
    """Of `mmnet.device.best_device`: "cuda", "mps" or "cpu". A torch that is built for CPUs only need not be asked, which takes 2 s."""
    with suppress(importlib.metadata.PackageNotFoundError):
        if importlib.metadata.version("torch").endswith("+cpu"):
            return "cpu"
    from mmnet.device import best_device

    return best_device().type


def computes_in_bfloat16(kind: str, precision: str) -> bool:
    """Whether networks run in bfloat16; `auto` that nothing has decided means on CUDA only. Never on MPS, where it is not faster."""
    return kind != "mps" and (precision == "bfloat16" or (precision == AUTO and kind == "cuda"))


def untimed(config: Config, kind: str) -> Config:
    """Precision and compiling of a frozen backbone, where they are left open: there is little to speed up, so nothing is timed.

    Of others see `mmnet.precision` and `mmnet.worth_compiling`.
    """
    precision = config.optim.precision
    if precision == AUTO:
        precision = "bfloat16" if computes_in_bfloat16(kind, AUTO) else "float32"
    return config.with_values({"optim.precision": precision, "optim.compile": bool(config.optim.compile)})
