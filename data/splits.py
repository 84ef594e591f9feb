"""Who is trained on, who judges, who is sealed: made once per study, written with it, checked on every load.

A split lists patients (slide folders). `grouping` says what must stay together: the case (default), or only the slide
folder, which is how most of the literature splits and which leaks the cases that `case_leaks` lists.
"""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError, LeakageError, shortlist
from data.stratified import deal_folds, draw_sealed
from data.table import GROUPINGS, PatientTable

OFFICIAL_FOLDS = Path(__file__).with_name("official_folds.csv")


@dataclass(frozen=True)
class Splits:
    """Patients of each fold and of the sealed test; fold f is judged by a model trained on the other folds."""

    folds: tuple[tuple[str, ...], ...]
    test: tuple[str, ...]
    grouping: str
    source: str  # "generated", "official:N" or the file it was read from

    def fold_of(self) -> dict[str, int]:
        """{patient: fold} of the patients that are not sealed."""
        return {patient: number for number, fold in enumerate(self.folds) for patient in fold}

    def development(self) -> tuple[str, ...]:
        """Every patient that the search may see."""
        return tuple(patient for fold in self.folds for patient in fold)

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(stored: dict) -> "Splits":
        return Splits(tuple(map(tuple, stored["folds"])), tuple(stored["test"]), stored["grouping"], stored["source"])


def make_splits(table: PatientTable, *, folds: int, test_fraction: float, grouping: str, seed: int) -> Splits:
    """Seal `test_fraction` of the groups, stratified by class, and deal the rest into stratified folds.

    Every group counts once, so stratification is over groups: each fold's class ratio is off by less than one group.
    Raises DataError when a class has too few groups to stand in the test and in every fold.
    """
    group_of = table.groups(grouping)
    label_of = table.of_patients("label")
    label_of_group = {group: label_of[patient] for patient, group in group_of.items()}
    names = np.array(sorted(label_of_group))
    labels = np.array([label_of_group[name] for name in names.tolist()])
    _require_groups(labels, folds, test_fraction, grouping)

    sealed = np.zeros(len(names), dtype=bool)
    if test_fraction:
        test_size = min(max(round(test_fraction * len(names)), 2), len(names) - 2)
        sealed = draw_sealed(labels, test_size, seed)
        for label, kind in ((0, "benign"), (1, "malignant")):
            left = int((labels[~sealed] == label).sum())
            if left == int((labels == label).sum()):
                raise DataError(
                    f"no {kind} {grouping} among the {int(sealed.sum())} that --test-fraction {test_fraction:g} seals: expected both classes; "
                    "raise --test-fraction, or set it to 0"
                )
            if left < folds:
                raise DataError(
                    f"{left} {kind} {grouping}s are left for {folds} folds after {int(sealed.sum())} are sealed: "
                    "expected at least one a fold; lower --folds or --test-fraction"
                )
    open_names, open_labels = names[~sealed], labels[~sealed]
    dealt = deal_folds(open_labels, folds, seed)
    parts = [frozenset(open_names[dealt == fold].tolist()) for fold in range(folds)]

    def members(groups: frozenset[str]) -> tuple[str, ...]:
        return tuple(patient for patient in sorted(group_of) if group_of[patient] in groups)

    return Splits(tuple(members(part) for part in parts), members(frozenset(names[sealed].tolist())), grouping, "generated")


def _require_groups(labels: np.ndarray, folds: int, test_fraction: float, grouping: str) -> None:
    needed = folds + bool(test_fraction)
    for label, kind in ((0, "benign"), (1, "malignant")):
        have = int((labels == label).sum())
        if have < needed:
            raise DataError(
                f"{have} {kind} {grouping}s for {folds} folds{' and a sealed test' if test_fraction else ''}: expected at "
                f"least {needed}, so that both classes stand in every part; lower --folds, set --test-fraction 0, or add data"
            )


def official_splits(table: PatientTable, source: str, *, folds: int, grouping: str, seed: int) -> Splits:
    """The published BreakHis fold official:1 to official:5: its test patients are the sealed test, its train patients are cross-validated.

    Spanhol's five folds keep slide folders together, not cases: `case_leaks` lists the cases on both sides.
    """
    test = _official_test(source, table.patients().tolist())
    inner = make_splits(table.select(~np.isin(table.patient, test)), folds=folds, test_fraction=0.0, grouping=grouping, seed=seed)
    return Splits(inner.folds, test, grouping, source)


def _official_test(source: str, patients: list[str]) -> tuple[str, ...]:
    """The patients, out of those given, that the official fold tests on."""
    number = source.removeprefix("official:")
    if number not in ("1", "2", "3", "4", "5"):
        raise DataError(f"splits {source}: expected official:1 to official:5")
    with OFFICIAL_FOLDS.open() as file:
        test_in = {row["patient"]: row["test_in"] for row in csv.DictReader(file)}
    unknown = [patient for patient in patients if patient not in test_in]
    if unknown:
        raise DataError(f"splits {source}: {shortlist(unknown)} not in the official folds; they only cover BreakHis: leave --splits out")
    return tuple(patient for patient in patients if number in test_in[patient])


