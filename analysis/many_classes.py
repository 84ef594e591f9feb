"""What is said of more than two classes: the confusion matrix of the best trial. Intervals, figures and the sealed test are of two so far."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.tables import narrow_table, write_table
from mmnet.metrics import confusion_matrix
from study.records import TrialRecord


def classes_of(about: dict[str, Any]) -> list[str]:
    """Names of a study's classes (`about`: its study.json); of two, and of studies of earlier versions, none are needed here: empty."""
    names = about["data"].get("classes", [])
    return names if len(names) > 2 else []


def write_confusion(study: Path, best: TrialRecord, classes: list[str]) -> np.ndarray:
    """results/confusion.csv: (K, K) out-of-fold views at the best epoch, a row a true class, a column a called one."""
    with np.load(best.folder / "predictions.npz") as saved:
        found = confusion_matrix(saved["oof"][int(saved["best_epoch"]) - 1], saved["label"])
    write_table(study / "results" / "confusion.csv", ["class", *classes], [[name, *row] for name, row in zip(classes, found.tolist(), strict=True)])
    return found


def print_confusion(study: Path, best: TrialRecord, classes: list[str], console: Console) -> None:
    table = narrow_table("out-of-fold views: true class by row, called class by column", ("", *classes, "called right"))
    matrix = write_confusion(study, best, classes)
    for name, row in zip(classes, matrix, strict=True):
        right = row[classes.index(name)] / row.sum()
        table.add_row(name, *map(str, row.tolist()), f"{right:.0%}")
    console.print(table)
    console.print(
        f"{len(classes)} classes, {matrix.sum()} views: AUC is one class against the rest, accuracy the mean over classes; intervals, report and "
        "sealed test are made of two classes only so far",
        highlight=False,
        soft_wrap=True,
    )
