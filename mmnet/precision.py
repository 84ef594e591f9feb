"""Whether a backbone trains faster in bfloat16 than in float32: it depends on both the backbone and the machine.

On one CPU kind bfloat16 nearly doubles the speed of ResNet-18 and takes a third off that of EfficientNet-Lite0
(bench/RESULTS.md), so `optim.precision = auto` is decided by a timing when a study starts, and recorded as what was chosen.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from mmnet.backbones import build_backbone
from mmnet.build import channels_of
from mmnet.config import AUTO, Config, ModelConfig
from mmnet.device_kind import computes_in_bfloat16
from mmnet.step_timing import apart, remembered, seconds_of_pass

GAIN = 1.1  # times as fast as float32 at least: less is not worth its rounding
HOPELESS = 2.0  # times as slow as float32 at a glance
BUDGET = 2.0  # seconds of measuring; a slow step is timed once
IMAGES = {"cuda": 64, "cpu": 4}  # at once


def decided(config: Config, device: torch.device) -> tuple[Config, str]:
    """(the configuration with its precision decided, a line for people where that took a timing).

    Nothing is timed where the backbone is too small to matter; where timing fails, `auto` stays. Raises ConfigError where the
    backbone cannot take the images' size. Of a frozen one see `mmnet.device_kind.untimed`.
    """
    if config.optim.precision != AUTO:
        return config, ""
    model, size = config.model, config.input_size
    if model.backbone == "tiny" or device.type not in IMAGES:
        chosen, line = "bfloat16" if computes_in_bfloat16(device.type, AUTO) else "float32", ""
    else:
        try:
            seconds = timing(model, size, device)
        except RuntimeError as error:
            return config, f"auto: no timing of {model.backbone} ({str(error).splitlines()[0][:200]})"
        chosen = faster(seconds)
        rates = ", ".join(f"{name} {1 / each:.0f}" for name, each in seconds.items())
        line = f"{chosen}: images/s of {model.backbone} at {size} px here: {rates}"
    return config.with_values({"optim.precision": chosen}), line


def faster(seconds: dict[str, float]) -> str:
    """bfloat16 where it is clearly faster."""
    return "bfloat16" if seconds["float32"] >= GAIN * seconds["bfloat16"] else "float32"


def timing(model: ModelConfig, size: int, device: torch.device) -> dict[str, float]:
    """`measure`, once a machine."""
    key = {"backbone": model.backbone, "size": size}
    return remembered(key, device, lambda: apart(device, measure, model, size, device))[0]


def measure(model: ModelConfig, size: int, device: torch.device) -> dict[str, float]:
    """{precision: seconds an image}: the shortest of a few training steps in turn, with random weights.

    Processors without instructions for bfloat16 take many times as long: there, one image forward says enough.
    """
    backbone = build_backbone(replace(model, weights=None), size, seed=0)
    channels_of(backbone, size)  # raises where it cannot take this size
    backbone.to(device)
    images = torch.rand(IMAGES[device.type], 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        begun = time.perf_counter()
        for _ in range(2):  # the first pass of a kind also chooses algorithms
            glance = _in_both(lambda precision: seconds_of_pass(backbone.eval(), images[:1], precision))
    if glance["bfloat16"] > HOPELESS * glance["float32"]:
        return glance
    backbone.train()
    _in_both(lambda precision: seconds_of_pass(backbone, images, precision))  # as above
    seconds = _in_both(lambda precision: seconds_of_pass(backbone, images, precision))
    while time.perf_counter() - begun < BUDGET:
        again = _in_both(lambda precision: seconds_of_pass(backbone, images, precision))
        seconds = {name: min(seconds[name], again[name]) for name in seconds}
    return {name: each / len(images) for name, each in seconds.items()}


def _in_both(work: Callable[[str], float]) -> dict[str, float]:
    return {precision: work(precision) for precision in ("float32", "bfloat16")}
