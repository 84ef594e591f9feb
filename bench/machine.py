"""What every figure has to say about where it was measured."""

import os
import platform

import numpy as np
import torch

from mmnet.device import machine_name


def describe_machine() -> str:
    """One line: processor, cores, threads, device, versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{machine_name(torch.device('cpu'))}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {device}; Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
