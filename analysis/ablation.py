"""What each mechanism is worth: on minus off on the same patients, folds and seeds, in one table that may say "nothing"."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console

from analysis.bootstrap import Interval, resamples
from analysis.figure import BLUE, GREY, save_figure
from analysis.predictions import Predictions, trial_predictions
from analysis.tables import interval_text, narrow_table, write_table
from data.errors import InputError
from mmnet.config import Config
from mmnet.metrics import METRICS, evaluate_one
from study.folder import read_study
from study.records import TrialRecord, read_trials, write_json

RESAMPLES = 2000
SEEDS_NEEDED = 3  # with fewer, the luck of a seed passes for an effect too often
SHOWN = ("log_loss", "auc", "patient_auc")


class Pairs(NamedTuple):
    """S seeds of one mechanism on and off; all predictions are of the same views."""

    on: list[TrialRecord]
    off: list[TrialRecord]


def pairs_of(mechanism: dict[str, Any], base: dict[str, Any], records: list[TrialRecord]) -> Pairs:
    """Trials of one seed that differ in this mechanism only: one of them is the base configuration."""

    def sides(values: dict[str, Any]) -> dict[int, TrialRecord]:
        wanted = Config().with_values(base).with_values(values)
        done = [(record, Config().with_values(record.config)) for record in records if record.status == "done"]
        return {config.seed: record for record, config in done if replace(config, seed=wanted.seed) == wanted}

    on, off = sides(mechanism["on"]), sides(mechanism["off"])
    seeds = sorted(on.keys() & off.keys())
    return Pairs([on[seed] for seed in seeds], [off[seed] for seed in seeds])


class Scores(NamedTuple):
    """One trial's metrics, of everyone and of each resample."""

    value: np.ndarray  # (metrics,)
    drawn: np.ndarray  # (resamples, metrics)


def scores(metrics: tuple[str, ...], predictions: Predictions, samples: list[tuple[np.ndarray, np.ndarray]]) -> Scores:
    """`samples`: of `resamples`, the same ones for every trial, which pairs them."""
    number = np.unique(predictions.patient, return_inverse=True)[1]

    def values(rows: np.ndarray, patient: np.ndarray) -> list[float]:
        return [evaluate_one(metric, predictions.probability[rows], predictions.label[rows], patient) for metric in metrics]

    drawn = [values(rows, draw * len(number) + number[rows]) for rows, draw in samples]
    return Scores(np.array(values(np.arange(len(number)), number)), np.array(drawn))


