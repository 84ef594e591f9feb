"""Optimisation: how fast, how long, how smooth."""

from search_spaces.space import Dimension, Space

SPACE = Space(
    "optim",
    (
        Dimension("optim.lr", "scientific", "the one dimension that always matters", low=1e-5, high=1e-2, log=True),
        Dimension("optim.weight_decay", "scientific", "decoupled from the gradient in AdamW", low=1e-6, high=1e-1, log=True),
        Dimension("optim.schedule", "scientific", "react to the score, or anneal by plan", choices=("plateau", "cosine", "constant")),
        Dimension(
            "optim.warmup",
            "nuisance",
            "protects pretrained weights from the first steps; by plan only",
            low=0.0,
            high=1.0,
            when=("optim.schedule", ("cosine",)),
        ),
        Dimension("optim.clip", "nuisance", "focal loss has rare large gradients", low=0.1, high=10.0, log=True),
        Dimension("optim.batch_size", "nuisance", "noise of a step; memory sets its ceiling", choices=(8, 16, 32)),
        Dimension("augment.mixup", "nuisance", "the strongest regulariser that frozen features allow", low=0.0, high=0.5),
        Dimension("optim.patience", "fixed", "published; the search stops trials by rungs anyway", value=7),
    ),
)
