"""Dropout at every place: how much a network of this size must forget to hold on new patients."""

from search_spaces.space import Dimension, Space

SPACE = Space(
    "dropout",
    (
        Dimension("dropout.classifier", "scientific", "the published network needs 0.75 here", low=0.0, high=0.9),
        Dimension("dropout.fusion", "scientific", "in the embeddings and the fusion branches", low=0.0, high=0.7),
        Dimension(
            "dropout.attention", "scientific", "on attention between magnifications; matters with several of them", low=0.0, high=0.5
        ),
        Dimension("dropout.path", "scientific", "whole residual branches skipped (stochastic depth)", low=0.0, high=0.5),
        Dimension("optim.lr", "nuisance", "noise from dropout wants another step size", low=1e-5, high=1e-2, log=True),
        Dimension("optim.weight_decay", "nuisance", "the other regulariser; they trade off", low=1e-6, high=1e-1, log=True),
    ),
)
