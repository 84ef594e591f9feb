"""Which slides are trained on, which evaluate, which are sealed: made once per study, written with it, checked on every load.

A split lists slides. `grouping` says what must stay together: the patient (default), or only the slide, which is how most of the
literature splits and which leaks the patients that `patient_leaks` lists.
"""

import csv
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data.errors import DataError, LeakageError, shortlist
from data.table import PatientTable

DEALS = 32  # partitions of one seed, of which the one with the most even numbers of images is taken
OFFICIAL_FOLDS = Path(__file__).with_name("official_folds.csv")


@dataclass(frozen=True)
class Splits:
    """Slides of each fold and of the sealed test; fold f is predicted by a model trained on the other folds."""

    folds: tuple[tuple[str, ...], ...]
    test: tuple[str, ...]
    grouping: str
    source: str  # "generated", "official:N" or the file it was read from

    def fold_of(self) -> dict[str, int]:
        """{slide: fold} of the slides that are not sealed."""
        return {slide: number for number, fold in enumerate(self.folds) for slide in fold}

    def development(self) -> tuple[str, ...]:
        """Every slide that the search may see."""
        return tuple(slide for fold in self.folds for slide in fold)

    def to_json(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_json(stored: dict) -> "Splits":
        return Splits(tuple(map(tuple, stored["folds"])), tuple(stored["test"]), stored["grouping"], stored["source"])


def make_splits(table: PatientTable, *, folds: int, test_fraction: float, grouping: str, seed: int) -> Splits:
    """Seal `test_fraction` of the groups, stratified by class, and deal the rest into stratified folds.

    Every group counts once, so stratification is over groups: each fold's share of a class is off by less than one group. A group of
    several classes counts for the rarest of them. Of `DEALS` such partitions the first is taken whose numbers of images of each class
    are the most even, also between test and folds. Raises DataError when a class has too few groups to stand in the test and in every fold.
    """
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit  # it takes a second to import, a stored split needs it not

    group_of, label_of = table.groups(grouping), table.of_slides("label")
    names, number = np.unique(np.array([group_of[slide] for slide in label_of]), return_inverse=True)
    holds = np.zeros((len(names), len(table.classes)), dtype=bool)  # which classes a group's slides are of
    holds[number, np.array(list(label_of.values()), dtype=int)] = True
    images_of = Counter(group_of[slide] for slide in table.slide.tolist())
    images = np.array([images_of[name] for name in names.tolist()])
    _require_groups(table, holds, folds + bool(test_fraction), f"{folds} folds{' and a sealed test' if test_fraction else ''}", grouping)
    strata = np.where(holds, holds.sum(0), len(names) + 1).argmin(1)

    sealed = np.zeros(len(names), dtype=bool)
    if test_fraction:
        kinds = len(np.unique(strata))
        test_size = min(max(round(test_fraction * len(names)), kinds), len(names) - kinds)
        drawn = StratifiedShuffleSplit(DEALS, test_size=test_size, random_state=seed).split(strata, strata)
        sealed = min(
            (np.isin(np.arange(len(strata)), test) for _, test in drawn),
            key=lambda part: max(_unevenness(part[strata == value].astype(int), images[strata == value]) for value in np.unique(strata)),
        )
        for kind, inside in zip(table.classes, np.any(holds[sealed], axis=0).tolist(), strict=True):
            if not inside:
                raise DataError(
                    f"no {grouping} of class {kind} among the {int(sealed.sum())} that --test-fraction {test_fraction:g} seals: expected all classes; "
                    "raise --test-fraction, or set it to 0"
                )
        _require_groups(table, holds[~sealed], folds, f"{folds} folds after {int(sealed.sum())} are sealed", grouping)
    open_names, open_strata = names[~sealed], strata[~sealed]
    generator, deals = np.random.RandomState(seed), []
    for _ in range(DEALS):
        deals.append(np.empty(len(open_strata), dtype=int))
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="The least populated class"
            )  # whether each class is everywhere is checked by the caller
            for fold, (_, chosen) in enumerate(
                StratifiedKFold(folds, shuffle=True, random_state=generator).split(open_strata, open_strata)
            ):
                deals[-1][chosen] = fold
    dealt = np.empty(len(open_strata), dtype=int)
    for value in np.unique(open_strata):  # every deal gives a fold as many groups of a class
        here = open_strata == value
        dealt[here] = min((deal[here] for deal in deals), key=lambda part: _unevenness(part, images[~sealed][here]))
    whole = (deal for deal in (dealt, *deals) if all(holds[~sealed][deal == fold].any(0).all() for fold in range(folds)))
    dealt = next(whole, dealt)  # groups of several classes may leave a fold without one of them
    parts = [frozenset(open_names[dealt == fold].tolist()) for fold in range(folds)]

    def members(groups: frozenset[str]) -> tuple[str, ...]:
        return tuple(slide for slide in sorted(group_of) if group_of[slide] in groups)

    return Splits(tuple(members(part) for part in parts), members(frozenset(names[sealed].tolist())), grouping, "generated")