def nested_splits(table: PatientTable, outer: int, *, folds: int, grouping: str, seed: int) -> tuple[Splits, ...]:
    """Nested cross-validation: `outer` splits, each with one outer fold as its test and the rest dealt into `folds` inner folds.

    Every patient of the table is the test of exactly one of them. Raises DataError when a class has too few groups.
    """
    around = make_splits(table, folds=outer, test_fraction=0.0, grouping=grouping, seed=seed)
    nested = []
    for number, test in enumerate(around.folds, start=1):
        rest = table.select(~np.isin(table.patient, test))
        inner = make_splits(rest, folds=folds, test_fraction=0.0, grouping=grouping, seed=seed)
        nested.append(Splits(inner.folds, test, grouping, f"nested {number} of {outer}"))
    return tuple(nested)


def case_leaks(splits: Splits, table: PatientTable) -> dict[str, tuple[str, ...]]:
    """{case: the parts that hold it} of every case that stands in more than one part."""
    part_of = {patient: f"fold {number + 1}" for patient, number in splits.fold_of().items()}
    part_of |= dict.fromkeys(splits.test, "test")
    parts: dict[str, set[str]] = {}
    for patient, case in table.of_patients("case").items():
        parts.setdefault(str(case), set()).add(part_of[patient])
    return {case: tuple(sorted(held)) for case, held in sorted(parts.items()) if len(held) > 1}


def check_splits(splits: Splits, table: PatientTable) -> None:
    """Hold a split against the data: every patient in exactly one part, cases disjoint, both classes in every part.

    Cases may stand on both sides only where that is the definition: slide grouping, and the test of an official fold.
    Raises LeakageError or DataError naming the offenders.
    """
    table.groups(splits.grouping)  # an unknown grouping would excuse every leak
    placed = [*splits.development(), *splits.test]
    repeated = sorted({patient for patient in placed if placed.count(patient) > 1})
    if repeated:
        raise LeakageError(f"splits {splits.source}: {shortlist(repeated)} listed more than once; expected every patient in one part")
    patients = set(table.patients().tolist())
    missing, unknown = sorted(patients - set(placed)), sorted(set(placed) - patients)
    if missing or unknown:
        raise DataError(
            f"splits {splits.source} do not fit the data: not in the splits: [{shortlist(missing)}], "
            f"not in the data: [{shortlist(unknown)}]; use the data set that the splits were made for, or make new ones"
        )
    leaks = case_leaks(splits, table)
    if splits.source.startswith("official:"):
        if set(splits.test) != set(_official_test(splits.source, sorted(patients))):
            raise LeakageError(f"splits {splits.source}: the test patients are not those of that official fold; make them again")
        folds_only = {case: tuple(part for part in parts if part != "test") for case, parts in leaks.items()}
        leaks = {case: parts for case, parts in folds_only.items() if len(parts) > 1}
    if leaks and splits.grouping == "case":
        listed = shortlist([f"{case} ({', '.join(parts)})" for case, parts in leaks.items()])
        raise LeakageError(f"splits {splits.source}: case {listed} on both sides; keep each case in one part, or say --grouping slide")
    label_of = table.of_patients("label")
    for name, part in [(f"fold {n + 1}", fold) for n, fold in enumerate(splits.folds)] + [("test", splits.test)]:
        classes = {label_of[patient] for patient in part}
        if len(classes) < 2 and (part or name != "test"):
            raise DataError(f"splits {splits.source}: {name} holds one class only ({len(part)} patients); expected benign and malignant")
    if len(splits.folds) < 2:
        raise DataError(f"splits {splits.source}: {len(splits.folds)} folds; expected at least 2")


def read_splits(path: str | Path) -> Splits:
    """Read splits from a JSON file, or from the study.json of an earlier study. Raises DataError when it is neither."""
    path = Path(path).expanduser()
    try:
        content = json.loads(path.read_text())
        content = content.get("splits", content)
        folds = tuple(_names(fold) for fold in content["folds"])
        source, grouping = content.get("source", ""), content.get("grouping", "case")
        if grouping not in GROUPINGS:
            raise DataError(f"splits {path}: grouping {grouping!r}: expected one of {', '.join(GROUPINGS)}")
        return Splits(
            folds,
            _names(content.get("test", [])),
            grouping,
            source if source.startswith("official:") else str(path),  # what may leak is decided by what it is
        )
    except OSError as error:
        raise DataError(f"splits {path}: cannot read it: {error.strerror}; pass a file, or official:1 to official:5") from error
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f'splits {path}: expected JSON {{"folds": [[patient, …], …], "test": [patient, …], "grouping": "case"}}, got {error!r}'
        ) from error


def _names(patients: list) -> tuple[str, ...]:
    if not isinstance(patients, list) or not all(isinstance(name, str | int) for name in patients):
        raise TypeError(f"{patients!r} is no list of patients")
    return tuple(map(str, patients))


def build_splits(table: PatientTable, source: str | None, *, folds: int, test_fraction: float, grouping: str, seed: int) -> Splits:
    """Splits from a source (None: generate; official:N; a file), held against the table."""
    if source is None:
        splits = make_splits(table, folds=folds, test_fraction=test_fraction, grouping=grouping, seed=seed)
    elif source.startswith("official:"):
        splits = official_splits(table, source, folds=folds, grouping=grouping, seed=seed)
    else:
        splits = read_splits(source)
    check_splits(splits, table)
    return splits
