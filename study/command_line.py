"""The arguments that every verb shares, and what they lead to: a configuration, a data set, splits.

Heavy libraries are imported inside functions, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

    from data.dataset import Dataset
    from data.splits import Splits
    from mmnet.config import Config

PRESETS = Path(__file__).parent.parent / "configs"
SYNTHETIC = "synthetic"
OUTPUT = "output"
OUTPUT_HELP = "where studies stand: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line like all others, and which takes no empty text (an unset variable of the shell) for "not given"."""

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        parsed = super().parse_args(args, namespace)
        for name, value in vars(parsed).items():
            if value == "":
                self.error(f"--{name.removeprefix('flag_').replace('_', '-')} is empty: expected a value; leave it out for the default")
        return parsed

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says what is expected\n")


def _text_or_none(text: str) -> str | None:
    return None if text.lower() == "none" else text


def _magnifications(text: str) -> list[int]:
    try:
        return [int(part.upper().removesuffix("X")) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected magnifications such as 40,100,200,400") from None


# flag -> (configuration path, type, help): the flag is a shorter way to say --set path=value
FLAGS: dict[str, tuple[str, Callable[[str], Any] | None, str]] = {
    "--metric": (
        "metric",
        str,
        "what search, best epoch and early stopping follow: log_loss, auc, patient_auc, …; a search takes more after a comma",
    ),
    "--folds": ("data.folds", int, "number of folds"),
    "--grouping": ("data.grouping", str, "what no split divides: patient, or slide (leaks patients; to compare with the literature)"),
    "--test-fraction": ("data.test_fraction", float, "share of patients sealed as test, 0 for none"),
    "--splits": ("data.splits", str, "official:1 … official:5, a splits file, or the study.json of another study"),
    "--label": ("data.label", str, "what is predicted: class, or subtype"),
    "--classes": ("data.classes", lambda text: text.split(","), "only images of these classes, comma-separated"),
    "--positive": ("data.positive", str, "classes that count as positive against the rest, comma-separated"),
    "--epochs": ("optim.epochs", int, "epochs of a trial at most"),
    "--magnifications": ("data.magnifications", _magnifications, "comma-separated, such as 40,100,200,400"),
    "--image-size": ("data.image_size", int, "side in pixels"),
    "--backbone": ("model.backbone", str, "a torchvision name, timm:<name>, or tiny"),
    "--weights": ("model.weights", _text_or_none, "a .safetensors or .pth file, imagenet (downloads), or none"),
    "--frozen": ("model.frozen", None, "run the backbone once per image and train only what comes after it"),
    "--seed": ("seed", int, "of training and search; the partition has its own: --set data.split_seed=N"),
}


def _destination(flag: str) -> str:
    return "flag_" + flag.removeprefix("--").replace("-", "_")


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Data, configuration and where results go."""
    parser.add_argument(
        "--data",
        metavar="DIR",
        help="BreakHis folder, archive or CSV manifest; default: $BREAKHIS_ROOT, the usual places, else synthetic data",
    )
    parser.add_argument("--name", metavar="STUDY", help="name of the study; default: made of the time")
    parser.add_argument("--output", metavar="PLACE", help=f"{OUTPUT_HELP} (default: {OUTPUT})")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="base configuration: a YAML file, or the name of one in configs/; for main.py also a folder of several, whose mean is judged",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="set any configuration field, such as loss.gamma=2; repeatable"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a study that was stopped")
    for flag, (path, kind, text) in FLAGS.items():
        action: dict[str, Any] = {"action": "store_const", "const": True} if kind is None else {"type": kind}
        if kind is not None:
            action["metavar"] = flag.removeprefix("--").upper().replace("-", "_")
        parser.add_argument(flag, dest=_destination(flag), default=argparse.SUPPRESS, help=f"{text} [{path}]", **action)


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """{configuration path: value} of the flags given, then of --set."""
    from mmnet.config import parse_assignment

    given = vars(arguments)
    values = {path: given[_destination(flag)] for flag, (path, _, _) in FLAGS.items() if _destination(flag) in given}
    return values | dict(parse_assignment(text) for text in arguments.set)


def base_config(arguments: argparse.Namespace, synthetic: bool) -> Config:
    """Defaults, then --config (for the embedded data: its preset), then flags, then --set. Raises ConfigError."""
    from mmnet.config import Config, ConfigError, load_config

    name = arguments.config or (SYNTHETIC if synthetic else None)
    files = [] if name is None else _config_files(name)
    if len(files) > 1:
        raise ConfigError(f"--config {name}: a folder of several configurations is for main.py; expected one YAML file")
    config = load_config(files[0]) if files else Config()
    return config.with_values(overrides(arguments))


def base_configs(arguments: argparse.Namespace, synthetic: bool) -> dict[str, Config]:
    """{"": `base_config`}, or where --config is a folder of several files {name of a member: its configuration}. Raises ConfigError."""
    from mmnet.config import load_config
    from study.members import require_same_folds

    files = _config_files(arguments.config) if arguments.config else []
    if len(files) < 2:
        return {"": base_config(arguments, synthetic)}
    members = {file: load_config(file).with_values(overrides(arguments)) for file in files}
    require_same_folds(members)
    return {file.name.removesuffix(".yaml"): config for file, config in members.items()}


def _config_files(name: str) -> list[Path]:
    """A YAML file, a preset, or the YAML files of a folder by name."""
    from mmnet.config import ConfigError

    given = Path(name).expanduser()
    for path in (given, PRESETS / f"{name}.yaml"):
        if path.is_file():
            return [path]
    if given.is_dir():
        files = sorted(path for path in given.iterdir() if path.suffix in (".yaml", ".yml") and not path.name.startswith("."))
        if not files:
            raise ConfigError(f"--config {name}: no YAML file in that folder; expected one for each configuration")
        return files
    presets = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
    raise ConfigError(f"--config {name}: no such file; pass a YAML file or one of {presets}")


def resolve_data(argument: str | None) -> str:
    """--data, else $BREAKHIS_ROOT, else the usual places, else the word for the synthetic default."""
    from data.locate import find_breakhis

    return argument or str(find_breakhis() or SYNTHETIC)


@dataclass(frozen=True)
class Prepared:
    """A data set at the configured magnifications, with pixels or features as the configuration needs, and its splits."""

    dataset: Dataset  # all slides, the sealed ones too: give only `development` to a search
    splits: Splits
    config: Config  # with the one magnification of a data set that says none

    @property
    def development(self) -> Dataset:
        return self.dataset.select_slides(self.splits.development())


def open_data(config: Config, data: str, progress: Callable[[int, int], None] | None = None) -> Dataset:
    """All images of a data set, scanned and decoded, or from the cache."""
    from data.labels import choose_classes
    from data.store import load_dataset

    path: str | Path = data
    if data == SYNTHETIC:
        from data.synthetic import default_synthetic

        path = default_synthetic()
    settings = config.data
    dataset = load_dataset(path, settings.image_size, settings.on_bad_file, progress, fit=settings.fit, mixed=settings.mixed_labels)
    return choose_classes(dataset, label=settings.label, classes=settings.classes, positive=settings.positive)


def prepare(config: Config, data: str, console: Console, kind: str | None, splits: Splits | None = None) -> Prepared:
    """Scan, decode (or open the cache), split, and where the backbone is frozen compute features (or open the cache).

    `kind` of device that computes features, see `mmnet.device_kind`; None: no features (a dry run). `splits`: those of an existing study, held against the data again.
    """
    from data.splits import build_splits, check_splits
    from data.table import ONE_MAGNIFICATION
    from mmnet.config import DataConfig

    with progress_bar(console, "decoding images") as progress:
        dataset = open_data(config, data, progress)
    if config.data.magnifications == DataConfig().magnifications and (dataset.table.magnification == ONE_MAGNIFICATION).all():
        config = config.with_values({"data.magnifications": [ONE_MAGNIFICATION]})
    if splits is None:
        settings = config.data
        splits = build_splits(
            dataset.table,
            settings.splits,
            folds=settings.folds,
            test_fraction=settings.test_fraction,
            grouping=settings.grouping,
            seed=settings.split_seed,
        )
    else:
        check_splits(splits, dataset.table)
    dataset = dataset.select_magnifications(config.data.magnifications)
    if kind is None:
        return Prepared(dataset, splits, config)
    if not config.model.frozen:
        from mmnet.backbones import build_backbone

        # a wrong name or file is an error now, not in each trial
        for note in build_backbone(config.model, config.input_size, config.seed).notes if config.model.name == "mmnet" else ():
            say(console, "note", f"      {note}")
    else:
        from mmnet.features import with_features

        with progress_bar(console, f"features of {config.model.backbone}") as progress:
            dataset = with_features(dataset, config, kind, progress, lambda note: say(console, "note", f"      {note}"))
    return Prepared(dataset, splits, config)


class progress_bar:
    """Yields (done, total) -> None; the bar appears with the first call, so that a cache hit shows nothing."""

    def __init__(self, console: Console, text: str):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True)
        self._task: Any = None

    def __enter__(self) -> Callable[[int, int], None]:
        return self._update

    def _update(self, done: int, total: int) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done)

    def __exit__(self, *error: object) -> None:
        if self._task is not None:
            self._bar.stop()


def say(console: Console, word: str, text: str, style: str = "yellow") -> None:
    """A line that begins with a coloured word. Names in the text are shown as they are, with whatever brackets they have."""
    from rich.text import Text

    console.print(Text.assemble((word, style), text), soft_wrap=True, highlight=False)


def describe(prepared: Prepared, config: Config, console: Console) -> None:
    """Data, folds and the leak audit, for people."""
    from data.splits import patient_leaks

    dataset, splits = prepared.dataset, prepared.splits
    table = dataset.table
    if dataset.synthetic:
        say(console, "SYNTHETIC DATA", ": invented tissue that this project generates; no result below says anything about patients")
    counts = table.counts()
    classes = ", ".join(f"{count} {name}" for name, count in counts["slides_of_class"].items())
    patients = f"{counts['patients']} patients"
    if counts["patients"] != counts["slides"] and str(table.slide[0]).startswith("SOB_"):
        patients += " (persons; the literature on BreakHis calls its slides patients)"
    shown = ",".join(f"{m}X" for m in config.data.magnifications)
    lines = {
        "data": f"{dataset.name} (fingerprint {dataset.fingerprint}): {counts['images']} images, {counts['slides']} slides ({classes}) "
        f"of {patients}, {shown} at {config.data.image_size} px"
    }
    if table.covariates:
        lines["columns"] = f"kept as they stand: {', '.join(f'{name} ({_values(column)})' for name, column in table.covariates.items())}"
    label_of, patient_of = table.of_slides("label"), table.of_slides("patient")
    described = []
    for name, part in [*((f"fold {n + 1}", fold) for n, fold in enumerate(splits.folds)), ("sealed test", splits.test)]:
        here = {(patient_of[slide], label_of[slide]) for slide in part if slide in label_of}
        of_class = [sum(label == number for _, label in here) for number in range(len(table.classes))]
        said = f"{of_class[0]} {table.classes[0]}" if len(of_class) == 2 else ", ".join(map(str, of_class))
        described.append(f"{name} {len({patient for patient, _ in here})} ({said})")
    lines["patients"] = f"{', '.join(described)}; grouped by {splits.grouping}, {splits.source}"
    for name, text in lines.items():
        console.print(f"{name:<9} {text}", soft_wrap=True, highlight=False)
        for note in dataset.notes if name == "data" else ():
            say(console, "note", f"      {note}")
    leaks = patient_leaks(splits, table)
    if leaks:
        listed = ", ".join(f"{patient} ({' and '.join(held)})" for patient, held in leaks.items())
        say(console, "leak", f"      {len(leaks)} patient(s) stand on both sides: {listed}", "bold red")
    else:
        console.print("leaks     none: no patient stands in two parts", highlight=False)


def _values(column: Any) -> str:
    """What stands in a column, in a few words."""
    from data.errors import shortlist

    found = sorted(set(column.tolist()) - {""})
    return shortlist(found, 3) if len(found) < 6 else f"{len(found)} values"


def run_verb(main: Callable[[], int]) -> None:
    """Run a verb and exit: 0 done, 1 nothing usable came out, 2 bad input (one line on stderr), 130 interrupted."""
    from data.errors import DISK, InputError

    # read when torch loads: threads that wait by spinning make it 11 to 40 times slower beside other jobs
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        sys.exit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.filename is not None:
            print(f"error: {error.filename}: {error.strerror}; make it readable and writable, or name another place", file=sys.stderr)
        elif error.errno in DISK:  # the system names a file only where it opens it
            print(
                f"error: results: {error.strerror}; free some space where --output stands, then run it again, a search with --resume",
                file=sys.stderr,
            )
        else:  # a pipe, a socket: no file that anybody could mend
            raise
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
