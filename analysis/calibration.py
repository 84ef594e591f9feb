"""Do probabilities mean what they say? Reliability, calibration error, and temperature scaling that never judges itself.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from scipy.optimize import minimize_scalar

from analysis.bootstrap import Interval, resamples
from analysis.figure import BLUE, ORANGE, save_figure
from analysis.predictions import Level, Predictions, study_predictions
from analysis.tables import interval_text, narrow_table, write_table
from study.folder import read_study
from study.records import write_json

BINS = 10
BIN_UNITS = 7  # at least so many a bin of the figure, where that leaves two bins
TEMPERATURES = (0.05, 20.0)
RESAMPLES = 1000
QUANTILES = (0.025, 0.975)
NORMAL = 1.959964  # 97.5 % quantile of the standard normal distribution
JUDGED = ("view", "patient")


class Bin(NamedTuple):
    """Predictions of similar probability."""

    probability: float  # mean
    observed: float  # share of malignant
    units: int


def bin_of(probability: np.ndarray, bins: int = BINS) -> np.ndarray:
    """(N,) number of each prediction's bin: bins of (nearly) equal count, by increasing probability; equal probabilities share one."""
    ordered = np.sort(probability)
    edges = np.unique(ordered[np.arange(1, bins) * len(ordered) // bins]) if len(ordered) >= bins else np.unique(ordered)[1:]
    return np.unique(np.searchsorted(edges, probability, side="right"), return_inverse=True)[1]  # no number stands for an empty bin


def reliability(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> list[Bin]:
    """Mean probability and share of malignant in each bin of `bin_of`."""
    member = bin_of(probability, bins)
    units = np.bincount(member)
    predicted, observed = np.bincount(member, weights=probability) / units, np.bincount(member, weights=label) / units
    return [Bin(*row) for row in zip(predicted.tolist(), observed.tolist(), units.tolist(), strict=True)]


def calibration_error(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error over bins of equal count: mean of |observed - predicted|, weighted by count.

    Equal counts instead of Guo's equal widths (Nixon et al., Measuring Calibration in Deep Learning, 2019): a confident
    network leaves most bins of equal width nearly empty. It is not 0 by chance either, see `chance_calibration_error`.
    """
    found = reliability(probability, label, bins)
    return float(sum(b.units * abs(b.observed - b.probability) for b in found) / len(label))


def chance_calibration_error(probability: np.ndarray, rng: np.random.Generator, count: int = 200) -> float:
    """Mean calibration error if these probabilities were true: of labels drawn by them, units taken as independent.

    With N units of evenly spread probabilities and b bins that is about sqrt(b / N) / 3; images of one patient make it more.
    """
    drawn = (rng.random((count, len(probability))) < probability).astype(np.int64)
    return float(np.mean([calibration_error(probability, label) for label in drawn]))


def plain_log_loss(probability: np.ndarray, label: np.ndarray) -> float:
    """Mean -log of the probability of the true class, in nats, not balanced by class: what a temperature is fitted by."""
    return float(np.logaddexp(0, (1 - 2.0 * label) * logit(probability)).mean())


def plain_brier(probability: np.ndarray, label: np.ndarray) -> float:
    """Mean squared error of the probability, not balanced by class. Brier 1950."""
    return float(np.mean((probability - label) ** 2))


def logit(probability: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept off 0 and 1."""
    clipped = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(clipped / (1 - clipped))


def scale(probability: np.ndarray, temperature: float | np.ndarray) -> np.ndarray:
    """sigmoid(logit / temperature): above 1 softens, below 1 sharpens."""
    return 1 / (1 + np.exp(-logit(probability) / temperature))


def fit_temperature(probability: np.ndarray, label: np.ndarray) -> float:
    """The temperature of least mean log loss (maximum likelihood, Guo et al. section 4.2), between 0.05 and 20."""
    scores, against = logit(probability), 1 - 2.0 * label

    def negative_log_likelihood(log_temperature: float) -> float:
        return float(np.logaddexp(0, against * scores / np.exp(log_temperature)).mean())

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(negative_log_likelihood, bounds=(low, high), method="bounded").x))


def cross_fitted_temperature(probability: np.ndarray, label: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """(N,) temperature of each prediction, fitted on the other folds."""
    temperature = np.empty(len(label))
    for number in np.unique(fold):
        others = fold != number
        temperature[~others] = fit_temperature(probability[others], label[others])
    return temperature


SCORES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "calibration_error": calibration_error,
    "log_loss": plain_log_loss,
    "brier": plain_brier,
}
SCORE_NAMES = {"calibration_error": "calibration error", "log_loss": "log loss", "brier": "Brier"}


def judge(level: Level, rng: np.random.Generator) -> dict[str, Any]:
    """Before and after cross-fitted scaling: scores, after - before paired over patients, temperatures, and the verdict in words.

    The temperatures stay as they are in a resample: intervals are of these predictions on other patients.
    """
    label, before = level.label, level.probability
    temperature = cross_fitted_temperature(before, label, level.fold)
    after = scale(before, temperature)
    draws = [rows for rows, _ in resamples(label, level.patient, RESAMPLES, rng)]
    scores: dict[str, dict[str, Any]] = {}
    for name, score in SCORES.items():
        drawn = [score(after[rows], label[rows]) - score(before[rows], label[rows]) for rows in draws]
        first, second = score(before, label), score(after, label)
        scores[name] = {"before": first, "after": second, "difference": _interval(second - first, drawn)._asdict()}
    bias = _interval(float((before - label).mean()), [float((before[rows] - label[rows]).mean()) for rows in draws])
    return {
        "units": len(label),
        "patients": len(np.unique(level.patient)),
        "scores": scores,
        "calibration_error_by_chance": chance_calibration_error(before, rng),
        "mean_probability": float(before.mean()),
        "malignant_share": float(label.mean()),
        "bias": bias._asdict(),
        "temperature": fit_temperature(before, label),
        "lowest_temperature": float(temperature.min()),
        "highest_temperature": float(temperature.max()),
        "verdict": verdict(Interval(**scores["log_loss"]["difference"]), bias, temperature),
        "bins": {"before": bars(before, level), "after": bars(after, level)},
    }


def _interval(value: float, drawn: list[float]) -> Interval:
    return Interval(value, *np.quantile(drawn, QUANTILES).tolist())


def verdict(log_loss: Interval, bias: Interval, temperature: np.ndarray) -> str:
    """Whether to scale, from after - before of the log loss, mean probability - share of malignant, and the fitted temperatures."""
    if log_loss.high < 0:
        words = "scaling helps: it lowers the log loss, and the interval of the difference excludes 0"
    elif log_loss.low > 0:
        words = "scaling does not help: it raises the log loss; leave the probabilities as they are"
    else:
        words = "scaling does not help measurably: the interval of the difference in log loss holds 0; leave the probabilities as they are"
    if temperature.min() < TEMPERATURES[0] * 1.01 or temperature.max() > TEMPERATURES[1] / 1.01:
        words += f"; a temperature stands at the limit of its range ({TEMPERATURES[0]:g} to {TEMPERATURES[1]:g}) and is not to be trusted"
    if bias.low > 0 or bias.high < 0:
        words += f"; probabilities are too {'high' if bias.low > 0 else 'low'} on the whole, which no temperature can shift"
    return words


def bars(probability: np.ndarray, level: Level) -> list[dict[str, float]]:
    """The reliability diagram of a level: bins of `bin_of`, the observed share with its 95 % interval, units and patients."""
    bins = max(2, min(BINS, len(probability) // BIN_UNITS))
    member = bin_of(probability, bins)
    found = []
    for number, content in enumerate(reliability(probability, level.label, bins)):
        patient = level.patient[member == number]
        low, high = share_interval(content.observed, patient)
        found.append(content._asdict() | {"low": low, "high": high, "patients": len(np.unique(patient))})
    return found


def share_interval(share: float, patient: np.ndarray) -> tuple[float, float]:
    """95 % interval of a share of units (patient: (n,)), by Wilson (JASA 1927) with the effective number of patients in place of n.

    All units of a patient have one label, so the share is a mean over patients weighted by their units m, worth (sum m)^2 / sum m^2
    independent patients (Kish, Survey Sampling, 1965). Simulated with 5 to 30 patients of
    1 to 24 images and shares of 0.5 to 0.95, it held the truth in 92 to 97 of 100 bins; a bootstrap over patients, which has no width
    where all agree, in 21 to 94.
    """
    units = np.unique(patient, return_counts=True)[1]
    n = units.sum() ** 2 / (units**2).sum()
    middle, spread = share + NORMAL**2 / (2 * n), NORMAL * np.sqrt(share * (1 - share) / n + NORMAL**2 / (4 * n**2))
    low, high = (middle - spread) / (1 + NORMAL**2 / n), (middle + spread) / (1 + NORMAL**2 / n)
    return max(float(low), 0.0), min(float(high), 1.0)


def write_calibration(study: Path) -> dict[str, Any]:
    """results/calibration.json and .csv, results/reliability.csv, plots/reliability (.png, .pdf): views and patients."""
    about, predictions = read_study(study), study_predictions(study)
    report = calibration_report(predictions, about["config"]["seed"], about["data"]["synthetic"])
    write_json(study / "results" / "calibration.json", report)
    write_calibration_tables(study / "results", report)
    _figure(report, {name: predictions.level(name) for name in JUDGED}, study / "plots" / "reliability.png")
    return report


def calibration_report(predictions: Predictions, seed: int, synthetic: bool) -> dict[str, Any]:
    """`judge` of views and patients."""
    rng = np.random.default_rng(seed)
    return {"synthetic": synthetic, "levels": {name: judge(predictions.level(name), rng) for name in JUDGED}}


def write_calibration_tables(folder: Path, report: dict[str, Any]) -> None:
    """calibration.csv and reliability.csv."""
    scores = [
        [name, score, *(round(v, 6) for v in (row["before"], row["after"], *row["difference"].values()))]
        for name, found in report["levels"].items()
        for score, row in found["scores"].items()
    ]
    write_table(folder / "calibration.csv", ["level", "score", "before", "after", "difference", "low", "high"], scores)
    points = [
        [name, when, *(round(v, 6) for v in row.values())]
        for name, found in report["levels"].items()
        for when, rows in found["bins"].items()
        for row in rows
    ]
    columns = ["level", "scaling", "probability", "observed", "units", "low", "high", "patients"]
    write_table(folder / "reliability.csv", columns, points)


def _figure(report: dict[str, Any], levels: dict[str, Level], path: Path) -> None:
    """A reliability diagram of each level, and below it how the probabilities are spread."""
    with plt.rc_context({"font.size": 8, "axes.linewidth": 0.6}):
        size = (7.2, 5.6 + 0.2 * report["synthetic"])
        figure, panels = plt.subplots(2, len(levels), figsize=size, sharex="col", gridspec_kw={"height_ratios": (3.2, 1)}, squeeze=False)
        for letter, upper, lower, (name, level) in zip("ab", *panels, levels.items(), strict=True):
            found = report["levels"][name]
            _diagram(upper, name, found)
            upper.set_title(f"({letter}) {name}s", loc="left", fontsize=9)
            after = scale(level.probability, cross_fitted_temperature(level.probability, level.label, level.fold))
            edges = np.linspace(0, 1, 21)
            lower.hist(level.probability, edges, color=ORANGE, alpha=0.45)
            lower.hist(after, edges, color=BLUE, histtype="step", lw=1.2)
            lower.set(xlabel="predicted probability of malignant", ylabel=f"{name}s")
            lower.legend(
                *upper.get_legend_handles_labels(),
                loc="upper center",
                bbox_to_anchor=(0.5, -0.5),
                frameon=False,
                fontsize=7,
                ncols=3,
                columnspacing=1,
                handletextpad=0.4,
            )
            lower.yaxis.get_major_locator().set_params(integer=True)
        save_figure(figure, path, "Reliability, out of fold, before and after temperature scaling", report["synthetic"])


def _diagram(axes: Axes, name: str, found: dict[str, Any]) -> None:
    """Observed share against predicted probability; the area of a point is its number of units."""
    axes.plot([0, 1], [0, 1], color="black", ls=":", lw=0.8, label="perfect", zorder=1)
    for when, color, marker, face in (("before", ORANGE, "s", "white"), ("after", BLUE, "o", BLUE)):
        rows = found["bins"][when]
        x, y = (np.array([row[key] for row in rows]) for key in ("probability", "observed"))
        below, above = (y - [row["low"] for row in rows]).clip(0), ([row["high"] for row in rows] - y).clip(0)
        largest = max(row["units"] for row in rows)
        axes.errorbar(x, y, (below, above), color=color, lw=0.8, elinewidth=0.8, capsize=2, zorder=2)
        sizes = [40 * row["units"] / largest for row in rows]
        label = f"{when}: log loss {found['scores']['log_loss'][when]:.3f}"
        axes.scatter(x, y, sizes, marker=marker, facecolor=face, edgecolor=color, lw=1.2, zorder=3, label=label)
    units = sorted({row["units"] for row in found["bins"]["before"]})
    count = str(units[0]) if len(units) == 1 else f"{units[0]} to {units[-1]}"
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), ylabel="observed share of malignant", box_aspect=1)
    axes.set_title(f"{len(found['bins']['before'])} bins of {count} {name}s, bars: 95 %", loc="right", fontsize=7)


def print_calibration(report: dict[str, Any], console: Console) -> None:
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    for name, found in report["levels"].items():
        title = f"temperature scaling of {found['units']} {name}s{synthetic}"
        table = narrow_table(title, (name, "before", "after", "after − before (95 %)"))
        for score, row in found["scores"].items():
            table.add_row(SCORE_NAMES[score], f"{row['before']:.3f}", f"{row['after']:.3f}", interval_text(**row["difference"], sign="+"))
        console.print(table)
        console.print(
            f"temperature {found['lowest_temperature']:.2f} to {found['highest_temperature']:.2f} over folds, {found['temperature']:.2f} fitted on all "
            f"(for new patients, where scaling helps); calibration error by chance alone about {found['calibration_error_by_chance']:.3f};\n"
            f"mean probability {found['mean_probability']:.3f}, malignant {found['malignant_share']:.3f}: bias {interval_text(**found['bias'], sign='+')}\n"
            f"{found['verdict']}\n",
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        "each fold scaled by the temperature that the other folds chose; bars of the figure: Wilson over patients, not images\n"
        "figure: plots/reliability.png; numbers: results/calibration.csv, results/reliability.csv",
        highlight=False,
        soft_wrap=True,
    )
