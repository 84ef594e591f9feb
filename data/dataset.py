"""A data set ready for training: the patient table and, row by row, its pixels or its frozen features."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data.errors import DataError, shortlist
from data.table import ONE_MAGNIFICATION, PatientTable


class Rows:
    """Some rows of an array, read when they are asked for: a million images on disk are selected without loading one."""

    def __init__(self, array: np.ndarray, rows: np.ndarray):
        self.array, self.rows = array, rows
        self.dtype, self.shape = array.dtype, (len(rows), *array.shape[1:])
        self.nbytes = int(np.prod(self.shape)) * array.itemsize

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> np.ndarray:
        return self.array[self.rows[place]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.array[self.rows], dtype)


Values = np.ndarray | Rows


@dataclass(frozen=True)
class Dataset:
    """Pixels are read-only and may be memory-mapped; `features` replaces them where a frozen backbone ran already."""

    table: PatientTable
    images: Values | None  # (N, S, S, 3) uint8 RGB
    fingerprint: str  # see `same_data`; the same on every machine and at every image size
    name: str
    synthetic: bool = False
    features: Values | None = None  # (N, C, H, W) float16
    skipped: Mapping[str, str] = field(default_factory=dict)  # {path: reason} of files that were left out as bad
    notes: tuple[str, ...] = ()  # what was understood rather than read, or looks wrong: told once

    def select_rows(self, rows: np.ndarray) -> "Dataset":
        """Only these rows (boolean mask or index); no pixel is copied."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(rows) == len(self.table) and np.array_equal(rows, np.arange(len(rows))):
            return self
        return replace(self, table=self.table.select(rows), images=_rows_of(self.images, rows), features=_rows_of(self.features, rows))

    def select_slides(self, slides: list[str] | tuple[str, ...]) -> "Dataset":
        """Only these slides."""
        return self.select_rows(np.isin(self.table.slide, list(slides)))

    def select_magnifications(self, magnifications: tuple[int, ...]) -> "Dataset":
        """Only these magnifications. Raises DataError when one of them has no image at all."""
        absent = [str(m) for m in magnifications if not (self.table.magnification == m).any()]
        if absent:
            present = ",".join(str(m) for m in np.unique(self.table.magnification))
            unsaid = present == str(ONE_MAGNIFICATION)
            remedy = (
                "it says no magnification: leave --magnifications out" if unsaid else f"it has {present}: pass --magnifications {present}"
            )
            raise DataError(f"magnifications {shortlist(absent)}: the data set {self.name} has no such image; {remedy}")
        return self.select_rows(np.isin(self.table.magnification, magnifications))


MultiMagPatientDataset = Dataset  # its name in the published project


def _rows_of(values: Values | None, rows: np.ndarray) -> Values | None:
    if values is None:
        return None
    return Rows(values.array, values.rows[rows]) if isinstance(values, Rows) else Rows(values, rows)


def same_images(first: str, second: str) -> bool:
    """Whether two fingerprints (CONTENTS-NAMES) are of the same images of the same slides, under whatever file names."""
    return first.partition("-")[0] == second.partition("-")[0]


def same_data(first: str, second: str) -> bool:
    """Whether two fingerprints are of the same data set: the same images of the same slides, under the same names in the same order.

    Where two images of a slide change names, every view is another one. Earlier versions wrote CONTENTS only: such a fingerprint
    says nothing about names.
    """
    names = {fingerprint.partition("-")[2] for fingerprint in (first, second)} - {""}
    return same_images(first, second) and len(names) < 2