def effect(on: list[Scores], off: list[Scores], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """S seeds on and off -> ((S, metrics) on - off of each seed, (resamples, metrics) mean over seeds drawn with replacement).

    Patients are drawn, the same for both sides and all seeds, and seeds as well: an effect must hold for other patients and for
    other random numbers.
    """
    value = np.stack([a.value - b.value for a, b in zip(on, off, strict=True)])
    drawn = np.stack([a.drawn - b.drawn for a, b in zip(on, off, strict=True)])  # (S, resamples, metrics)
    chosen = rng.integers(len(value), size=(drawn.shape[1], len(value)))  # (resamples, S)
    return value, drawn[chosen, np.arange(drawn.shape[1])[:, None]].mean(1)


def interval(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    """Percentile interval of draws (resamples,)."""
    low, high = np.nanquantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(value, float(low), float(high))


def verdict(metric: str, wide: Interval) -> str:
    """helps, hurts, or nothing that these patients can show: by the interval that holds for all mechanisms at once."""
    if wide.low > 0 or wide.high < 0:
        return "helps" if (wide.high < 0) == (METRICS[metric] == "min") else "hurts"
    return "nothing"


def write_ablation(study: Path) -> dict[str, Any]:
    """results/ablation.json, .csv, .md and .tex, plots/ablation.png; mechanisms without a finished pair are named as such."""
    about = read_study(study)
    if not about.get("mechanisms"):
        raise InputError(f"study {study.name} is no ablation: run  python tune_mmnet.py --space ablation")
    records, rng = read_trials(study), np.random.default_rng(about["config"]["seed"])
    metric = about["config"]["metric"]
    metrics = tuple(dict.fromkeys((metric, *SHOWN)))
    confidence = 0.95
    family = 1 - (1 - confidence) / len(about["mechanisms"])  # Bonferroni
    found = {mechanism["name"]: pairs_of(mechanism, about["config"], records) for mechanism in about["mechanisms"]}
    used = {record.name: record for pairs in found.values() for record in (*pairs.on, *pairs.off)}
    predictions = {name: trial_predictions(record) for name, record in used.items()}
    first = next(iter(predictions.values()), None)  # all of the same views
    samples = resamples(first.label, first.patient, RESAMPLES, rng) if first else []
    judged = {name: scores(metrics, made, samples) for name, made in predictions.items()}
    rows = []
    for mechanism in about["mechanisms"]:
        on, off = found[mechanism["name"]]
        row: dict[str, Any] = {"mechanism": mechanism["name"], "on": mechanism["on"], "off": mechanism["off"], "pairs": len(on)}
        if on:
            value, drawn = effect([judged[r.name] for r in on], [judged[r.name] for r in off], rng)
            row["effect"] = {}
            for m, name in enumerate(metrics):
                one, all_at_once = (interval(float(value[:, m].mean()), drawn[:, m], level) for level in (confidence, family))
                row["effect"][name] = one._asdict() | {
                    "seeds": value[:, m].tolist(),
                    "low_of_all": all_at_once.low,
                    "high_of_all": all_at_once.high,
                }
                if name == metric:
                    row["verdict"] = verdict(metric, all_at_once) if len(on) >= SEEDS_NEEDED else "few seeds"
            row["time"] = _seconds(on) / _seconds(off)
        rows.append(row)
    report = {"metric": metric, "metrics": metrics, "synthetic": about["data"]["synthetic"], "family": family, "rows": rows}
    write_json(study / "results" / "ablation.json", report)
    _write_tables(study / "results", report)
    forest(report, study / "plots" / "ablation.png")
    return report


def _write_tables(folder: Path, report: dict[str, Any]) -> None:
    metrics, rows = report["metrics"], [row for row in report["rows"] if row["pairs"]]
    columns = ["mechanism", "pairs", "verdict", "time_ratio"]
    columns += [f"{m}_{which}" for m in metrics for which in ("effect", "low", "high", "low_of_all", "high_of_all", "sd_over_seeds")]
    numbers = []
    for row in rows:
        cells = [row["mechanism"], row["pairs"], row["verdict"], round(row["time"], 3)]
        for m in metrics:
            e = row["effect"][m]
            spread = float(np.std(e["seeds"], ddof=1)) if row["pairs"] > 1 else float("nan")
            cells += [round(v, 6) for v in (e["value"], e["low"], e["high"], e["low_of_all"], e["high_of_all"], spread)]
        numbers.append(cells)
    write_table(folder / "ablation.csv", columns, numbers)
    shown = [[row["mechanism"], row["pairs"], *(_text(row["effect"][m]) for m in metrics), row["verdict"]] for row in rows]
    heading = ["mechanism", "seeds", *(m.replace("_", " ") for m in metrics), "verdict"]
    for suffix in (".md", ".tex"):
        write_table(folder / f"ablation{suffix}", heading, shown, caption_of(report))


def caption_of(report: dict[str, Any]) -> str:
    better = "lower" if METRICS[report["metric"]] == "min" else "higher"
    return (
        f"{'SYNTHETIC DATA. ' if report['synthetic'] else ''}On minus off, out of fold, same folds and seeds; 95 % bootstrap over patients and "
        f"seeds. The verdict is by {report['metric'].replace('_', ' ')} ({better} is better) at {100 * report['family']:.1f} %, so that it "
        f"holds for all {len(report['rows'])} mechanisms at once (Bonferroni)."
    )


def print_ablation(report: dict[str, Any], console: Console) -> None:
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    shown = [report["metric"], "patient_auc" if report["metric"] != "patient_auc" else "auc"]
    columns = ("mechanism", *(m.replace("_", " ").replace("balanced", "bal.") for m in shown), "verdict")
    table = narrow_table(f"ablation{synthetic}: on − off (95 %, paired over patients and seeds)", columns)
    for row in report["rows"]:
        if row["pairs"]:
            table.add_row(row["mechanism"], *(_text(row["effect"][m]) for m in shown), row["verdict"])
        else:
            table.add_row(row["mechanism"], "–", "–", "no pair")
    console.print(table)
    pairs = sorted({row["pairs"] for row in report["rows"]})
    seeds = f"{pairs[0]}" if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]}"
    console.print(
        f"{caption_of(report)} {seeds} seed(s) each; more: --trials; all of it: results/ablation.csv", highlight=False, soft_wrap=True
    )


def forest(report: dict[str, Any], path: Path) -> None:
    """Effect of each mechanism with both intervals."""
    rows, metric = [row for row in report["rows"] if row["pairs"]][::-1], report["metric"]
    figure, axes = plt.subplots(figsize=(7, 0.45 * len(rows) + 1.8))
    for y, row in enumerate(rows):
        e = row["effect"][metric]
        axes.plot([e["low_of_all"], e["high_of_all"]], [y, y], color=GREY, lw=1.2, zorder=1)
        axes.plot([e["low"], e["high"]], [y, y], color=BLUE, lw=3.5, solid_capstyle="butt", zorder=2)
        axes.scatter(e["seeds"], [y] * len(e["seeds"]), s=10, color="white", edgecolors="black", linewidths=0.6, zorder=3)
        axes.scatter([e["value"]], [y], marker="D", s=28, color="black", zorder=4)
    axes.axvline(0, color="black", lw=0.8)
    axes.set_yticks(range(len(rows)), [row["mechanism"] for row in rows])
    better = "← on is better" if METRICS[metric] == "min" else "on is better →"
    unit = " (nats)" if metric.endswith("log_loss") else ""
    axes.set_xlabel(f"{metric.replace('_', ' ')}{unit}, on − off     {better}\nthick: 95 %, thin: 95 % for all at once, circles: seeds")
    save_figure(figure, path, "Ablation", report["synthetic"])


def _text(effect: dict[str, float]) -> str:
    return interval_text(effect["value"], effect["low"], effect["high"], "+")


def _seconds(records: list[TrialRecord]) -> float:
    """Median seconds of an epoch."""
    return float(np.median([line["seconds"] for record in records for line in record.epochs]))
