"""Everything: loss, balance, dropout, fusion, attention, optimisation, augmentation, and of a trained backbone which one and image size.

Made around its base: what has nothing to act on there is left out. A choice that switches others off stands before them.
"""

from dataclasses import replace

from mmnet.config import Config
from search_spaces import dropout, focal, fusion, optim
from search_spaces.space import Dimension, Space, union

BACKBONES = ("efficientnet_b0", "mobilenet_v3_large", "resnet18", "convnext_tiny")  # whose weights have a name, and no file
SIZES = (96, 128, 160, 192)  # px
_CONDITIONS = {
    "loss.gamma": ("loss.name", ("focal",)),
    "loss.alpha": ("loss.name", ("focal",)),
}
_LOSS = Dimension("loss.name", "scientific", "is focal loss worth two more parameters?", choices=("focal", "cross_entropy"))
_MASKING = Dimension("augment.masking", "nuisance", "patients lack magnifications; none may carry it all", low=0.0, high=0.5)
_FROZEN = (Dimension("augment.feature_noise", "nuisance", "the little augmentation that frozen features allow", low=0.0, high=0.5),)
_TRAINED = (
    Dimension("augment.crop", "nuisance", "size of nuclei varies less than crops suggest", low=0.5, high=1.0),
    Dimension("augment.rotation", "nuisance", "tissue has no up, and 90° turns know four ups", low=0.0, high=45.0),
    Dimension("augment.color", "nuisance", "scanners and lamps differ", low=0.0, high=0.4),
    Dimension("augment.stain", "nuisance", "laboratories differ", low=0.0, high=0.4),
    Dimension("augment.erase", "nuisance", "no single region may decide", low=0.0, high=0.5),
    Dimension("optim.backbone_lr", "nuisance", "few patients spoil pretrained weights; a share of lr", low=0.01, high=1.0, log=True),
)


def space(base: Config) -> Space:
    """The space around a configuration."""
    whole = union("full", focal.SPACE, dropout.SPACE, fusion.SPACE, optim.SPACE, extra=_FROZEN if base.model.frozen else _trained(base))
    idle = {"loss.name", *_idle(base)}
    members = tuple(replace(d, when=_CONDITIONS.get(d.path, d.when)) for d in whole.dimensions if d.path not in idle)
    several = (_MASKING,) if len(base.data.magnifications) > 1 else ()
    return replace(whole, dimensions=(_LOSS, *members, *several))


def _idle(base: Config) -> tuple[str, ...]:
    """What has nothing to act on: attention between magnifications where there is one, between positions where they are averaged."""
    alone = ("model.hierarchy", "model.importance") if len(base.data.magnifications) == 1 else ()
    return (*alone, "model.pool") if base.model.frozen and base.model.pooled else alone


def _trained(base: Config) -> tuple[Dimension, ...]:
    """What varies of a trained backbone: which one, unless the base names another or gives its weights in a file, and smaller images."""
    model, named = base.model, base.model.weights in ("imagenet", None)
    choice = Dimension("model.backbone", "scientific", "size, age and kind of the pretrained network", choices=BACKBONES)
    sizes = tuple(size for size in SIZES if size < base.data.image_size)
    shown = Dimension("model.input_size", "scientific", "smaller images cost less; do they lose anything?", choices=(None, *sizes))
    return (
        *((choice,) if named and model.backbone in BACKBONES else ()),
        *((shown,) if sizes else ()),
        *_TRAINED,
    )
