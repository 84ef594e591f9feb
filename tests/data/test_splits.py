"""Splits: nobody on both sides, both classes everywhere, the same again for the same seed, and honest about leaks."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from data.errors import DataError, LeakageError
from data.grammar import file_name
from data.split_files import read_splits
from data.splits import (
    OFFICIAL_FOLDS,
    PatientWiseKFoldSplitter,
    Splits,
    build_splits,
    check_splits,
    make_splits,
    nested_splits,
    official_splits,
    patient_leaks,
)
from data.table import build_table
from tests.data.trees import slides, table_of

SEEDS = range(20)
# of each class six patients, the first with two slide folders
SLIDES = [f"{kind}-14-{number}" for kind, number in zip(["B_A"] * 6 + ["M_DC"] * 6, range(1001, 1013), strict=True)]
TABLE = table_of(*slides(*SLIDES, "B_A-14-1001CD", "M_DC-14-1007CD"))


def parts(splits):
    return [*splits.folds, splits.test]


def patients_of(table, slides):
    return set(table.patient[np.isin(table.slide, list(slides))].tolist())


@pytest.mark.parametrize("test_fraction", [0.0, 0.2])
def test_every_slide_stands_in_one_part_and_no_patient_in_two(test_fraction):
    for seed in SEEDS:
        splits = make_splits(TABLE, folds=3, test_fraction=test_fraction, grouping="patient", seed=seed)
        assert sorted(slide for part in parts(splits) for slide in part) == TABLE.slides().tolist()
        assert sum(len(patients_of(TABLE, part)) for part in parts(splits)) == 12
        assert patient_leaks(splits, TABLE) == {}


@pytest.mark.parametrize("grouping", ["patient", "slide"])
def test_the_class_ratio_of_every_fold_is_off_by_less_than_one_group(real_table, grouping):
    group_of, label_of = real_table.groups(grouping), real_table.of_slides("label")
    for seed in SEEDS:
        splits = make_splits(real_table, folds=5, test_fraction=0.2, grouping=grouping, seed=seed)
        groups = [{(group_of[slide], label_of[slide]) for slide in fold} for fold in splits.folds]
        counts = np.array([[sum(label == kind for _, label in fold) for kind in (0, 1)] for fold in groups])
        assert (np.abs(counts - counts.sum(0) / 5) < 1).all()
        assert np.ptp(counts.sum(1)) <= 1


@pytest.mark.parametrize(("fraction", "sealed"), [(0.0, 0), (0.1, 7), (0.2, 14), (0.35, 24)])
def test_the_sealed_test_is_its_fraction_of_the_patients_in_the_class_ratio(real_table, fraction, sealed):
    label_of = dict(zip(real_table.patient.tolist(), real_table.label.tolist(), strict=True))
    for seed in SEEDS:
        test = patients_of(real_table, make_splits(real_table, folds=3, test_fraction=fraction, grouping="patient", seed=seed).test)
        malignant = sum(label_of[patient] for patient in test)
        assert len(test) == sealed
        assert abs(malignant - sealed * np.mean(list(label_of.values()))) < 1


def test_the_same_seed_gives_the_same_splits_and_another_seed_others():
    made = [make_splits(TABLE, folds=3, test_fraction=0.2, grouping="patient", seed=seed) for seed in (7, 7, 8)]
    assert made[0] == made[1]
    assert made[0].test != made[2].test and made[0].folds != made[2].folds


def test_the_numbers_of_images_are_evened_out_between_the_folds():
    """Four persons of a class have 9 images, the others 1: by chance one fold in three gets two of them or more."""
    persons = [f"{kind}-14-{number}" for kind, first in (("B_A", 1001), ("M_DC", 2001)) for number in range(first, first + 16)]
    rich = {f"{kind}-14-{number}" for kind, first in (("B_A", 1001), ("M_DC", 2001)) for number in range(first, first + 4)}
    table = table_of(*(f"SOB_{person}-40-{n:03d}.png" for person in persons for n in range(9 if person in rich else 1)))
    for seed in range(5):
        splits = make_splits(table, folds=4, test_fraction=0.0, grouping="patient", seed=seed)
        for fold in splits.folds:
            here = np.isin(table.slide, fold)
            assert [8 <= int((here & (table.label == label)).sum()) <= 20 for label in (0, 1)] == [True, True]


def test_slide_grouping_divides_patients_and_patient_leaks_lists_exactly_those(real_table):
    splits = make_splits(real_table, folds=5, test_fraction=0.2, grouping="slide", seed=0)
    check_splits(splits, real_table)  # leaking is its definition
    held = [patients_of(real_table, part) for part in parts(splits)]
    twice = {patient for patient in set().union(*held) if sum(patient in patients for patients in held) > 1}
    assert twice and set(patient_leaks(splits, real_table)) == twice


def test_a_leak_names_the_parts_that_hold_the_patient():
    rest = [f"SOB_{slide.replace('-', '_', 1)}" for slide in SLIDES if slide not in ("B_A-14-1001", "M_DC-14-1007")]
    splits = Splits((("SOB_B_A_14-1001", "SOB_M_DC_14-1007"), ("SOB_B_A_14-1001CD", *rest)), ("SOB_M_DC_14-1007CD",), "slide", "here")
    assert patient_leaks(splits, TABLE) == {"1001": ("fold 1", "fold 2"), "1007": ("fold 1", "test")}


@pytest.mark.parametrize(("number", "leaks"), [(1, 8), (2, 6), (3, 7), (4, 7), (5, 6)])
def test_an_official_fold_is_the_published_one_with_its_known_leaks(real_table, real_files, number, leaks):
    splits = official_splits(real_table, f"official:{number}", folds=4, grouping="patient", seed=0)
    path_side = {record["file"]: record[f"fold{number}"] for record in real_files}
    published = {slide for slide, path in zip(real_table.slide, real_table.path, strict=True) if path_side[path] == "test"}
    assert set(splits.test) == published
    on_both_sides = patients_of(real_table, splits.test) & patients_of(real_table, splits.development())
    assert len(on_both_sides) == leaks
    assert set(patient_leaks(splits, real_table)) == on_both_sides  # none of them among the folds
    check_splits(splits, real_table)  # leaking into its test is its definition


def test_official_folds_name_their_source_and_fit_a_part_of_breakhis(real_tiles):
    table = table_of(*(path.name for path in real_tiles.rglob("*.png")))
    splits = build_splits(table, "official:2", folds=3, test_fraction=0.2, grouping="patient", seed=0)
    assert splits.source == "official:2" and splits.test
    assert len(splits.development()) + len(splits.test) == 35


@pytest.fixture(scope="module")
def published():
    """The slides of the official folds, one image each, and splits by the first of these folds."""
    with OFFICIAL_FOLDS.open() as file:
        table = table_of(*(file_name(row["slide"], 40, 1) for row in csv.DictReader(file)))
    return table, official_splits(table, "official:1", folds=4, grouping="patient", seed=0)


def test_a_file_that_claims_an_official_fold_is_held_against_it(tmp_path, published):
    """A patient may stand on both sides of its test: nobody else is to be excused by that name."""
    table, splits = published
    asked = {"folds": 4, "test_fraction": 0.0, "grouping": "patient", "seed": 0}
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(splits.to_json()))
    assert build_splits(table, str(path), **asked) == splits
    path.write_text(json.dumps(splits.to_json() | {"source": "official:2"}))
    with pytest.raises(LeakageError, match="splits official:2: the test slides are not those of that official fold"):
        build_splits(table, str(path), **asked)
    path.write_text(json.dumps(splits.to_json() | {"source": "mine"}))
    with pytest.raises(LeakageError, match=rf"splits {path}: patient .* \(fold ., test\).* on both sides"):
        build_splits(table, str(path), **asked)


@pytest.mark.parametrize("in_the_test", [False, True])
def test_an_official_fold_excuses_no_patient_that_its_own_folds_divide(published, in_the_test):
    table, splits = published
    patient_of, fold_of = table.of_slides("patient"), splits.fold_of()
    tested = {patient_of[slide] for slide in splits.test}
    blocks = {}
    for slide in splits.development():
        blocks.setdefault(patient_of[slide], []).append(slide)
    patient, moved = next((patient, held[0]) for patient, held in blocks.items() if len(held) > 1 and (patient in tested) is in_the_test)
    to = (fold_of[moved] + 1) % 4
    folds = [[slide for slide in fold if slide != moved] + [moved] * (number == to) for number, fold in enumerate(splits.folds)]
    with pytest.raises(LeakageError, match=rf"patient {patient} \(fold"):
        check_splits(replace(splits, folds=tuple(map(tuple, folds))), table)


@pytest.mark.parametrize("wrap", [lambda content: content, lambda content: {"config": {}, "splits": content}], ids=["splits", "study"])
def test_written_splits_are_read_back(tmp_path, wrap):
    made = make_splits(TABLE, folds=3, test_fraction=0.2, grouping="patient", seed=0)
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(wrap(made.to_json())))
    read = read_splits(str(path), TABLE, "slide")
    assert read == replace(made, source=str(path))
    assert build_splits(TABLE, str(path), folds=99, test_fraction=0.0, grouping="slide", seed=1) == read  # the file decides


@pytest.mark.parametrize("grouping", ["patient", "slide"])
def test_written_splits_say_which_file_they_came_from_and_the_flag_what_they_do_not_say(tmp_path, grouping):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps({"folds": [["a"], ["b"]]}))
    assert read_splits(str(path), TABLE, grouping) == Splits((("a",), ("b",)), (), grouping, str(path))


def test_development_and_fold_of_leave_the_sealed_out():
    splits = Splits((("a", "b"), ("c",)), ("sealed",), "patient", "here")
    assert splits.development() == ("a", "b", "c")
    assert splits.fold_of() == {"a": 0, "b": 0, "c": 1}


def test_splits_come_back_from_json_as_they_were():
    for splits in (make_splits(TABLE, folds=3, test_fraction=0.2, grouping="slide", seed=0), *nested_splits(TABLE, 3, **INNER)):
        assert Splits.from_json(json.loads(json.dumps(splits.to_json()))) == splits


# nested --------------------------------------------------------------------------------------------------------------

INNER = {"folds": 2, "grouping": "patient", "seed": 0}


@pytest.mark.parametrize("outer", [2, 3])
def test_every_slide_is_the_test_of_exactly_one_outer_fold_and_in_an_inner_fold_of_all_others(outer):
    nested = nested_splits(TABLE, outer, **INNER)
    assert len(nested) == outer
    assert sorted(slide for splits in nested for slide in splits.test) == TABLE.slides().tolist()
    for number, splits in enumerate(nested, start=1):
        assert len(splits.folds) == 2 and splits.source == f"nested {number} of {outer}"
        assert sorted([*splits.development(), *splits.test]) == TABLE.slides().tolist()


def test_no_patient_is_divided_by_outer_or_inner_folds_and_both_classes_stand_everywhere():
    for seed in SEEDS:
        for splits in nested_splits(TABLE, 3, **INNER | {"seed": seed}):
            check_splits(splits, TABLE)
            assert patient_leaks(splits, TABLE) == {}


def test_nested_slide_grouping_divides_patients_between_outer_folds():
    divided = [nested_splits(TABLE, 3, **INNER | {"seed": seed, "grouping": "slide"}) for seed in SEEDS]
    assert any("test" in parts for nested in divided for splits in nested for parts in patient_leaks(splits, TABLE).values())


def test_nested_splits_repeat_by_seed():
    made = [nested_splits(TABLE, 3, **INNER | {"seed": seed}) for seed in (7, 7, 8)]
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize(
    ("outer", "folds", "message"), [(7, 2, "6 patients of class benign for 7 folds"), (3, 5, "4 patients of class benign for 5 folds")]
)
def test_too_few_patients_for_outer_or_inner_folds_are_an_error(outer, folds, message):
    with pytest.raises(DataError, match=message):
        nested_splits(TABLE, outer, **INNER | {"folds": folds})


# splits from elsewhere ------------------------------------------------------------------------------------------------

CLASSES = {
    f"SOB_{kind}_14-{number}": int(kind == "M_DC") for kind, first in (("B_A", 1), ("M_DC", 5)) for number in range(first, first + 4)
}
PEOPLE = table_of(*(f"{slide.replace('_14', '-14')}-{m}-001.png" for slide in CLASSES for m in (40, 100)))
HALVES = tuple(tuple(name for place, name in enumerate(CLASSES) if place % 2 == half) for half in (0, 1))


def _json(path, names):
    path.write_text(json.dumps({"folds": names, "test": []}), encoding="utf-8-sig")
    return path


def _list(path, names):
    path.write_text(json.dumps(names))
    return path


def _table(path, names):
    lines = [f"{name};{number}" for number, fold in enumerate(names) for name in fold]
    path = path.with_suffix(".csv")
    path.write_text("\n".join(["Slide;Fold", *lines]))
    return path


@pytest.mark.parametrize("write", [_json, _list, _table])
@pytest.mark.parametrize(
    "spelt", [str, lambda name: name.replace("_14-", "-14-"), lambda name: name.rpartition("-")[2]], ids=["slides", "hyphens", "persons"]
)
def test_folds_are_read_as_others_write_them(tmp_path, write, spelt):
    path = write(tmp_path / "splits.json", [[spelt(name) for name in fold] for fold in HALVES])
    splits = build_splits(PEOPLE, str(path), folds=99, test_fraction=0.5, grouping="patient", seed=0)
    assert splits.folds == HALVES and splits.test == ()


def test_a_table_names_who_is_sealed(tmp_path):
    names = [*CLASSES]
    folds = ["test" if place in (0, 4) else str(10 + place % 2) for place in range(8)]
    lines = [f"{name},{fold}" for name, fold in zip(names, folds, strict=True)]
    (tmp_path / "folds.csv").write_text("\n".join(["slide,fold", *lines]))
    splits = build_splits(PEOPLE, str(tmp_path / "folds.csv"), folds=99, test_fraction=0.0, grouping="patient", seed=0)
    assert splits.test == (names[0], names[4]) and [len(fold) for fold in splits.folds] == [2, 4]


def _dsfold(folder, part_of):
    path = folder / "dsfold1.txt"
    path.write_text("".join(f"{file}|40|1|{part_of[slide]}\n" for file, slide in zip(PEOPLE.path, PEOPLE.slide, strict=True)))
    return str(path)


def _kaggle(folder, part_of):
    lines = [
        f"{number},40,{part if number == 2 else 'train'},BreaKHis_v1/a/b/{file}"
        for number in (1, 2)
        for file, part in ((file, part_of[slide]) for file, slide in zip(PEOPLE.path, PEOPLE.slide, strict=True))
    ]
    (folder / "Folds.csv").write_text("\n".join(["fold,mag,grp,filename", *lines]))
    return f"{folder / 'Folds.csv'}:2"


def _tree(folder, part_of):
    for file, slide in zip(PEOPLE.path, PEOPLE.slide, strict=True):
        place = folder / "fold1" / part_of[slide] / "40X"
        place.mkdir(parents=True, exist_ok=True)
        (place / file).touch()
    return str(folder / "fold1")


@pytest.mark.parametrize("write", [_dsfold, _kaggle, _tree])
def test_who_others_test_on_is_sealed_and_the_rest_is_dealt(tmp_path, write):
    part_of = {name: "test" if place in (0, 4) else "train" for place, name in enumerate(CLASSES)}
    source = write(tmp_path, part_of)
    splits = build_splits(PEOPLE, source, folds=3, test_fraction=0.5, grouping="patient", seed=0)
    assert set(splits.test) == {name for name, part in part_of.items() if part == "test"}
    assert [len(fold) for fold in splits.folds] == [2, 2, 2]


def test_a_slide_in_train_and_in_test_is_a_leak(tmp_path):
    (tmp_path / "dsfold1.txt").write_text(f"{PEOPLE.path[0]}|40|1|train\n{PEOPLE.path[1]}|40|1|test\n")
    with pytest.raises(LeakageError, match="SOB_B_A_14-1 in train and in test"):
        build_splits(PEOPLE, str(tmp_path / "dsfold1.txt"), folds=3, test_fraction=0.0, grouping="patient", seed=0)


def test_kaggles_file_needs_the_number_of_its_partition(tmp_path):
    source = _kaggle(tmp_path, dict.fromkeys(CLASSES, "train")).removesuffix(":2")
    with pytest.raises(DataError, match=r"it holds the folds 1, 2; say which one, as .*Folds.csv:1"):
        build_splits(PEOPLE, source, folds=3, test_fraction=0.0, grouping="patient", seed=0)


def test_one_patient_may_be_left_out_at_a_time_where_the_others_are_of_both_classes(tmp_path):
    path = _list(tmp_path / "lopo.json", [[name] for name in CLASSES])
    assert len(build_splits(PEOPLE, str(path), folds=5, test_fraction=0.2, grouping="patient", seed=0).folds) == 8
    one_benign = [*([name] for name in CLASSES if CLASSES[name]), [name for name in CLASSES if not CLASSES[name]]]
    with pytest.raises(DataError, match=r"fold 5 \(4 slides\) holds no slide of class malignant"):
        build_splits(PEOPLE, str(_list(tmp_path / "wrong.json", one_benign)), folds=5, test_fraction=0.2, grouping="patient", seed=0)


def test_the_splitter_of_notebooks_gives_rows_of_disjoint_patients_that_cover_everything():
    parts = list(PatientWiseKFoldSplitter(3, seed=0).split(TABLE))
    assert len(parts) == 3
    for train, held_out in parts:
        assert not set(TABLE.patient[train]) & set(TABLE.patient[held_out])
        assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(len(TABLE)))
    assert sorted(np.concatenate([held_out for _, held_out in parts]).tolist()) == list(range(len(TABLE)))


def written(folder, text, name="folds.csv"):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_fold_is_a_number_or_who_is_sealed_whatever_its_spelling(tmp_path):
    cells = ["1", "1.0", "2", "2.0", "fold 3", "fold_3", "Testing", "holdout"] * 2
    table = table_of(*slides(*(f"{kind}-14-{number}" for kind, number in zip(["B_A"] * 8 + ["M_DC"] * 8, range(1001, 1017), strict=True))))
    lines = "\n".join(f"{patient},{cell}" for patient, cell in zip(range(1001, 1017), cells, strict=True))
    splits = build_splits(table, written(tmp_path, f"patient,fold\n{lines}"), folds=5, test_fraction=0.0, grouping="patient", seed=0)
    assert sorted(map(len, splits.folds)) == [4, 4, 4] and len(splits.test) == 4


@pytest.mark.parametrize("cell", ["", "-1", "1.5", "spare"])
def test_a_fold_that_is_neither_is_named_with_its_line(tmp_path, cell):
    with pytest.raises(DataError, match=rf"line 3: fold '{cell}': expected a number, or test for who is sealed"):
        read_splits(written(tmp_path, f"patient,fold\n1001,1\n1002,{cell}\n"), TABLE, "patient")


def test_a_table_may_say_only_who_is_sealed_and_have_a_line_an_image(tmp_path):
    lines = [
        f"{number};{'test' if number in (1002, 1008) else 'val' if number % 2 else 'train'}"
        for number in range(1001, 1013)
        for _ in range(3)
    ]
    splits = build_splits(
        TABLE, written(tmp_path, "patient;fold\n" + "\n".join(lines), "S.CSV"), folds=4, test_fraction=0.0, grouping="patient", seed=0
    )
    assert patients_of(TABLE, splits.test) == {"1002", "1008"} and len(splits.folds) == 4


def test_a_name_of_a_patient_and_of_anothers_slide_is_what_the_column_says(tmp_path):
    table = replace(
        TABLE,
        slide=np.array([f"{number}" for number in range(len(TABLE))]),
        patient=np.array([f"{(number + 4) % len(TABLE)}" for number in range(len(TABLE))]),
    )
    lines = "\n".join(f"{number},{'test' if number < 4 else number % 2}" for number in range(len(TABLE)))
    for column, found in ("slide", table.slide), ("patient", table.patient):
        sealed = read_splits(written(tmp_path, f"{column},fold\n{lines}"), table, "patient").test
        assert set(found[np.isin(table.slide, sealed)].tolist()) == {"0", "1", "2", "3"}
    with pytest.raises(DataError, match="may be a patient, or a slide of another; say which in a table"):
        read_splits(written(tmp_path, json.dumps({"folds": [["0"], ["1"]]}), "s.json"), table, "patient")


def test_a_list_that_was_made_for_other_data_is_no_split(tmp_path):
    def listed(parts):
        return "\n".join(f"{file_name(slide, 40, 1)}|40|1|{part}" for slide, part in parts)

    everyone = TABLE.slides().tolist()
    with pytest.raises(DataError, match="none of its 1 test slides is in the data"):
        read_splits(written(tmp_path, listed([("SOB_B_A_14-9", "test")]), "dsfold.txt"), TABLE, "patient")
    with pytest.raises(DataError, match=f"do not fit the data: {everyone[-1]} not in it"):
        read_splits(
            written(tmp_path, listed([(everyone[0], "test"), *((slide, "train") for slide in everyone[1:-1])]), "dsfold.txt"),
            TABLE,
            "patient",
        )


def test_patients_of_several_classes_leave_no_fold_without_a_class():
    kinds = ["ac"] * 4 + ["a"] * 6 + ["bc"] * 4 + ["b"] * 6 + ["c"] * 3
    rows = [(f"{n}{kind}.png", 40, f"s{n}{kind}", f"p{n}", "", kind) for n, held in enumerate(kinds) for kind in held]
    table = build_table(rows, mixed=True)
    for seed in range(40):
        check_splits(make_splits(table, folds=5, test_fraction=0.0, grouping="patient", seed=seed), table)
