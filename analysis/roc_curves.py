"""ROC and precision-recall curves of views, patients and images, with bootstrap bands over patients.

A band is pointwise and vertical (Fawcett, An introduction to ROC analysis, 2006, section 9.1): quantiles, over resamples, of
sensitivity at a fixed false positive rate, or of precision at a fixed recall.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.console import Console

from analysis.bootstrap import Interval, resamples
from analysis.figure import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, save_figure
from analysis.performance import average_precision
from analysis.predictions import LEVELS, Level, Predictions, study_predictions
from analysis.tables import interval_text, narrow_table, write_table
from mmnet.metrics import auc
from study.folder import read_study
from study.records import write_json

RESAMPLES = 1000
STEPS = 100  # of the grid on which bands are drawn
QUANTILES = (0.025, 0.975)
PANELS = {"view": "views", "patient": "patients", "image": "images"}
THIN = (ORANGE, GREEN, VERMILION, PURPLE, SKY)
STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), "-")  # told apart without colour, and where curves coincide
Points = tuple[np.ndarray, np.ndarray]


def _called(probability: np.ndarray, label: np.ndarray) -> Points:
    """((T,) false, (T,) true positives) as the threshold falls to each of the T distinct probabilities."""
    order = np.argsort(-probability, kind="stable")
    ranked, hits = probability[order], np.cumsum(label[order] == 1)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal probabilities are called together
    return last + 1 - hits[last], hits[last]


def roc_points(probability: np.ndarray, label: np.ndarray) -> Points:
    """(false positive rate, sensitivity) from (0, 0) to (1, 1); points inside a straight stretch are left out. Needs both classes."""
    false, true = (np.concatenate([[0], count]) for count in _called(probability, label))
    turns = np.concatenate([[True], (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0), [True]])
    return false[turns] / false[-1], true[turns] / true[-1]


def pr_points(probability: np.ndarray, label: np.ndarray) -> Points:
    """(recall, precision), for each recall that is attained the best precision, by increasing recall. Needs a positive.

    Between two of them the curve is a step at the precision of the higher recall, so that its area is the average precision.
    A straight line would promise what no threshold reaches: precision is not linear in recall (Davis & Goadrich, The Relationship
    Between Precision-Recall and ROC Curves, ICML 2006, section 4). It begins level with the first point, at recall 0.
    """
    false, true = _called(probability, label)
    first = np.flatnonzero(np.diff(true, prepend=0))
    recall, precision = true[first] / true[-1], true[first] / (true[first] + false[first])
    return np.concatenate([[0.0], recall]), np.concatenate([precision[:1], precision])


def sensitivity_at(rate: np.ndarray, points: Points) -> np.ndarray:
    """(G,) sensitivity at false positive rates: the highest where the curve rises, linear across ties as in the AUC."""
    return np.interp(rate, *points)  # of points at the same rate it takes the last


def precision_at(recall: np.ndarray, points: Points) -> np.ndarray:
    """(G,) precision at the highest threshold that reaches each recall."""
    return points[1][np.searchsorted(points[0], recall, side="left")]


class Kind(NamedTuple):
    """What tells ROC and precision-recall apart."""

    title: str
    area: str
    axes: tuple[str, str]
    points: Callable[[np.ndarray, np.ndarray], Points]  # of (probability, label)
    at: Callable[[np.ndarray, Points], np.ndarray]
    measure: Callable[[np.ndarray, np.ndarray], float]  # area of (probability, label)


ROC_AXES = ("false positive rate (1 − specificity)", "sensitivity")
PR_AXES = ("recall (sensitivity)", "precision")
KINDS = {
    "roc": Kind("ROC curves", "AUC", ROC_AXES, roc_points, sensitivity_at, auc),
    "pr": Kind("Precision-recall curves", "average precision", PR_AXES, pr_points, precision_at, average_precision),
}


class Curve(NamedTuple):
    """A curve of C points with its band; NaN where it has none."""

    x: np.ndarray  # (C,), increasing
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    area: Interval


def bands(kind: Kind, level: Level, draws: list[np.ndarray]) -> Curve:
    """A curve with its pointwise 95 % band, at its own points and on a grid; `draws` are the rows of each resample."""
    x, y = points = kind.points(level.probability, level.label)
    grid = np.union1d(x, np.arange(STEPS + 1) / STEPS)
    drawn, areas = np.empty((len(draws), len(grid))), np.empty(len(draws))
    for number, rows in enumerate(draws):
        probability, label = level.probability[rows], level.label[rows]
        drawn[number], areas[number] = kind.at(grid, kind.points(probability, label)), kind.measure(probability, label)
    low, high = np.quantile(drawn, QUANTILES, axis=0)
    between = ~np.isin(grid, x)
    all_x, all_y = np.concatenate([x, grid[between]]), np.concatenate([y, kind.at(grid[between], points)])
    order = np.argsort(all_x, kind="stable")
    place = np.searchsorted(grid, all_x[order])
    area = Interval(kind.measure(level.probability, level.label), *(float(q) for q in np.quantile(areas, QUANTILES)))
    return Curve(all_x[order], all_y[order], low[place], high[place], area)


def plain(kind: Kind, level: Level) -> Curve:
    """A curve without a band."""
    x, y = kind.points(level.probability, level.label)
    none = np.full(len(x), np.nan)
    return Curve(x, y, none, none, Interval(kind.measure(level.probability, level.label), np.nan, np.nan))


def level_curves(level: Level, rng: np.random.Generator) -> dict[str, dict[str, Curve]]:
    """{part: {kind: Curve}}: each fold, all folds pooled, and each magnification of images; a part of one class has no curve.

    A magnification is drawn from the resamples of all images, so that magnifications can be compared.
    """
    curves: dict[str, dict[str, Curve]] = {}
    for fold in np.unique(level.fold).tolist():
        part = level.select(level.fold == fold)
        if len(np.unique(part.label)) == 2:
            curves[f"fold {fold + 1}"] = {key: plain(kind, part) for key, kind in KINDS.items()}
    draws = [rows for rows, _ in resamples(level.label, level.patient, RESAMPLES, rng)]
    pools = {"pooled": np.ones(len(level.label), dtype=bool)}
    pools |= {f"{shown}X": level.magnification == shown for shown in np.unique(level.magnification).tolist() if shown}
    for name, member in pools.items():
        number = np.cumsum(member) - 1
        drawn = [number[rows[member[rows]]] for rows in draws]
        part = level.select(member)
        if len(np.unique(part.label)) == 2:
            curves[name] = {
                key: bands(kind, part, [rows for rows in drawn if len(np.unique(part.label[rows])) == 2]) for key, kind in KINDS.items()
            }
    return curves


def study_curves(predictions: Predictions, seed: int) -> dict[str, dict[str, dict[str, Curve]]]:
    """{level: `level_curves`}, in the order of the performance table, so that pooled intervals rest on the same resamples as the table's."""
    return {name: level_curves(predictions.level(name), np.random.default_rng(seed)) for name in LEVELS}


