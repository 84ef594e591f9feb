"""What each magnification contributes: the loss when it is masked, what it can do alone, and the weight it was given.

Fold networks judge only views of patients they never saw. The weights are those of the fusion, over tokens that have
already seen the lower magnifications: what a magnification is worth is read off the masked scores, not off its weight.
"""

from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console

from analysis.bootstrap import paired_difference
from analysis.figure import BLUE, CYCLE, ORANGE, save_figure
from analysis.missing import (
    KINDS,
    REPEATS,
    SCORES,
    Judge,
    hiders,
    out_of_fold_judge,
    plot_missing,
    score_by_share,
    scores_of,
    showing,
)
from analysis.networks import of_mmnet, study_networks
from analysis.predictions import Predictions, chosen_trial, read_arrays, require_agreement, trial_predictions
from analysis.tables import interval_text, narrow_table, write_table
from data.dataset import Dataset
from data.errors import InputError
from data.grammar import BENIGN
from data.views import MISSING
from mmnet.config import Config
from mmnet.metrics import patient_mean
from mmnet.predict import load_networks
from study.folder import read_study
from study.records import write_json

RESAMPLES = 2000
PRINTED = {0.0: "none", 0.3: "30 %", 0.6: "60 %", 1.0: "all but 1"}  # shares to hide in the printed table


