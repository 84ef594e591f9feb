"""Repeated cross-validation: one configuration under new seeds and new partitions, none of which chose it.

Each repeat differs from the one before in the seed only or in the partition only, by turns, so that what each of the two moves
can be told apart.
"""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.bootstrap import draw_patients, strata_of
from analysis.joint import percentile_interval
from analysis.noise_floor import repeat_spread
from analysis.patient_scores import patient_scores
from analysis.predictions import Level, trial_predictions
from analysis.tables import narrow_table
from mmnet.config import Config
from mmnet.metrics import METRICS, evaluate
from study.folder import read_study
from study.records import read_trials, write_json

RESAMPLES = 1000
SHOWN = ("log_loss", "auc", "balanced_accuracy", "patient_auc", "patient_balanced_accuracy")


def repeat_plan(config: Config, repeats: int) -> list[tuple[int, int]]:
    """(seed, seed of the partition) of each repeat: (1, 1), (2, 1), (2, 2), (3, 2), … beyond the configuration's own, which are in none."""
    return [(config.seed + 1 + (n + 1) // 2, config.data.split_seed + 1 + n // 2) for n in range(repeats)]


def write_repeats(study: Path) -> dict[str, Any]:
    """results/repeats.json: every repeat's metrics, their mean, spread and interval, and what moves them."""
    about, records = read_study(study), read_trials(study)
    config = about["config"]
    levels = [trial_predictions(record).level("view") for record in records]
    values = np.array([list(evaluate(level.probability, level.label, level.patient).values()) for level in levels])
    low, high = percentile_interval(drawn_means(levels, np.random.default_rng(config["seed"])))
    seed = np.array([record.config["seed"] for record in records])
    partition = np.array([record.config["data"]["split_seed"] for record in records])
    metrics = {}
    for column, name in enumerate(METRICS):
        spread = repeat_spread(values[:, column], np.zeros(len(records)), seed, partition)
        metrics[name] = {
            "mean": float(values[:, column].mean()),
            "sd": float(values[:, column].std(ddof=1)),
            "low": float(low[column]),
            "high": float(high[column]),
            "sd_by_seed": spread.seed_sd,
            "sd_by_partition": spread.partition_sd,
        }
    report = {
        "synthetic": about["data"]["synthetic"],
        "metric": config["metric"],
        "patients": len(set(levels[0].patient.tolist())),
        "repeats": [
            {
                "trial": record.name,
                "seed": record.config["seed"],
                "split_seed": record.config["data"]["split_seed"],
                "best_epoch": record.best["epoch"],
                "metrics": record.best["metrics"],
            }
            for record in records
        ],
        "metrics": metrics,
        "interval": f"of the mean over repeats: 95 % percentile bootstrap over patients, stratified by class, {RESAMPLES} resamples",
    }
    write_json(study / "results" / "repeats.json", report)
    return report


def drawn_means(levels: list[Level], rng: np.random.Generator) -> np.ndarray:
    """(RESAMPLES, METRICS) means over repeats of the same patients, each resample drawing the same ones for all of them.

    `refinement` keeps the slope and bias of all patients: fitted anew, every resample would know more than the patients do.
    """
    weights = draw_patients(strata_of(levels[0].label, levels[0].patient), RESAMPLES, rng)
    scores = [
        [patient_scores(name, level.probability[None], level.label, level.patient).scores(weights)[0] for name in METRICS]
        for level in levels
    ]
    return np.mean(scores, axis=0).T


def print_repeats(report: dict[str, Any], study: Path, console: Console) -> None:
    names = SHOWN if report["metric"] in SHOWN else (report["metric"], *SHOWN)
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    table = narrow_table(
        f"repeated cross-validation{synthetic}: {report['patients']} patients",
        (
            "repeat",
            "seed",
            "split",
            *(name.replace("_", " ").replace("balanced accuracy", "bal. acc.").replace("patient", "pat.") for name in names),
        ),
    )
    for number, repeat in enumerate(report["repeats"], start=1):
        table.add_row(
            str(number),
            str(repeat["seed"]),
            str(repeat["split_seed"]),
            *(_three(repeat["metrics"][name]) for name in names),
            end_section=number == len(report["repeats"]),
        )
    for shown, key in (
        ("mean", "mean"),
        ("95 % low", "low"),
        ("95 % high", "high"),
        ("sd", "sd"),
        ("sd by seed", "sd_by_seed"),
        ("sd by split", "sd_by_partition"),
    ):
        table.add_row(shown, "", "", *(_three(report["metrics"][name][key]) for name in names))
    console.print(table)
    if len(report["repeats"]) == 2:
        console.print("2 repeats differ in the seed only; 3 or more also show what the partition moves", highlight=False)
    console.print(
        "every seed and partition (split) is new, so none of them chose this configuration; the interval is of the mean, over patients; each\n"
        "repeat stands at its best epoch, which its own patients chose\n"
        f"results: {study}/results/repeats.json; the sealed test stays closed",
        highlight=False,
        soft_wrap=True,
    )


def _three(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
