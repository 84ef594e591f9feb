"""Is fusion worth it? The fused network against each network of one magnification, on the same patients, folds and views."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.bootstrap import Interval, paired_difference
from analysis.predictions import Predictions, trial_predictions
from analysis.tables import interval_text, narrow_table, write_table
from data.views import MISSING
from mmnet.metrics import evaluate
from study.folder import read_study
from study.records import read_trials, write_json

RESAMPLES = 2000
COMPARED = ("log_loss", "auc", "patient_log_loss", "patient_auc", "patient_balanced_accuracy")


def on_views(single: Predictions, fused: Predictions) -> np.ndarray:
    """(V,) what a single-magnification network says of the fused network's views, NaN where the view lacks its magnification.

    It gives every image of its magnification one probability; a view gets that of the image it shows.
    """
    column = fused.magnifications.index(single.magnifications[0])
    of_image = np.full(max(single.rows.max(), fused.rows.max()) + 1, np.nan)
    of_image[single.rows[:, 0]] = single.probability
    shown = fused.rows[:, column]
    return np.where(shown == MISSING, np.nan, of_image[shown])


def mean_of_present(probability: np.ndarray) -> np.ndarray:
    """(T, V) -> (V,) mean over the networks that see a view, NaN where none does."""
    present = ~np.isnan(probability)
    total, count = np.where(present, probability, 0).sum(0), present.sum(0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def compare(fused: Predictions, other: np.ndarray, name: str, rng: np.random.Generator) -> dict[str, Any]:
    """Metrics of both on the views that both can see, and fused minus other, paired over patients."""
    seen = ~np.isnan(other)
    label, patient = fused.label[seen], fused.patient[seen]
    row: dict[str, Any] = {
        "against": name,
        "views": int(seen.sum()),
        "patients": len(np.unique(patient)),
        "fused": evaluate(fused.probability[seen], label, patient),
        "other": evaluate(other[seen], label, patient),
    }
    differences: dict[str, Interval] = {
        metric: paired_difference(metric, fused.probability[seen], other[seen], label, patient, rng=rng, count=RESAMPLES)
        for metric in COMPARED
    }
    return row | {"fused_minus_other": {metric: difference._asdict() for metric, difference in differences.items()}}


def write_comparison(study: Path) -> dict[str, Any]:
    """results/single_magnification.json and .csv: each single network, and the mean of them where there are several."""
    about = read_study(study)
    fused_trial, *singles = read_trials(study)
    fused = trial_predictions(fused_trial)
    others = {f"{single.magnifications[0]}X alone": on_views(single, fused) for single in map(trial_predictions, singles)}
    if len(others) > 1:
        others["mean of the singles"] = mean_of_present(np.stack(list(others.values())))
    rng = np.random.default_rng(about["config"]["seed"])
    report = {
        "synthetic": about["data"]["synthetic"],
        "metric": about["config"]["metric"],
        "rows": [compare(fused, other, name, rng) for name, other in others.items()],
    }
    write_json(study / "results" / "single_magnification.json", report)
    columns = ["against", "patients", *(f"{m}_{which}" for m in COMPARED for which in ("fused", "other", "difference", "low", "high"))]
    rows = []
    for row in report["rows"]:
        cells = [row["against"], row["patients"]]
        for metric in COMPARED:
            d = row["fused_minus_other"][metric]
            cells += [round(v, 4) for v in (row["fused"][metric], row["other"][metric], d["value"], d["low"], d["high"])]
        rows.append(cells)
    write_table(study / "results" / "single_magnification.csv", columns, rows)
    return report


def print_comparison(report: dict[str, Any], console: Console) -> None:
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    columns = ("against", "patients", "log loss", "patient AUC")
    table = narrow_table(f"fused − single magnification{synthetic} (95 %, paired over patients)", columns)
    for row in report["rows"]:
        shown = [row["fused_minus_other"][metric] for metric in ("log_loss", "patient_auc")]
        table.add_row(row["against"], str(row["patients"]), *(interval_text(d["value"], d["low"], d["high"], "+") for d in shown))
    console.print(table)
    console.print("each network's own metrics, and more of them: results/single_magnification.csv", highlight=False)
