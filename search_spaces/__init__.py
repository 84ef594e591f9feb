"""What may vary: one search space a file, found by its name."""

import importlib
import pkgutil

from data.errors import InputError
from mmnet.config import Config
from search_spaces.space import Space


def space_names() -> list[str]:
    """Every space there is: the modules of this folder but `space`, which says what one is."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "space")


def get_space(name: str, base: Config) -> Space:
    """The SPACE of a module, or what its `space` makes of the base configuration. Raises InputError for an unknown name."""
    if name not in space_names():
        raise InputError(f"--space {name}: expected one of {', '.join(space_names())}")
    module = importlib.import_module(f"search_spaces.{name}")
    return module.SPACE if hasattr(module, "SPACE") else module.space(base)