def areas_report(curves: dict[str, dict[str, dict[str, Curve]]], synthetic: bool) -> dict[str, Any]:
    """The areas under `study_curves`, with their intervals."""
    return {
        "synthetic": synthetic,
        "resamples": RESAMPLES,
        "levels": {
            level: {part: {"auc": found["roc"].area._asdict(), "pr_auc": found["pr"].area._asdict()} for part, found in parts.items()}
            for level, parts in curves.items()
        },
    }


def write_curves_table(folder: Path, curves: dict[str, dict[str, dict[str, Curve]]]) -> None:
    """roc_curves.csv, to draw the curves again."""
    rows = [
        [key, level, part, *(round(float(value), 6) for value in row)]
        for key in KINDS
        for level, parts in curves.items()
        for part, found in parts.items()
        for row in zip(*found[key][:4], strict=True)
    ]
    write_table(folder / "roc_curves.csv", ["curve", "level", "part", "x", "y", "low", "high"], rows)


def write_roc_curves(study: Path) -> dict[str, Any]:
    """plots/roc_curves and plots/pr_curves (.png, .pdf), results/roc_curves.csv to draw them again, .json with the areas."""
    about, predictions = read_study(study), study_predictions(study)
    levels = {name: predictions.level(name) for name in LEVELS}
    curves = study_curves(predictions, about["config"]["seed"])
    report = areas_report(curves, about["data"]["synthetic"])
    write_json(study / "results" / "roc_curves.json", report)
    write_curves_table(study / "results", curves)
    for key in KINDS:
        _figure(key, curves, levels, study / "plots" / f"{key}_curves.png", about["data"]["synthetic"])
    return report


