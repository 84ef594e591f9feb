"""What was learned from and who judged: patients by part, and every way in which one could leak into the other."""

from pathlib import Path
from typing import Any

import numpy as np

from analysis.material import Material
from analysis.page import Html, Section, bold, bullets, escaped, heading, joined, paragraph, table
from data.views import MISSING


def audit(material: Material) -> Section:
    checks = leak_checks(material)
    wrong = [words for holds, words in checks if not holds]
    verdict = (
        paragraph(f"{len(wrong)} of {len(checks)} checks fail.", kind="warning") if wrong else paragraph(f"All {len(checks)} checks hold.")
    )
    listed = bullets(Html(f"{bold('holds' if holds else 'FAILS')}: {escaped(words)}") for holds, words in checks)
    columns, rows = part_rows(material)
    return Section(
        "data",
        "Data and leak audit",
        joined(
            paragraph(*data_sentences(material)),
            table(columns, rows, "Who judges whom; each fold is judged by a network of the others."),
            heading("Leak audit"),
            verdict,
            listed,
        ),
    )


def data_sentences(material: Material) -> list[str]:
    """What the data set is, in words."""
    data, config = material.about["data"], material.about["config"]["data"]
    name = "embedded synthetic data" if data.get("path") == "synthetic" else Path(data.get("path", "")).name
    counts = ", ".join(
        f"{data[unit]} {unit}" for unit in ("images", "slides", "patients") if unit in data
    )
    of_class = data.get("patients_of_class", {})
    classes = f" ({' and '.join(f'{count} {name}' for name, count in of_class.items())} patients)" if of_class else ""
    shown = ", ".join(f"{m}X" for m in config["magnifications"])
    skipped = [f"{material.pixels.skipped} files were left out as bad."] if material.pixels is not None and material.pixels.skipped else []
    return [
        f"Data set {name}: {counts + classes + ', ' if counts else ''}{shown} at {config['image_size']} px, fingerprint {data['fingerprint']}.",
        f"Grouped by {material.about['splits']['grouping']}, splits: {Path(material.about['splits']['source']).name}.",
        *skipped,
    ]


def part_rows(material: Material) -> tuple[list[str], list[list[Any]]]:
    """(columns, a row for each fold, for development as a whole and for the sealed test, of which only counts are known here)."""
    data, splits, judged = material.about["data"], material.about["splits"], material.judged
    nested = bool(material.about.get("nested"))
    if judged is None or nested:
        rows = [[f"fold {n}", len(fold)] for n, fold in enumerate(splits["folds"], start=1)]
        return ["part", "slides"], [*rows, ["sealed test", len(splits["test"])]]
    level, views = judged.predictions.level("patient"), judged.predictions
    images = judged.predictions.level("image")

    def row(name: str, units: np.ndarray, of_views: np.ndarray, of_images: np.ndarray) -> list[Any]:
        malignant = int(level.label[units].sum())
        patients, slides = len(np.unique(level.patient[units])), len(np.unique(views.slide[of_views]))
        return [name, patients, int(units.sum()) - malignant, malignant, slides, int(of_images.sum()), int(of_views.sum())]

    rows = [row(f"fold {n + 1}", level.fold == n, views.fold == n, images.fold == n) for n in np.unique(level.fold).tolist()]
    everyone = row("development", level.fold >= 0, views.fold >= 0, images.fold >= 0)
    slides, of_class = len(splits["test"]), list(data.get("patients_of_class", {}).values())
    known = len(of_class) == 2 and slides > 0
    left = [whole - part for whole, part in zip((data["patients"], *of_class), everyone[1:4], strict=True)] if known else [""] * 3
    sealed = ["sealed test", *left, slides, data["images"] - everyone[5] if known else "", ""]
    return ["part", "patients", "benign", "malignant", "slides", "images", "views"], [*rows, everyone, sealed]


def leak_checks(material: Material) -> list[tuple[bool, str]]:
    """(whether it holds, what was checked), from study.json and from the predictions on record."""
    splits, judged = material.about["splits"], material.judged
    placed = [slide for fold in splits["folds"] for slide in fold] + list(splits["test"])
    leaks = material.about.get("patient_leaks", {})
    checks = [
        (len(placed) == len(set(placed)), "every slide stands in one part only, the sealed test included"),
        (
            not leaks,
            "no patient stands in two parts"
            if not leaks
            else f"{len(leaks)} patients stand in two parts ({', '.join(sorted(leaks)[:5])}): the scores of these splits are too good",
        ),
    ]
    if judged is None:
        return checks
    predictions, sealed = judged.predictions, set(splits["test"])
    slide, fold = predictions.slide, predictions.fold
    checks.append((not sealed & set(slide.tolist()), "no prediction of the search is of a sealed slide"))
    checks.append((_one_each(slide, fold), "every slide was evaluated by the network of one fold, which never saw it"))
    if not material.about.get("nested"):
        dealt = {name: number for number, members in enumerate(splits["folds"]) for name in members}
        same = all(dealt.get(name) == number for name, number in zip(slide.tolist(), fold.tolist(), strict=True))
        checks.append((same, "the folds of the predictions are those that study.json records"))
    checks.append((_one_each(slide, predictions.label), "every slide has one class"))
    view, column = np.nonzero(predictions.rows != MISSING)
    checks.append(
        (_one_each(predictions.rows[view, column], np.unique(slide, return_inverse=True)[1][view]), "every image belongs to one slide")
    )
    return checks


def _one_each(unit: np.ndarray, value: np.ndarray) -> bool:
    """Whether each unit has one value."""
    pairs = {(u, v) for u, v in zip(unit.tolist(), value.tolist(), strict=True)}
    return len(pairs) == len(np.unique(unit))
