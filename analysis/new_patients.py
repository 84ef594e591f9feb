"""Patients that no network saw: the mean of the fold models (of all members of a mean), one row a patient, and how far the fold models agree."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from analysis.networks import predict_all, study_networks
from analysis.performance import NAMES, performance_intervals
from analysis.predictions import Level, study_predictions
from analysis.tables import interval_text, narrow_table, write_table
from analysis.thresholds import max_balanced_accuracy
from data.dataset import Dataset
from data.errors import DataError, LeakageError, shortlist
from data.splits import Splits
from data.table import UNKNOWN
from mmnet.metrics import patient_mean
from study.command_line import say
from study.folder import read_study
from study.records import write_json

CLASSES = {1: "malignant", 0: "benign", UNKNOWN: ""}
SHOWN = ("auc", "balanced_accuracy", "sensitivity", "specificity", "brier")
RESAMPLES = 2000
ROWS_SHOWN = 20


def check_new(dataset: Dataset, study: Path) -> None:
    """Raises LeakageError when a patient of the study, or a slide of one, sealed ones included, stands among those to be predicted."""
    about = read_study(study)
    splits = Splits.from_json(about["splits"])
    patients = {*study_predictions(study).patient.tolist(), *about.get("sealed_patients", ())}  # early versions did not record them
    slides = {*splits.development(), *splits.test}
    patient_of = dataset.table.of_slides("patient")
    seen = sorted({str(patient) for slide, patient in patient_of.items() if slide in slides or patient in patients})
    if seen:
        raise LeakageError(
            f"--data {dataset.name}: {len(seen)} of {len(set(patient_of.values()))} patients belong to study {study.name} ({shortlist(seen)}): its networks "
            "were trained on them, or they are its sealed test; expected new patients only: remove these, or rename them if only their names are the same"
        )


def usable(dataset: Dataset, magnifications: tuple[int, ...]) -> Dataset:
    """The images at the study's magnifications, of which a patient may lack some; who lacks all is named in `skipped`.

    Raises DataError when no patient has any.
    """
    table, expected = dataset.table, ",".join(map(str, magnifications))
    there = np.isin(table.magnification, magnifications)
    if not there.any():
        present = ",".join(map(str, np.unique(table.magnification)))
        raise DataError(f"--data {dataset.name}: images at {present}; expected some at the study's {expected}")
    left_out = set(table.patient.tolist()) - set(table.patient[there].tolist())
    reasons = {f"patient {name}": f"no image at the study's magnifications {expected}" for name in left_out}
    return replace(dataset.select_rows(there), skipped={**dataset.skipped, **reasons})


def predict_patients(study: Path, dataset: Dataset, device: torch.device) -> dict[str, Any]:
    """predictions.csv of a study: one row a patient; predictions.json: of what, and how good. `dataset` as `usable` returns it, with features where the backbone is frozen."""
    networks = study_networks(study)
    config = networks[0].config
    by_member, views, index = predict_all(networks, dataset, device)  # (T, K, V)
    by_model = np.concatenate(by_member)
    known = study_predictions(study).level("patient")
    threshold = max_balanced_accuracy(known.probability, known.label)
    table = dataset.table
    patient_of, subtype_of = table.of_slides("patient"), table.of_slides("subtype")
    label = index.label[views.slide]
    patient = np.array([patient_of[name] for name in index.slides.tolist()])[views.slide]
    models = np.stack([patient_mean(single, label, patient)[0] for single in by_model])  # (T K, P), sorted by patient
    first = patient_mean(by_model[0], label, patient)[1]
    label, patient = label[first], patient[first]
    mean, spread = models.mean(0), models.std(0, ddof=1)
    images = np.array(
        [
            [np.sum((table.patient == name) & (table.label == kind) & (table.magnification == m)) for m in config.data.magnifications]
            for name, kind in zip(patient.tolist(), label.tolist(), strict=True)
        ]
    )
    subtypes = [subtype_of[str(index.slides[views.slide[view]])] for view in first]
    rows = [
        [
            name, subtypes[p], CLASSES[int(label[p])], round(float(mean[p]), 6), round(float(spread[p]), 6),
            round(float(models[:, p].min()), 6), round(float(models[:, p].max()), 6), CLASSES[int(mean[p] >= 0.5)],
            CLASSES[int(mean[p] >= threshold)], round(threshold, 6), *images[p].tolist(),
        ]
        for p, name in enumerate(patient.tolist())
    ]  # fmt: skip
    columns = [
        "patient",
        "subtype",
        "label",
        "probability",
        "sd",
        "lowest",
        "highest",
        "call_at_0.5",
        "call_at_threshold",
        "threshold",
    ]
    write_table(study / "predictions.csv", [*columns, *(f"images_{m}X" for m in config.data.magnifications)], rows)
    labelled = label != UNKNOWN
    metrics = {}
    if len(np.unique(label[labelled])) == 2:
        nothing = np.zeros(int(labelled.sum()), dtype=int)
        level = Level(mean[labelled], label[labelled], patient[labelled], patient[labelled], nothing, nothing)
        metrics = performance_intervals(level, rng=np.random.default_rng(config.seed), count=RESAMPLES)
    report = {
        "study": study.name,
        "data": dataset.name,
        "fingerprint": dataset.fingerprint,
        "synthetic": dataset.synthetic or read_study(study)["data"]["synthetic"],
        "models": len(by_model),
        "members": [one.member for one in networks if one.member],
        "threshold": threshold,
        "incomplete": int((images == 0).any(1).sum()),  # patients that lack a magnification
        "metrics": {name: interval._asdict() for name, interval in metrics.items()},
        "skipped": dict(dataset.skipped),
        "file": str(study / "predictions.csv"),
    }
    write_json(study / "predictions.json", report)
    return report | {"rows": rows}


def print_predictions(report: dict[str, Any], console: Console) -> None:
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    of = f" of {len(report['members'])} members" if report["members"] else ""
    table = narrow_table(
        f"{len(report['rows'])} new patients{synthetic}, mean of {report['models']} fold models{of} of study {report['study']}",
        ("patient", "label", "probability", "sd of models", "call at 0.5", f"at {report['threshold']:.2f}"),
    )
    for row in report["rows"][:ROWS_SHOWN]:
        patient, _, label, probability, spread, _, _, at_half, at_threshold, *_ = row
        table.add_row(patient, label or "–", f"{probability:.3f}", f"{spread:.3f}", at_half, at_threshold)
    console.print(table)
    if len(report["rows"]) > ROWS_SHOWN:
        console.print(f"… and {len(report['rows']) - ROWS_SHOWN} more", highlight=False)
    if report["metrics"]:
        shown = ", ".join(f"{NAMES[name]} {interval_text(**report['metrics'][name])}" for name in SHOWN)
        console.print(f"patients with a label (95 % over patients): {shown}", highlight=False, soft_wrap=True)
    if report["incomplete"]:
        say(
            console,
            f"{report['incomplete']} of {len(report['rows'])} patients lack a magnification",
            " that the networks know: see what that costs on the study's own patients by  python eval.py --magnitude",
        )
    if report["skipped"]:
        say(console, f"{len(report['skipped'])} left out", ":")
        for path, reason in sorted(report["skipped"].items()):
            console.print(f"  {path}: {reason}", highlight=False, soft_wrap=True, markup=False)
    console.print(
        f"written: {report['file']}; the threshold {report['threshold']:.3f} has the best balanced accuracy on the study's own patients, "
        "out of fold",
        highlight=False,
        soft_wrap=True,
    )
