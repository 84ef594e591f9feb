"""Every mechanism on and off, one at a time around the base configuration, on the same folds and seeds.

Not searched but planned: trial 0 is the base, trials 1 to M have one of M mechanisms the other way round, and so on with
the next seed. How many seeds there are is decided by --trials.
"""

from dataclasses import dataclass
from typing import Any

from mmnet.config import Config, get_value
from search_spaces.space import Dimension, Space

SEEDS = 3  # by default
SEED_RANGE = 999


@dataclass(frozen=True)
class Mechanism:
    """A part of the published method: the values that switch it on (where the base has it off) and off."""

    name: str
    reason: str
    on: dict[str, Any]
    off: dict[str, Any]
    magnifications: int = 1  # with fewer it has nothing to act on

    def around(self, base: Config) -> "Mechanism":
        """The same with the base's own values as its on side, where the base has it on."""
        have = {path: get_value(base, path) for path in self.on}
        return self if have == self.off else Mechanism(self.name, self.reason, have, self.off, self.magnifications)


MECHANISMS = (
    Mechanism(
        "channel attention", "is it worth its parameters?", {"model.channel_attention": True}, {"model.channel_attention": False}
    ),
    Mechanism("attention pooling", "against the mean over positions", {"model.pool": "softmax"}, {"model.pool": "mean"}),
    Mechanism("hierarchical attention", "does detail need the overview?", {"model.hierarchy": "causal"}, {"model.hierarchy": "none"}, 2),
    Mechanism(
        "magnification fusion",
        "both fusion branches against the weighted mean alone",
        {"model.cross_attention": True, "model.concatenation": True},
        {"model.cross_attention": False, "model.concatenation": False},
        2,
    ),
    Mechanism("importance weights", "may a magnification count more than another?", {"model.importance": True}, {"model.importance": False}, 2),
    Mechanism("mixup", "training on mixtures of views", {"augment.mixup": 0.2}, {"augment.mixup": 0.0}),
    Mechanism("focal loss", "against cross-entropy", {"loss.name": "focal"}, {"loss.name": "cross_entropy"}),
    Mechanism("balancing", "equal shares of the classes in an epoch", {"sampling.balance": "class"}, {"sampling.balance": "none"}),
    Mechanism("masked magnifications", "hiding magnifications in training", {"augment.masking": 0.2}, {"augment.masking": 0.0}, 2),
)  # fmt: skip


@dataclass(frozen=True)
class Ablation(Space):
    """A planned space: `point` gives every trial its values."""

    mechanisms: tuple[Mechanism, ...] = ()

    @property
    def trials(self) -> int:
        return SEEDS * (1 + len(self.mechanisms))

    def point(self, number: int, base: Config) -> dict[str, Any]:
        repeat, which = divmod(number, 1 + len(self.mechanisms))
        values: dict[str, Any] = {"seed": base.seed + repeat}
        if which:
            mechanism = self.mechanisms[which - 1]
            is_on = all(get_value(base, path) == value for path, value in mechanism.on.items())
            values |= mechanism.off if is_on else mechanism.on
        return self.encode(base.with_values(values))


def space(base: Config) -> Ablation:
    """The ablation around a configuration: a mechanism that has nothing to act on is left out."""
    count = len(base.data.magnifications)
    mechanisms = tuple(mechanism.around(base) for mechanism in MECHANISMS if mechanism.magnifications <= count)
    dimensions = [Dimension("seed", "nuisance", "noise that every effect is held against", low=base.seed, high=base.seed + SEED_RANGE)]
    for mechanism in mechanisms:
        for path, value in mechanism.on.items():
            dimensions.append(Dimension(path, "scientific", f"{mechanism.name}: {mechanism.reason}", choices=(value, mechanism.off[path])))
    return Ablation("ablation", tuple(dimensions), mechanisms)
