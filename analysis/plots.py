"""Figures of a search: history, curves, parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from analysis.figure import BLUE, GREEN, GREY, ORANGE, VERMILION, save_figure
from analysis.importance import Importance
from analysis.leaderboard import best_trial, rank
from mmnet.metrics import METRICS
from study.records import TrialRecord

COLORS = {"done": BLUE, "stopped": GREY, "failed": VERMILION, "running": ORANGE, "best": GREEN}
AXES_SHOWN = 10


def metric_label(metric: str) -> str:
    unit = " (nats)" if metric.endswith("log_loss") else ""
    return f"out-of-fold {metric.replace('_', ' ')}{unit}, {'lower' if METRICS[metric] == 'min' else 'higher'} is better"


def optimisation_history(records: list[TrialRecord], metric: str, path: Path, synthetic: bool) -> None:
    """Score of each trial in order, and the best so far."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    scored = [r for r in records if r.ranked]
    for status in ("stopped", "done", "running"):
        chosen = [r for r in scored if r.status == status]
        axes.scatter(
            [r.number for r in chosen],
            [r.score for r in chosen],
            s=18,
            color=COLORS[status],
            label={"stopped": "stopped early"}.get(status, status) if chosen else None,
        )
    if scored:
        best = (np.minimum if METRICS[metric] == "min" else np.maximum).accumulate([r.score for r in scored])
        axes.step([r.number for r in scored], best, where="post", color=COLORS["best"], label="best so far")
        axes.legend()
    axes.set(xlabel="trial", ylabel=metric_label(metric))
    save_figure(figure, path, "Optimisation history", synthetic)


def learning_curves(records: list[TrialRecord], metric: str, path: Path, synthetic: bool) -> None:
    """Score by epoch of every trial; the best one with its folds' spread."""
    figure, axes = plt.subplots(figsize=(7, 4.5))
    best = best_trial(records, metric)
    for record in records:
        if record.epochs and record is not best:
            axes.plot(
                [e["epoch"] for e in record.epochs],
                [_number(e["metrics"][metric]) for e in record.epochs],
                color=COLORS.get(record.status),
                lw=0.7,
                alpha=0.5,
            )
    if best is not None:
        epochs = [e["epoch"] for e in best.epochs]
        folds = np.array([[_number(fold[metric]) for fold in e["fold_metrics"]] for e in best.epochs])
        axes.fill_between(
            epochs,
            folds.mean(1) - folds.std(1, ddof=1),
            folds.mean(1) + folds.std(1, ddof=1),
            color=COLORS["best"],
            alpha=0.2,
            label="its folds, mean ± sd",
        )
        axes.plot(
            epochs, [_number(e["metrics"][metric]) for e in best.epochs], color=COLORS["best"], lw=2, label=f"best: trial {best.name}"
        )
        axes.legend()
    axes.set(xlabel="epoch", ylabel=metric_label(metric))
    save_figure(figure, path, "Learning curves", synthetic)


def parallel_coordinates(records: list[TrialRecord], metric: str, path: Path, synthetic: bool, order: list[str]) -> None:
    """One line a trial through its parameters (the most important first), coloured by rank."""
    ranked = [r for r in rank(records, metric) if r.ranked]
    paths = [p for p in order if any(p in r.params for r in ranked)]
    paths += [p for p in dict.fromkeys(p for r in ranked for p in r.params) if p not in paths]
    paths = paths[:AXES_SHOWN]
    figure, axes = plt.subplots(figsize=(max(6, 1.1 * len(paths) + 2), 4.5))
    scales = [value_scale([r.params[p] for r in ranked if p in r.params]) for p in paths]
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.95, max(len(ranked), 1)))
    for place in range(len(ranked) - 1, -1, -1):  # the best on top
        record = ranked[place]
        points = [(x, scale(record.params[p])) for x, (p, scale) in enumerate(zip(paths, scales, strict=True)) if p in record.params]
        axes.plot(*zip(*points, strict=True), color=colors[place], lw=2.2 if place == 0 else 0.8, alpha=1 if place == 0 else 0.6)
    axes.set_xticks(range(len(paths)), [p.replace(".", ".\n") for p in paths], fontsize=8)
    axes.set_yticks([0, 1], ["low", "high"])
    axes.set_ylabel("value within the range tried (dark: best score)")
    save_figure(figure, path, "Parallel coordinates", synthetic)


def importance_bars(importance: Importance, path: Path, synthetic: bool) -> None:
    """Importance of each parameter, or the plain statement that there are too few trials."""
    figure, axes = plt.subplots(figsize=(7, max(2.5, 0.28 * len(importance.share) + 1.5)))
    if importance.share:
        names = list(importance.share)[::-1]
        axes.barh(names, [importance.share[name] for name in names], color=COLORS["done"])
        axes.set_xlabel(f"importance (PED-ANOVA), {importance.trials} trials compared at epoch {importance.epoch}")
        axes.tick_params(axis="y", labelsize=8)
    else:
        axes.text(0.5, 0.5, f"not enough comparable trials ({importance.trials})", ha="center", va="center")
        axes.set_axis_off()
    save_figure(figure, path, "Parameter importance", synthetic)


def value_scale(values: list) -> Callable[[Any], float]:
    """A parameter's values -> 0 to 1: by order for choices, logarithmic where they span over two decades."""
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        logarithmic = min(values) > 0 and max(values) / min(values) > 100
        transform: Callable[[Any], float] = np.log if logarithmic else float
        low, high = transform(min(values)), transform(max(values))
        return lambda value: float((transform(value) - low) / (high - low)) if high > low else 0.5
    texts = sorted({str(v) for v in values})
    return lambda value: texts.index(str(value)) / max(len(texts) - 1, 1)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
