"""Leaderboard and performance table for papers and spreadsheets."""

from pathlib import Path

from rich.console import Console

from analysis.leaderboard import rank, write_leaderboard
from analysis.performance_table import write_performance
from analysis.tables import write_table
from study.folder import read_study
from study.records import TrialRecord, read_trials

SHOWN = {
    "log_loss": "log loss",
    "auc": "AUC",
    "balanced_accuracy": "bal. acc.",
    "patient_auc": "patient AUC",
    "patient_balanced_accuracy": "patient bal. acc.",
}


def write_export(study: Path) -> list[Path]:
    """results/leaderboard and results/performance, each as .csv and .tex; returns the files. Raises InputError when no trial has a score."""
    about, records = read_study(study), read_trials(study)
    results = study / "results"
    results.mkdir(exist_ok=True)
    write_leaderboard(results / "leaderboard.csv", records, about["config"]["metric"])
    write_table(results / "leaderboard.tex", *latex_leaderboard(records, about["config"]["metric"], about["data"]["synthetic"]))
    write_performance(study)
    return [results / f"{name}{suffix}" for name in ("leaderboard", "performance") for suffix in (".csv", ".tex")]


def latex_leaderboard(records: list[TrialRecord], metric: str, synthetic: bool) -> tuple[list[str], list[list[str]], str]:
    """(columns, rows, caption): every trial, best first, by what a page can hold; parameters stand in the CSV."""
    names = SHOWN if metric in SHOWN else {metric: metric.replace("_", " ")} | SHOWN
    rows = []
    for record in rank(records, metric):
        metrics = record.best["metrics"] if record.ranked else {}
        values = [f"{metrics[name]:.3f}" if metrics.get(name) is not None else "–" for name in names]
        rows.append([record.name, record.status, str(len(record.epochs)), *values])
    caption = (
        f"{'SYNTHETIC DATA. ' if synthetic else ''}All {len(records)} configurations by {names[metric]}, out of fold, each at its best epoch. "
        "The value that chose a configuration is optimistic. Stopped ones had the epochs given; parameters: leaderboard.csv."
    )
    return ["trial", "status", "epochs", *names.values()], rows, caption


def print_export(files: list[Path], console: Console) -> None:
    for path in files:
        console.print(str(path), highlight=False, soft_wrap=True)
