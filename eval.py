"""What a study is worth: tables, curves, thresholds, calibration, explanations, and predictions of new patients. `python eval.py --help`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from study.command_line import OUTPUT, OUTPUT_HELP, Parser, run_verb, say

if TYPE_CHECKING:
    from rich.console import Console

# part -> (module of analysis, noun of its write_ and print_ functions, help)
PARTS = {
    "table": (
        "performance_table",
        "performance",
        "every metric, per fold and pooled, over images, views and patients (CSV, Markdown, LaTeX)",
    ),
    "thresholds": ("thresholds", "thresholds", "where to cut, honest beside optimistic"),
    "calibration": ("calibration", "calibration", "reliability diagram, temperature scaling"),
    "roc_curves": ("roc_curves", "roc_curves", "ROC and precision-recall, per fold, pooled, per magnification, with bands"),
    "learning_curves": ("fold_curves", "fold_curves", "per fold, mean and spread, best epoch"),
    "ablation": ("ablation", "ablation", "what each mechanism is worth, of a study of --space ablation"),
    "ensembles": ("ensembles", "ensembles", "ensembles of a search's trials against its best single trial"),
    "magnitude": ("magnifications", "magnifications", "what each magnification contributes, and what missing ones cost"),
    "gradcam": ("gradcam", "gradcam", "Grad-CAM panels of right, wrong and least certain patients"),
}
PIXELS = {"magnitude": False, "gradcam": True}  # parts that need the networks: on pixels, or on what they were trained on


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="eval.py", description="Evaluate a study; without a choice of parts: all that apply to it.")
    parser.add_argument("--study", metavar="NAME", help="default: the newest")
    parser.add_argument("--output", metavar="PLACE", default=OUTPUT, help=f"{OUTPUT_HELP} (default: {OUTPUT})")
    for part, (_, _, text) in PARTS.items():
        parser.add_argument(f"--{part.replace('_', '-')}", action="store_true", help=text)
    parser.add_argument("--data", metavar="DIR", help="the study's data, if they moved; with --predict: new patients")
    parser.add_argument("--predict", action="store_true", help="score the patients of --data with the fold models: predictions.csv")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    from rich.console import Console

    from data.errors import InputError
    from study.folder import checked_study, fetch_study
    from study.members import member_names
    from study.mirror import CHECKPOINTS

    console = Console(markup=False)
    mirror = fetch_study(arguments.output, arguments.study, leave=(CHECKPOINTS,))
    study = mirror.folder
    about = checked_study(study)
    chosen = [part for part in PARTS if getattr(arguments, part)]
    console.print(f"study     {study.name}: {about['verb']}, data {about['data']['path']}", highlight=False, soft_wrap=True)
    if about["data"]["synthetic"]:
        say(console, "SYNTHETIC DATA", ": the numbers below say nothing about patients")
    if arguments.predict:
        if not arguments.data or chosen:
            raise InputError("--predict: expected --data DIR with the new patients, and no other part")
        predict(study, arguments.data, console)
        mirror.store(console)
        return 0
    members = member_names(about)
    if members:
        console.print(
            f"judged    the mean of its {len(members)} members ({', '.join(members)}); learning curves, magnitude and Grad-CAM look at the first, "
            f"{members[0]} (trial 0000), ensembles at each",
            highlight=False,
            soft_wrap=True,
        )
    for part in chosen or PARTS:
        try:
            run_part(part, study, about, arguments.data, console)
        except InputError as error:
            if chosen:
                raise
            say(console, "skipped", f"   --{part.replace('_', '-')}: {error}")
    console.print(f"results: {study}/results, figures: {study}/plots", highlight=False, soft_wrap=True)
    mirror.store(console)
    return 0


def run_part(part: str, study: Path, about: dict[str, Any], data: str | None, console: Console) -> None:
    """Write and print one part. Raises InputError where the study has not what it needs."""
    module_name, noun, _ = PARTS[part]
    module = importlib.import_module(f"analysis.{module_name}")
    write, show = getattr(module, f"write_{noun}"), getattr(module, f"print_{noun}")
    show(with_networks(study, about, data, console, write, pixels=PIXELS[part]) if part in PIXELS else write(study), console)


def with_networks(
    study: Path, about: dict[str, Any], data: str | None, console: Console, write: Callable[..., Any], *, pixels: bool
) -> Any:
    """Call `write` with the development patients of a study (pixels, or what its networks take) and the configuration of its models."""
    from analysis.networks import study_networks
    from data.dataset import same_data
    from data.errors import DataError
    from data.splits import Splits
    from mmnet.device import best_device
    from study.command_line import prepare

    config, device = study_networks(study)[0].config, best_device()
    wanted = config.with_values({"model.frozen": False}) if pixels else config
    prepared = prepare(wanted, data or about["data"]["path"], console, device.type, Splits.from_json(about["splits"]))
    if not same_data(prepared.dataset.fingerprint, about["data"]["fingerprint"]):
        raise DataError(
            f"data {prepared.dataset.name}: fingerprint {prepared.dataset.fingerprint}, the study has {about['data']['fingerprint']}; "
            "pass the study's data by --data"
        )
    return write(study, prepared.development, config, device)


def predict(study: Path, data: str, console: Console) -> None:
    """Score new patients. A file that cannot be used is left out and named."""
    from analysis.networks import study_networks
    from analysis.new_patients import check_new, predict_patients, print_predictions, usable
    from data.labels import as_classes
    from data.store import load_dataset
    from data.table import BREAKHIS
    from mmnet.device import best_device
    from mmnet.features import with_features
    from study.command_line import progress_bar
    from study.folder import read_study

    config, device = study_networks(study)[0].config, best_device()
    with progress_bar(console, "decoding images") as progress:
        dataset = load_dataset(data, config.data.image_size, "skip", progress, fit=config.data.fit, labelled=False, mixed=config.data.mixed_labels)
    dataset = as_classes(dataset, read_study(study)["data"].get("classes", BREAKHIS), config.data.label)
    for note in dataset.notes:
        say(console, "note", f" {note}")
    dataset = usable(dataset, config.data.magnifications)
    check_new(dataset, study)
    if config.model.frozen:
        with progress_bar(console, f"features of {config.model.backbone}") as progress:
            dataset = with_features(dataset, config, device.type, progress)
    print_predictions(predict_patients(study, dataset, device), console)


if __name__ == "__main__":
    run_verb(main)
