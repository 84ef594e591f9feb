"""Views: one image of each magnification of one slide. Drawn afresh each training epoch, fixed for evaluation."""

from typing import NamedTuple

import numpy as np

from data.table import PatientTable

MISSING = -1  # row index of a magnification that the slide does not have
BALANCES = ("none", "class", "patient", "class_patient")


class Views(NamedTuple):
    """V views over M magnifications."""

    rows: np.ndarray  # (V, M) int64, row of the table, MISSING where the slide has no such image
    slide: np.ndarray  # (V,) int64, index into `ViewIndex.slides`

    @property
    def mask(self) -> np.ndarray:
        """(V, M) bool, True where there is an image."""
        return self.rows != MISSING


class ViewIndex:
    """Which rows each slide has at each magnification, and the views made of them."""

    def __init__(self, table: PatientTable, magnifications: tuple[int, ...]):
        shown = np.flatnonzero(np.isin(table.magnification, magnifications))
        # (S,) str: a slide without an image at these magnifications has nothing to show
        self.slides, first, number = np.unique(table.slide[shown], return_index=True, return_inverse=True)
        self.label = table.label[shown][first]  # (S,)
        self.patient = np.unique(table.patient[shown][first], return_inverse=True)[1]  # (S,) number of the slide's patient
        cell = number * len(magnifications) + np.searchsorted(magnifications, table.magnification[shown])
        order, cells = np.argsort(cell, kind="stable"), np.arange(len(self.slides) * len(magnifications) + 1)
        pieces = np.split(shown[order], np.searchsorted(cell[order], cells)[1:-1])
        self._rows = [pieces[place : place + len(magnifications)] for place in range(0, len(pieces), len(magnifications))]
        # adaptive: as many views as it takes to show every image once
        self.images = np.array([max(len(rows) for rows in of_slide) for of_slide in self._rows])  # (S,)

    def natural(self, per_slide: int | None) -> np.ndarray:
        """(S,) training views of each slide in an epoch before balancing: `per_slide`, None for adaptive."""
        return self.images if per_slide is None else np.full(len(self.slides), per_slide)

    def evaluation(self, slides: np.ndarray) -> Views:
        """The fixed views of some slides: view j shows image j (mod how many there are) of each magnification."""
        return self._assemble(slides, self.images[slides], rng=None)

    def training(self, slides: np.ndarray, *, balance: str, per_slide: int | None, rng: np.random.Generator) -> Views:
        """One epoch's views in random order.

        `per_slide`: views of a slide before balancing, None for adaptive. `balance` redistributes their total:
        equally over classes, over patients, or over classes and the patients in them. Within a slide images are
        drawn without replacement until all were shown.
        """
        counts = balanced_counts(self.natural(per_slide)[slides], self.label[slides], self.patient[slides], balance, rng)
        views = self._assemble(slides, counts, rng)
        order = rng.permutation(len(views.rows))
        return Views(views.rows[order], views.slide[order])

    def _assemble(self, slides: np.ndarray, counts: np.ndarray, rng: np.random.Generator | None) -> Views:
        columns = []
        for slide, count in zip(slides.tolist(), counts.tolist(), strict=True):
            columns.append(np.stack([_cycle(rows, count, rng) for rows in self._rows[slide]], axis=1))
        return Views(np.concatenate(columns), np.repeat(slides, counts))


def _cycle(rows: np.ndarray, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """(count,) rows: round after round of all of them, each round in a new order (in table order without a generator)."""
    if len(rows) == 0:
        return np.full(count, MISSING)
    rounds = -(-count // len(rows))
    if rng is None:
        return np.tile(rows, rounds)[:count]
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)] or [rows])[:count]


def hide(rows: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """rows (V, M) with each image hidden (MISSING) with probability `share`, but never the last one of a view.

    Which one stays where all would go is drawn as well.
    """
    there = rows != MISSING
    hidden = there & (rng.random(rows.shape) < share)
    stays = np.where(there, rng.random(rows.shape), -1).argmax(1)
    hidden[np.arange(len(rows)), stays] &= ~(hidden == there).all(1)
    return np.where(hidden, MISSING, rows)


def balanced_counts(natural: np.ndarray, label: np.ndarray, patient: np.ndarray, balance: str, rng: np.random.Generator) -> np.ndarray:
    """(S,) views per slide: their total stays, their shares follow `balance`; fractions are rounded at random.

    A patient's share, where patients are balanced, is divided evenly among its slides of a class.
    """
    if balance == "none":
        return natural
    alike = np.unique(np.stack([patient, label if balance == "class_patient" else np.zeros_like(label)]), axis=1, return_inverse=True)[1]
    weight = natural.astype(float) if balance == "class" else 1 / np.bincount(alike)[alike]
    if balance != "patient":
        for value in np.unique(label):
            weight[label == value] /= weight[label == value].sum()
    share = natural.sum() * weight / weight.sum()
    return np.floor(share + rng.random(len(share))).astype(int)
