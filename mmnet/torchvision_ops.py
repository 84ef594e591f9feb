"""torchvision: its networks up to their pooling, and an import that works without its compiled operators.

Beside a CPU torch its index ships it without them, and it registers fake implementations of `torchvision::nms` and
`torchvision::qnms` on import, which fails when nobody declared them. No code here uses either operator.
"""

import copy
import importlib
import re
import sys
from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

_declarations: list[torch.library.Library] = []  # a Library undoes its declarations when it is collected


def import_torchvision():
    """The torchvision module, with missing operators declared first."""
    try:
        return importlib.import_module("torchvision")
    except (RuntimeError, AttributeError, ImportError):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declarations.append(library)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # a half-imported package
        return importlib.import_module("torchvision")


def before_pooling(model: nn.Module) -> nn.Module | None:
    """The part of a torchvision network before its last pooling, or before a vision transformer takes its class token.

    None where there is no such place. Maps are (B, C, h, w), tokens (B, 1 + h·w, C).
    """
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    parts = dict(model.named_modules())
    nodes = get_graph_node_names(model)[1]
    last = "encoder.ln" if "encoder.ln" in nodes else ""
    for before, node in pairwise(nodes):
        if isinstance(parts.get(node), nn.AdaptiveAvgPool2d) or node in ("adaptive_avg_pool2d", "mean"):
            last = before
    return _Extracted(create_feature_extractor(model, {last: "maps"})) if last else None


class _Extracted(nn.Module):
    """A torchvision feature extractor whose forward gives its only map."""

    def __init__(self, extractor: nn.Module):
        super().__init__()
        self.extractor = extractor

    def forward(self, images: Tensor) -> Tensor:
        return self.extractor(images)["maps"]

    def __deepcopy__(self, memo: dict) -> "_Extracted":
        copied = _Extracted(copy.deepcopy(self.extractor, memo))
        return copied.train().train(self.training)  # torchvision's copy runs as in training whatever its mode says


def adapted(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Weights of torchvision's hub under the names of today, with position embeddings for the model's image size."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = OrderedDict((re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", key), value) for key, value in state.items())
    return interpolate_embeddings(model.image_size, model.patch_size, state) if "encoder.pos_embedding" in state else state
