"""The patient table: one row per image, checked once, the only description of a data set that other packages see."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data.errors import DataError, shortlist

GROUPINGS = ("patient", "slide")
COLUMNS = ("path", "magnification", "slide", "patient", "subtype", "label")
ONE_MAGNIFICATION = 1  # what images are given whose magnification nobody says
UNKNOWN = -1  # the label of an image that is to be predicted
LABELS = ("class", "subtype")  # what may be predicted
BREAKHIS = ("benign", "malignant")
_MARKS = re.compile(r"[\s_\-\u2010-\u2015\u2212]+")
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
Row = tuple[str, int, str, str, str, str]  # path, magnification, slide, patient, subtype, class ("": unknown)


def same_name(text: str) -> str:
    """One form of a name that has several in Unicode: an umlaut is one letter here, and on a Mac's disk two."""
    return unicodedata.normalize("NFC", text)


def alike(names: Iterable[str], what: str) -> list[str]:
    """A note of names that differ only as spellings of one do: in capitals, blanks, dashes, leading zeros."""
    spellings: dict[str, set[str]] = {}
    for name in names:
        spellings.setdefault(_MARKS.sub("", _ZEROS.sub("", name.casefold())), set()).add(name)
    pairs = [" = ".join(sorted(found)) for found in spellings.values() if len(found) > 1]
    return (
        [f"{what} that differ only in capitals, blanks, dashes or leading zeros are taken for different ones: {shortlist(sorted(pairs))}"]
        if pairs
        else []
    )


@dataclass(frozen=True)
class PatientTable:
    """N images, sorted by (slide, magnification, path).

    A *patient* is a person, whom no split divides; a *slide* one specimen's folder. What the literature calls the 82 patients of
    BreakHis are 82 slides of 70 persons. A slide is of one class, a patient may have slides of several.
    """

    path: np.ndarray  # (N,) str, relative to the data set's root
    magnification: np.ndarray  # (N,) int64
    slide: np.ndarray  # (N,) str
    patient: np.ndarray  # (N,) str
    subtype: np.ndarray  # (N,) str, "" where unknown
    label: np.ndarray  # (N,) int64, index into `classes`, or UNKNOWN
    classes: tuple[str, ...] = BREAKHIS  # of two, the second is the positive one
    covariates: Mapping[str, np.ndarray] = field(default_factory=dict)  # {column: (N,) str} of a manifest, kept as it stands

    def __len__(self) -> int:
        return len(self.path)

    def select(self, rows: np.ndarray) -> "PatientTable":
        """The table of some rows, by boolean mask or by index."""
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return replace(self, **columns, covariates={name: values[rows] for name, values in self.covariates.items()})

    def slides(self) -> np.ndarray:
        """Names, sorted."""
        return np.unique(self.slide)

    def of_slides(self, column: str) -> dict[str, str | int]:
        """{slide: value} of a column that is constant within a slide."""
        first = np.unique(self.slide, return_index=True)[1]
        return dict(zip(self.slide[first].tolist(), getattr(self, column)[first].tolist(), strict=True))

    def groups(self, grouping: str) -> dict[str, str]:
        """{slide: group}: the unit that no split may divide. Raises DataError for an unknown grouping."""
        if grouping not in GROUPINGS:
            raise DataError(f"grouping {grouping!r}: expected one of {', '.join(GROUPINGS)}")
        if grouping == "slide":
            return {slide: slide for slide in self.slides().tolist()}
        return {slide: str(patient) for slide, patient in self.of_slides("patient").items()}

    def counts(self) -> dict[str, Any]:
        """Images, slides and patients, and those of each class, for people."""
        return {"images": len(self), "slides": len(self.slides()), "patients": len(np.unique(self.patient))} | {
            f"{unit}s_of_class": {
                name: len(np.unique(getattr(self, unit)[self.label == number])) for number, name in enumerate(self.classes)
            }
            for unit in ("slide", "patient")
        }


def build_table(rows: list[Row], mixed: bool = False) -> PatientTable:
    """A sorted, checked table; its classes are sorted by name.

    `mixed`: images of one patient may be of several classes; of one slide those of each are a slide of their own then.
    Raises DataError when a slide or a patient stands under two classes, or a slide under two patients.
    """
    if mixed:
        kinds: dict[str, set[str]] = {}
        for row in rows:
            kinds.setdefault(row[2], set()).add(row[5])
        rows = [(*row[:2], f"{row[2]} {row[5]}" if len(kinds[row[2]]) > 1 else row[2], *row[3:]) for row in rows]
    if not rows:
        raise DataError("the data set holds no image; pass --data DIR or FILE.csv")
    rows = sorted(rows, key=lambda row: (row[2], row[1], row[0]))
    path, magnification, slide, patient, subtype, name = map(np.array, zip(*rows, strict=True))
    classes = sorted(set(name.tolist()) - {""})
    label = np.where(name == "", UNKNOWN, np.searchsorted(classes, name) if classes else UNKNOWN)
    for unit, units, value, values in (
        ("slide", slide, "patient", patient),
        ("slide", slide, "class", name),
        ("patient", patient, "class", name),
    ):
        first: dict[str, str] = {}
        pairs = zip(units.tolist(), values.tolist(), strict=True)
        offenders = sorted({one for one, other in pairs if first.setdefault(one, other) != other})
        if offenders and not (mixed and unit == "patient"):
            way = (
                ", or say --set data.mixed_labels=true where classes differ within a patient"
                if value == "class"
                else "; slides that are numbered within each patient need the patient in their name"
            )
            raise DataError(
                f"{unit} {shortlist(offenders)} stands under more than one {value}: expected exactly one each; correct the file names or the "
                f"manifest{way}"
            )
    return PatientTable(path, magnification, slide, patient, subtype, label, tuple(classes))
