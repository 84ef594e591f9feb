"""Which classes are trained on: as their names say, or as asked for; of two one is positive."""

from dataclasses import replace

import numpy as np
import pytest

from data.dataset import Dataset
from data.errors import DataError
from data.labels import as_classes, choose_classes
from data.splits import check_splits, make_splits
from data.table import UNKNOWN, build_table


def made(*names, subtypes=None, patients=None):
    """One image a class name, each of a slide of its own; pixels say the row."""
    subtypes, patients = subtypes or [""] * len(names), patients or range(len(names))
    rows = [
        (f"{n:03d}.png", 40, f"s{n:03d}", f"p{p}", sub, name)
        for n, (name, sub, p) in enumerate(zip(names, subtypes, patients, strict=True))
    ]
    images = np.arange(len(names), dtype=np.uint8)[:, None, None, None]
    return Dataset(build_table(rows, mixed=True), images, "print", "name")


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("normal", "tumor"), ("normal", "tumor")),
        (("malignant", "benign"), ("benign", "malignant")),
        (("healthy", "whatever"), ("healthy", "whatever")),
        (("stage 1", "Invasive"), ("stage 1", "Invasive")),
        (("ductal_carcinoma", "adenosis"), ("adenosis", "ductal_carcinoma")),
    ],
)
def test_which_of_two_is_positive_follows_from_the_names_and_is_told(names, classes):
    chosen = choose_classes(made(*names))
    assert chosen.table.classes == classes
    assert chosen.table.label.tolist() == [classes.index(name) for name in names]
    told = () if "benign" in names else (f"{classes[1]} is the positive class, {classes[0]} the negative one",)
    assert chosen.notes == told


def test_or_is_asked_for_and_given():
    dataset = made("left", "right", "left")
    with pytest.raises(
        DataError, match="labels left and right: expected two of which one is known as positive; say which, as --positive left"
    ):
        choose_classes(dataset)
    chosen = choose_classes(dataset, positive="Left")
    assert chosen.table.classes == ("right", "left") and chosen.table.label.tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="--positive Up: the data set has the classes left, right; name some of them"):
        choose_classes(dataset, positive="Up")


def test_several_classes_stay_as_they_are_and_some_may_be_positive_against_the_rest():
    dataset = made("b", "a", "c")
    assert choose_classes(dataset).table.classes == ("a", "b", "c")
    chosen = choose_classes(dataset, positive="c,a")
    assert chosen.table.classes == ("b", "c+a") and chosen.table.label.tolist() == [0, 1, 1]
    assert choose_classes(dataset, positive="b").table.classes == ("other", "b")


def test_images_of_other_classes_are_left_out_with_their_pixels_and_counted():
    chosen = choose_classes(made("a", "b", "c", "b"), classes=["C", "b"], positive="b")
    assert chosen.table.path.tolist() == ["001.png", "002.png", "003.png"] and chosen.table.label.tolist() == [1, 0, 1]
    assert np.asarray(chosen.images).ravel().tolist() == [1, 2, 3]
    assert chosen.notes[0] == "1 images of other classes than c, b are left out"


def test_one_class_alone_is_positive_where_its_name_says_so():
    assert choose_classes(made("malignant")).table.label.tolist() == [1]
    assert choose_classes(made("normal")).table.label.tolist() == [0]


def test_subtypes_are_classes_by_their_names_and_breakhis_codes_are_understood():
    dataset = made("benign", "malignant", "malignant", subtypes=["A", "DC", "LC"])
    chosen = choose_classes(dataset, label="subtype")
    assert chosen.table.classes == ("adenosis", "ductal_carcinoma", "lobular_carcinoma") and chosen.table.label.tolist() == [0, 1, 2]
    assert choose_classes(dataset, label="subtype", classes=["DC", "a"]).table.classes == ("adenosis", "ductal_carcinoma")


def test_a_subtype_that_is_absent_is_an_error_that_names_an_image():
    with pytest.raises(DataError, match="--label subtype: 1 of 2 images have none, such as 001.png"):
        choose_classes(made("benign", "malignant", subtypes=["A", ""]), label="subtype")


def test_a_patient_of_several_classes_is_told():
    dataset = made("malignant", "malignant", "benign", subtypes=["DC", "LC", "A"], patients=[1, 1, 2])
    assert "1 patients have images of more than one class (p1); no split divides them" in choose_classes(dataset, label="subtype").notes


