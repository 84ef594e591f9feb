"""Every trial of a study, best first."""

import csv
import io
from pathlib import Path
from typing import Any

from mmnet.config import text_of
from mmnet.metrics import METRICS
from study.records import TrialRecord, whole_file

COLUMNS = (
    "trial",
    "status",
    "epoch",
    "best_epoch",
    "fold_epochs",
    "seconds",
    "peak_mib",
    "auc",
    "balanced_accuracy",
    "log_loss",
    "brier",
    "patient_auc",
    "patient_balanced_accuracy",
    "patient_log_loss",
    "reason",
)


def rank(records: list[TrialRecord], metric: str) -> list[TrialRecord]:
    """Best score first, failed trials and those without a score last, ties by number.

    A stopped trial is ranked by the score it had: a rung stopped it because others were better at the same epoch, and
    scores at the best epoch so far only improve, so it stands below them.
    """
    sign = 1 if METRICS[metric] == "min" else -1

    def key(record: TrialRecord) -> tuple:
        return (not record.ranked, sign * record.score if record.ranked else 0.0, record.number)

    return sorted(records, key=key)


def best_trial(records: list[TrialRecord], metric: str) -> TrialRecord | None:
    """The first of the ranking that has a score; None when no trial has one."""
    return next((record for record in rank(records, metric) if record.ranked), None)


def is_search(about: dict[str, Any]) -> bool:
    """Whether a study chose its configuration, or was given it (main.py, an ablation)."""
    return about["verb"] == "tune" and not about.get("mechanisms")


def standing_trial(about: dict[str, Any], records: list[TrialRecord]) -> TrialRecord | None:
    """The trial that stands for a study (`about`: its study.json): the best of a search, the configured one of a training or an ablation."""
    if not is_search(about):
        return records[0] if records and records[0].ranked else None
    return best_trial(records, about["config"]["metric"])


def leaderboard_rows(records: list[TrialRecord], metric: str) -> tuple[list[str], list[dict[str, Any]]]:
    """(column names, one row a trial, best first): metrics are out of fold at the trial's best epoch."""
    params = list(dict.fromkeys(path for record in records for path in record.params))
    rows = []
    for record in rank(records, metric):
        best = record.best if record.epochs else None
        row: dict[str, Any] = {
            "trial": record.name,
            "status": record.status,
            "epoch": len(record.epochs),
            "best_epoch": best["epoch"] if best else "",
            "fold_epochs": record.fold_epochs,
            "seconds": round(record.seconds, 2),
            "peak_mib": record.peak_mib,
            "reason": record.reason,
        }
        row |= {name: best["metrics"][name] if best else "" for name in COLUMNS if name in METRICS}
        row |= {path: text_of(record.params.get(path, "")) for path in params}
        rows.append(row)
    return [*COLUMNS, *params], rows


def write_leaderboard(path: Path, records: list[TrialRecord], metric: str) -> None:
    """results/leaderboard.csv."""
    columns, rows = leaderboard_rows(records, metric)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with whole_file(path) as building:
        building.write_text(text.getvalue())
