"""The loss and the class balance: what counts as a mistake, and how much."""

from search_spaces.space import Dimension, Space

SPACE = Space(
    "focal",
    (
        Dimension("loss.gamma", "scientific", "how much easy views are ignored; 0 is cross-entropy", low=0.0, high=5.0),
        Dimension("loss.alpha", "scientific", "weight of malignant against benign, beyond what balancing does", low=0.2, high=0.8),
        Dimension(
            "loss.label_smoothing", "scientific", "bounds confidence on few patients; log loss pays for overconfidence", low=0.0, high=0.3
        ),
        Dimension(
            "sampling.balance",
            "scientific",
            "two of three patients are malignant, and large ones dominate",
            choices=("none", "class", "patient", "class_patient"),
        ),
        Dimension("optim.lr", "nuisance", "gamma and alpha change the size of gradients", low=1e-5, high=1e-2, log=True),
        Dimension("loss.name", "fixed", "cross-entropy is the point gamma = 0, alpha = 0.5 of this space", value="focal"),
    ),
)
