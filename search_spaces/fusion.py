"""How magnifications are attended to and fused: every mechanism of MMNet on or off, and its size."""

from search_spaces.space import Dimension, Space

BOTH = (True, False)

SPACE = Space(
    "fusion",
    (
        Dimension("model.channel_attention", "scientific", "is it worth its parameters?", choices=BOTH),
        Dimension("model.pool", "scientific", "where to look: gated at several scales, by one attention, everywhere alike", choices=("gate", "softmax", "mean")),
        Dimension("model.hierarchy", "scientific", "does detail need the overview?", choices=("causal", "bidirectional", "none")),
        Dimension("model.importance", "scientific", "may a magnification count more than another?", choices=BOTH),
        Dimension("model.cross_attention", "scientific", "fusion branch", choices=BOTH),
        Dimension("model.concatenation", "scientific", "fusion branch", choices=BOTH),
        Dimension("model.mixing", "scientific", "which branch counts more is learned, or both count alike", choices=("learned", "equal")),
        Dimension("model.width", "nuisance", "capacity; small data wants little", choices=(32, 64, 128, 256)),
        Dimension("model.heads", "nuisance", "of every attention; divides all widths", choices=(1, 2, 4, 8)),
        Dimension("dropout.fusion", "nuisance", "capacity and regularisation trade off", low=0.0, high=0.7),
        Dimension("optim.lr", "nuisance", "each architecture has its own best step size", low=1e-5, high=1e-2, log=True),
    ),
)
