"""Everything: loss, balance, dropout, fusion, attention, optimisation, augmentation; conditional where a choice switches others off."""

from dataclasses import replace

from search_spaces import dropout, focal, fusion, optim
from search_spaces.space import Dimension, union

_PIXELS = ("model.frozen", (False,))  # frozen features were computed before any augmentation
_CONDITIONS = {
    "loss.gamma": ("loss.name", ("focal",)),
    "loss.alpha": ("loss.name", ("focal",)),
}
_LOSS = Dimension("loss.name", "scientific", "is focal loss worth two more parameters?", choices=("focal", "cross_entropy"))
_AUGMENTATION = (
    Dimension("augment.crop", "nuisance", "size of nuclei varies less than crops suggest", low=0.5, high=1.0, when=_PIXELS),
    Dimension("augment.rotation", "nuisance", "tissue has no up, and 90° turns know four ups", low=0.0, high=45.0, when=_PIXELS),
    Dimension("augment.color", "nuisance", "scanners and lamps differ", low=0.0, high=0.4, when=_PIXELS),
    Dimension("augment.stain", "nuisance", "laboratories differ", low=0.0, high=0.4, when=_PIXELS),
    Dimension("augment.erase", "nuisance", "no single region may decide", low=0.0, high=0.5, when=_PIXELS),
    Dimension(
        "augment.feature_noise",
        "nuisance",
        "the little augmentation that frozen features allow",
        low=0.0,
        high=0.5,
        when=("model.frozen", (True,)),
    ),
)
_all = union("full", focal.SPACE, dropout.SPACE, fusion.SPACE, optim.SPACE, extra=_AUGMENTATION)
_conditional = tuple(replace(d, when=_CONDITIONS.get(d.path, d.when)) for d in _all.dimensions if d.path != "loss.name")
SPACE = replace(_all, dimensions=(_LOSS, *_conditional))
