"""The table of a paper: every metric at every level, of each fold, their mean, and pooled with its interval."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.performance import NAMES, by_fold, performance_intervals
from analysis.predictions import LEVELS, Predictions, study_predictions
from analysis.tables import interval_text, narrow_table, write_table
from study.folder import read_study
from study.records import write_json

RESAMPLES = 1000
FOLDS_SHOWN = 5  # in the terminal; more do not fit 80 columns


def write_performance(study: Path) -> dict[str, Any]:
    """results/performance.json, .csv, .md and .tex."""
    about = read_study(study)
    report = performance_report(study_predictions(study), about["config"]["seed"], about["data"]["synthetic"])
    write_json(study / "results" / "performance.json", report)
    write_performance_tables(study / "results", report)
    return report


def performance_report(predictions: Predictions, seed: int, synthetic: bool) -> dict[str, Any]:
    """Every metric at every level: of each fold, their mean and deviation, and pooled with its interval."""
    levels: dict[str, Any] = {}
    for name in LEVELS:
        level = predictions.level(name)
        folds = by_fold(level)
        pooled = performance_intervals(level, rng=np.random.default_rng(seed), count=RESAMPLES)
        levels[name] = {"units": len(level.label), "patients": len(np.unique(level.patient)), "metrics": {}}
        for metric in NAMES:
            values = np.array([fold[metric] for fold in folds])
            known = values[~np.isnan(values)]
            levels[name]["metrics"][metric] = {
                "folds": values.tolist(),
                "mean": float(known.mean()) if len(known) else float("nan"),
                "sd": float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
                "pooled": pooled[metric]._asdict(),
            }
    return {"synthetic": synthetic, "threshold": 0.5, "resamples": RESAMPLES, "levels": levels}


def write_performance_tables(folder: Path, report: dict[str, Any]) -> None:
    count = len(report["levels"][LEVELS[0]]["metrics"]["auc"]["folds"])
    folds = [f"fold {number}" for number in range(1, count + 1)]
    numbers, shown = [], []
    for level, content in report["levels"].items():
        for metric, m in content["metrics"].items():
            pooled = m["pooled"]
            row = [*m["folds"], m["mean"], m["sd"], pooled["value"], pooled["low"], pooled["high"]]
            numbers.append([level, metric, *(round(value, 6) for value in row)])
            text = [level, NAMES[metric], *map(_three, m["folds"]), f"{_three(m['mean'])} ± {_three(m['sd'])}", interval_text(**pooled)]
            shown.append(text)
    write_table(folder / "performance.csv", ["level", "metric", *folds, "mean", "sd", "pooled", "low", "high"], numbers)
    caption = caption_of(report)
    for suffix in (".md", ".tex"):
        columns = ["level", "metric", *folds, "mean ± sd", "pooled (95 %)"]
        write_table((folder / "performance").with_suffix(suffix), columns, shown, caption)


def caption_of(report: dict[str, Any]) -> str:
    """What the numbers are, for a reader who has only the table."""
    units = ", ".join(f"{content['units']} {level}s" for level, content in report["levels"].items())
    return (
        f"{'SYNTHETIC DATA. ' if report['synthetic'] else ''}Out-of-fold performance ({units} of "
        f"{report['levels'][LEVELS[0]]['patients']} patients), decisions at {report['threshold']:g}. Mean and sd over folds; pooled over all "
        f"folds with the 95 % percentile bootstrap interval over patients, stratified by class ({report['resamples']} resamples; "
        "none for the calibration error, which resampling only raises)."
    )


def print_performance(report: dict[str, Any], console: Console) -> None:
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    for level, content in report["levels"].items():
        count = len(content["metrics"]["auc"]["folds"])
        numbers = range(count) if count <= FOLDS_SHOWN else ()
        table = narrow_table(
            f"{content['units']} {level}s of {content['patients']} patients{synthetic}",
            (f"{level} / fold", *(str(n + 1) for n in numbers), "mean ± sd", "pooled (95 %)"),
        )
        for metric, m in content["metrics"].items():
            folds = [f"{m['folds'][n]:.2f}" if m["folds"][n] == m["folds"][n] else "–" for n in numbers]
            table.add_row(NAMES[metric], *folds, f"{_three(m['mean'])} ± {_three(m['sd'])}", interval_text(**m["pooled"]))
        console.print(table, "")
    console.print(
        "out of fold, decisions at 0.5, intervals over patients; calibration error over bins of equal count; recognition: mean over patients of\n"
        "the share of their images called right (Spanhol et al.); files: results/performance.csv, .md, .tex",
        highlight=False,
        soft_wrap=True,
    )


def _three(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"
