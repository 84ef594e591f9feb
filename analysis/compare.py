"""Two studies against each other, on the patients that both judged.

What stands for a study is its chosen trial's out-of-fold predictions (of a nested study: all outer folds). Networks, views and
folds may differ; the patients of the intersection are drawn together for both.
"""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.joint import joint_values, metrics_of, percentile_interval
from analysis.leaderboard import is_search
from analysis.performance import performance
from analysis.predictions import Level, study_predictions
from analysis.tables import interval_text, narrow_table, write_table
from data.dataset import same_data
from data.errors import InputError, shortlist
from mmnet.metrics import patient_mean
from study.folder import read_study
from study.records import write_json

RESAMPLES = 1000
LOSSES = {"log_loss", "brier", "patient_log_loss", "patient_brier"}  # lower is better
AT_PATIENTS = ("sensitivity", "specificity", "f1", "kappa", "pr_auc")


def every_metric(level: Level) -> dict[str, float]:
    """What a search may follow, over views and patients, and what only decisions over patients have."""
    of_patients = performance(patients_of(level))
    return metrics_of(level) | {f"patient_{name}": of_patients[name] for name in AT_PATIENTS}


def patients_of(level: Level) -> Level:
    """A patient's probability is the mean over its views."""
    mean, first = patient_mean(level.probability, level.label, level.patient)
    return level.select(first)._replace(probability=mean)


def shared(first: Level, second: Level) -> tuple[Level, Level]:
    """Both on the patients that both hold. Raises InputError where they share none, share one class only, or disagree on a label."""
    names = np.intersect1d(first.slide, second.slide)
    if not len(names):
        raise InputError(
            f"compare: no patient is in both studies ({len(set(first.patient.tolist()))} and {len(set(second.patient.tolist()))} patients, such as "
            f"{first.patient[0]} and {second.patient[0]}); expected studies of the same data set"
        )
    one, other = (level.select(np.isin(level.slide, names)) for level in (first, second))
    for name in ("label", "patient"):
        of_one, of_other = (dict(zip(level.slide.tolist(), getattr(level, name).tolist(), strict=True)) for level in (one, other))
        apart = sorted(slide for slide in of_one if of_one[slide] != of_other[slide])
        if apart:
            raise InputError(f"compare: {shortlist(apart)} has another {name} in each study; expected studies of the same data set")
    if len(set(one.label.tolist())) < 2:
        raise InputError(f"compare: the {len(set(one.patient.tolist()))} patients of both studies are of one class; expected benign and malignant")
    return one, other


def differences(about: tuple[dict[str, Any], dict[str, Any]], levels: tuple[Level, Level]) -> list[str]:
    """What a reader must know before comparing: data, partition, epochs, metric, judged patients."""
    found = []
    first, second = about
    if not same_data(first["data"].get("fingerprint", ""), second["data"].get("fingerprint", "")):
        found.append(f"data: fingerprint {first['data'].get('fingerprint')} and {second['data'].get('fingerprint')}")
    folds = [dict(zip(level.slide.tolist(), level.fold.tolist(), strict=True)) for level in levels]
    if partition(folds[0]) != partition(folds[1]):
        found.append("partition: other folds, so the difference also holds what the partition moves")
    for path in ("optim.epochs", "metric", "data.magnifications", "data.image_size"):
        section, _, name = path.rpartition(".")
        values = [(study["config"][section] if section else study["config"])[name] for study in about]
        if values[0] != values[1]:
            found.append(f"{path}: {values[0]} and {values[1]}")
    return found


def partition(fold_of: dict[str, int]) -> set[frozenset[str]]:
    """Which slides are evaluated together, whatever their fold is called."""
    return {frozenset(slide for slide, fold in fold_of.items() if fold == number) for number in set(fold_of.values())}


def write_comparison(first: Path, second: Path) -> dict[str, Any]:
    """results/compare_<second>.json and .csv of the first study: every metric of both and first − second, with intervals over patients."""
    about = (read_study(first), read_study(second))
    levels = [study_predictions(study).level("view") for study in (first, second)]
    one, other = shared(*levels)
    value, drawn = joint_values((one, other), every_metric, rng=np.random.default_rng(about[0]["config"]["seed"]), count=RESAMPLES)
    low, high = percentile_interval(drawn[:, 0] - drawn[:, 1])
    names = list(every_metric(one))
    report: dict[str, Any] = {
        "studies": [first.name, second.name],
        "synthetic": any(study["data"]["synthetic"] for study in about),
        "optimistic": [path.name for path, study in zip((first, second), about, strict=True) if is_search(study)],
        "patients": len(set(one.patient.tolist())),
        "left_out": [len(set(level.patient.tolist()) - set(one.patient.tolist())) for level in levels],
        "differences": differences(about, (one, other)),
        "metrics": {
            name: {"first": value[0, n], "second": value[1, n], "difference": value[0, n] - value[1, n], "low": low[n], "high": high[n]}
            for n, name in enumerate(names)
        },
        "interval": f"95 % percentile bootstrap over patients, stratified by class, the same patients for both, {RESAMPLES} resamples",
    }
    results = first / "results"
    write_json(results / f"compare_{second.name}.json", report)
    rows = [[name, *(round(float(number), 6) for number in row.values())] for name, row in report["metrics"].items()]
    write_table(results / f"compare_{second.name}.csv", ["metric", first.name, second.name, "difference", "low", "high"], rows)
    return report


def verdict(name: str, low: float, high: float) -> str:
    """Whom the interval of first − second favours: first, second, or nobody (tied)."""
    if not (low > 0 or high < 0):
        return "tied"
    return "first" if (high < 0) == (name in LOSSES) else "second"


def print_comparison(report: dict[str, Any], study: Path, console: Console) -> None:
    first, second = report["studies"]
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    table = narrow_table(
        f"{first} against {second}{synthetic}: {report['patients']} patients (95 %, paired over patients)",
        ("metric", first, second, "first − second", "better"),
    )
    for name, row in report["metrics"].items():
        shown = interval_text(row["difference"], row["low"], row["high"], "+")
        table.add_row(name.replace("_", " "), f"{row['first']:.3f}", f"{row['second']:.3f}", shown, verdict(name, row["low"], row["high"]))
    console.print(table)
    lines = [f"the studies differ in {difference}" for difference in report["differences"]]
    lines += [
        f"{count} patients of {name} are not in the other"
        for name, count in zip(report["studies"], report["left_out"], strict=True)
        if count
    ]
    if report["optimistic"]:
        lines.append(f"{' and '.join(report['optimistic'])}: the best of a search, chosen by these predictions, so optimistic")
    lines.append(f"results: {study}/results/compare_{second}.csv")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
