"""How the trial that stands for a study learned: the configured metric and the training loss of each fold by epoch.

The best epoch is common to all folds, and the pooled curve chose it: its value there is optimistic.
"""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.console import Console

from analysis.figure import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, save_figure
from analysis.plots import metric_label
from analysis.predictions import chosen_trial
from analysis.tables import narrow_table, write_table
from study.folder import read_study
from study.records import TrialRecord, read_trials, write_json

THIN = (ORANGE, GREEN, VERMILION, PURPLE, SKY)
STYLES = ("-", (0, (4, 1.5)))  # the sixth fold takes the first colour again, dashed


class Curves(NamedTuple):
    """A trial over its E epochs and K folds; NaN where a metric was not defined."""

    epoch: np.ndarray  # (E,) from 1
    folds: np.ndarray  # (E, K) the metric
    mean: np.ndarray  # (E,) over folds
    sd: np.ndarray  # (E,) over folds, sample standard deviation
    pooled: np.ndarray  # (E,) the metric of all folds' predictions together
    train_loss: np.ndarray  # (E, K)
    best_epoch: int

    @property
    def mean_train_loss(self) -> np.ndarray:
        """(E,) over folds."""
        return _mean_and_sd(self.train_loss)[0]


def curves_of(record: TrialRecord, metric: str) -> Curves:
    """The curves of a trial that has a score."""
    folds = np.array([[fold[metric] for fold in line["fold_metrics"]] for line in record.epochs], dtype=np.float64)  # null is NaN
    pooled = np.array([line["metrics"][metric] for line in record.epochs], dtype=np.float64)
    train_loss = np.array([line["train_loss"] for line in record.epochs], dtype=np.float64)
    epoch = np.array([line["epoch"] for line in record.epochs])
    return Curves(epoch, folds, *_mean_and_sd(folds), pooled, train_loss, record.best["epoch"])


