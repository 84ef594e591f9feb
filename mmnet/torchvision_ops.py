"""Makes `import torchvision` work beside a CPU torch, whose index ships torchvision without its compiled operators.

torchvision registers fake implementations of `torchvision::nms` and `torchvision::qnms` on import and fails when nobody
declared them. Where the compiled operators are there, this does nothing. No code here uses either operator.
"""

import importlib

import torch

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
        import sys

        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # a half-imported package
        return importlib.import_module("torchvision")
