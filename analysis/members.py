"""A mean of several configurations beside its members, on the same patients, folds and views."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.bootstrap import bootstrap_interval, paired_difference
from analysis.predictions import Predictions, mean_of, member_predictions
from analysis.tables import interval_text, narrow_table, write_table
from mmnet.metrics import METRICS, evaluate
from study.folder import read_study
from study.records import TrialRecord, read_trials, write_json

RESAMPLES = 2000
SHOWN = ("log_loss", "auc", "patient_auc", "patient_balanced_accuracy")


def write_mean(study: Path) -> dict[str, Any]:
    """results/mean.json and .csv: the mean with its intervals, every member, and mean minus member, paired over patients."""
    about = read_study(study)
    members, metric, rng = member_predictions(study), about["config"]["metric"], np.random.default_rng(about["config"]["seed"])
    mean = mean_of(members)
    judging = mean.label, mean.patient
    intervals = {name: bootstrap_interval(name, mean.probability, *judging, rng=rng, count=RESAMPLES)._asdict() for name in METRICS}
    rows = [
        _row(name, record, predictions, mean, rng) for (name, predictions), record in zip(members.items(), read_trials(study), strict=True)
    ]
    sign = 1 if METRICS[metric] == "min" else -1
    report = {
        "synthetic": about["data"]["synthetic"],
        "metric": metric,
        "patients": len(np.unique(mean.patient)),
        "mean": intervals,
        "best": min(rows, key=lambda row: sign * row["metrics"][metric])["member"],
        "members": rows,
        "interval": f"95 %, by the bootstrap over patients, stratified by class, {RESAMPLES} resamples; differences paired",
    }
    write_json(study / "results" / "mean.json", report)
    _write_csv(study / "results" / "mean.csv", report)
    return report


def _row(name: str, record: TrialRecord, member: Predictions, mean: Predictions, rng: np.random.Generator) -> dict[str, Any]:
    judging = mean.label, mean.patient
    differences = {
        metric: paired_difference(metric, mean.probability, member.probability, *judging, rng=rng, count=RESAMPLES)._asdict()
        for metric in METRICS
    }
    return {
        "member": name,
        "trial": record.name,
        "epoch": record.best["epoch"],
        "metrics": evaluate(member.probability, member.label, member.patient),
        "mean_minus_member": differences,
    }


def _write_csv(path: Path, report: dict[str, Any]) -> None:
    """A row a member, then the mean, whose bounds are its own and not those of a difference."""
    parts = ("", "_difference", "_low", "_high")
    rows = []
    for row in report["members"]:
        numbers = [(row["metrics"][metric], *row["mean_minus_member"][metric].values()) for metric in METRICS]
        rows.append([row["member"], row["trial"], row["epoch"], *(round(float(value), 6) for found in numbers for value in found)])
    own = [(found["value"], "", found["low"], found["high"]) for found in report["mean"].values()]
    rows.append(["mean", "", "", *(value and round(float(value), 6) for found in own for value in found)])
    write_table(path, ["member", "trial", "epoch", *(f"{metric}{part}" for metric in METRICS for part in parts)], rows)


def print_mean(report: dict[str, Any], console: Console) -> None:
    metric = report["metric"]
    names = (metric, *(name for name in SHOWN if name != metric))
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    table = narrow_table(
        f"mean of {len(report['members'])} members{synthetic}, out of fold: {report['patients']} patients",
        ("member", *map(_short, names), f"mean − it, {_short(metric)}"),
    )
    for row in report["members"]:
        difference = interval_text(**row["mean_minus_member"][metric], sign="+")
        name = row["member"] + (" *" if row["member"] == report["best"] else "")
        table.add_row(name, *(f"{row['metrics'][n]:.3f}" for n in names), difference, end_section=row is report["members"][-1])
    table.add_row("mean", *(f"{report['mean'][name]['value']:.3f}" for name in names), "")
    console.print(table)
    shown = ", ".join(f"{_short(name)} {interval_text(**report['mean'][name])}" for name in names)
    console.print(
        f"the mean (95 % over patients): {shown}\n"
        "* best member, chosen by these predictions, which makes it look better than it is; each member at its own best epoch;\n"
        "differences paired over patients; all metrics: results/mean.csv, results/mean.json",
        highlight=False,
        soft_wrap=True,
    )


def _short(name: str) -> str:
    return name.replace("_", " ").replace("balanced accuracy", "bal. acc.").replace("patient", "pat.").replace("auc", "AUC")
