"""The best trials of a study: what they are, how good they look, how good a choice among them really is, and a file to run each."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.ensembles import prepare, read_candidates
from analysis.leaderboard import rank
from analysis.tables import narrow_table
from data.errors import InputError
from mmnet.config import Config, save_config, text_of
from mmnet.metrics import evaluate_one
from study.folder import read_study
from study.records import read_trials, whole_file

SHOWN = ("auc", "balanced_accuracy", "patient_auc", "patient_balanced_accuracy")


def write_best_trials(study: Path, count: int) -> dict[str, Any]:
    """results/best/<trial>.yaml of the `count` best trials. Raises InputError when no trial has a score."""
    about, records = read_study(study), read_trials(study)
    metric, synthetic = about["config"]["metric"], about["data"]["synthetic"]
    best = [record for record in rank(records, metric) if record.ranked][:count]
    if count < 1:
        raise InputError(f"--n {count}: expected at least 1")
    if not best:
        raise InputError(f"study {study}: no trial has a score yet; let it run, or --resume it")
    folder = study / "results" / "best"
    folder.mkdir(parents=True, exist_ok=True)
    for place, record in enumerate(best, start=1):
        note = f"place {place} of study {study.name}: trial {record.name}, out-of-fold {metric} {record.score:.4f} (optimistic)"
        with whole_file(folder / f"{record.name}.yaml") as building:
            save_config(Config().with_values(record.config), building, note + ("\nSYNTHETIC DATA: not for patients" if synthetic else ""))
    trials = [
        {
            "trial": record.name,
            "status": record.status,
            "epoch": record.best["epoch"],
            "score": record.score,
            "metrics": record.best["metrics"],
            "params": record.params,
            "file": folder / f"{record.name}.yaml",
        }
        for record in best
    ]
    return {"metric": metric, "synthetic": synthetic, "trials": trials, "honest": cross_fitted_choice(records, metric)}


def cross_fitted_choice(records: list, metric: str) -> float | None:
    """The metric of predictions that did not choose: on each fold those of the trial (and epoch) that is best on the other folds.

    None where a study has one configuration only, or nothing on record to choose by.
    """
    try:
        candidates = read_candidates(records)
    except InputError:
        return None
    if len(candidates.names) < 2:
        return None
    probability = np.empty(len(candidates.label))
    for number in np.unique(candidates.fold):
        here = candidates.fold == number
        chosen = prepare(candidates, np.flatnonzero(~here), metric)[1][0]
        probability[here] = chosen[here]
    return evaluate_one(metric, probability, candidates.label, candidates.patient)


def print_best_trials(report: dict[str, Any], console: Console) -> None:
    metric = report["metric"]
    names = [metric, *(name for name in SHOWN if name != metric)]
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    table = narrow_table(
        f"best trials{synthetic}",
        ("trial", "status", "epoch", *(name.replace("_", " ").replace("balanced accuracy", "bal. acc.") for name in names)),
    )
    for trial in report["trials"]:
        values = (trial["metrics"][name] for name in names)
        table.add_row(trial["trial"], trial["status"], str(trial["epoch"]), *("–" if value is None else f"{value:.3f}" for value in values))
    console.print(table)
    first = report["trials"][0]["score"]
    if report["honest"] is not None:
        console.print(
            f"{metric} {first:.3f} chose the first, so it is optimistic; where the other folds choose, it is {report['honest']:.3f}",
            highlight=False,
            soft_wrap=True,
        )
    for trial in report["trials"]:
        params = ", ".join(
            f"{path}={value:.4g}" if isinstance(value, float) else f"{path}={text_of(value)}" for path, value in trial["params"].items()
        )
        console.print(
            f"{trial['trial']}  {params or 'the configuration as it was given'}\n      python main.py --config {trial['file']}",
            highlight=False,
            soft_wrap=True,
        )