def _unevenness(part: np.ndarray, images: np.ndarray) -> float:
    """Of groups of one class in parts (G,): how far the mean number of images (G,) of a group is off in the worst part, as a log ratio."""
    groups, shown = np.bincount(part), np.bincount(part, weights=images)
    return round(float(np.abs(np.log(shown[groups > 0] / groups[groups > 0] / images.mean())).max()), 9)


def _require_groups(table: PatientTable, holds: np.ndarray, needed: int, purpose: str, grouping: str) -> None:
    for kind, have in zip(table.classes, holds.sum(0).tolist(), strict=True):
        if have < needed:
            several = ", leave the class out by --classes" if len(table.classes) > 2 else ""
            raise DataError(
                f"{have} {grouping}s of class {kind} for {purpose}: expected at least {needed}, so that every class stands in every part; "
                f"lower --folds or --test-fraction{several}, or add data"
            )


def official_splits(table: PatientTable, source: str, *, folds: int, grouping: str, seed: int) -> Splits:
    """The published BreakHis fold official:1 to official:5: its test slides are the sealed test, its train slides are cross-validated.

    Spanhol's five folds keep slide folders together, not patients: `patient_leaks` lists the patients on both sides.
    """
    test = _official_test(source, table.slides().tolist())
    inner = make_splits(table.select(~np.isin(table.slide, test)), folds=folds, test_fraction=0.0, grouping=grouping, seed=seed)
    return Splits(inner.folds, test, grouping, source)


def _official_test(source: str, slides: list[str]) -> tuple[str, ...]:
    """The slides, out of those given, that the official fold tests on."""
    number = source.removeprefix("official:")
    if number not in ("1", "2", "3", "4", "5"):
        raise DataError(f"splits {source}: expected official:1 to official:5")
    with OFFICIAL_FOLDS.open() as file:
        test_in = {row["slide"]: row["test_in"] for row in csv.DictReader(file)}
    unknown = [slide for slide in slides if slide not in test_in]
    if unknown:
        raise DataError(f"splits {source}: {shortlist(unknown)} not in the official folds; they only cover BreakHis: leave --splits out")
    return tuple(slide for slide in slides if number in test_in[slide])


def nested_splits(table: PatientTable, outer: int, *, folds: int, grouping: str, seed: int) -> tuple[Splits, ...]:
    """Nested cross-validation: `outer` splits, each with one outer fold as its test and the rest dealt into `folds` inner folds.

    Every slide of the table is the test of exactly one of them. Raises DataError when a class has too few groups.
    """
    around = make_splits(table, folds=outer, test_fraction=0.0, grouping=grouping, seed=seed)
    nested = []
    for number, test in enumerate(around.folds, start=1):
        rest = table.select(~np.isin(table.slide, test))
        inner = make_splits(rest, folds=folds, test_fraction=0.0, grouping=grouping, seed=seed)
        nested.append(Splits(inner.folds, test, grouping, f"nested {number} of {outer}"))
    return tuple(nested)


