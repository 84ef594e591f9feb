"""Train one configuration of MMNet, or several for their mean, on patient-wise folds, then judge it once on the sealed test. `python main.py --help`."""

from __future__ import annotations

import argparse
import time

from study.command_line import Parser, add_shared_arguments, run_verb, say


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="main.py", description="Train one configuration on k patient-wise folds and judge it on the sealed test patients.")
    add_shared_arguments(parser)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--single-mag", metavar="MAG", help="train the networks of one magnification as well, and compare: 40, 100, 200, 400 or all"
    )
    kinds.add_argument(
        "--nested", metavar="K", type=int, help="nested cross-validation: K outer folds judge what the rest trained and chose"
    )
    kinds.add_argument(
        "--repeats",
        metavar="R",
        type=int,
        help="repeated cross-validation: R times, under new seeds and new partitions, and what each of them moves",
    )
    parser.add_argument("--again", action="store_true", help="open the sealed test a second time; both openings stay on record")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    started = time.monotonic()
    from rich.console import Console

    from data.errors import InputError
    from mmnet.device import best_device
    from study.folder import open_or_create, record_end

    console, device = Console(markup=False), best_device()
    study = open_or_create(arguments, "main")
    kept = study.about.get("settings", {})
    outer, repeats = nested_folds(arguments.nested, kept), wanted_repeats(arguments.repeats, kept)
    singles = single_magnifications(arguments.single_mag, study.config, kept)
    if study.members and (outer or repeats or singles):
        raise InputError(
            "--nested, --repeats and --single-mag: expected one configuration, got a folder of several, whose mean is judged; "
            "pass one of its files by --config"
        )
    if arguments.again and (outer or repeats):
        raise InputError(
            "--again: nested and repeated cross-validation leave the sealed test closed; give it to the training of one configuration"
        )
    prepared = study.prepare(console, device.type)
    singles = single_magnifications(arguments.single_mag, study.config, kept)  # of data that say no magnification there is one
    if arguments.again and not prepared.splits.test:
        raise InputError("--again: the study has no sealed test; it was made with --test-fraction 0; leave --again out")
    if repeats:
        trials, nested = planned_repeats(study, prepared, repeats), []
    elif study.members:
        trials, nested = planned_members(study, prepared), []
    else:
        trials, nested = planned_trials(study, prepared, outer, singles)
    study.write(
        prepared,
        settings={"nested": outer, "repeats": repeats, "single_magnifications": singles, "members": study.members},
        nested=[splits.to_json() for splits in nested],
        repeats=[trial.splits.to_json() for trial in trials] if repeats else [],
    )
    from study.training import train_all

    reason = "broken off"
    try:
        train_all(study.path, trials, device, console, study.mirror)
        reason = ""
    except KeyboardInterrupt:
        say(console, "interrupted", f": go on with  python main.py --resume --name {study.name} --output {study.output}")
        return 130
    finally:
        record_end(study.path, reason)
        study.mirror.push()
    conclude(study, prepared, nested, repeats, singles, arguments.again, device, console, started)
    study.mirror.store(console)
    return 0


def conclude(study, prepared, nested, repeats, singles, again: bool, device, console, started: float) -> None:
    """Write and print what the training found."""
    if nested:
        from analysis.nested import print_nested, write_nested

        print_nested(write_nested(study.path, prepared.development, study.config, nested, device), study.path, console)
        return
    if repeats:
        from analysis.repeats import print_repeats, write_repeats

        print_repeats(write_repeats(study.path), study.path, console)
        return
    from analysis.many_classes import classes_of, print_confusion
    from analysis.summary import print_cost, print_summary, write_results
    from study.folder import read_study

    best = write_results(study.path)
    assert best is not None
    if study.members:
        from analysis.members import print_mean, write_mean

        print_mean(write_mean(study.path), console)
        print_cost(study.path, console, time.monotonic() - started)
    else:
        print_summary(study.path, best, console, time.monotonic() - started)
    classes = classes_of(read_study(study.path))
    if classes:
        print_confusion(study.path, best, classes, console)
        return
    if singles:
        from analysis.single_magnification import print_comparison, write_comparison

        print_comparison(write_comparison(study.path), console)
    if prepared.splits.test:
        from analysis.sealed_test import open_sealed_test, print_sealed_test

        openings, new = open_sealed_test(study.path, prepared.dataset, prepared.splits, device, again=again)
        print_sealed_test(study.path, openings, new, console)


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


