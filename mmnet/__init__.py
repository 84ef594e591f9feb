"""Configuration, the network, losses, one k-fold training run, its records and metrics. Knows no Ray."""

import os

# also where torchvision, timm or the hub would say otherwise: reading weights never executes what stands in the file
os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # where timm downloads weights