def patient_leaks(splits: Splits, table: PatientTable) -> dict[str, tuple[str, ...]]:
    """{patient: the parts that hold it} of every patient that stands in more than one part."""
    part_of = {slide: f"fold {number + 1}" for slide, number in splits.fold_of().items()}
    part_of |= dict.fromkeys(splits.test, "test")
    parts: dict[str, set[str]] = {}
    for slide, patient in table.of_slides("patient").items():
        parts.setdefault(str(patient), set()).add(part_of[slide])
    return {patient: tuple(sorted(held)) for patient, held in sorted(parts.items()) if len(held) > 1}


def check_splits(splits: Splits, table: PatientTable) -> None:
    """Check a split against the data: every slide in exactly one part, patients disjoint, every class in every part.

    Patients may stand on both sides only where that is the definition: slide grouping, and the test of an official fold. A fold of one
    patient is of one class, which is no error where the others are of all (leave one patient out): its own metrics stay blank.
    Raises LeakageError or DataError naming the offenders.
    """
    table.groups(splits.grouping)  # an unknown grouping would excuse every leak
    placed = [*splits.development(), *splits.test]
    repeated = sorted(slide for slide, count in Counter(placed).items() if count > 1)
    if repeated:
        raise LeakageError(f"splits {splits.source}: {shortlist(repeated)} listed more than once; expected every slide in one part")
    slides = set(table.slides().tolist())
    missing, unknown = sorted(slides - set(placed)), sorted(set(placed) - slides)
    if missing or unknown:
        raise DataError(
            f"splits {splits.source} do not fit the data: not in the splits: [{shortlist(missing)}], "
            f"not in the data: [{shortlist(unknown)}]; use the data set that the splits were made for, or make new ones"
        )
    leaks = patient_leaks(splits, table)
    if splits.source.startswith("official:"):
        if set(splits.test) != set(_official_test(splits.source, sorted(slides))):
            raise LeakageError(f"splits {splits.source}: the test slides are not those of that official fold; make them again")
        folds_only = {patient: tuple(part for part in parts if part != "test") for patient, parts in leaks.items()}
        leaks = {patient: parts for patient, parts in folds_only.items() if len(parts) > 1}
    if leaks and splits.grouping == "patient":
        listed = shortlist([f"{patient} ({', '.join(parts)})" for patient, parts in leaks.items()])
        raise LeakageError(
            f"splits {splits.source}: patient {listed} on both sides; keep each patient in one part, or say --grouping slide"
        )
    label_of, patient_of = table.of_slides("label"), table.of_slides("patient")
    in_folds = [{label_of[slide] for slide in fold} for fold in splits.folds]
    for number, (name, part) in enumerate([*((f"fold {n + 1}", fold) for n, fold in enumerate(splits.folds)), ("test", splits.test)]):
        absent = [kind for label, kind in enumerate(table.classes) if label not in {label_of[slide] for slide in part}]
        others = set[object]().union(*in_folds[:number], *in_folds[number + 1 :])
        alone = name != "test" and len({patient_of[slide] for slide in part}) == 1 and len(others) == len(table.classes)
        if absent and (part or name != "test") and not alone:
            raise DataError(
                f"splits {splits.source}: {name} ({len(part)} slides) holds no slide of class {shortlist(absent)}; expected every class in "
                "every part: use other splits, or fewer folds"
            )
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
            open_to_all = table.select(~np.isin(table.slide, splits.test))
            inner = make_splits(open_to_all, folds=folds, test_fraction=0.0, grouping=grouping, seed=seed)
            splits = replace(splits, folds=inner.folds)
    check_splits(splits, table)
    return splits


class PatientWiseKFoldSplitter:
    """scikit-learn's interface for notebooks: `split(table)` gives (rows to train on, rows held out) of each fold; see `make_splits`."""

    def __init__(self, folds: int = 5, *, seed: int, grouping: str = "patient"):
        self.folds, self.seed, self.grouping = folds, seed, grouping

    def split(self, table: PatientTable) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Indices into the table's rows. Raises DataError when a class has too few groups."""
        for fold in make_splits(table, folds=self.folds, test_fraction=0.0, grouping=self.grouping, seed=self.seed).folds:
            held_out = np.isin(table.slide, fold)
            yield np.flatnonzero(~held_out), np.flatnonzero(held_out)
