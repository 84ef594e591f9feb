"""Search: find the configuration of MMNet that holds on unseen patients. `python tune_mmnet.py --help`."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from functools import partial

from study.command_line import Parser, add_shared_arguments, run_verb, say

KEPT = (  # by a resumed study, unless given again
    "space",
    "trials",
    "scheduler",
    "sampler",
    "eta",
    "concurrency",
    "cpus_per_trial",
    "gpus_per_trial",
    "disk_budget",
    "front",
)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(
        prog="tune_mmnet.py", description="Search configurations of MMNet on patient-wise folds. Without data: a synthetic data set."
    )
    add_shared_arguments(parser)
    parser.add_argument(
        "--space",
        metavar="NAME",
        help="what varies: focal, dropout, fusion, optim, full (default), smoke; or ablation: every mechanism on and off",
    )
    parser.add_argument(
        "--warm-start", metavar="STUDY", help="begin with the best configurations of an earlier study, and learn from its trials"
    )
    parser.add_argument("--trials", metavar="N", type=int, help="configurations to try, in all (default 30; an ablation 3 seeds of each)")
    parser.add_argument(
        "--scheduler",
        metavar="NAME",
        help="promote: trials rest at rungs and the best go on (default); asha: a rung stops them for good; none: all run to their end",
    )
    parser.add_argument(
        "--sampler",
        metavar="NAME",
        help="what proposes configurations: random, tpe (Optuna's), gp (a model of the scores at all rungs); auto (default): random where trials rest at rungs, gp with --warm-start",
    )
    parser.add_argument("--eta", metavar="N", type=int, help="of a rung's trials the best 1/N go on (default 3)")
    parser.add_argument("--time-budget", metavar="TIME", help="stop after 90s, 30m, 2h, …")
    parser.add_argument(
        "--stop-at-noise", action="store_true", help="stop when more trials are expected to gain less than chance moves a comparison"
    )
    parser.add_argument(
        "--gpus-per-trial", metavar="X", help="share of a GPU, or auto: as one trial's memory allows (default: 1 where there is one)"
    )
    parser.add_argument("--cpus-per-trial", metavar="X", type=float, help="CPU cores, and threads, of a trial (default 1)")
    parser.add_argument("--concurrency", metavar="N", help="trials at once, or auto: as many as fit (default)")
    parser.add_argument("--address", metavar="ADDR", help="join a Ray cluster: auto, or host:port")
    parser.add_argument("--max-failures", metavar="N", type=int, help="stop when more trials than this failed")
    parser.add_argument(
        "--max-cost", metavar="DOLLARS", type=float, help="stop when the cluster's nodes have cost this, by the prices in its file"
    )
    parser.add_argument(
        "--disk-budget", metavar="GIB", type=float, help="of checkpoints and networks; beyond it the least promising go (default 20)"
    )
    parser.add_argument("--retry-failed", action="store_true", default=None, help="with --resume: give failed trials another try")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    started = time.monotonic()
    from rich.console import Console

    from data.errors import InputError
    from search_spaces import get_space
    from search_spaces.ablation import Ablation
    from study.folder import open_or_create, record_end
    from tuning.cluster import joining
    from tuning.settings import ASHA, NO_RUNGS, TPE, StudySettings, parse_concurrency, parse_duration, parse_gpus, rungs

    console = Console(markup=False)
    arguments.front = take_front(arguments)
    names = (*KEPT, "address", "max_failures", "max_cost", "retry_failed")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.gpus_per_trial is not None:
        given["gpus_per_trial"] = parse_gpus(arguments.gpus_per_trial)
    if arguments.concurrency is not None:
        given["concurrency"] = parse_concurrency(arguments.concurrency)
    if arguments.time_budget is not None:
        given["time_budget"] = parse_duration(arguments.time_budget)
    study = open_or_create(arguments, "tune")
    stored = study.about.get("settings", {})
    if given.get("space", stored.get("space")) != stored.get("space", given.get("space")):
        raise InputError(f"study {study.name} searches space {stored['space']}: resume it without --space, or start another --name")
    space = get_space(given.get("space", stored.get("space", StudySettings.space)), study.config)
    space.check(study.config)
    if arguments.retry_failed and not study.resumed:
        raise InputError("--retry-failed: a new study has no failed trials; pass --resume as well, or leave the flag out")
    if study.resumed:
        stored = {"scheduler": ASHA, "sampler": TPE} | stored  # what there was before there was a choice
    settings = StudySettings(**{"name": study.name, "output": study.path.parent, "trials": space.trials} | stored | given)
    planned = isinstance(space, Ablation)
    levels = () if planned or settings.scheduler == NO_RUNGS else rungs(study.config.optim.epochs, settings.eta)
    if arguments.dry_run:
        from mmnet.backbones import check_backbone

        study.prepare(console, None)
        check_backbone(study.config.model, study.config.input_size)
        print_plan(console, settings, space, study.config, levels, dimensions=True)
        return 0
    with joining(settings.address) as connected:
        from mmnet.device_kind import device_kind

        prepared = study.prepare(console, device_kind(), trains_here=settings.address is None)
        space = with_backbones(space, study, console)
        print_plan(console, settings, space, study.config, levels, dimensions=False)
        kept = {name: getattr(settings, name) for name in KEPT}
        earlier = study.about.get("warm_start")
        if arguments.warm_start:
            earlier = begin_warm(console, study, arguments.warm_start, space, prepared)
        mechanisms = [asdict(m) for m in space.mechanisms] if planned else []
        backbones = space.choices("model.backbone")
        study.write(prepared, settings=kept, rungs=levels, mechanisms=mechanisms, backbones=backbones, warm_start=earlier)

        from tuning.study import run_study
        from tuning.warm_start import earlier_trials, warm_space

        learned = earlier_trials(space, earlier) if earlier else []
        if earlier:
            space = warm_space(space, earlier)
        enough = None
        if arguments.stop_at_noise:
            from analysis.trust import end_by_noise

            enough = partial(end_by_noise, metric=study.config.metric)
        reason, cost = "broken off", study.about.get("cost", 0.0)
        try:
            outcome = run_study(
                settings,
                space,
                study.config,
                levels,
                prepared.development,
                prepared.splits,
                console,
                connected,
                enough=enough,
                earlier=learned,
                spent=cost,
                mirror=study.mirror,
            )
            reason, cost = outcome.reason, outcome.cost
        finally:
            record_end(settings.folder, reason, cost=cost)
            study.mirror.push()
    status = close(settings.folder, study.output, console, outcome.complete, outcome.reason, time.monotonic() - started)
    study.mirror.store(console)
    return status


def take_front(arguments: argparse.Namespace) -> tuple[str, ...] | None:
    """The objectives after the first of `--metric log_loss,seconds`; the first one is left in the arguments. None: not given."""
    from mmnet.pareto import parse_objectives

    if "flag_metric" not in vars(arguments):
        return None
    arguments.flag_metric, front = parse_objectives(arguments.flag_metric)
    return front


def with_backbones(space, study, console):
    """The space with those backbones whose weights can be had here, so that no trial fails by it; a resumed study keeps its own."""
    names = space.choices("model.backbone")
    if study.resumed or not names:
        return space.with_choices("model.backbone", tuple(study.about.get("backbones", ())))
    from mmnet.backbones import obtainable

    reasons = obtainable(names, study.config.model, study.config.input_size)
    for name, reason in reasons.items():
        if reason:
            say(console, "left out", f"  {name}: {reason}")
    return space.with_choices("model.backbone", tuple(name for name, reason in reasons.items() if not reason))


def begin_warm(console, study, name: str, space, prepared):
    """What an earlier study gives to this one. Raises InputError where that cannot be."""
    from data.errors import InputError
    from search_spaces.ablation import Ablation
    from study.folder import fetch_study
    from study.mirror import CHECKPOINTS, EVENTS, WEIGHTS
    from tuning.warm_start import read_earlier

    if study.resumed or isinstance(space, Ablation):
        what = "a study that is resumed" if study.resumed else "an ablation"
        raise InputError(f"--warm-start {name}: {what} cannot begin anew; expected a new search: leave one of the two out")
    folder = fetch_study(study.output, name, leave=(CHECKPOINTS, EVENTS, WEIGHTS)).folder
    earlier = read_earlier(folder, space, study.config, prepared.dataset.fingerprint, prepared.splits)
    seen = (
        f"its {len(earlier['trials'])} trials are learned from" if earlier["trials"] else "other data or folds: its scores are not compared"
    )
    console.print(
        f"start     from {folder.name}: {len(earlier['points'])} of its best are tried first; {seen}", soft_wrap=True, highlight=False
    )
    return earlier


def print_plan(console, settings, space, config, levels: tuple[int, ...], *, dimensions: bool) -> None:
    """What will be searched and what it may cost, in fold-epochs (one epoch of one fold)."""
    from tuning.settings import PROMOTE, expected_epochs

    folds, epochs = config.data.folds, config.optim.epochs
    for dimension in space.dimensions if dimensions else ():
        condition = f" if {dimension.when[0]} is {' or '.join(map(str, dimension.when[1]))}" if dimension.when else ""
        console.print(
            f"  {dimension.kind:<10} {dimension.path:<26} {dimension.described()}{condition}: {dimension.reason}",
            highlight=False,
            soft_wrap=True,
        )
    full = settings.trials * folds * epochs
    expected = folds * expected_epochs(settings.trials, levels, epochs, settings.eta)
    how = "trials rest there, and the best" if settings.scheduler == PROMOTE else "of the trials there the best"
    stopping = f"{', '.join(map(str, levels))} of {epochs} epochs; {how} 1/{settings.eta} go on" if levels else "none"
    cost = f"about {expected:.0f} with early stopping" if levels else "no rung stops one early"
    console.print(
        f"space     {space.name}: {len(space.searched())} dimensions; metric {config.metric}\n"
        f"rungs     {stopping}\n"
        f"disk      at most {settings.disk_budget:g} GiB of checkpoints and networks; beyond that the least promising ones go\n"
        f"cost      {settings.trials} trials x {folds} folds x {epochs} epochs = {full} fold-epochs at most, {cost}",
        highlight=False,
        soft_wrap=True,
    )


def close(folder, output: str, console, complete: bool, reason: str, seconds: float) -> int:
    """Write and print what the study found; the exit status."""
    from analysis.ablation import print_ablation, write_ablation
    from analysis.front import print_front, write_front
    from analysis.many_classes import classes_of, print_confusion
    from analysis.report import write_report
    from analysis.summary import print_summary, write_results
    from analysis.trust import print_trust
    from study.folder import read_study

    best = write_results(folder)
    if best is not None:
        print_summary(folder, best, console, seconds)
        about = read_study(folder)
        planned = bool(about["mechanisms"])
        classes = classes_of(about)
        if classes:
            print_confusion(folder, best, classes, console)
        elif planned:
            print_ablation(write_ablation(folder), console)
        if about["settings"].get("front"):
            print_front(write_front(folder), console)
        draw_best(folder, best.name)
        if not classes and not reason.startswith("stopped by"):  # whoever pressed Ctrl-C does not want to wait; python -m analysis report is there
            page, trust = write_report(folder)
            if not planned:
                print_trust(trust, console)
            console.print(f"report: {page}", highlight=False, soft_wrap=True)
    if not complete:
        say(console, reason or "stopped", f": go on with  python tune_mmnet.py --resume --name {folder.name} --output {output}")
    elif best is None:
        console.print(f"no trial gave a score; reasons are in {folder}/results/leaderboard.csv", highlight=False)
        return 1
    return 130 if reason.startswith("stopped by") else 0


def draw_best(folder, trial: str) -> None:
    """Figures of the best trial, also in its TensorBoard run: how it learned, judges and is calibrated, beside what the search found."""
    import contextlib

    from analysis.calibration import write_calibration
    from analysis.fold_curves import write_fold_curves
    from analysis.roc_curves import write_roc_curves
    from data.errors import InputError
    from tuning.tensorboard import write_figures

    made = []
    for figure, write in (("fold_curves", write_fold_curves), ("roc_curves", write_roc_curves), ("reliability", write_calibration)):
        with contextlib.suppress(InputError):  # predictions of one class, say: the other figures do not depend on it
            write(folder)
            made.append(figure)
    paths = {name: folder / "plots" / f"{name}.png" for name in (*made, "optimisation_history", "importance")}
    write_figures(folder / "trials", trial, {name: path for name, path in paths.items() if path.exists()})


if __name__ == "__main__":
    run_verb(main)
