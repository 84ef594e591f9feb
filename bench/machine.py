"""What every figure has to say about where it was measured."""

import os
import platform

import numpy as np
import torch


def describe_machine() -> str:
    """One line: processor, cores, threads, device, versions."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {device}; Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