@pytest.mark.parametrize(
    ("classes", "names", "labels"),
    [
        (("normal", "tumor"), ("Tumor", "normal", "", "else"), [1, 0, UNKNOWN, UNKNOWN]),
        (("other", "a+b"), ("a", "B", "c", ""), [1, 1, 0, UNKNOWN]),
        (("x", "y", "z"), ("z", "x", "", "y"), [2, 0, UNKNOWN, 1]),
    ],
)
def test_patients_to_be_predicted_have_the_labels_of_the_study(classes, names, labels):
    predicted = as_classes(made(*names), classes)
    assert predicted.table.classes == classes and predicted.table.label.tolist() == labels
    strange = ("labels else are none of the study's classes normal, tumor: taken for unknown",) if "else" in names else ()
    assert predicted.notes == strange


def test_also_by_subtype_of_which_some_may_be_absent():
    dataset = made("benign", "malignant", "malignant", subtypes=["A", "DC", ""])
    assert as_classes(dataset, ("adenosis", "ductal_carcinoma"), "subtype").table.label.tolist() == [0, 1, UNKNOWN]


# splits of several classes --------------------------------------------------------------------------------------------


def of_three_classes():
    """Three classes of 6, 8 and 10 patients, two of whom have slides of two classes."""
    names = ["a"] * 6 + ["b"] * 8 + ["c"] * 10
    patients = [*range(6), *range(6, 14), 0, 6, *range(14, 22)]
    return made(*names, patients=patients).table


@pytest.mark.parametrize("seed", range(5))
def test_every_class_stands_in_every_part_and_no_patient_in_two(seed):
    table = of_three_classes()
    splits = make_splits(table, folds=3, test_fraction=0.2, grouping="patient", seed=seed)
    check_splits(splits, table)
    label_of, patient_of = table.of_slides("label"), table.of_slides("patient")
    parts = [*splits.folds, splits.test]
    assert all({label_of[slide] for slide in part} == {0, 1, 2} for part in parts)
    held = [{patient_of[slide] for slide in part} for part in parts]
    assert sum(map(len, held)) == len(set().union(*held)) == 22


def test_a_class_with_fewer_patients_than_parts_is_named_with_the_ways_out():
    with pytest.raises(
        DataError,
        match="6 patients of class a for 6 folds and a sealed test: expected at least 7.*lower --folds or --test-fraction, leave the class out by --classes",
    ):
        make_splits(of_three_classes(), folds=6, test_fraction=0.2, grouping="patient", seed=0)


def test_a_part_without_a_class_is_an_error_that_names_it():
    table = of_three_classes()
    splits = make_splits(table, folds=3, test_fraction=0.0, grouping="patient", seed=0)
    of_c = [slide for slide, label in table.of_slides("label").items() if label == 2]
    first = tuple(slide for slide in splits.folds[0] if slide not in of_c)
    moved = replace(
        splits, folds=(first, (*splits.folds[1], *(s for s in splits.folds[0] if s in of_c)), splits.folds[2]), grouping="slide"
    )
    with pytest.raises(DataError, match=r"fold 1 \(\d+ slides\) holds no slide of class c; expected every class in every part"):
        check_splits(moved, table)


def test_images_of_one_slide_may_be_of_several_classes_where_that_is_asked_for():
    rows = [("a.png", 40, "s", "p", "", "x"), ("b.png", 40, "s", "p", "", "y"), ("c.png", 40, "t", "q", "", "x")]
    with pytest.raises(DataError, match="slide s stands under more than one class.*--set data.mixed_labels=true"):
        build_table(rows)
    assert build_table(rows, mixed=True).slides().tolist() == ["s x", "s y", "t"]
    with pytest.raises(DataError, match="patient p stands under more than one class.*--set data.mixed_labels=true"):
        build_table([(*row[:2], f"{row[2]}{n}", *row[3:]) for n, row in enumerate(rows)])


@pytest.mark.parametrize("names", [("1", "2"), ("M", "F"), ("0.5", "1")])
def test_where_nobody_can_know_which_class_is_positive_it_is_asked(names):
    with pytest.raises(
        DataError, match=f"labels .* and .*: expected two of which one is known as positive; say which, as --positive {min(names)}"
    ):
        choose_classes(made(*names))


def test_not_all_classes_are_positive():
    with pytest.raises(DataError, match="--positive tumor,normal: these are all classes of the data set; name those of one side"):
        choose_classes(made("normal", "tumor"), positive="tumor,normal")


def test_a_class_may_hold_a_plus():
    trained = choose_classes(made("ER-", "ER+"), positive="ER+")
    assert as_classes(made("ER+", "ER-"), trained.table.classes).table.label.tolist() == [1, 0]
