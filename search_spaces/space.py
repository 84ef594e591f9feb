"""A search space as plain data: dimensions with range, scale, kind and reason.

`kind` follows the tuning playbook (Godbole et al., Deep Learning Tuning Playbook, 2023): *scientific* dimensions are the
question, *nuisance* dimensions must be tuned for a fair answer, *fixed* ones are held on purpose.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

from mmnet.config import Config, ConfigError, get_value, text_of

KINDS = ("scientific", "nuisance", "fixed")


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
        """The values that bound it: what has to be valid."""
        if self.kind == "fixed":
            return (self.value,)
        return tuple(self.choices) or (self.low, self.high)

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
        seen: set[str] = set()
        for dimension in self.dimensions:
            where = f"space {self.name}, {dimension.path}"
            if dimension.kind not in KINDS or not dimension.reason:
                raise ConfigError(f"{where}: kind {dimension.kind!r}: expected one of {', '.join(KINDS)}, with a reason")
            if dimension.path in seen:
                raise ConfigError(f"{where}: stands twice; expected one dimension a field")
            conditions: list[dict[str, Any]] = [{}]
            if dimension.when:
                path, allowed = dimension.when
                get_value(base, path)
                later = path not in seen and any(other.path == path for other in self.dimensions)
                if later or not allowed:
                    raise ConfigError(
                        f"{where}: condition {path} in {allowed}: expected some values, and {path} to stand earlier in the space"
                    )
                conditions = [{path: value} for value in allowed]
            if dimension.kind != "fixed" and not dimension.choices:
                if (
                    dimension.low is None
                    or dimension.high is None
                    or not dimension.low < dimension.high
                    or (dimension.log and dimension.low <= 0)
                ):
                    raise ConfigError(
                        f"{where}: range {dimension.low} to {dimension.high}: expected low < high, and low > 0 on a log scale"
                    )
            seen.add(dimension.path)
            if dimension.kind == "fixed" and get_value(base, dimension.path) != dimension.value:
                raise ConfigError(
                    f"{where} is held at {dimension.value!r}, but the base configuration says {get_value(base, dimension.path)!r}: "
                    "leave that field as it is or choose another --space"
                )
            for condition, value in product(conditions, dimension.values()):
                try:
                    base.with_values(condition | {dimension.path: value})
                except ConfigError as error:
                    raise ConfigError(f"{where}: {error}") from error


def union(name: str, *spaces: Space, extra: tuple[Dimension, ...] = ()) -> Space:
    """One space of several; a dimension that stands in more than one is taken from the first."""
    merged: dict[str, Dimension] = {}
    for dimension in [*(d for space in spaces for d in space.dimensions), *extra]:
        merged.setdefault(dimension.path, dimension)
    return Space(name, tuple(merged.values()))
