"""A search space as plain data: dimensions with range, scale, kind and reason.

`kind` follows the tuning playbook (Godbole et al., Deep Learning Tuning Playbook, 2023): *scientific* dimensions are the
question, *nuisance* dimensions must be tuned for a fair answer, *fixed* ones are held on purpose.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any, Protocol

from mmnet.config import Config, ConfigError, get_value, text_of

KINDS = ("scientific", "nuisance", "fixed")
OF_THE_STUDY = ("data.", "metric", "model.frozen", "model.pooled", "model.weights")  # what its trials share, or are compared by
OF_THE_FEATURES = ("model.backbone", "model.input_size")  # of a frozen backbone, which runs once for all trials
BETWEEN = 0.382  # of a range: no whole number where the ends are, so that a range of floats for a whole-number field is noticed


class Suggests(Protocol):
    """The part of optuna.Trial that a space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: tuple) -> Any: ...


@dataclass(frozen=True)
class Dimension:
    """One field of the configuration that varies: a range (`low`, `high`), `choices`, or a `value` where it is fixed."""

    path: str
    kind: str
    reason: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    value: Any = None
    when: tuple[str, tuple[Any, ...]] | None = None  # (path, values): only where that field has one of these values

    def values(self) -> tuple[Any, ...]:
        """What has to be valid: the value, the choices, or the ends of the range and a number between them."""
        if self.kind == "fixed":
            return (self.value,)
        if self.choices:
            return self.choices
        assert self.low is not None and self.high is not None
        if isinstance(self.low, int) and isinstance(self.high, int):
            return (self.low, self.high)
        return (self.low, self.low + BETWEEN * (self.high - self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Whether a trial can have this value."""
        if self.kind == "fixed":
            return value == self.value
        try:
            self.encode(value)
        except ValueError:
            return False
        return True

    def described(self) -> str:
        """What it can be, for people."""
        if self.kind == "fixed":
            return f"= {text_of(self.value)}"
        if self.choices:
            return " | ".join(str(text_of(choice)) for choice in self.choices)
        return f"{self.low:g} … {self.high:g}{' (log)' if self.log else ''}"

    def suggest(self, trial: Suggests) -> Any:
        """Ask the sampler for a value. Lists are passed to it as text, which its storage can hold."""
        if self.choices:
            text = {text_of(choice): choice for choice in self.choices}
            return text[trial.suggest_categorical(self.path, tuple(text))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.path, self.low, self.high, log=self.log)
        assert self.low is not None and self.high is not None
        return trial.suggest_float(self.path, self.low, self.high, log=self.log)

    def encode(self, value: Any) -> Any:
        """A configuration value as the sampler holds it; raises ValueError when it lies outside."""
        if self.choices:
            texts = {text_of(choice) for choice in self.choices}
            text = text_of(value)
            if text not in texts:
                raise ValueError
            return text
        assert self.low is not None and self.high is not None
        if not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            raise ValueError
        return value


@dataclass(frozen=True)
class Space:
    """Dimensions in the order in which they are asked; a condition names an earlier one."""

    name: str
    dimensions: tuple[Dimension, ...]

    @property
    def trials(self) -> int:
        """How many configurations to try unless the user says."""
        return 30

    def point(self, number: int, base: Config) -> dict[str, Any] | None:
        """The sampler's parameters that trial `number` is to have; None: the sampler decides. The base comes first."""
        return self.encode(base) if number == 0 else None

    def searched(self) -> tuple[Dimension, ...]:
        return tuple(dimension for dimension in self.dimensions if dimension.kind != "fixed")

    def choices(self, path: str) -> tuple[Any, ...]:
        """What is searched of a field; nothing where it is not searched by choices."""
        return next((dimension.choices for dimension in self.searched() if dimension.path == path), ())

    def with_choices(self, path: str, choices: tuple[Any, ...]) -> "Space":
        """The space with other choices of a field; one choice or none is no dimension."""
        changed = (replace(dimension, choices=choices) if dimension.path == path else dimension for dimension in self.dimensions)
        return replace(self, dimensions=tuple(d for d in changed if d.path != path or len(choices) > 1))

    def sample(self, trial: Suggests, base: Config) -> dict[str, Any]:
        """{path: value} of the searched dimensions that apply, conditions seen against the values drawn so far."""
        return self._walk(base, lambda dimension: dimension.suggest(trial))

    def encode(self, config: Config) -> dict[str, Any]:
        """The sampler's parameters of an existing configuration, to try it first; what lies outside is left to the sampler."""
        encoded: dict[str, Any] = {}

        def value(dimension: Dimension) -> Any:
            current = get_value(config, dimension.path)
            try:
                encoded[dimension.path] = dimension.encode(current)
            except ValueError:
                pass
            return current

        self._walk(config, value)
        return encoded

    def _walk(self, base: Config, value: Callable[[Dimension], Any]) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        for dimension in self.searched():
            if dimension.when is not None:
                path, allowed = dimension.when
                if (drawn[path] if path in drawn else get_value(base, path)) not in allowed:
                    continue
            drawn[dimension.path] = value(dimension)
        return drawn

    def check(self, base: Config) -> None:
        """Hold every dimension against the configuration before anything starts. Raises ConfigError naming it."""
        for place, dimension in enumerate(self.dimensions):
            try:
                self._check_one(dimension, self.dimensions[:place], base)
            except ConfigError as error:
                raise ConfigError(f"space {self.name}, {dimension.path}: {error}") from error
        self._check_pairs(base)

    def _check_one(self, dimension: Dimension, before: tuple[Dimension, ...], base: Config) -> None:
        current = get_value(base, dimension.path)
        if dimension.kind not in KINDS or not dimension.reason:
            raise ConfigError(f"kind {dimension.kind!r}: expected one of {', '.join(KINDS)}, with a reason")
        if any(other.path == dimension.path for other in before):
            raise ConfigError("stands twice; expected one dimension a field")
        if dimension.kind == "fixed":
            if current != dimension.value:
                raise ConfigError(
                    f"is held at {dimension.value!r}, but the base configuration says {current!r}: "
                    "leave that field as it is or choose another --space"
                )
            return
        if dimension.path.startswith(OF_THE_STUDY) or (base.model.frozen and dimension.path in OF_THE_FEATURES):
            raise ConfigError("is decided once for a study, whose trials share data and score; expected a field that a trial may change")
        _check_values(dimension, current)
        conditions = [{}] if dimension.when is None else [{dimension.when[0]: value} for value in self._allowed(dimension, before, base)]
        for condition, value in product(conditions, dimension.values()):
            base.with_values(condition | {dimension.path: value})

    def _allowed(self, dimension: Dimension, before: tuple[Dimension, ...], base: Config) -> tuple[Any, ...]:
        """The values of a condition. Raises ConfigError unless its field stands earlier, or not at all, and can have one of them."""
        assert dimension.when is not None
        path, allowed = dimension.when
        get_value(base, path)
        where = f"condition {path} in {allowed}"
        asked = next((other for other in self.dimensions if other.path == path), None)
        if not isinstance(allowed, tuple) or not allowed or (asked is not None and asked not in before):
            raise ConfigError(f"{where}: expected a tuple of values, and {path} to stand earlier in the space")
        if asked is not None and not any(asked.holds(value) for value in allowed):
            raise ConfigError(f"{where} is never true: expected a value of its dimension, {asked.described()}")
        return allowed

    def _check_pairs(self, base: Config) -> None:
        """No two dimensions of a section may clash: each is valid alone, so an error names both."""
        searched = [dimension for dimension in self.searched() if dimension.when is None]
        for one, other in combinations(searched, 2):
            if one.path.partition(".")[0] != other.path.partition(".")[0]:
                continue
            for values in product(one.values(), other.values()):
                try:
                    base.with_values(dict(zip((one.path, other.path), values, strict=True)))
                except ConfigError as error:
                    raise ConfigError(
                        f"space {self.name}: {one.path} = {values[0]} clashes with {other.path} = {values[1]}: {error}"
                    ) from error


def _check_values(dimension: Dimension, current: Any) -> None:
    """Choices or a range, and values that a sampler can tell apart."""
    low, high = dimension.low, dimension.high
    if dimension.choices:
        if low is not None or high is not None or dimension.log:
            raise ConfigError(f"choices {dimension.choices} beside a range {low} to {high}: expected one of the two")
        if not len(set(map(text_of, dimension.choices))) == len(dimension.choices) > 1:
            raise ConfigError(f"choices {dimension.choices}: expected at least two, each once; hold a single one as kind fixed")
    elif low is None or high is None or not low < high or (dimension.log and low <= 0):
        raise ConfigError(f"range {low} to {high}: expected low < high, and low > 0 on a log scale, or choices")
    elif isinstance(current, float) and isinstance(low, int) and isinstance(high, int):
        raise ConfigError(f"range {low} to {high} would be searched in whole numbers: expected {float(low)} to {float(high)}")


def union(name: str, *spaces: Space, extra: tuple[Dimension, ...] = ()) -> Space:
    """One space of several; a dimension that stands in more than one is taken from the first."""
    merged: dict[str, Dimension] = {}
    for dimension in [*(d for space in spaces for d in space.dimensions), *extra]:
        merged.setdefault(dimension.path, dimension)
    return Space(name, tuple(merged.values()))
