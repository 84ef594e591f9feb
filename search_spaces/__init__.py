"""What may vary: one search space a file, found by its name."""

import importlib
import pkgutil

from data.errors import InputError
from search_spaces.space import Space


def space_names() -> list[str]:
    """Every space there is: the modules of this folder that define SPACE."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "space")


def get_space(name: str) -> Space:
    """Raises InputError for an unknown name."""
    if name not in space_names():
        raise InputError(f"--space {name}: expected one of {', '.join(space_names())}")
    return importlib.import_module(f"search_spaces.{name}").SPACE
