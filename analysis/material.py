"""Everything that the report and the model card say, read and computed once, so that both say the same numbers."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from analysis.calibration import calibration_report, write_calibration_tables
from analysis.leaderboard import is_search, standing_trial, write_leaderboard
from analysis.performance_table import performance_report, write_performance_tables
from analysis.predictions import Predictions, study_predictions, trial_predictions
from analysis.roc_curves import Curve, study_curves, write_curves_table
from analysis.sealed_test import read_openings
from analysis.thresholds import thresholds_report, write_thresholds_table
from data.dataset import Dataset, Values, same_data
from data.views import MISSING
from study.folder import read_study
from study.members import member_names
from study.records import TrialRecord, read_trials

_FOLDERS = re.compile(r"(?<![\w.…])(?:~|[A-Za-z]:)?(?:[\\/][^\\/:;,'\"()<>\n]+)+[\\/](?=[^\\/\s])")


class Judged(NamedTuple):
    """The out-of-fold predictions that the report looks at, and what was computed of them."""

    name: str  # the trial, "outer folds" of a nested study, or "mean of …" of the members of a mean
    record: TrialRecord  # the trial (of a nested study: its first fold; of a mean: its first member)
    predictions: Predictions
    performance: dict[str, Any]  # `performance_report`
    curves: dict[str, dict[str, dict[str, Curve]]]  # `study_curves`
    calibration: dict[str, Any]  # `calibration_report`
    thresholds: dict[str, Any]  # `thresholds_report`


@dataclass(frozen=True)
class Material:
    """A study as it stands."""

    about: dict[str, Any]  # study.json
    records: list[TrialRecord]
    trust: dict[str, Any]  # results/trust.json; "ready" False: nothing can be said yet
    judged: Judged | None  # None: no trial has predictions yet
    openings: list[dict[str, Any]] = field(default_factory=list)  # results/sealed_test.json: of the sealed test, newest last
    pixels: "Pixels | None" = None  # None: the data set is not here

    @property
    def metric(self) -> str:
        return self.about["config"]["metric"]

    @property
    def synthetic(self) -> bool:
        return self.about["data"]["synthetic"]

    @property
    def searched(self) -> bool:
        return is_search(self.about)

    @property
    def running(self) -> bool:
        return any(record.status == "running" for record in self.records)


class Pixels(NamedTuple):
    """Where the images of development patients are found; those of sealed patients are out of its reach."""

    images: Values  # (N, S, S, 3) uint8, of the whole data set, memory-mapped
    rows: np.ndarray  # (D,) row of `images` of each row of the development table
    slide: np.ndarray  # (D,) str
    skipped: int  # files left out as bad

    def tile(self, row: int) -> np.ndarray:
        """(S, S, 3) of a row of the development table."""
        return self.images[self.rows[row]]


def read_material(study: Path, trust: dict[str, Any], dataset: Dataset | None = None) -> Material:
    """Read a study and compute what its report shows. `dataset`: the study's own, with pixels, at all magnifications.

    Judged is the recommended trial; where nothing was chosen, the one that stands for the study.
    """
    about, records = read_study(study), read_trials(study)
    judged = _judge(study, about, records, trust)
    pixels = None if dataset is None else development_pixels(dataset, about)
    if judged is not None and pixels is not None and not _same_rows(judged.predictions, pixels):
        pixels = None
    return Material(about, records, trust, judged, read_openings(study), pixels)


def _judge(study: Path, about: dict[str, Any], records: list[TrialRecord], trust: dict[str, Any]) -> Judged | None:
    if about.get("nested"):
        if not records or not all((record.folder / "held_out.npz").exists() for record in records):
            return None
        name, record, predictions = "outer folds", records[0], study_predictions(study)
    elif members := member_names(about):
        if len(records) < len(members) or not all((record.folder / "predictions.npz").exists() for record in records):
            return None
        name, record, predictions = f"mean of {', '.join(members)}", records[0], study_predictions(study)
    else:
        found = standing_trial(about, records)
        if is_search(about) and trust["ready"]:
            found = next((record for record in records if record.name == trust["recommended"]["trial"]), found)
        if found is None or not (found.folder / "predictions.npz").exists():
            return None
        name, record, predictions = found.name, found, trial_predictions(found)
    seed, synthetic = about["config"]["seed"], about["data"]["synthetic"]
    return Judged(
        name,
        record,
        predictions,
        performance_report(predictions, seed, synthetic),
        study_curves(predictions, seed),
        calibration_report(predictions, seed, synthetic),
        thresholds_report(predictions, synthetic),
    )


def development_pixels(dataset: Dataset, about: dict[str, Any]) -> Pixels | None:
    """The development rows of a data set, in the order of the study's tables; None where it is another data set."""
    if dataset.images is None or not same_data(dataset.fingerprint, about["data"]["fingerprint"]):
        return None
    table, splits = dataset.table, about["splits"]
    development = [slide for fold in splits["folds"] for slide in fold]
    inside = np.isin(table.slide, development) & np.isin(table.magnification, about["config"]["data"]["magnifications"])
    rows = np.flatnonzero(inside & ~np.isin(table.slide, splits["test"]))
    return Pixels(dataset.images, rows, table.slide[rows], len(dataset.skipped))


def _same_rows(predictions: Predictions, pixels: Pixels) -> bool:
    """Whether every view's rows show the slide that it names."""
    view, column = np.nonzero(predictions.rows != MISSING)
    rows = predictions.rows[view, column]
    return bool(rows.max() < len(pixels.rows) and (pixels.slide[rows] == predictions.slide[view]).all())


def write_tables(study: Path, material: Material) -> None:
    """results/leaderboard.csv, and results/report/: the numbers of the page as CSV, Markdown and LaTeX."""
    folder = study / "results" / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_leaderboard(study / "results" / "leaderboard.csv", material.records, material.metric)
    if material.judged is not None:
        write_performance_tables(folder, material.judged.performance)
        write_thresholds_table(folder, material.judged.thresholds)
        write_calibration_tables(folder, material.judged.calibration)
        write_curves_table(folder, material.judged.curves)


def without_folders(text: str) -> str:
    """A text with the folders of every path left out: the page travels, and folders name machines and people."""
    return _FOLDERS.sub("…/", text)
