"""Repeated cross-validation: one configuration under new seeds and new partitions, none of which chose it.

Repeats come in pairs that share a partition and differ in the seed, so that what moves by the seed alone and what moves by
the partition alone can be told apart.
"""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.joint import joint_values, metrics_of, percentile_interval
from analysis.predictions import trial_predictions
from analysis.tables import narrow_table
from mmnet.config import Config
from mmnet.metrics import METRICS
from mmnet.records import read_trials, write_json
from mmnet.study_folder import read_study

RESAMPLES = 1000
PER_PARTITION = 2
TELLING = 4  # repeats from which on seed and partition can be told apart: two partitions, two seeds each
SHOWN = ("log_loss", "auc", "balanced_accuracy", "patient_auc", "patient_balanced_accuracy")


def repeat_plan(config: Config, repeats: int) -> list[tuple[int, int]]:
    """(seed, seed of the partition) of each repeat: all seeds new, a new partition for every two; the configuration's own in none."""
    return [(config.seed + 1 + n, config.data.split_seed + 1 + n // PER_PARTITION) for n in range(repeats)]


def seed_and_partition_variance(score: np.ndarray, partition: np.ndarray) -> tuple[float, float]:
    """(variance by seed alone, by partition alone) of scores (R,) under R seeds on partitions (R,); NaN where it cannot be told.

    One-way random effects, score = mean + partition + seed, by the method of moments: the mean square within partitions,
    and what the mean square between them has beyond it, over n₀ (unequal group sizes); not below 0. Searle, Casella &
    McCulloch, Variance Components, 1992, section 3.6.
    """
    names, member = np.unique(partition, return_inverse=True)
    size = np.bincount(member)
    groups, total = len(names), len(score)
    mean = np.bincount(member, weights=score) / size
    if total == groups:
        return float("nan"), float("nan")
    within = float(((score - mean[member]) ** 2).sum() / (total - groups))
    if groups == 1:
        return within, float("nan")
    between = float((size * (mean - score.mean()) ** 2).sum() / (groups - 1))
    return within, max((between - within) * (groups - 1) / (total - (size**2).sum() / total), 0.0)


def write_repeats(study: Path) -> dict[str, Any]:
    """results/repeats.json: every repeat's metrics, their mean, spread and interval, and what moves them."""
    about, records = read_study(study), read_trials(study)
    config = about["config"]
    levels = [trial_predictions(record).level("view") for record in records]
    values, drawn = joint_values(levels, metrics_of, rng=np.random.default_rng(config["seed"]), count=RESAMPLES)
    low, high = percentile_interval(drawn.mean(1))
    partition = np.array([record.config["data"]["split_seed"] for record in records])
    metrics = {}
    for column, name in enumerate(METRICS):
        by_seed, by_partition = seed_and_partition_variance(values[:, column], partition)
        metrics[name] = {
            "mean": float(values[:, column].mean()),
            "sd": float(values[:, column].std(ddof=1)),
            "low": float(low[column]),
            "high": float(high[column]),
            "sd_by_seed": float(np.sqrt(by_seed)),
            "sd_by_partition": float(np.sqrt(by_partition)),
        }
    report = {
        "synthetic": about["data"]["synthetic"],
        "metric": config["metric"],
        "patients": len(set(levels[0].patient.tolist())),
        "cases": len(set(levels[0].case.tolist())),
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
        "interval": f"of the mean over repeats: 95 % percentile bootstrap over cases, stratified by class, {RESAMPLES} resamples",
    }
    write_json(study / "results" / "repeats.json", report)
    return report


def print_repeats(report: dict[str, Any], study: Path, console: Console) -> None:
    names = SHOWN if report["metric"] in SHOWN else (report["metric"], *SHOWN)
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    table = narrow_table(
        f"repeated cross-validation{synthetic}: {report['patients']} patients of {report['cases']} cases",
        ("repeat", "seed", "partition", *(name.replace("_", " ").replace("balanced accuracy", "bal. acc.") for name in names)),
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
        ("sd by partition", "sd_by_partition"),
    ):
        table.add_row(shown, "", "", *(_three(report["metrics"][name][key]) for name in names))
    console.print(table)
    if len(report["repeats"]) < TELLING:
        console.print(
            f"{len(report['repeats'])} repeats cannot tell what the seed and what the partition moves; {TELLING} or more can",
            highlight=False,
        )
    console.print(
        "every seed and partition is new, so none of them chose this configuration; the interval is of the mean, over cases; each\n"
        "repeat stands at its best epoch, which its own patients chose\n"
        f"results: {study}/results/repeats.json; the sealed test stays closed",
        highlight=False,
        soft_wrap=True,
    )


def _three(value: float) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
