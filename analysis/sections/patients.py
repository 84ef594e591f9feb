"""Every development patient, and a look at those that went most wrong. Sealed patients are never read."""

import io
from typing import Any

import numpy as np
from PIL import Image

from analysis.material import Judged, Material, Pixels
from analysis.page import Column, Html, Section, escaped, heading, joined, number, paragraph, picture, sortable
from analysis.sections.judged import naive_note, not_yet
from data.views import MISSING

CLASSES = ("benign", "malignant")
WORST = 8  # patients shown
TILES = 4  # images of each
TILE = 160  # px, half as much again as on a plain screen
QUALITY = 80  # of a JPEG: about 8 KB a tile


def patients(material: Material) -> Section:
    judged = material.judged
    if judged is None:
        return not_yet("patients", "Patients")
    rows = patient_rows(judged)
    columns = [
        Column("patient"),
        Column("slides", 0),
        Column("subtype"),
        Column("class"),
        Column("fold", 0),
        Column("views", 0),
        Column("probability", 3),
        Column("spread of views", 3),
        Column("called"),
        Column("verdict"),
        Column("log loss", 3),
    ]
    wrong = sum(row[9] == "wrong" for row in rows)
    caption = (
        f"{len(rows)} development patients, the worst first; {wrong} are called wrong at 0.5. Probability of malignant: mean over a patient's views, by the "
        "network that never saw the patient; spread: standard deviation over views. Sealed patients are not shown."
    )
    worst = joined(heading("The worst patients"), _gallery(material, [row[0] for row in rows[:WORST]]))
    return Section("patients", "Patients", joined(naive_note(material, judged), sortable("each", columns, rows, caption, "verdict"), worst))


def patient_rows(judged: Judged) -> list[list[Any]]:
    """A row a patient, by falling log loss."""
    level, views = judged.predictions.level("patient"), judged.predictions
    subtype = dict(zip(views.patient.tolist(), views.subtype.tolist(), strict=True))
    rows = []
    for patient, label, fold, probability in zip(
        level.patient.tolist(), level.label.tolist(), level.fold.tolist(), level.probability.tolist(), strict=True
    ):
        of = (views.patient == patient) & (views.label == label)
        here = views.probability[of]
        called = int(probability >= 0.5)
        loss = -np.log(max(probability if label else 1 - probability, 1e-7))
        rows.append(
            [
                patient,
                len(np.unique(views.slide[of])),
                subtype[patient],
                CLASSES[label],
                fold + 1,
                len(here),
                round(probability, 4),
                round(float(here.std()), 4),
                CLASSES[called],
                "right" if called == label else "wrong",
                round(float(loss), 4),
            ]
        )
    return sorted(rows, key=lambda row: (-row[-1], row[0]))


def _gallery(material: Material, names: list[str]) -> Html:
    judged, pixels = material.judged, material.pixels
    assert judged is not None
    if pixels is None:
        return paragraph(
            "No images here: the study's data set could not be opened on the machine that made this page, or is not the one with fingerprint "
            f"{material.about['data']['fingerprint']}.",
            kind="note",
        )
    return Html(f'<div class="gallery">{"".join(_patient(judged, pixels, name) for name in names)}</div>')


def _patient(judged: Judged, pixels: Pixels, patient: str) -> str:
    """The images of a patient's most wrong views."""
    predictions = judged.predictions
    views = np.flatnonzero(predictions.patient == patient)
    label = int(predictions.label[views[0]])
    probability = predictions.probability[views]
    tiles = []
    for place in worst_images(predictions.rows[views], probability, label):
        view, column = views[place[0]], place[1]
        words = f"{predictions.magnifications[column]}X image of {patient}, {CLASSES[label]}, its view called {number(float(predictions.probability[view]), 2)}"
        tiles.append(picture(jpeg(pixels.tile(int(predictions.rows[view, column]))), words))
    subtype = str(predictions.subtype[views[0]])
    caption = (
        f"{patient}: {CLASSES[label]}{f' ({subtype})' if subtype else ''}, probability of malignant {number(float(probability.mean()), 2)}"
    )
    return f'<figure><div class="tiles">{"".join(tiles)}</div><figcaption>{escaped(caption)}</figcaption></figure>'


def worst_images(rows: np.ndarray, probability: np.ndarray, label: int, count: int = TILES) -> list[tuple[int, int]]:
    """Up to `count` (view, magnification) of a patient's views (V, M), the most wrong view first; each image once."""
    order = np.argsort(probability if label else -probability, kind="stable")
    found: dict[int, tuple[int, int]] = {}
    for view in order.tolist():
        for column, row in enumerate(rows[view].tolist()):
            if row != MISSING:
                found.setdefault(row, (view, column))
    return list(found.values())[:count]


def jpeg(tile: np.ndarray) -> bytes:
    """(S, S, 3) uint8 -> a small photograph."""
    image = Image.fromarray(np.ascontiguousarray(tile))
    image.thumbnail((TILE, TILE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()
