"""A study's answer, from what it left on disk. `python -m analysis --help`."""

from __future__ import annotations

import argparse
import time

from study.command_line import OUTPUT, OUTPUT_HELP, Parser, run_verb


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="python -m analysis", description="What a study found, also while it still runs.")
    shared = Parser(add_help=False)
    shared.add_argument("study", metavar="STUDY", help="its name, or its folder")
    shared.add_argument("--output", metavar="PLACE", default=OUTPUT, help=f"{OUTPUT_HELP} (default: {OUTPUT})")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in (
        ("report", "one self-contained page: report.html"),
        ("compare", "two studies on the same patients, paired"),
        ("export", "leaderboard and performance table as CSV and LaTeX"),
        ("best", "the best trials, with a configuration file to run each"),
        ("watch", "follow a running study from its records; ends with it"),
    ):
        verbs.add_parser(name, help=text, description=text, parents=[shared])
    verbs.choices["compare"].add_argument("other", metavar="STUDY", help="the one to compare with")
    verbs.choices["best"].add_argument("--n", metavar="N", type=int, default=5, help="how many (default 5)")
    return parser.parse_args(arguments)


def main() -> int:
    arguments = parse()
    from rich.console import Console

    from study.folder import checked_study, fetch_study
    from study.members import member_names
    from study.mirror import CHECKPOINTS, EVENTS, WEIGHTS

    console, leave = Console(markup=False), (CHECKPOINTS, EVENTS, WEIGHTS)
    mirror = fetch_study(arguments.output, arguments.study, leave=leave)
    study = mirror.folder
    about = checked_study(study)
    if arguments.verb == "report":
        from analysis.report import write_report
        from analysis.trust import print_trust

        page, trust = write_report(study)
        if not member_names(about):  # a mean was not chosen among its members
            print_trust(trust, console)
        console.print(f"report: {page}", highlight=False, soft_wrap=True)
    elif arguments.verb == "export":
        from analysis.export import print_export, write_export

        print_export(write_export(study), console)
    elif arguments.verb == "best":
        from analysis.best import print_best_trials, write_best_trials

        print_best_trials(write_best_trials(study, arguments.n), console)
    elif arguments.verb == "compare":
        from analysis.compare import print_comparison, write_comparison

        other = fetch_study(arguments.output, arguments.other, leave=leave)
        print_comparison(write_comparison(study, other.folder), study, console)
    else:
        from analysis.watch import watch

        def wait(seconds: float) -> None:
            time.sleep(seconds)
            mirror.pull(leave=leave)

        watch(study, console, wait)
    mirror.store(console)
    return 0


if __name__ == "__main__":
    run_verb(main)
