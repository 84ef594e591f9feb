"""Splits that others made: JSON, a table of patients and folds, BreakHis's own lists and Kaggle's, a tree of train and test folders.

Names may be of patients or of slides, with `-` or `_`, in any Unicode form. What becomes of them is checked by `data.splits.check_splits`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.errors import DataError, LeakageError, shortlist
from data.grammar import parse
from data.splits import Splits
from data.table import GROUPINGS, PatientTable, same_name

EXPECTED = 'JSON {"folds": [[patient, …], …], "test": [patient, …], "grouping": "patient"}'
TABLES = "a table with patient,fold, a list such as dsfold1.txt, Kaggle's Folds.csv with its number (Folds.csv:1), a folder with train/ and test/"


def read_splits(source: str, table: PatientTable, grouping: str) -> Splits:
    """Raises DataError where a source is none of these, LeakageError where a patient stands in its train and its test."""
    path = Path(source).expanduser()
    number = None
    if not path.exists() and (parts := source.rpartition(":"))[2].isdecimal():
        path, number = Path(parts[0]).expanduser(), parts[2]
    try:
        if path.is_dir():
            if (path / "train").is_dir() and (path / "test").is_dir():
                return _tested(source, {part: _files_of(path / part) for part in ("train", "test")}, table, grouping)
            raise IsADirectoryError(21, "Is a directory without train/ and test/")
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".txt":
            return _tested(source, _listed(line.split("|") for line in text.splitlines() if line.strip()), table, grouping)
        if path.suffix == ".csv":
            return _from_table(source, path, number, table, grouping)
        content = json.loads(text)
        content = {"folds": content} if content and isinstance(content, list) else content.get("splits", content)
        folds, test = [_names(fold) for fold in content["folds"]], _names(content.get("test", []))
        said, grouping = content.get("source", ""), content.get("grouping", "patient")
        grouping = "patient" if grouping == "case" else grouping  # as earlier versions wrote
        if not folds or not isinstance(said, str):
            raise ValueError(f"{len(folds)} folds, source {said!r}")
        if grouping not in GROUPINGS:
            raise DataError(f"splits {source}: grouping {grouping!r}: expected one of {', '.join(GROUPINGS)}")
    except OSError as error:
        raise DataError(f"splits {source}: cannot read it: {error.strerror}; pass a file, or official:1 to official:5") from error
    except (DataError, LeakageError):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"splits {source}: expected {EXPECTED}, {TABLES}; got {error!r}") from error
    slides = _Slides(table)
    # what may leak is decided by what it is
    return Splits(tuple(map(slides.of, folds)), slides.of(test), grouping, said if said.startswith("official:") else source)


class _Slides:
    """Which slides of a table a name means: its own, or all of a patient."""

    def __init__(self, table: PatientTable):
        self._of: dict[str, list[str]] = defaultdict(list)
        for slide, patient in table.of_slides("patient").items():
            self._of[_plain(str(patient))].append(slide)
        self._of |= {_plain(slide): [slide] for slide in table.slides().tolist()}

    def of(self, names: Iterable[str]) -> tuple[str, ...]:
        return tuple(slide for name in names for slide in self._of.get(_plain(name), [name]))


def _plain(name: str) -> str:
    return same_name(name).strip().replace("-", "_")


def _names(patients: Any) -> list[str]:
    if not isinstance(patients, list) or not all(isinstance(name, str | int) for name in patients):
        raise TypeError(f"{patients!r} is no list of patients")
    return list(map(str, patients))


def _files_of(folder: Path) -> set[str]:
    """The slides whose images lie below a folder."""
    return {parse(same_name(file.name)).slide for file in folder.rglob("SOB_*")}


def _listed(rows: Iterable[list[str]]) -> dict[str, set[str]]:
    """{part: slides} of rows FILE | magnification | fold | part, as BreakHis's dsfold lists have them."""
    parts: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in rows:
        parts[row[-1].strip().lower()].add(parse(same_name(row[0].strip().rpartition("/")[2])).slide)
    return parts


def _tested(source: str, parts: dict[str, set[str]], table: PatientTable, grouping: str) -> Splits:
    """The tested slides of this table are the sealed test; the others are still to be dealt into folds."""
    both = sorted(parts["train"] & parts["test"])
    if both:
        raise LeakageError(
            f"splits {source}: {shortlist(both)} in train and in test; expected every slide in one (of BreakHis's own folds: --splits official:1)"
        )
    here = set(table.slides().tolist())
    return Splits((), tuple(sorted(parts["test"] & here)), grouping, source)


def _from_table(source: str, path: Path, number: str | None, table: PatientTable, grouping: str) -> Splits:
    from data.manifest import read_table  # with pandas, which nothing else needs

    rows = read_table(path)
    if {"fold", "grp", "filename"} <= set(rows):  # Kaggle's: five partitions in one file
        numbers = sorted(set(rows["fold"]))
        if number not in numbers:
            raise DataError(f"splits {source}: it holds the folds {', '.join(numbers)}; say which one, as {path}:{numbers[0]}")
        chosen = rows[rows["fold"] == number]
        return _tested(source, _listed(map(list, zip(chosen["filename"], chosen["grp"], strict=True))), table, grouping)
    name = next((column for column in ("patient", "slide", "case") if column in rows), None)
    if name is None or "fold" not in rows:
        raise DataError(f"splits {source}: columns {list(rows)}; expected patient,fold, one line a patient, test for who is sealed")
    folds: dict[str, list[str]] = defaultdict(list)
    for patient, fold in zip(rows[name], rows["fold"].str.strip().str.lower(), strict=True):
        folds[fold].append(patient)
    test = folds.pop("test", [])
    slides = _Slides(table)
    ordered = sorted(folds, key=lambda fold: (len(fold), fold))
    return Splits(tuple(slides.of(folds[fold]) for fold in ordered), slides.of(test), grouping, source)