def wanted_repeats(given: int | None, kept: dict) -> int | None:
    """How many repeats; None: none. A resumed study keeps its own, or gets more."""
    from data.errors import InputError

    if given is not None and given < 2:
        raise InputError(f"--repeats {given}: expected at least 2")
    before = kept.get("repeats")
    if kept and given is not None and given < (before or given + 1):
        raise InputError(
            f"--repeats {given}: the study has {before or 'no'} repeats; resume it without --repeats or with more, or start another --name"
        )
    return given or before


def single_magnifications(given: str | None, config, kept: dict) -> list[int]:
    """The magnifications that get a network of their own, those of the study so far included."""
    from data.errors import InputError

    have = config.data.magnifications
    before = kept.get("single_magnifications", [])
    if given is None:
        return before
    asked = have if given == "all" else [int(given.upper().removesuffix("X"))] if given.upper().removesuffix("X").isdecimal() else []
    if not asked or not set(asked) <= set(have) or len(have) < 2 or kept.get("nested") or kept.get("repeats"):
        raise InputError(
            f"--single-mag {given}: expected all or one of {', '.join(map(str, have))}, in a study of at least two magnifications, not nested and not repeated"
        )
    return sorted({*before, *asked})


def planned_trials(study, prepared, outer: int | None, singles: list[int]):
    """(what to train, the nested splits): the fused network and single ones on the same folds, or one trial an outer fold."""
    from data.errors import DataError
    from data.splits import Splits, check_splits, nested_splits
    from study.training import PlannedTrial

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
        try:
            nested = list(
                nested_splits(development.table, outer, folds=settings.folds, grouping=settings.grouping, seed=settings.split_seed)
            )
        except DataError as error:
            raise DataError(f"--nested {outer}, or its inner folds: {error}") from error
    for splits in nested:
        check_splits(splits, development.table)
    trials = [
        PlannedTrial(number, {}, config, development, splits, f"outer fold {number + 1} of {outer}") for number, splits in enumerate(nested)
    ]
    return trials, nested


def planned_members(study, prepared):
    """Every member of a mean on the same folds."""
    from mmnet.build import build_networks
    from study.training import PlannedTrial

    development = prepared.development
    trials = [
        PlannedTrial(number, params, study.config.with_values(params), development, prepared.splits, f"member {name}")
        for number, (name, params) in enumerate(study.members.items())
    ]
    for trial in trials:
        build_networks(trial.config, development, 1)  # what cannot be built is an error now, not after hours
    return trials


def planned_repeats(study, prepared, repeats: int):
    """The same configuration on the development patients under each seed and partition of `repeat_plan`."""
    from analysis.repeats import repeat_plan
    from data.splits import Splits, check_splits, make_splits
    from study.training import PlannedTrial

    development, settings = prepared.development, study.config.data
    dealt = [Splits.from_json(stored) for stored in study.about.get("repeats", [])]
    trials = []
    for number, (seed, split_seed) in enumerate(repeat_plan(study.config, repeats)):
        if number < len(dealt):
            splits = dealt[number]
        else:
            splits = make_splits(development.table, folds=settings.folds, test_fraction=0.0, grouping=settings.grouping, seed=split_seed)
        check_splits(splits, development.table)
        params = {"seed": seed, "data.split_seed": split_seed}
        trials.append(
            PlannedTrial(number, params, study.config.with_values(params), development, splits, f"repeat {number + 1} of {repeats}")
        )
    return trials


if __name__ == "__main__":
    run_verb(main)
