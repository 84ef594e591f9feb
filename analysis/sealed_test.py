"""The sealed test: opened once per study, recorded with date and fingerprint, and read back ever after.

Whoever insists opens it again; every opening stays on record, and the newest is shown as the second, the third, … that it is.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table

from analysis.bootstrap import bootstrap_interval
from data.dataset import Dataset, same_images
from data.errors import InputError
from data.splits import Splits
from mmnet.metrics import evaluate_one, patient_mean
from study.command_line import say
from study.records import write_json

if TYPE_CHECKING:
    import torch

METRICS = ("auc", "log_loss", "balanced_accuracy", "patient_auc", "patient_balanced_accuracy")
RESAMPLES = 2000
RECORDED = {"opened", "fingerprint", "synthetic", "patients", "views", "metrics", "fold_models"}  # of every opening


def read_openings(study: Path) -> list[dict[str, Any]]:
    """results/sealed_test.json: every opening of a study's sealed test, newest last. Raises InputError when it is damaged."""
    path = study / "results" / "sealed_test.json"
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text())
        openings = content if isinstance(content, list) else [content]  # earlier versions wrote the one that there was
        if not openings or not all(isinstance(opening, dict) and RECORDED <= opening.keys() for opening in openings):
            raise ValueError(f"expected at least one opening, each with {', '.join(sorted(RECORDED))}")
        return openings
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"sealed test {path}: damaged ({error}); restore it, it is the only record of the sealed test") from error


def open_sealed_test(
    study: Path, dataset: Dataset, splits: Splits, device: torch.device, *, again: bool = False
) -> tuple[list[dict[str, Any]], bool]:
    """(all openings, whether the last is new): the ensemble of fold models, of all members of a mean, on the sealed patients.

    Opened by the first call, and by a later one only with `again`. Intervals are 95 % percentile bootstraps over patients,
    stratified by class.
    """
    openings = read_openings(study)
    if openings and not again:
        return openings, False
    from analysis.networks import predict_all, study_networks  # with torch, which whoever only reads the openings does without

    sealed = dataset.select_slides(splits.test)
    networks = study_networks(study)
    by_member, views, index = predict_all(networks, sealed, device)  # (T, K, V)
    by_model = np.concatenate(by_member)
    probability = by_model.mean(0)
    patient_of = sealed.table.of_slides("patient")
    patient = np.array([patient_of[name] for name in index.slides.tolist()])[views.slide]
    label = index.label[views.slide]
    rng = np.random.default_rng(networks[0].config.seed)
    intervals = {name: bootstrap_interval(name, probability, label, patient, rng=rng, count=RESAMPLES)._asdict() for name in METRICS}
    mean, first = patient_mean(probability, label, patient)
    result = {
        "opened": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "fingerprint": dataset.fingerprint,
        "synthetic": dataset.synthetic,
        "slides": len(index.slides),
        "patients": [
            {"patient": str(patient[row]), "label": int(label[row]), "probability": round(float(value), 6)}
            for row, value in zip(first, mean, strict=True)
        ],
        "views": len(probability),
        "metrics": intervals,
        "fold_models": [{name: evaluate_one(name, single, label, patient) for name in METRICS} for single in by_model],
        "interval": f"95 % percentile bootstrap over patients, stratified by class, {RESAMPLES} resamples",
    }
    if len(networks) > 1:
        means = zip(networks, by_member.mean(1), strict=True)
        result["members"] = {one.member: {name: evaluate_one(name, mean, label, patient) for name in METRICS} for one, mean in means}
    openings.append(result)
    write_json(study / "results" / "sealed_test.json", openings)
    return openings, True


def opened_elsewhere(study: Path, opening: dict[str, Any]) -> list[tuple[str, str]]:
    """[(study, date)] of the studies beside this one that opened a test of the same data with any of the same patients before."""
    patients = _names(opening)
    found = []
    for path in sorted(study.resolve().parent.glob("*/results/sealed_test.json")):
        other = path.parent.parent
        for before in read_openings(other) if other != study.resolve() else []:
            same = same_images(before["fingerprint"], opening["fingerprint"]) and patients & _names(before)
            if same and before["opened"] <= opening["opened"]:
                found.append((other.name, before["opened"]))
    return found


def _names(opening: dict[str, Any]) -> set[str]:
    """The patients of an opening, also of an earlier version's, which called them cases."""
    return {row.get("case", row["patient"]) for row in opening["patients"]}


def print_sealed_test(study: Path, openings: list[dict[str, Any]], new: bool, console: Console) -> None:
    """The last opening, and what came before it, in this study and in those beside it."""
    result, before = openings[-1], openings[:-1]
    for name, date in opened_elsewhere(study, result):
        say(console, "not the first look", f": study {name} opened the sealed test of these patients on {date}")
    if before:
        say(
            console,
            f"{ordinal(len(openings))} opening",
            f" on {result['opened']}, first on {before[0]['opened']} (fingerprints {result['fingerprint']}, "
            f"{before[0]['fingerprint']}): whoever chose anything in between has seen this test",
        )
    if not new:
        console.print(
            f"the sealed test was opened on {result['opened']}; it is not evaluated again, this is its record (--again insists)",
            highlight=False,
            soft_wrap=True,
        )
    malignant = sum(row["label"] for row in result["patients"])
    synthetic = " (SYNTHETIC DATA)" if result["synthetic"] else ""
    members = result.get("members", {})
    of = f"mean of the {len(result['fold_models'])} fold models of {len(members)} members" if members else "mean of the fold models"
    table = Table(
        title=f"sealed test{synthetic}: {len(result['patients'])} patients ({malignant} malignant), {result['views']} views, {of}",
        title_justify="left",
    )
    for column in ("metric", "value", "95 % interval", "one fold model", *members):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, row in result["metrics"].items():
        value, low, high = ("–" if row[key] is None else f"{row[key]:.3f}" for key in ("value", "low", "high"))
        single = [model[name] for model in result["fold_models"] if model[name] is not None]
        beside = ("–" if of_one[name] is None else f"{of_one[name]:.3f}" for of_one in members.values())
        table.add_row(name, value, f"{low} to {high}", f"{min(single):.3f} to {max(single):.3f}" if single else "–", *beside)
    console.print(table)
    if any(row["low"] == row["high"] for row in result["metrics"].values()):
        console.print("an interval without width does not mean certainty: no resample of so few patients holds a mistake", highlight=False)


def ordinal(number: int) -> str:
    """first, second, third, 4th, …"""
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")
