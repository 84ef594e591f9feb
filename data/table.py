"""The patient table: one row per image, checked once, the only description of a data set that other rooms see."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from data.errors import DataError, shortlist

GROUPINGS = ("case", "slide")
UNKNOWN = -1  # the label of a patient to be predicted
Row = tuple[str, int, str, str, str, int]  # path, magnification, patient, case, subtype, label


def same_name(text: str) -> str:
    """One form of a name that has several in Unicode: an umlaut is one letter here, and on a Mac's disk two."""
    return unicodedata.normalize("NFC", text)


def alike(names: Iterable[str], what: str) -> list[str]:
    """A note of names that differ only in capitals and blanks, as spellings of one do."""
    spellings: dict[str, set[str]] = {}
    for name in names:
        spellings.setdefault("".join(name.casefold().split()), set()).add(name)
    pairs = [" = ".join(sorted(found)) for found in spellings.values() if len(found) > 1]
    return [f"{what} that differ only in capitals or blanks are taken for different ones: {shortlist(sorted(pairs))}"] if pairs else []


@dataclass(frozen=True)
class PatientTable:
    """N images, sorted by (patient, magnification, path).

    A *patient* is a slide folder (82 in BreakHis); a *case* (70 in BreakHis) is the person: blocks of one case stand
    in several folders, so `case` is what a split must keep together.
    """

    path: np.ndarray  # (N,) str, relative to the data set's root
    magnification: np.ndarray  # (N,) int64
    patient: np.ndarray  # (N,) str
    case: np.ndarray  # (N,) str
    subtype: np.ndarray  # (N,) str, "" where unknown
    label: np.ndarray  # (N,) int64, 1 = malignant

    def __len__(self) -> int:
        return len(self.path)

    def select(self, rows: np.ndarray) -> "PatientTable":
        """The table of some rows, by boolean mask or by index."""
        return PatientTable(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def patients(self) -> np.ndarray:
        """(P,) str, sorted."""
        return np.unique(self.patient)

    def of_patients(self, column: str) -> dict[str, str | int]:
        """{patient: value} of a column that is constant within a patient."""
        first = np.unique(self.patient, return_index=True)[1]
        return dict(zip(self.patient[first].tolist(), getattr(self, column)[first].tolist(), strict=True))

    def groups(self, grouping: str) -> dict[str, str]:
        """{patient: group}: the unit that no split may divide. Raises DataError for an unknown grouping."""
        if grouping not in GROUPINGS:
            raise DataError(f"grouping {grouping!r}: expected one of {', '.join(GROUPINGS)}")
        if grouping == "slide":
            return {patient: patient for patient in self.patients().tolist()}
        return {patient: str(case) for patient, case in self.of_patients("case").items()}

    def counts(self) -> dict[str, int]:
        """Images, patients, cases and patients per class, for people."""
        labels = self.of_patients("label").values()
        return {
            "images": len(self),
            "patients": len(self.patients()),
            "cases": len(np.unique(self.case)),
            "benign": sum(label == 0 for label in labels),
            "malignant": sum(label == 1 for label in labels),
        }


def build_table(rows: list[tuple]) -> PatientTable:
    """Rows of (path, magnification, patient, case, subtype, label) -> a sorted, checked table.

    Raises DataError when a patient or a case stands under both classes, or a patient under two cases.
    """
    if not rows:
        raise DataError("the data set holds no image")
    rows = sorted(rows, key=lambda row: (row[2], row[1], row[0]))
    path, magnification, patient, case, subtype, label = zip(*rows, strict=True)
    table = PatientTable(
        np.array(path),
        np.array(magnification, dtype=np.int64),
        np.array(patient),
        np.array(case),
        np.array(subtype),
        np.array(label, dtype=np.int64),
    )
    for unit, value, problem in (
        ("patient", "label", "under both classes"),
        ("case", "label", "under both classes"),
        ("patient", "case", "under more than one case"),
    ):
        pairs = zip(getattr(table, unit).tolist(), getattr(table, value).tolist(), strict=True)
        first: dict[str, str | int] = {}
        offenders = sorted({u for u, v in pairs if first.setdefault(u, v) != v})
        if offenders:
            raise DataError(
                f"{unit} {shortlist(offenders)} stands {problem}: expected exactly one {value} each; correct the file names or the manifest"
            )
    return table