def _figure(key: str, curves: dict[str, dict[str, dict[str, Curve]]], levels: dict[str, Level], path: Path, synthetic: bool) -> None:
    """Three panels of one kind of curve, legends below them: a curve may pass anywhere."""
    kind = KINDS[key]
    drawn = {name: _shown(name, {part: found[key] for part, found in curves[name].items()}) for name in PANELS}
    height = 3.0 + 0.13 * max(map(len, drawn.values())) + 0.2 * synthetic
    with plt.rc_context({"font.size": 7, "axes.titlesize": 8, "axes.linewidth": 0.6}):
        figure, panels = plt.subplots(1, 3, figsize=(7.2, height))
        for letter, axes, (name, title) in zip("abc", panels, PANELS.items(), strict=True):
            prevalence = float(levels[name].label.mean())
            _draw(axes, key, drawn[name])
            if key == "roc":
                axes.plot([0, 1], [0, 1], color="black", ls=":", lw=0.8, zorder=1, label="chance")
            else:
                axes.plot([0, 1], [prevalence] * 2, color="black", ls=":", lw=0.8, zorder=1, label=f"chance (prevalence): {prevalence:.3f}")
            shown = [part for part in curves[name] if part.endswith("X")]
            axes.set_title(
                f"({letter}) {title}" + (" by magnification" if len(shown) > 1 else "".join(f" ({part})" for part in shown)), loc="left"
            )
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="N", xlabel=kind.axes[0], ylabel=kind.axes[1])
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_ticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
            axes.legend(
                title=f"{kind.area} (95 % interval)",
                loc="upper center",
                bbox_to_anchor=(0.5, -0.2),
                frameon=False,
                fontsize=6.5,
                title_fontsize=6.5,
                labelspacing=0.3,
                handlelength=2.6,
            )
        save_figure(figure, path, f"{kind.title}, out of fold (bands: 95 %, over patients)", synthetic)


def _shown(level: str, parts: dict[str, Curve]) -> dict[str, Curve]:
    """The curves of a level's panel: folds and pooled, the pooled one on top; of images the magnifications, pooled if there is one only."""
    if level != "image":
        return parts
    magnifications = {part: curve for part, curve in parts.items() if part.endswith("X")}
    return magnifications if len(magnifications) > 1 else {part: curve for part, curve in parts.items() if part == "pooled"}


def _draw(axes: Axes, key: str, curves: dict[str, Curve]) -> None:
    """Curves on one panel: folds thin, those with a band thick; several with a band differ in colour and in dashes."""
    several = "pooled" not in curves
    step: Literal["pre"] | None = "pre" if key == "pr" else None
    for place, (part, curve) in enumerate(curves.items()):
        fold = part.startswith("fold")
        number = int(part.removeprefix("fold ")) - 1 if fold else place  # a fold keeps its colour where another is left out
        color = BLUE if part == "pooled" else (BLUE, *THIN)[number] if several else THIN[number % len(THIN)]
        style = STYLES[number] if several else STYLES[number // len(THIN) % len(STYLES)] if fold else "-"
        axes.fill_between(curve.x, curve.low, curve.high, step=step, color=color, alpha=0.1 if several else 0.2, lw=0)
        width = 0.8 if fold else 1.3 if several else 1.8
        axes.plot(
            curve.x,
            curve.y,
            drawstyle="steps-pre" if step else "default",
            color=color,
            ls=style,
            lw=width,
            label=f"{part}: {interval_text(*curve.area)}",
        )


def print_roc_curves(report: dict[str, Any], console: Console) -> None:
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    table = narrow_table(f"areas under the curves{synthetic}", ("", "AUC (95 % over patients)", "PR-AUC (95 % over patients)"))
    exact = False
    for level in ("view", "patient", "image"):
        for part, areas in report["levels"][level].items():
            if not part.startswith("fold"):
                name = f"{level}s pooled" if part == "pooled" else f"{level}s {part}"
                table.add_row(name, *(interval_text(**areas[area]) for area in ("auc", "pr_auc")))
                exact |= areas["auc"]["low"] == areas["auc"]["high"]
    console.print(table)
    if exact:
        console.print("an interval without width does not mean certainty: no resample of so few patients holds a mistake", soft_wrap=True)
    console.print(
        "an image has the probability of the views that show it; PR-AUC is the average precision\n"
        "figures: plots/roc_curves.png, plots/pr_curves.png; curves and bands to draw again: results/roc_curves.csv",
        highlight=False,
        soft_wrap=True,
    )
