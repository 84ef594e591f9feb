"""Splits that others made: JSON, a table of patients and folds, BreakHis's own lists and Kaggle's, a tree of train and test folders.

Names may be of patients or of slides, with `-` or `_`, in any Unicode form. What becomes of them is checked by `data.splits.check_splits`.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.errors import DataError, LeakageError, shortlist
from data.grammar import parse
from data.splits import Splits
from data.table import GROUPINGS, PatientTable, same_name

EXPECTED = 'JSON {"folds": [[patient, …], …], "test": [patient, …], "grouping": "patient"}'
TEST = ("test", "testing", "holdout", "hold-out", "heldout", "held-out", "sealed")
TRAIN = ("train", "training", "val", "valid", "validation")  # who are dealt into folds here
WHOLE = r"(?<=[0-9])\.0+$"  # as a column of numbers is written that has an empty cell
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
                trees = {"test": _files_of(path / "test"), "train": set().union(*(_files_of(path / part) for part in TRAIN))}
                return _tested(source, trees, table, grouping)
            raise IsADirectoryError(21, "Is a directory without train/ and test/")
        if path.suffix.lower() in (".csv", ".tsv"):
            return _from_table(source, path, number, table, grouping)
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix.lower() == ".txt":
            return _tested(source, _listed(line.split("|") for line in text.splitlines() if line.strip()), table, grouping)
        content = json.loads(text)
        content = {"folds": content} if content and isinstance(content, list) else content.get("splits", content)
        folds, test = [_names(fold) for fold in content["folds"]], _names(content.get("test", []))
        said, grouping = content.get("source", ""), content.get("grouping", grouping)
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
    slides = _Slides(table, source)
    # what may leak is decided by what it is
    return Splits(tuple(map(slides.of, folds)), slides.of(test), grouping, said if said.startswith("official:") else source)


class _Slides:
    """Which slides of a table a name means: its own, or all of a patient. `column`: patient or slide, where one is said."""

    def __init__(self, table: PatientTable, source: str, column: str | None = None):
        patients: dict[str, list[str]] = defaultdict(list)
        for slide, patient in table.of_slides("patient").items():
            patients[str(patient)].append(slide)
        slides = {slide: [slide] for slide in table.slides().tolist()}
        first, then = (patients, slides) if column == "patient" else (slides, patients)
        self._of = {**_spelled(then), **_spelled(first), **then, **first}
        self._either = set() if column else {name for name in patients if slides.get(name, patients[name]) != patients[name]}
        self._source = source

    def of(self, names: Iterable[str]) -> tuple[str, ...]:
        """Raises DataError where a name may mean two things."""
        names = list(names)
        if doubtful := sorted(self._either.intersection(names)):
            raise DataError(
                f"splits {self._source}: {shortlist(doubtful)} may be a patient, or a slide of another; say which in a table with the column "
                "patient or slide, and fold"
            )
        return tuple(slide for name in names for slide in self._of.get(same_name(name), self._of.get(_plain(name), [name])))


def _spelled(known: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same by one spelling of each name, where it is of one only."""
    names = Counter(map(_plain, known))
    return {_plain(name): slides for name, slides in known.items() if names[_plain(name)] == 1}


def _plain(name: str) -> str:
    return same_name(name).strip().replace("-", "_")


def _names(patients: Any) -> list[str]:
    if not isinstance(patients, list) or not all(isinstance(name, str | int) for name in patients):
        raise TypeError(f"{patients!r} is no list of patients")
    return list(map(str, patients))


def _files_of(folder: Path) -> set[str]:
    """The slides whose images lie below a folder."""
    return {parse(same_name(file.name)).slide for file in folder.rglob("SOB_*") if not file.is_dir()}


def _listed(rows: Iterable[list[str]]) -> dict[str, set[str]]:
    """{part: slides} of rows FILE | magnification | fold | part, as BreakHis's dsfold lists have them."""
    parts: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in rows:
        part = row[-1].strip().lower()
        name = row[0].strip().replace("\\", "/").rpartition("/")[2]
        parts["train" if part in TRAIN else "test" if part in TEST else part].add(parse(same_name(name)).slide)
    return parts


def _tested(source: str, parts: dict[str, set[str]], table: PatientTable, grouping: str) -> Splits:
    """The tested slides of this table are the sealed test; the others are still to be dealt into folds."""
    both = sorted(parts["train"] & parts["test"])
    if both:
        raise LeakageError(
            f"splits {source}: {shortlist(both)} in train and in test; expected every slide in one (of BreakHis's own folds: --splits official:1)"
        )
    here = set(table.slides().tolist())
    tested = parts["test"] & here
    if not tested or here - tested - parts["train"]:
        listed = (
            f"none of its {len(parts['test'])} test slides is in the data"
            if not tested
            else f"{shortlist(sorted(here - tested - parts['train']))} not in it"
        )
        raise DataError(f"splits {source} do not fit the data: {listed}; use the data set that they were made for")
    return Splits((), tuple(sorted(tested)), grouping, source)


def _from_table(source: str, path: Path, number: str | None, table: PatientTable, grouping: str) -> Splits:
    from data.manifest import read_table  # with pandas, which nothing else needs

    rows = read_table(path)
    if {"fold", "grp", "filename"} <= set(rows):  # Kaggle's: five partitions in one file
        rows["fold"] = rows["fold"].str.replace(WHOLE, "", regex=True)
        numbers = sorted(set(rows["fold"]))
        if number not in numbers:
            raise DataError(f"splits {source}: it holds the folds {', '.join(numbers)}; say which one, as {path}:{numbers[0]}")
        chosen = rows[rows["fold"] == number]
        return _tested(source, _listed(map(list, zip(chosen["filename"], chosen["grp"], strict=True))), table, grouping)
    name = next((column for column in ("patient", "slide", "case") if column in rows), None)
    if name is None or "fold" not in rows:
        raise DataError(f"splits {source}: columns {list(rows)}; expected patient,fold, one line a patient, test for who is sealed")
    folds: dict[str, dict[str, None]] = defaultdict(dict)  # a line an image is as good as a line a patient
    values = rows["fold"].str.strip().str.lower().str.replace(WHOLE, "", regex=True)
    for line, patient, fold in zip(rows.index, rows[name].str.strip().str.replace(WHOLE, "", regex=True), values, strict=True):
        part = "test" if fold in TEST else "train" if fold in TRAIN else fold
        known = re.fullmatch(r"(?:fold[ _-]?)?([0-9]+|[a-z])", part)
        if part not in ("test", "train") and not known:
            raise DataError(f"splits {source}, line {line}: fold {fold!r}: expected a number, or test for who is sealed")
        folds[known[1] if known else part][patient] = None
    test, train = folds.pop("test", {}), folds.pop("train", {})
    if train and folds:
        raise DataError(
            f"splits {source}: fold is {next(iter(folds))} and train or val; expected a number for each patient that is not in test"
        )
    slides = _Slides(table, source, "slide" if name == "slide" else "patient")
    if train:
        return _tested(source, {"train": set(slides.of(train)), "test": set(slides.of(test))}, table, grouping)
    ordered = sorted(folds, key=lambda fold: (len(fold), fold))
    return Splits(tuple(slides.of(folds[fold]) for fold in ordered), slides.of(test), grouping, source)
