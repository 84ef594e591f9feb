"""Train one configuration of MMNet on patient-wise folds, then judge it once on the sealed test. `python main.py --help`."""

from __future__ import annotations

import argparse
import time

from mmnet.command_line import add_shared_arguments, run_verb


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="main.py", description="Train one configuration on k patient-wise folds and judge it on the sealed test patients."
    )
    add_shared_arguments(parser)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--single-mag", metavar="MAG", help="train the networks of one magnification as well, and compare: 40, 100, 200, 400 or all"
    )
    kinds.add_argument(
        "--nested", metavar="K", type=int, help="nested cross-validation: K outer folds judge what the rest trained and chose"
    )
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    started = time.time()
    from rich.console import Console

    from mmnet.device import best_device
    from mmnet.study_folder import open_or_create

    console, device = Console(), best_device()
    study = open_or_create(arguments, "main")
    kept = study.about.get("settings", {})
    outer, singles = nested_folds(arguments.nested, kept), single_magnifications(arguments.single_mag, study.config, kept)
    prepared = study.prepare(console, device)
    trials, nested = planned_trials(study, prepared, outer, singles)
    study.write(prepared, settings={"nested": outer, "single_magnifications": singles}, nested=[splits.to_json() for splits in nested])
    from mmnet.training import train_all

    try:
        train_all(study.path, trials, device, console)
    except KeyboardInterrupt:
        hint = f"[yellow]interrupted[/]: go on with  python main.py --resume --name {study.name} --output {study.path.parent}"
        console.print(hint, soft_wrap=True, highlight=False)
        return 130
    if nested:
        from analysis.nested import print_nested, write_nested

        print_nested(write_nested(study.path, prepared.development, study.config, nested, device), study.path, console)
        return 0
    from analysis.summary import print_summary, write_results

    best = write_results(study.path)
    assert best is not None
    print_summary(study.path, best, console, time.time() - started)
    if singles:
        from analysis.single_magnification import print_comparison, write_comparison

        print_comparison(write_comparison(study.path), console)
    if prepared.splits.test:
        from analysis.sealed_test import open_sealed_test, print_sealed_test

        result, again = open_sealed_test(study.path, prepared.dataset, prepared.splits, study.config, device)
        print_sealed_test(result, again, console)
    return 0


def nested_folds(given: int | None, kept: dict) -> int | None:
    """How many outer folds; None: no nested cross-validation. A resumed study keeps its own."""
    from data.errors import InputError

    if given is not None and given < 2:
        raise InputError(f"--nested {given}: expected at least 2 outer folds")
    if kept and given is not None and given != kept["nested"]:
        raise InputError(
            f"--nested {given}: the study has {kept['nested'] or 'no'} outer folds; resume it without --nested, or start another --name"
        )
    return kept["nested"] if kept else given


def single_magnifications(given: str | None, config, kept: dict) -> list[int]:
    """The magnifications that get a network of their own, those of the study so far included."""
    from data.errors import InputError

    have = config.data.magnifications
    before = kept.get("single_magnifications", [])
    if given is None:
        return before
    asked = have if given == "all" else [int(given.upper().removesuffix("X"))] if given.upper().removesuffix("X").isdecimal() else []
    if not asked or not set(asked) <= set(have) or len(have) < 2 or kept.get("nested"):
        raise InputError(
            f"--single-mag {given}: expected all or one of {', '.join(map(str, have))}, in a study of at least two magnifications and not nested"
        )
    return sorted({*before, *asked})


def planned_trials(study, prepared, outer: int | None, singles: list[int]):
    """(what to train, the nested splits): the fused network and single ones on the same folds, or one trial an outer fold."""
    from data.splits import Splits, check_splits, nested_splits
    from mmnet.training import PlannedTrial

    config, development = study.config, prepared.development
    if outer is None:
        trials = [PlannedTrial(0, {}, config, development, prepared.splits, "fused" if singles else "training")]
        for magnification in singles:
            params = {"data.magnifications": [magnification]}
            number = 1 + config.data.magnifications.index(magnification)
            trials.append(PlannedTrial(number, params, config.with_values(params), development, prepared.splits, f"{magnification}X alone"))
        return trials, []
    if study.about.get("nested"):
        nested = [Splits.from_json(stored) for stored in study.about["nested"]]
    else:
        settings = config.data
        nested = list(nested_splits(development.table, outer, folds=settings.folds, grouping=settings.grouping, seed=settings.split_seed))
    for splits in nested:
        check_splits(splits, development.table)
    trials = [
        PlannedTrial(number, {}, config, development, splits, f"outer fold {number + 1} of {outer}") for number, splits in enumerate(nested)
    ]
    return trials, nested


if __name__ == "__main__":
    run_verb(main)
