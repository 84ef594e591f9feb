"""The members of a mean: several configurations trained on the same folds, whose predictions are averaged."""

from pathlib import Path
from typing import Any

from mmnet.config import Config, ConfigError, field_paths, get_value

# what decides data, folds and views, or is decided once a study
SHARED = ("seed", "metric", "data.", "model.frozen", "optim.precision", "optim.compile")
OF_THE_FEATURES = ("model.backbone", "model.weights", "model.input_size", "model.pooled")  # of a frozen backbone, which runs once for all


def require_same_folds(members: dict[Path, Config]) -> None:
    """Raises ConfigError naming the file, the field and both values where members {file: configuration} could not be averaged."""
    (first, base), *others = members.items()
    for file, config in others:
        shared = (*SHARED, *OF_THE_FEATURES) if base.model.frozen else SHARED
        for path, value in differences(base, config).items():
            if path.startswith(shared):
                raise ConfigError(
                    f"{file}: {path} = {value}, but {first} has {get_value(base, path)}: the members of a mean are trained on the same data, "
                    f"folds and features and follow the same metric; make them equal, or set it for all by --set {path}=VALUE"
                )


def differences(base: Config, other: Config) -> dict[str, Any]:
    """{path: value} of where `other` departs from `base`."""
    return {path: value for path in field_paths() if (value := get_value(other, path)) != get_value(base, path)}


def member_names(about: dict[str, Any]) -> list[str]:
    """The members of a study (`about`: its study.json) in the order of its trials; empty where one configuration stands for it."""
    return list(about.get("settings", {}).get("members", {}))