def _mean_and_sd(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((E,), (E,)) over the folds of (E, K) that have a value; NaN where none has, or for the deviation only one."""
    known = ~np.isnan(values)
    count = known.sum(1)
    mean = np.divide(np.where(known, values, 0).sum(1), count, out=np.full(len(values), np.nan), where=count > 0)
    squares = (np.where(known, values - mean[:, None], 0) ** 2).sum(1)
    return mean, np.sqrt(np.divide(squares, count - 1, out=np.full(len(values), np.nan), where=count > 1))


def write_fold_curves(study: Path) -> dict[str, Any]:
    """plots/fold_curves (.png, .pdf), results/fold_curves.csv and .json. Raises InputError when no trial has a score.

    A nested study has a trial for each outer fold: the figure then shows one line a trial, over its inner folds.
    """
    about, standing = read_study(study), chosen_trial(study)
    nested, metric, synthetic = bool(about.get("nested")), about["config"]["metric"], about["data"]["synthetic"]
    records = [record for record in read_trials(study) if record.ranked] if nested else [standing]
    trials = {record.name: curves_of(record, metric) for record in records}
    report = {
        "synthetic": synthetic,
        "metric": metric,
        "nested": nested,
        "trials": [summary(name, curves) for name, curves in trials.items()],
    }
    (study / "results").mkdir(exist_ok=True)
    write_json(study / "results" / "fold_curves.json", report)
    _write_csv(study / "results" / "fold_curves.csv", trials, nested)
    with plt.rc_context({"font.size": 8, "axes.linewidth": 0.6}):
        figure, (upper, lower) = plt.subplots(
            2, 1, figsize=(5.6, 5.2 + 0.2 * synthetic), sharex=True, gridspec_kw={"height_ratios": (3, 2)}
        )
        if nested:
            _draw_nested(upper, lower, trials)
        else:
            _draw(upper, lower, trials[standing.name])
        upper.set_ylabel(metric_label(metric).replace(", ", "\n"))
        lower.set(xlabel="epoch", ylabel="training loss")
        lower.xaxis.get_major_locator().set_params(integer=True)
        upper.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        lower.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        title = "Learning curves of the outer folds" if nested else f"Learning curves of trial {standing.name}"
        save_figure(figure, study / "plots" / "fold_curves.png", title, synthetic)
    return report


def summary(trial: str, curves: Curves) -> dict[str, Any]:
    """A trial in numbers, at its best epoch and at its last."""

    def at(epoch: int) -> dict[str, float]:
        row = epoch - 1
        values = (curves.mean[row], curves.sd[row], curves.pooled[row], curves.mean_train_loss[row])
        return dict(zip(("mean", "sd", "pooled", "train_loss"), map(float, values), strict=True))

    last = int(curves.epoch[-1])
    return {
        "trial": trial,
        "folds": curves.folds.shape[1],
        "best_epoch": curves.best_epoch,
        "last_epoch": last,
        "best": at(curves.best_epoch),
        "last": at(last),
    }


def _write_csv(path: Path, trials: dict[str, Curves], nested: bool) -> None:
    """One row an epoch; those of a nested study begin with the outer fold."""
    rows = []
    for outer, curves in enumerate(trials.values(), start=1):
        columns = np.column_stack([curves.folds, curves.mean, curves.sd, curves.pooled, curves.mean_train_loss])
        for epoch, values in zip(curves.epoch.tolist(), columns, strict=True):
            rows.append([*([outer] if nested else []), epoch, *(round(float(value), 6) for value in values)])
    folds = [f"fold {number}" for number in range(1, max(curves.folds.shape[1] for curves in trials.values()) + 1)]
    columns_of = [*(["outer fold"] if nested else []), "epoch", *folds, "mean", "sd", "pooled", "train loss mean"]
    write_table(path, columns_of, rows)


def _draw(upper: Axes, lower: Axes, curves: Curves) -> None:
    """A trial: folds thin, mean ± sd as a band, pooled thick; training losses below."""
    marker = "o" if len(curves.epoch) == 1 else None  # one epoch makes no line
    for number in range(curves.folds.shape[1]):
        color, style = THIN[number % len(THIN)], STYLES[number // len(THIN) % len(STYLES)]
        upper.plot(curves.epoch, curves.folds[:, number], color=color, ls=style, lw=0.8, marker=marker, ms=3, label=f"fold {number + 1}")
        lower.plot(curves.epoch, curves.train_loss[:, number], color=color, ls=style, lw=0.8, marker=marker, ms=3)
    upper.fill_between(curves.epoch, curves.mean - curves.sd, curves.mean + curves.sd, color=GREY, alpha=0.25, lw=0)
    upper.plot(curves.epoch, curves.mean, color=GREY, lw=1.2, ls="--", marker=marker, ms=3, label="mean ± sd of folds")
    upper.plot(curves.epoch, curves.pooled, color=BLUE, lw=2, marker=marker, label="pooled")
    lower.plot(curves.epoch, curves.mean_train_loss, color=BLUE, lw=2, marker=marker, label="mean of folds")
    for axes in (upper, lower):
        axes.axvline(curves.best_epoch, color="black", ls=":", lw=1, label=f"best epoch: {curves.best_epoch}" if axes is upper else None)


def _draw_nested(upper: Axes, lower: Axes, trials: dict[str, Curves]) -> None:
    """Pooled curve of each outer fold, its best epoch marked; mean training losses below."""
    for number, curves in enumerate(trials.values()):
        color, style = (BLUE, *THIN)[number % (len(THIN) + 1)], STYLES[number // (len(THIN) + 1) % len(STYLES)]
        best = [curves.best_epoch - 1]
        label = f"outer fold {number + 1}, best epoch: {curves.best_epoch}"
        upper.plot(curves.epoch, curves.pooled, color=color, ls=style, lw=1.4, marker="o", markevery=best, label=label)
        lower.plot(curves.epoch, curves.mean_train_loss, color=color, ls=style, lw=1.4, marker="o", markevery=best)
    lower.plot([], [], color="black", lw=1.4, marker="o", label="mean of inner folds")


def print_fold_curves(report: dict[str, Any], console: Console) -> None:
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    metric = report["metric"].replace("_", " ")
    kind = "inner folds" if report["nested"] else "folds"
    table = narrow_table(f"{metric} by epoch{synthetic}", ("", "epoch", f"{kind}, mean ± sd", "pooled", "train loss"))
    for number, trial in enumerate(report["trials"], start=1):
        name = f"outer fold {number}, " if report["nested"] else ""
        for which in ("best", "last"):
            values = trial[which]
            mean_sd = f"{_three(values['mean'])} ± {_three(values['sd'])}"
            table.add_row(f"{name}{which}", str(trial[f"{which}_epoch"]), mean_sd, _three(values["pooled"]), _three(values["train_loss"]))
    console.print(table)
    console.print(
        f"{metric} chose the best epoch, so its value there is optimistic; pooled: of all folds' predictions together\n"
        "figure: plots/fold_curves.png; every epoch: results/fold_curves.csv",
        highlight=False,
        soft_wrap=True,
    )


def _three(value: float) -> str:
    return "–" if value != value else f"{value:.3f}"
