"""The folder of a study: made once, gone on with only by the same configuration on the same data."""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import json
import platform
import re
import reprlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from data.dataset import same_data
from data.errors import DataError, InputError, shortlist
from data.splits import Splits, patient_leaks
from data.table import BREAKHIS, ONE_MAGNIFICATION
from data.views import ViewIndex
from mmnet.config import AUTO, Config, ConfigError, get_value
from mmnet.device_kind import resolved
from study.command_line import (
    OUTPUT,
    SYNTHETIC,
    Prepared,
    base_config,
    base_configs,
    describe,
    overrides,
    prepare,
    resolve_data,
)
from study.hold import Hold
from study.members import differences
from study.mirror import CHECKPOINTS, Mirror, open_output

FORMAT = 3
# what the readers of study.json rely on
SHAPE: dict[str, type] = {
    "verb": str,
    "name": str,
    "config": dict,
    "data.path": str,
    "data.fingerprint": str,
    "data.synthetic": bool,
    "splits.folds": list,
    "splits.test": list,
    "splits.grouping": str,
    "splits.source": str,
    "settings": dict,  # of earlier versions: may be absent
}
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "ray", "optuna")


@dataclass
class StudyFolder:
    """A study that is about to start, or (`about` filled) to be gone on with."""

    path: Path
    config: Config
    data: str
    verb: str  # the command that made it: tune or main
    about: dict[str, Any] = field(default_factory=dict)  # study.json
    mirror: Mirror = field(default=None)  # type: ignore[assignment]  # None: `path` stands in no object store
    members: dict[str, dict[str, Any]] = field(default_factory=dict)  # of a mean: where each departs from `config`
    _hold: Hold | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.mirror = self.mirror or Mirror(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def output(self) -> str:
        """What --output has to say to find it again."""
        return str(self.path.parent) if self.mirror.bucket is None else self.mirror.bucket.parent

    @property
    def resumed(self) -> bool:
        return bool(self.about)

    def prepare(self, console: Console, kind: str | None, *, trains_here: bool = True) -> Prepared:
        """Data and splits, described to the console; where a study starts that trains on this machine, what that decides is recorded, see `resolved`.

        `kind` of device that trains, see `mmnet.device_kind`; None: nothing will be trained.
        Raises DataError when the data of a resumed study changed.
        """
        splits = Splits.from_json(self.about["splits"]) if self.resumed else None
        prepared = prepare(self.config, self.data, console, kind, splits)
        self.config = prepared.config
        if self.resumed and not same_data(prepared.dataset.fingerprint, self.about["data"]["fingerprint"]):
            from data.store import changed_files

            changed = changed_files(prepared.dataset.fingerprint, self.about["data"]["fingerprint"])
            raise DataError(
                f"data {prepared.dataset.name} changed since study {self.name} began: {f'{shortlist(changed)}; ' if changed else ''}"
                f"fingerprint {prepared.dataset.fingerprint}, expected {self.about['data']['fingerprint']}; "
                "restore the data, or start a study under another --name"
            )
        describe(prepared, self.config, console)
        if kind is not None and trains_here and not self.resumed:
            development, folds = prepared.development.table, len(prepared.splits.folds)
            shown = ViewIndex(development, self.config.data.magnifications).natural(self.config.sampling.views_per_slide)
            self.config = resolved(self.config, kind, int(shown.sum()) * (folds - 1) // folds)
        return prepared

    def write(self, prepared: Prepared, **more: Any) -> None:
        """Make the folder and study.json, and hold them while this process lives.

        A resumed study keeps its own but for `more`, and has not ended any more. Raises InputError when another process holds it.
        """
        from study.records import write_json  # here, as Ray starts beside what it imports

        dataset, splits = prepared.dataset, prepared.splits
        about = self.about or {
            "format": FORMAT,
            "verb": self.verb,
            "name": self.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "config": self.config.to_dict(),
            "data": {
                "path": self.data if self.data == SYNTHETIC else str(Path(self.data).expanduser().resolve()),
                "fingerprint": dataset.fingerprint,
                "synthetic": dataset.synthetic,
                "classes": list(dataset.table.classes),
                **dataset.table.counts(),
            },
            "splits": splits.to_json(),
            "sealed_patients": sorted(set(dataset.table.patient[np.isin(dataset.table.slide, splits.test)].tolist())),
            "patient_leaks": patient_leaks(splits, dataset.table),
            "versions": {"python": platform.python_version()}
            | {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
        }
        self._hold = Hold(self.mirror)
        if self.resumed:  # another run may have ended since
            self.mirror.pull(leave=left_behind(self.verb))
        write_json(self.path / "study.json", about | more | {"ended": None})
        self.mirror.push()


def open_or_create(arguments: argparse.Namespace, verb: str) -> StudyFolder:
    """The study that the arguments name: a new one, or with --resume an existing one (default: the newest).

    Raises InputError when a new study's name is taken, when there is nothing to resume, and when a resumed study is given
    another configuration.
    """
    place = arguments.output or OUTPUT
    if arguments.name is not None and not re.fullmatch(r"(?!\.)[\w.-]{1,100}", arguments.name):
        raise InputError(f"--name {arguments.name}: expected letters, digits, '_', '-', '.', not beginning with '.'")
    if arguments.resume:
        return _resume(arguments, place, verb)
    data = resolve_data(arguments.data)
    mirror = open_output(place).study(arguments.name or time.strftime(f"{verb}-%Y%m%d-%H%M%S"))
    if mirror.exists():
        raise InputError(f"study {mirror} exists already; go on with it by --resume, or choose another --name")
    configs = _wanted(arguments, data == SYNTHETIC, verb)
    base = next(iter(configs.values()))
    members = {name: differences(base, config) for name, config in configs.items() if name}
    return StudyFolder(mirror.folder, base, data, verb, mirror=mirror, members=members)


def _wanted(arguments: argparse.Namespace, synthetic: bool, verb: str) -> dict[str, Config]:
    """{name of a member: configuration}, {"": configuration} where there is one; only main.py takes several."""
    return base_configs(arguments, synthetic) if verb == "main" else {"": base_config(arguments, synthetic)}


def _resume(arguments: argparse.Namespace, place: str | Path, verb: str) -> StudyFolder:
    mirror = fetch_study(place, arguments.name, leave=left_behind(verb))
    path = mirror.folder
    about = checked_study(path)
    if about["verb"] != verb:
        raise InputError(f"study {path} was made by {about['verb']}: resume it with that command")
    if about.get("earlier"):
        raise InputError(
            f"study {path}: an earlier version began it, whose numbers this one does not continue; its results can be read (eval.py, "
            "python -m analysis); start a study under another --name"
        )
    try:
        config = Config().with_values(about["config"])
        members = about.get("settings", {}).get("members", {})
        configs = {name: config.with_values(params) for name, params in members.items()} or {"": config}
    except ConfigError as error:
        raise ConfigError(f"study {path}, study.json: {error}; resume it with the version of this software that made it") from error
    if arguments.config:
        wanted = _wanted(arguments, False, verb)
    else:
        wanted = {name: one.with_values(overrides(arguments)) for name, one in configs.items()}
    if list(wanted) != list(configs):
        began, given = (f"the members {', '.join(found)}" if "" not in found else "one configuration" for found in (configs, wanted))
        raise ConfigError(
            f"study {path} was started with {began}, --config {arguments.config} has {given}; resume it without --config, or start another --name"
        )
    for name, one in configs.items():
        _require_unchanged(f"study {path}{name and f', member {name},'}", one, wanted[name])
    return StudyFolder(path, config, arguments.data or about["data"]["path"], verb, about, mirror, members)


def _require_unchanged(what: str, began: Config, wanted: Config) -> None:
    """Raises ConfigError naming what differs between the configuration that a study was started with and the one that is wanted."""
    if wanted.optim.precision == AUTO:
        wanted = wanted.with_values({"optim.precision": began.optim.precision})  # as it was decided
    if wanted.optim.batch_size is None:
        wanted = wanted.with_values({"optim.batch_size": began.optim.batch_size})  # likewise
    if began.data.magnifications == (ONE_MAGNIFICATION,) and wanted.data.magnifications == Config().data.magnifications:
        wanted = wanted.with_values({"data.magnifications": [ONE_MAGNIFICATION]})  # likewise
    changed = differences(began, wanted)
    if changed:
        listed = ", ".join(f"{key} {get_value(began, key)} -> {value}" for key, value in list(changed.items())[:5])
        raise ConfigError(f"{what} was started with another configuration ({listed}); resume it unchanged, or start another --name")


def left_behind(verb: str) -> tuple[str, ...]:
    """What a verb that goes on with a study in an object store does not fetch: a search's workers fetch checkpoints themselves."""
    return (CHECKPOINTS,) if verb == "tune" else ()


def fetch_study(place: str | Path, name: str | None, *, leave: tuple[str, ...] = ()) -> Mirror:
    """A study by its name in `--output`, or (None) the newest; of an object store all files but those named as in `leave` are fetched.

    Raises InputError when there is none.
    """
    output = open_output(place)
    output.fetch_heads()
    try:
        path = find_study(output.folder, name)
    except InputError as error:
        raise InputError(str(error).replace(str(output.folder), str(output.bucket or output.folder))) from error
    mirror = output.study(path.name) if path.parent == output.folder else Mirror(path)
    mirror.pull(leave=leave)
    return mirror


def find_study(output: Path, name: str | None) -> Path:
    """The folder of a study by its name below `output` or its path, or (None) the newest. Raises InputError when there is none."""
    found = sorted(output.glob("*/study.json"), key=lambda file: file.stat().st_mtime)
    if name:
        places = (output / name, Path(name).expanduser())
        for path in places:
            if (path / "study.json").exists():
                return path
        near = difflib.get_close_matches(name, [file.parent.name for file in found], n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "pass a study's name (--output says where studies stand), or its folder"
        raise InputError(f"study {name}: no readable study.json in {places[0]}; {hint}")
    if not found:
        raise InputError(f"no study stands in {output}; pass --output DIR, or start one with tune_mmnet.py or main.py")
    return found[-1].parent


def record_end(path: Path, reason: str, **more: Any) -> None:
    """Note in study.json that the run is over, why ("" where everything planned was done), and `more`: who watches has no other sign."""
    from study.records import write_json  # as in `StudyFolder.write`

    about = read_study(path)
    write_json(path / "study.json", about | more | {"ended": {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "reason": reason}})


def read_study(path: Path) -> dict[str, Any]:
    """study.json of a study's folder. Raises InputError when there is none, or it is damaged."""
    try:
        about = json.loads((path / "study.json").read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"study {path}: no readable study.json ({error}); check its name and --output") from error
    if isinstance(about, dict) and about.get("format") == 2:
        about = _of_format_2(about)
    if isinstance(about, dict) and about.get("format", FORMAT) != FORMAT:
        raise InputError(f"study {path}: written in format {about['format']}, expected {FORMAT}; use the version that made it")
    if not isinstance(about, dict) or "format" not in about:
        raise InputError(
            f"study {path}: study.json is damaged: expected the record of a study, got {reprlib.repr(about)}; restore it from a copy"
        )
    return about


def _of_format_2(about: dict[str, Any]) -> dict[str, Any]:
    """In today's words: a patient was called case, and a slide patient. `earlier` marks a study that is read but not continued."""
    data, splits = about.get("data"), about.get("splits")
    about = about | {"format": FORMAT, "earlier": True, "patient_leaks": about.get("case_leaks", {})}
    if "sealed_cases" in about:
        about["sealed_patients"] = about["sealed_cases"]
    if isinstance(data, dict) and "cases" in data:
        about["data"] = data | {"slides": data.get("patients"), "patients": data["cases"]}
        about["data"]["slides_of_class"] = {name: data[name] for name in BREAKHIS if name in data}
    if isinstance(splits, dict) and splits.get("grouping") == "case":
        about["splits"] = splits | {"grouping": "patient"}
    return about


def checked_study(path: Path) -> dict[str, Any]:
    """study.json as a verb takes it up: with everything that later readers rely on. Raises InputError naming what is not there."""
    about = read_study(path)
    for place, kind in SHAPE.items():
        value: Any = {"settings": {}} | about
        for name in place.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if not isinstance(value, kind):
            raise InputError(
                f"study {path}: study.json is damaged: {place} is {reprlib.repr(value)}, expected {kind.__name__}; restore it from a copy"
            )
    members = about.get("settings", {}).get("members", {})  # only of a mean
    if not isinstance(members, dict) or not all(isinstance(params, dict) for params in members.values()):
        raise InputError(
            f"study {path}: study.json is damaged: settings.members is {reprlib.repr(members)}, expected dicts by name; restore it from a copy"
        )
    return about


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
