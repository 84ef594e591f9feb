"""The Pareto front of a search with several objectives: results/pareto.csv, plots/pareto.png, and lines at the end of the search."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console

from analysis.figure import BLUE, GREEN, save_figure
from analysis.tables import write_table
from data.errors import InputError
from mmnet.metrics import METRICS
from mmnet.pareto import lower_is_better, non_dominated, objective
from study.folder import read_study
from study.records import TrialRecord, read_trials


class Front(NamedTuple):
    """The full-length trials of a study, the best of the first objective first."""

    objectives: tuple[str, ...]
    trials: list[str]
    values: np.ndarray  # (N, K)
    best: np.ndarray  # (N,) bool: on the front
    others: int  # trials that are not compared: a rung stopped them, they failed or still run


def objectives_of(about: dict[str, Any]) -> tuple[str, ...]:
    """The objectives of a study (`about`: its study.json), the one that its search follows first."""
    return (about["config"]["metric"], *about.get("settings", {}).get("front", ()))


def study_front(about: dict[str, Any], records: list[TrialRecord]) -> Front:
    """Which full-length trials no other one beats in all objectives."""
    names = objectives_of(about)
    done = [record for record in records if record.status == "done" and record.ranked]
    values = np.array([[objective(name, record) for name in names] for record in done]).reshape(len(done), len(names))
    turned = np.stack([lower_is_better(name, column) for name, column in zip(names, values.T, strict=True)], 1)
    order = np.lexsort(turned.T[::-1])
    best = non_dominated(turned)
    return Front(names, [done[row].name for row in order], values[order], best[order], len(records) - len(done))


def write_front(study: Path) -> Front:
    """results/pareto.csv and plots/pareto.png. Raises InputError where a study has one objective."""
    about = read_study(study)
    if len(objectives_of(about)) == 1:
        raise InputError(f"study {study.name} has one objective; start a search with several by --metric log_loss,seconds")
    front = study_front(about, read_trials(study))
    rows = [[name, int(best), *map(float, values)] for name, best, values in zip(front.trials, front.best, front.values, strict=True)]
    write_table(study / "results" / "pareto.csv", ["trial", "on_front", *front.objectives], rows)
    if front.trials:
        plot_front(front, study / "plots" / "pareto.png", about["data"]["synthetic"])
    return front


def print_front(front: Front, console: Console) -> None:
    """The trials on the front, a line each."""
    console.print(
        f"front of {', '.join(front.objectives)}: {int(front.best.sum())} of {len(front.trials)} full-length trials", highlight=False
    )
    for name, values in members(front):
        console.print(f"  trial {name}: " + ", ".join(f"{o} {v}" for o, v in zip(front.objectives, values, strict=True)), highlight=False)


def members(front: Front) -> list[tuple[str, list[str]]]:
    """(trial, its values as text) of those on the front."""
    chosen = np.flatnonzero(front.best)
    return [
        (front.trials[row], [shown(name, value) for name, value in zip(front.objectives, front.values[row], strict=True)]) for row in chosen
    ]


def shown(name: str, value: float) -> str:
    return f"{value:.4f}" if name in METRICS else f"{value:,.1f}" if name == "seconds" else f"{value:,.0f}"


def plot_front(front: Front, path: Path, synthetic: bool) -> None:
    """The first objective against each of the others; steps join the front of those two."""
    first, *others = front.objectives
    figure, panels = plt.subplots(1, len(others), figsize=(1.5 + 5 * len(others), 4.5), squeeze=False)
    for place, (axes, name) in enumerate(zip(panels[0], others, strict=True), start=1):
        pair = front.values[:, [place, 0]]
        turned = np.stack([lower_is_better(name, pair[:, 0]), lower_is_better(first, pair[:, 1])], 1)
        edge = pair[non_dominated(turned)]
        edge = edge[np.argsort(edge[:, 0])]
        axes.scatter(*pair[~front.best].T, s=18, color=BLUE, label="full-length trials")
        axes.scatter(*pair[front.best].T, s=30, color=GREEN, label="on the front")
        axes.step(*edge.T, where="post" if METRICS.get(name) != "max" else "pre", color=GREEN, lw=1)
        axes.set(xlabel=name.replace("_", " "), ylabel=first.replace("_", " "))
        if name not in METRICS and (edge[:, 0] > 0).all():
            axes.set_xscale("log")
    panels[0][0].legend()
    save_figure(figure, path, "Pareto front", synthetic)
