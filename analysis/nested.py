"""Nested cross-validation: outer folds judge what the inner folds trained and chose (best epoch, threshold)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from analysis.performance import NAMES, decision_metrics, performance_intervals
from analysis.predictions import LEVELS, Level, study_predictions, trial_predictions
from analysis.tables import interval_text, narrow_table
from analysis.thresholds import max_balanced_accuracy
from data.dataset import Dataset
from data.splits import Splits
from data.views import MISSING
from mmnet.config import Config
from mmnet.metrics import evaluate
from mmnet.predict import predict_ensemble
from study.records import read_trials, whole_file, write_json

RESAMPLES = 1000


def write_held_out(folder: Path, development: Dataset, slides: tuple[str, ...], config: Config, device: torch.device) -> None:
    """held_out.npz of a trial: what the mean of its fold networks says of patients that none of them saw."""
    chosen = np.flatnonzero(np.isin(development.table.slide, slides))
    dataset = development.select_rows(chosen)
    probability, views, index = predict_ensemble(folder / "weights", config, dataset, device)
    probability = probability[..., 1]
    slide = index.slides[views.slide]
    patient_of, subtype_of = dataset.table.of_slides("patient"), dataset.table.of_slides("subtype")
    with whole_file(folder / "held_out.npz") as building, building.open("wb") as file:
        np.savez_compressed(
            file,
            probability=probability.mean(0).astype(np.float64),
            slide=slide,
            patient=np.array([patient_of[name] for name in slide.tolist()]),
            subtype=np.array([subtype_of[name] for name in slide.tolist()]),
            label=index.label[views.slide],
            rows=np.where(views.mask, chosen[views.rows], MISSING),  # of the development table, as in every other record
        )


def write_nested(study: Path, development: Dataset, config: Config, nested: list[Splits], device: torch.device) -> dict[str, Any]:
    """results/nested.json: every patient judged once, by networks, epochs and a threshold that never saw it."""
    inner, thresholds = [], []
    for record, splits in zip(read_trials(study), nested, strict=True):
        if not (record.folder / "held_out.npz").exists():
            write_held_out(record.folder, development, splits.test, config, device)
        inner.append(record.best["metrics"])
        patients = trial_predictions(record).level("patient")
        thresholds.append(max_balanced_accuracy(patients.probability, patients.label))
    judged = study_predictions(study)
    folds = []
    for number in range(len(nested)):
        here = judged.fold == number
        folds.append(evaluate(judged.probability[here], judged.label[here], judged.patient[here]))
    patients = judged.level("patient")
    report = {
        "outer_folds": len(nested),
        "synthetic": development.synthetic,
        "metric": config.metric,
        "patients": len(np.unique(patients.patient)),
        "outer": evaluate(judged.probability, judged.label, judged.patient),
        "outer_by_fold": folds,
        "inner_mean": {name: float(np.mean([metrics[name] for metrics in inner])) for name in inner[0]},
        "levels": {name: intervals(judged.level(name), config.seed) for name in LEVELS},
        "thresholds": thresholds,
        "patient_at_inner_thresholds": decision_metrics(patients.probability >= np.array(thresholds)[patients.fold], patients.label),
    }
    write_json(study / "results" / "nested.json", report)
    return report


def intervals(level: Level, seed: int) -> dict[str, dict[str, float]]:
    found = performance_intervals(level, rng=np.random.default_rng(seed), count=RESAMPLES)
    return {name: interval._asdict() for name, interval in found.items()}


def print_nested(report: dict[str, Any], study: Path, console: Console) -> None:
    metric = report["metric"]
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    table = narrow_table(
        f"nested cross-validation{synthetic}: {report['patients']} patients (95 % over patients)",
        ("", *LEVELS),
    )
    for name, shown in NAMES.items():
        cells = [report["levels"][level][name] for level in LEVELS]
        table.add_row(shown, *(interval_text(c["value"], c["low"], c["high"]) for c in cells))
    console.print(table)
    at = report["patient_at_inner_thresholds"]
    folds = ", ".join(f"{fold[metric]:.3f}" for fold in report["outer_by_fold"])
    console.print(
        f"{metric}: outer {report['outer'][metric]:.3f} (by outer fold {folds}); inner, whose best epoch chose itself, {report['inner_mean'][metric]:.3f}\n"
        f"patients at the thresholds of the inner folds (max balanced accuracy, {min(report['thresholds']):.2f} to {max(report['thresholds']):.2f}): "
        f"balanced accuracy {at['balanced_accuracy']:.3f}, sensitivity {at['sensitivity']:.3f}, specificity {at['specificity']:.3f}\n"
        f"results: {study}/results/nested.json; the sealed test stays closed: no network is trained on all development patients here",
        highlight=False,
        soft_wrap=True,
    )
