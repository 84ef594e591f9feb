"""Two dimensions, for tests and a first look."""

from search_spaces.space import Dimension, Space

SPACE = Space(
    "smoke",
    (
        Dimension("optim.lr", "scientific", "moves every score", low=1e-4, high=1e-2, log=True),
        Dimension("dropout.classifier", "nuisance", "moves scores a little", low=0.0, high=0.75),
    ),
)
