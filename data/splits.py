"""Who is trained on, who judges, who is sealed: made once per study, written with it, checked on every load.

A split lists patients (slide folders). `grouping` says what must stay together: the case (default), or only the slide
folder, which is how most of the literature splits and which leaks the cases that `case_leaks` lists.
"""

import csv
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data.errors import DataError, LeakageError, shortlist
from data.table import PatientTable

DEALS = 32  # partitions of one seed, of which the one with the most even numbers of images is taken
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

    Every group counts once, so stratification is over groups: each fold's class ratio is off by less than one group. Of `DEALS`
    such partitions the first is taken whose numbers of images of each class are the most even, also between test and folds.
    Raises DataError when a class has too few groups to stand in the test and in every fold.
    """
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit  # it takes a second to import, a stored split needs it not

    group_of = table.groups(grouping)
    label_of = table.of_patients("label")
    label_of_group = {group: label_of[patient] for patient, group in group_of.items()}
    names = np.array(sorted(label_of_group))
    labels = np.array([label_of_group[name] for name in names.tolist()])
    images_of = Counter(group_of[patient] for patient in table.patient.tolist())
    images = np.array([images_of[name] for name in names.tolist()])
    _require_groups(labels, folds, test_fraction, grouping)

    sealed = np.zeros(len(names), dtype=bool)
    if test_fraction:
        test_size = min(max(round(test_fraction * len(names)), 2), len(names) - 2)
        drawn = StratifiedShuffleSplit(DEALS, test_size=test_size, random_state=seed).split(labels, labels)
        sealed = min(
            (np.isin(np.arange(len(labels)), test) for _, test in drawn),
            key=lambda part: max(_unevenness(part[labels == label].astype(int), images[labels == label]) for label in (0, 1)),
        )
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
    generator, deals = np.random.RandomState(seed), []
    for _ in range(DEALS):
        deals.append(np.empty(len(open_labels), dtype=int))
        for number, (_, fold) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=generator).split(open_labels, open_labels)):
            deals[-1][fold] = number
    dealt = np.empty(len(open_labels), dtype=int)
    for label in (0, 1):  # every deal gives a fold as many groups of a class
        here = open_labels == label
        dealt[here] = min((deal[here] for deal in deals), key=lambda part: _unevenness(part, images[~sealed][here]))
    parts = [frozenset(open_names[dealt == fold].tolist()) for fold in range(folds)]

    def members(groups: frozenset[str]) -> tuple[str, ...]:
        return tuple(patient for patient in sorted(group_of) if group_of[patient] in groups)

    return Splits(tuple(members(part) for part in parts), members(frozenset(names[sealed].tolist())), grouping, "generated")


def _unevenness(part: np.ndarray, images: np.ndarray) -> float:
    """Of groups of one class in parts (G,): how far the mean number of images (G,) of a group is off in the worst part, as a log ratio."""
    groups, shown = np.bincount(part), np.bincount(part, weights=images)
    return round(float(np.abs(np.log(shown[groups > 0] / groups[groups > 0] / images.mean())).max()), 9)


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

    Cases may stand on both sides only where that is the definition: slide grouping, and the test of an official fold. A fold of one
    person is of one class, which is no error where the others are of both (leave one patient out): its own metrics stay blank.
    Raises LeakageError or DataError naming the offenders.
    """
    table.groups(splits.grouping)  # an unknown grouping would excuse every leak
    placed = [*splits.development(), *splits.test]
    repeated = sorted(patient for patient, count in Counter(placed).items() if count > 1)
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
    case_of = table.of_patients("case")
    in_folds = [{label_of[patient] for patient in fold} for fold in splits.folds]
    for number, (name, part) in enumerate([*((f"fold {n + 1}", fold) for n, fold in enumerate(splits.folds)), ("test", splits.test)]):
        classes = {label_of[patient] for patient in part}
        others = set[object]().union(*in_folds[:number], *in_folds[number + 1 :])
        alone = name != "test" and len({case_of[patient] for patient in part}) == 1 and len(others) > 1
        if len(classes) < 2 and (part or name != "test") and not alone:
            raise DataError(f"splits {splits.source}: {name} holds one class only ({len(part)} patients); expected benign and malignant")
    if len(splits.folds) < 2:
        raise DataError(f"splits {splits.source}: {len(splits.folds)} folds; expected at least 2")


def build_splits(table: PatientTable, source: str | None, *, folds: int, test_fraction: float, grouping: str, seed: int) -> Splits:
    """Splits from a source (None: generate; official:N; a file, see `data.split_files`), held against the table.

    A source that says only who is tested leaves the others to be dealt into folds, as the official ones do.
    """
    if source is None:
        splits = make_splits(table, folds=folds, test_fraction=test_fraction, grouping=grouping, seed=seed)
    elif source.startswith("official:"):
        splits = official_splits(table, source, folds=folds, grouping=grouping, seed=seed)
    else:
        from data.split_files import read_splits

        splits = read_splits(source, table, grouping)
        if not splits.folds:
            open_to_all = table.select(~np.isin(table.patient, splits.test))
            inner = make_splits(open_to_all, folds=folds, test_fraction=0.0, grouping=grouping, seed=seed)
            splits = replace(splits, folds=inner.folds)
    check_splits(splits, table)
    return splits
