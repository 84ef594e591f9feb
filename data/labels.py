"""Which classes a data set is trained on, and which of two is the positive one."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from data.dataset import Dataset
from data.errors import DataError, shortlist
from data.grammar import BENIGN, SUBTYPES
from data.table import UNKNOWN, PatientTable, same_name

_BENIGN = tuple(SUBTYPES[code] for code in BENIGN)
_MALIGNANT = tuple(name for name in SUBTYPES.values() if name not in _BENIGN)
POSITIVE = (
    *_MALIGNANT,
    "1",
    "malignant",
    "m",
    "true",
    "yes",
    "positive",
    "pos",
    "tumor",
    "tumour",
    "cancer",
    "carcinoma",
    "invasive",
    "idc",
)
NEGATIVE = (*_BENIGN, "0", "benign", "b", "false", "no", "negative", "neg", "normal", "healthy")


def choose_classes(dataset: Dataset, *, label: str = "class", classes: Iterable[str] | None = None, positive: str | None = None) -> Dataset:
    """The data set with its labels as asked for: those of `label` (class or subtype), only images of `classes`, or `positive` against the rest.

    Of two classes the positive one becomes label 1. Names compare without regard to capitals. Raises DataError.
    """
    table, notes = dataset.table, list(dataset.notes)
    names = _names(table, label)
    if label == "subtype" and not all(names.tolist()):
        raise DataError(
            f"--label subtype: {int((names == '').sum())} of {len(names)} images have none, such as {table.path[names == ''][0]}; "
            "fill in the manifest's column subtype, or leave --label out"
        )
    present = sorted(set(names.tolist()) - {""})
    if classes is not None:
        wanted = _named(classes, present, "--classes")
        left_out = ~np.isin(names, wanted)
        if left_out.any():
            notes.append(f"{int(left_out.sum())} images of other classes than {', '.join(wanted)} are left out")
        dataset, names, present = dataset.select_rows(~left_out), names[~left_out], wanted
        table = dataset.table
    if positive is not None:
        chosen = _named(positive.split(","), present, "--positive")
        rest = [name for name in present if name not in chosen]
        if not rest:
            raise DataError(f"--positive {positive}: these are all classes of the data set; name those of one side")
        ordered = [rest[0] if len(rest) == 1 else "other", "+".join(chosen)]
        number = {name: int(name in chosen) for name in present}
    else:
        ordered = present if len(present) != 2 else _two(present)
        number = {name: place for place, name in enumerate(ordered)}
    if len(present) == 1 and positive is None:
        ordered = [f"not {present[0]}", present[0]] if present[0].casefold() in POSITIVE else [present[0], f"not {present[0]}"]
        number = {present[0]: ordered.index(present[0])}
    if len(ordered) == 2 and not {name.casefold() for name in ordered} <= {"0", "1", "benign", "malignant"}:
        notes.append(f"{ordered[1]} is the positive class, {ordered[0]} the negative one")
    values = np.array([number.get(name, UNKNOWN) for name in names.tolist()])
    table = replace(table, label=values, classes=tuple(ordered))
    return replace(dataset, table=table, notes=(*notes, *_of_several(table)))


def as_classes(dataset: Dataset, classes: Sequence[str], label: str = "class") -> Dataset:
    """The data set with the labels of a study's classes, UNKNOWN where a name says none of them: of patients to be predicted.

    `classes` may be such as ("other", "a+b"), see `choose_classes`, as `label` is.
    """
    names = _names(dataset.table, label)
    number: dict[str, int] = {"": UNKNOWN}
    for name in set(names.tolist()) - {""}:
        plain = name.casefold()
        inside = [place for place, known in enumerate(classes) if plain == known.casefold()]
        inside = inside or [place for place, known in enumerate(classes) if plain in known.casefold().split("+")]
        if not inside and classes[0] == "other":
            inside = [0]
        number[name] = inside[0] if inside else UNKNOWN
    values = np.array([number[name] for name in names.tolist()])
    strange = sorted(name for name, value in number.items() if name and value == UNKNOWN)
    told = (f"labels {shortlist(strange)} are none of the study's classes {', '.join(classes)}: taken for unknown",) if strange else ()
    return replace(dataset, table=replace(dataset.table, label=values, classes=tuple(classes)), notes=(*dataset.notes, *told))


def _names(table: PatientTable, label: str) -> np.ndarray:
    """(N,) the class that each image is said to be of, "" where none is."""
    if label == "subtype":
        return np.array([SUBTYPES.get(name, name) for name in table.subtype.tolist()])
    return np.array([*table.classes, ""])[table.label]


def _named(wanted: Iterable[str], present: list[str], flag: str) -> list[str]:
    by_name = {name.casefold(): name for name in present}
    by_name |= {code.casefold(): name for code, name in SUBTYPES.items() if name in present}  # BreakHis's own codes
    asked = [same_name(name).strip() for name in wanted]
    if unknown := [name for name in asked if name.casefold() not in by_name]:
        raise DataError(f"{flag} {shortlist(unknown)}: the data set has the classes {shortlist(present, 10)}; name some of them")
    return list(dict.fromkeys(by_name[name.casefold()] for name in asked))


def _two(names: list[str]) -> list[str]:
    """The negative and the positive one."""
    positive = [name for name in names if name.casefold() in POSITIVE]
    negative = [name for name in names if name.casefold() in NEGATIVE]
    if len(positive) + len(negative) == 1 and len((positive or negative)[0]) == 1:  # 1 of 1 and 2, M of M and F: nobody can know
        positive = negative = []
    if len(positive) == 1:
        return [next(name for name in names if name != positive[0]), positive[0]]
    if len(negative) == 1 and not positive:
        return [negative[0], next(name for name in names if name != negative[0])]
    raise DataError(f"labels {' and '.join(names)}: expected two of which one is known as positive; say which, as --positive {names[0]}")


def _of_several(table: PatientTable) -> list[str]:
    """A note of the patients whose images are of several classes."""
    pairs = np.unique(np.stack([np.unique(table.patient, return_inverse=True)[1], table.label]), axis=1)
    numbers, counts = np.unique(pairs[0], return_counts=True)
    several = np.unique(table.patient)[numbers[counts > 1]].tolist()
    return [f"{len(several)} patients have images of more than one class ({shortlist(several)}); no split divides them"] if several else []
