"""Everything that stands at the end of a study: leaderboard, best configuration, figures, and a page of text."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.importance import parameter_importance
from analysis.leaderboard import is_search, standing_trial, write_leaderboard
from analysis.many_classes import classes_of
from analysis.plots import importance_bars, learning_curves, optimisation_history, parallel_coordinates
from analysis.predictions import Predictions, study_predictions, trial_predictions
from analysis.tables import write_table
from mmnet.config import Config, save_config
from mmnet.metrics import METRICS, evaluate
from study.command_line import say
from study.members import member_names
from study.records import TrialRecord, peak_memory, read_trials, whole_file, write_json

SHOWN = ("log_loss", "auc", "balanced_accuracy", "patient_auc", "patient_balanced_accuracy")


def write_results(study: Path) -> TrialRecord | None:
    """results/, plots/, models/ and best_config.yaml of a study as it stands; returns its best trial, None without one.

    A mean of members has no single best configuration: its folds' results are of the mean, and models/ holds every member's.
    """
    about = json.loads((study / "study.json").read_text())
    metric, synthetic = about["config"]["metric"], about["data"]["synthetic"]
    records = read_trials(study)
    for folder in ("results", "plots"):
        (study / folder).mkdir(exist_ok=True)
    write_leaderboard(study / "results" / "leaderboard.csv", records, metric)
    best = standing_trial(about, records)
    if best is None:
        return None
    members = dict(zip(member_names(about), records, strict=False))
    if members:
        write_models(study, members)
        write_folds(study, f"mean of {', '.join(members)}", None, study_predictions(study), synthetic)
    else:
        write_best(study, best, about)
    learning_curves(records, metric, study / "plots" / "learning_curves.png", synthetic)
    if is_search(about):
        importance = parameter_importance(study / "optuna.db", records, metric)
        optimisation_history(records, metric, study / "plots" / "optimisation_history.png", synthetic)
        parallel_coordinates(records, metric, study / "plots" / "parallel_coordinates.png", synthetic, list(importance.share))
        importance_bars(importance, study / "plots" / "importance.png", synthetic)
    return best


def write_best(study: Path, best: TrialRecord, about: dict[str, Any]) -> None:
    """best_config.yaml, models/ and one JSON a fold."""
    config = Config().with_values(best.config)
    note = f"best of study {about['name']}: trial {best.name}, out-of-fold {config.metric} {best.score:.4f} at epoch {best.best['epoch']}"
    note += "\nSYNTHETIC DATA: not for patients" if about["data"]["synthetic"] else ""
    note += "\nthis score chose the configuration, so it is optimistic; judge it on the sealed test: python main.py --config FILE"
    with whole_file(study / "best_config.yaml") as building:
        save_config(config, building, note)
    write_models(study, {"": best})
    if (best.folder / "predictions.npz").exists() and not classes_of(about):  # else still running
        write_folds(study, best.name, best.best["epoch"], trial_predictions(best), about["data"]["synthetic"])


def write_models(study: Path, trials: dict[str, TrialRecord]) -> None:
    """models/<name>/ of each trial; weights of others are removed, they only cost space."""
    shutil.rmtree(study / "models", ignore_errors=True)  # those of another trial do not belong to this configuration
    kept = {name: record.folder / "weights" for name, record in trials.items() if (record.folder / "weights").exists()}
    for name, folder in kept.items():
        shutil.copytree(folder, study / "models" / name)
    for folder in (study / "trials").glob("*/weights") if kept else ():
        if folder not in kept.values():
            shutil.rmtree(folder)


def write_folds(study: Path, trial: str, epoch: int | None, predictions: Predictions, synthetic: bool) -> None:
    """results/fold_<n>.json: a fold's metrics and the out-of-fold probability of its patients; summary.csv of all folds.

    `trial` and `epoch`: whose predictions they are, after which epoch.
    """
    numbers = np.unique(predictions.fold)
    pooled, *folds = (
        evaluate(predictions.probability[chosen], predictions.label[chosen], predictions.patient[chosen])
        for chosen in (np.ones(len(predictions.fold), dtype=bool), *(predictions.fold == number for number in numbers))
    )
    values = np.array([[fold[name] for name in METRICS] for fold in folds])
    rows = [[number, *row] for number, row in enumerate(values, start=1)]
    rows += [["mean", *values.mean(0)], ["sd", *values.std(0, ddof=1)], ["pooled", *(pooled[name] for name in METRICS)]]
    write_table(study / "results" / "summary.csv", ["fold", *METRICS], [[row[0], *(round(float(v), 6) for v in row[1:])] for row in rows])
    level = predictions.level("patient")
    for number, metrics in enumerate(folds, start=1):
        part = level.select(level.fold == numbers[number - 1])
        patients = [
            {"patient": str(patient), "label": int(label), "probability": round(float(value), 6)}
            for patient, label, value in zip(part.patient, part.label, part.probability, strict=True)
        ]
        write_json(
            study / "results" / f"fold_{number}.json",
            {
                "fold": number,
                "trial": trial,
                "epoch": epoch,
                "synthetic": synthetic,
                "metrics": metrics,
                "patients": patients,
            },
        )


def fold_values(record: TrialRecord, names: tuple[str, ...]) -> np.ndarray:
    """(K, metrics) of each fold at the best epoch."""
    return np.array([[np.nan if fold[name] is None else fold[name] for name in names] for fold in record.best["fold_metrics"]])


def print_summary(study: Path, best: TrialRecord, console: Console, seconds: float) -> None:
    """The page of text at the end of a run: the best configuration and its numbers, then `print_cost`."""
    about = json.loads((study / "study.json").read_text())
    records = read_trials(study)
    if about["data"]["synthetic"]:
        say(console, "SYNTHETIC DATA", ": the numbers below say nothing about patients")
    metric = about["config"]["metric"]
    searched = is_search(about)
    title = f"best of {len(records)} trials: trial {best.name}" if searched else f"out of fold, trial {best.name}"
    table = Table(title=f"{title}, epoch {best.best['epoch']} of {len(best.epochs)}", title_justify="left")
    names = SHOWN if metric in SHOWN else (metric, *SHOWN)
    table.add_column("out of fold")
    for name in names:
        table.add_column(name.replace("_", " ") + (" *" if name == metric else ""), justify="right")
    values = fold_values(best, names)
    blank = [number for number, row in enumerate(values, start=1) if np.isnan(row).all()]
    for number, row in enumerate(values, start=1):
        if number not in blank:
            table.add_row(f"fold {number}", *(f"{value:.3f}" for value in row))
    if len(values) - len(blank) > 1:
        table.add_row("mean", *(f"{value:.3f}" for value in np.nanmean(values, 0)))
        table.add_row("sd", *(f"{value:.3f}" for value in np.nanstd(values, 0, ddof=1)))
    table.add_row("pooled", *(f"{best.best['metrics'][name]:.3f}" for name in names))
    console.print(table)
    if blank:
        say(console, "note", f"      {len(blank)} of {len(values)} folds hold one class and have no metrics of their own", "")
    if searched:
        console.print(
            "parameters: " + ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in best.params.items()),
            highlight=False,
            soft_wrap=True,
        )
        console.print(f"* chosen by it, so the value of {metric} is optimistic; so, less, are the others", highlight=False)
    print_cost(study, console, seconds)


def print_cost(study: Path, console: Console, seconds: float) -> None:
    """What a study cost, on which machines, and where things are."""
    records = read_trials(study)
    count = {status: sum(r.status == status for r in records) for status in ("done", "stopped", "failed", "running")}
    cost = sum(r.fold_epochs for r in records)
    folds = max(len(r.best["fold_metrics"]) for r in records if r.epochs)
    full = sum(r.config["optim"]["epochs"] for r in records) * folds
    console.print(
        f"cost: {seconds:.0f} s this run; {cost} fold-epochs of {full} without early stopping; {count['done']} trials done, {count['stopped']} stopped early, "
        f"{count['failed']} failed" + (f", {count['running']} unfinished" if count["running"] else ""),
        highlight=False,
        soft_wrap=True,
    )
    console.print(
        f"peak memory: this process {peak_memory():.0f} MiB, a trial's process {max(r.peak_mib for r in records):.0f} MiB (shared pages counted)",
        highlight=False,
    )
    nodes = Counter(r.node for r in records if r.node)
    if len(nodes) > 1:
        told = ", ".join(f"{node} {trials}" for node, trials in nodes.most_common())
        console.print(f"trials by the machine that they trained on last: {told}", highlight=False, soft_wrap=True)
    if count["failed"]:
        reasons = sorted({r.reason for r in records if r.status == "failed"})
        console.print("failed because: " + "; ".join(reasons[:3]), highlight=False, soft_wrap=True)
    console.print(
        f"results: {study}/results, figures: {study}/plots"
        + (f", best configuration: {study}/best_config.yaml" if (study / "best_config.yaml").exists() else "")
        + "\n"
        f"compare trials: tensorboard --logdir {study}/trials",
        highlight=False,
        soft_wrap=True,
    )
