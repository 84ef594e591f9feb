"""A data set ready for training: the patient table and, row by row, its pixels or its frozen features."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from data.errors import DataError, shortlist
from data.table import PatientTable


@dataclass(frozen=True)
class Dataset:
    """Pixels are read-only and may be memory-mapped; `features` replaces them where a frozen backbone ran already."""

    table: PatientTable
    images: np.ndarray | None  # (N, S, S, 3) uint8 RGB
    fingerprint: str  # see `same_data`; the same on every machine and at every image size
    name: str
    synthetic: bool = False
    features: np.ndarray | None = None  # (N, C, H, W) float16
    skipped: Mapping[str, str] = field(default_factory=dict)  # {path: reason} of files that were left out as bad
    notes: tuple[str, ...] = ()  # what was understood rather than read, or looks wrong: told once

    def select_rows(self, rows: np.ndarray) -> "Dataset":
        """Only these rows (boolean mask or index); what is left out can no longer be read through the result."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        if len(rows) == len(self.table) and np.array_equal(rows, np.arange(len(rows))):
            return self
        return replace(
            self,
            table=self.table.select(rows),
            images=None if self.images is None else self.images[rows],
            features=None if self.features is None else self.features[rows],
        )

    def select_patients(self, patients: list[str] | tuple[str, ...]) -> "Dataset":
        """Only these patients."""
        return self.select_rows(np.isin(self.table.patient, list(patients)))

    def select_magnifications(self, magnifications: tuple[int, ...]) -> "Dataset":
        """Only these magnifications. Raises DataError when one of them has no image at all."""
        absent = [str(m) for m in magnifications if not (self.table.magnification == m).any()]
        if absent:
            present = ",".join(str(m) for m in np.unique(self.table.magnification))
            raise DataError(
                f"magnifications {shortlist(absent)}: the data set {self.name} has no such image; "
                f"it has {present}: pass --magnifications {present}"
            )
        return self.select_rows(np.isin(self.table.magnification, magnifications))


def same_images(first: str, second: str) -> bool:
    """Whether two fingerprints (CONTENTS-NAMES) are of the same images of the same patients, under whatever file names."""
    return first.partition("-")[0] == second.partition("-")[0]


def same_data(first: str, second: str) -> bool:
    """Whether two fingerprints are of the same data set: the same images of the same patients, under the same names in the same order.

    Where two images of a patient change names, every view is another one. Earlier versions wrote CONTENTS only: such a fingerprint
    says nothing about names.
    """
    names = {fingerprint.partition("-")[2] for fingerprint in (first, second)} - {""}
    return same_images(first, second) and len(names) < 2