def compare(
    predictions: Predictions, everything: np.ndarray, other: np.ndarray, seen: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    """Scores of (V,) probabilities with everything shown and with less, and less minus everything, on the views `seen` (V,).

    Without views of both classes there is nothing to score, and all numbers are NaN.
    """
    label, patient = predictions.label[seen], predictions.patient[seen]
    row: dict[str, Any] = {"views": int(seen.sum()), "patients": len(np.unique(patient))}
    if len(np.unique(label)) < 2:
        nothing = dict.fromkeys(SCORES, float("nan"))
        return row | {
            "scores": nothing,
            "all": nothing,
            "minus_all": {name: dict.fromkeys(("value", "low", "high"), np.nan) for name in SCORES},
        }
    differences = {
        name: paired_difference(name, other[seen], everything[seen], label, patient, rng=rng, count=RESAMPLES)._asdict()
        for name in SCORES
    }
    return row | {
        "scores": scores_of(other[seen], label, patient),
        "all": scores_of(everything[seen], label, patient),
        "minus_all": differences,
    }


def contributions(judge: Judge, predictions: Predictions, everything: np.ndarray, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Each magnification masked, then each alone, against all; a view that would be empty is left out of both sides.

    A view that lacks a magnification anyway counts among those from which it was masked, with a difference of 0.
    """
    columns = list(range(len(predictions.magnifications)))
    rows = []
    for way in ("without", "alone"):
        for column, magnification in enumerate(predictions.magnifications):
            left, seen = showing(predictions.rows, [c for c in columns if (c == column) == (way == "alone")])
            name = f"without {magnification}X" if way == "without" else f"{magnification}X alone"
            row = compare(predictions, everything, judge(left, predictions.fold), seen, rng)
            rows.append({"shown": name, "way": way, "magnification": magnification} | row)
    return rows


def weights_of_patients(importance: np.ndarray, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """importance (V, M) -> ((P, M) mean over the patient's views that have such an image, NaN where none has, (P,) the first view)."""
    def means(values: np.ndarray) -> np.ndarray:
        return np.stack([patient_mean(column, predictions.label, predictions.patient)[0] for column in values.T], axis=1)

    there = predictions.rows != MISSING
    share = means(there.astype(float))
    first = patient_mean(importance[:, 0], predictions.label, predictions.patient)[1]
    return means(importance * there) / np.where(share > 0, share, np.nan), first


def mean_and_sd(weights: np.ndarray) -> dict[str, Any]:
    """(P, M) -> patients, and mean and sample sd of each column over the patients that have it; NaN of too few."""
    columns = [column[~np.isnan(column)] for column in weights.T]
    return {
        "patients": len(weights),
        "mean": [float(column.mean()) if len(column) else float("nan") for column in columns],
        "sd": [float(column.std(ddof=1)) if len(column) > 1 else float("nan") for column in columns],
    }


def group_weights(weights: np.ndarray, subtype: np.ndarray) -> dict[str, dict[str, Any]]:
    """`mean_and_sd` of all patients and of each subtype, (P, M) and (P,)."""
    return {"all": mean_and_sd(weights)} | {str(name): mean_and_sd(weights[subtype == name]) for name in np.unique(subtype)}


def verdict(rows: list[dict[str, Any]]) -> str:
    """One sentence on which magnification is missed most, by log loss, and whether that is more than chance."""
    masked = {f"{row['magnification']}X": row["minus_all"]["log_loss"] for row in rows if row["way"] == "without"}
    ranked = sorted((name for name, change in masked.items() if change["value"] > 0), key=lambda name: -masked[name]["value"])
    clear = [name for name in ranked if masked[name]["low"] > 0]
    harmful = [name for name, change in masked.items() if change["high"] < 0]
    if not ranked:
        text = "No magnification is missed: masking none of them raises the log loss"
    else:
        most, change = ranked[0], masked[ranked[0]]
        text = f"{most} is missed most: without it the log loss changes by {interval_text(**change, sign='+')}, "
        text += "an interval that excludes 0" if most in clear else "but that interval holds 0"
        if len(clear) > (most in clear):
            text += f", and that of {', '.join(name for name in clear if name != most)} excludes it"
        elif not clear:
            text += ", and so does every other"
    return text + (f"; masking {', '.join(harmful)} lowers it, and that interval excludes 0." if harmful else ".")


def write_magnifications(study: Path, development: Dataset, config: Config, device: torch.device) -> dict[str, Any]:
    """results/magnifications.json and .csv, importance.csv, missing.csv, and their figures. See the module.

    `development`: the patients of the folds only, with what the networks take (pixels, or features where frozen).
    Raises InputError with one magnification, and when models/ are not those that made the predictions on record.
    """
    about, trial = read_study(study), chosen_trial(study)
    predictions = trial_predictions(trial)
    if len(predictions.magnifications) < 2:
        raise InputError(
            f"study {study.name} has one magnification, {predictions.magnifications[0]}X: there is nothing to compare (eval skips this); "
            "train with two or more by --magnifications"
        )
    networks = of_mmnet(load_networks(study_networks(study)[0].folder, config, development, device))
    judge = out_of_fold_judge(networks, development, config, device, predictions)
    everything = judge(predictions.rows, predictions.fold)
    require_agreement(study, trial, everything, predictions.probability)
    rng = np.random.default_rng(config.seed)
    report: dict[str, Any] = {
        "synthetic": about["data"]["synthetic"],
        "trial": trial.name,
        "magnifications": list(predictions.magnifications),
        "masking_in_training": config.augment.masking,
        "views": len(everything),
        "patients": len(np.unique(predictions.patient)),
        "all": scores_of(everything, predictions.label, predictions.patient),
        "rows": contributions(judge, predictions, everything, rng),
        "interval": f"95 % percentile bootstrap over patients, stratified by class, paired, {RESAMPLES} resamples; not corrected for several looks",
    }
    report["verdict"] = verdict(report["rows"])
    report["importance"] = _write_importance(study, predictions, trial.folder, report) if config.model.importance else None
    report["missing"] = {
        kind: score_by_share(hider, judge, predictions, REPEATS, rng) for kind, hider in hiders(predictions, development.table).items()
    }
    write_json(study / "results" / "magnifications.json", report)
    _write_tables(study / "results", report)
    plot_contributions(report, study / "plots" / "magnifications.png")
    plot_missing(report["missing"], config.augment.masking, study / "plots" / "missing_magnifications.png", report["synthetic"])
    return report


def _write_importance(study: Path, predictions: Predictions, trial: Path, report: dict[str, Any]) -> dict[str, Any]:
    """results/importance.csv and its figure -> mean and sd over all patients and of each subtype."""
    importance = read_arrays(trial / "predictions.npz")["importance"]
    weights, first = weights_of_patients(importance, predictions)
    subtype = np.where(predictions.subtype[first] == "", "unknown", predictions.subtype[first])
    columns = ["patient", "subtype", "label", *(f"{m}X" for m in predictions.magnifications)]
    rows = [
        [predictions.patient[view], name, predictions.label[view]]
        + ["" if np.isnan(weight) else round(float(weight), 4) for weight in of_patient]
        for view, name, of_patient in zip(first, subtype, weights, strict=True)
    ]
    write_table(study / "results" / "importance.csv", columns, rows)
    plot_weights(weights, subtype, predictions.magnifications, study / "plots" / "importance_weights.png", report["synthetic"])
    return group_weights(weights, subtype)


def _write_tables(results: Path, report: dict[str, Any]) -> None:
    """magnifications.csv and missing.csv."""
    columns = ["shown", "views", "patients", *(f"{name}{part}" for name in SCORES for part in ("", "_all", "_difference", "_low", "_high"))]
    rows = []
    for row in report["rows"]:
        cells = [row["shown"], row["views"], row["patients"]]
        for name in SCORES:
            cells += [round(v, 4) for v in (row["scores"][name], row["all"][name], *row["minus_all"][name].values())]
        rows.append(cells)
    write_table(results / "magnifications.csv", columns, rows)
    columns = [
        "hidden_of",
        "share_asked",
        "share_hidden",
        "views",
        *(f"{name}_{part}" for name in SCORES for part in ("mean", "low", "high")),
    ]
    rows = [
        [kind, point["asked"], round(point["hidden"], 4), point["views"]]
        + [round(value, 4) for name in SCORES for value in point[name].values()]
        for kind, curve in report["missing"].items()
        for point in curve
    ]
    write_table(results / "missing.csv", columns, rows)


def plot_contributions(report: dict[str, Any], path: Path) -> None:
    """Forest plot of the paired differences to all magnifications: each masked, each alone."""
    figure, panels = plt.subplots(1, 2, figsize=(8.5, 0.36 * len(report["rows"]) + 1.9), sharey=True)
    place = np.arange(len(report["rows"]), dtype=float) + [0.5 * (row["way"] == "alone") for row in report["rows"]]
    for axes, name, worse in zip(panels, ("log_loss", "patient_auc"), ("right", "left"), strict=True):
        for way, colour, marker in (("without", BLUE, "o"), ("alone", ORANGE, "s")):
            chosen = [n for n, row in enumerate(report["rows"]) if row["way"] == way]
            value, low, high = np.array([list(report["rows"][n]["minus_all"][name].values()) for n in chosen], dtype=float).T
            # not error bars: a percentile interval need not hold the value itself
            axes.hlines(place[chosen], low, high, color=colour, lw=1.6)
            axes.plot(value, place[chosen], marker, color=colour, ms=5.5)
        axes.axvline(0, color="black", lw=0.8, ls="--")
        axes.set_xlabel(f"{SCORES[name].replace('view ', '')} − all magnifications\n(worse to the {worse})", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(place, [row["shown"] for row in report["rows"]])
    panels[0].invert_yaxis()
    title = f"What each magnification contributes: 95 % intervals, paired over {report['patients']} patients"
    save_figure(figure, path, title, report["synthetic"])


def plot_weights(weights: np.ndarray, subtype: np.ndarray, magnifications: tuple[int, ...], path: Path, synthetic: bool) -> None:
    """Learned weights (P, M): one point a patient, a bar at the mean, grouped by subtype (P,), benign ones first."""
    names = sorted(np.unique(subtype).tolist(), key=lambda name: (name not in BENIGN, name))
    figure, axes = plt.subplots(figsize=(max(6.0, 0.32 * len(names) * len(magnifications) + 1), 4.2))
    width = 0.8 / len(magnifications)
    for column, magnification in enumerate(magnifications):
        colour = CYCLE[column % len(CYCLE)]
        for place, name in enumerate(names):
            values = weights[subtype == name, column]
            values = values[~np.isnan(values)]
            centre = place + (column + 0.5) * width - 0.4
            spread = np.linspace(-0.3, 0.3, len(values)) * width if len(values) > 1 else np.zeros(len(values))
            axes.scatter(centre + spread, values, s=11, color=colour, alpha=0.6, lw=0)
            if len(values):
                axes.hlines(values.mean(), centre - 0.45 * width, centre + 0.45 * width, color=colour, lw=2)
        axes.scatter([], [], s=20, color=colour, label=f"{magnification}X")
    axes.axhline(1 / len(magnifications), color="black", lw=0.8, ls=":", label="equal weights")
    axes.set_xticks(range(len(names)), [f"{name}\nn = {(subtype == name).sum()}" for name in names])
    axes.set(ylabel="learned importance weight", ylim=(0, None), xlabel="subtype, patients")
    axes.legend(ncols=len(magnifications) + 1, fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, "Learned importance of each magnification (out of fold; point: patient, bar: mean)", synthetic)


def print_magnifications(report: dict[str, Any], console: Console) -> None:
    say = partial(console.print, highlight=False)
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    title = f"less − all magnifications{synthetic}, 95 %, paired over {report['patients']} patients"
    table = narrow_table(title, ("shown", "log loss", "less − all", "patient AUC: less − all"))
    table.add_row("all", f"{report['all']['log_loss']:.3f}", "", f"{report['all']['patient_auc']:.3f}")
    for row in report["rows"]:
        differences = (interval_text(**row["minus_all"][name], sign="+") for name in ("log_loss", "patient_auc"))
        table.add_row(row["shown"], interval_text(row["scores"]["log_loss"], None, None), *differences)
    console.print(table)
    say(report["verdict"])
    if not report["masking_in_training"]:
        say("Trained without augment.masking: part of a loss may be surprise at the gap, not lost knowledge.")
    if report["importance"] is None:
        say("importance weights: equal by design (model.importance is off)")
    else:
        overall = report["importance"]["all"]
        parts = zip(report["magnifications"], overall["mean"], overall["sd"], strict=True)
        say(f"importance weights, mean ± sd over patients: {', '.join(f'{m}X {mean:.2f} ± {sd:.2f}' for m, mean, sd in parts)}")
    table = narrow_table("log loss/patient AUC, hidden at random", ("what, what share", *(PRINTED[share] for share in PRINTED)))
    for kind, (words, _) in KINDS.items():
        points = {point["asked"]: point for point in report["missing"][kind]}
        table.add_row(words, *(f"{points[s]['log_loss']['mean']:.2f}/{points[s]['patient_auc']['mean']:.2f}" for s in PRINTED))
    console.print(table)
    say("more in results/magnifications.csv, importance.csv, missing.csv and the figures", soft_wrap=True)
