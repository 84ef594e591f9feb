"""Configuration, the network, losses, one k-fold training run, its records and metrics. Knows no Ray."""
