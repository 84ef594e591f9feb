"""Manifests as spreadsheets, pandas and R write them: each is read as the plain one is, or one line says what is wrong."""

import unicodedata

import pytest

from data.errors import DataError
from data.manifest import read_manifest
from data.table import build_table
from tests.data.trees import write_png

PLAIN = """path,patient,label,magnification
a.png,anna,0,40
b.png,anna,0,100
c.png,berta,1,40
d.png,carla,1,40
"""


def read(tmp_path, text, encoding="utf-8", **more):
    (tmp_path / "own.csv").write_bytes(text.encode(encoding))
    return read_manifest(tmp_path / "own.csv", **more)


def rows(tmp_path, text, encoding="utf-8", **more):
    return read(tmp_path, text, encoding, **more)[0]


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: "sep=;\n" + text.replace(",", ";"),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("path,patient,label", "Path, PATIENT ,Label"),
        lambda text: "".join(f"{'' if not n else n - 1},{line}\n" for n, line in enumerate(text.splitlines())),  # pandas' index
        lambda text: text.replace("a.png", "\na.png") + "\n,,,\n\n",
        lambda text: text.replace(",40", ",40.0").replace(",100", ",100x"),
        lambda text: text.replace(",0,", ",0.0,").replace(",1,", ",1.0,"),
        lambda text: text.replace(",0,", ",Benign,").replace(",1,", ",MALIGNANT,"),
        lambda text: text.replace(",0,", ",False,").replace(",1,", ",True,"),
        lambda text: text.replace(",0,", ",normal,").replace(",1,", ",tumor,"),
        lambda text: text.replace(",0,", ",B,").replace(",1,", ",M,"),
        lambda text: "\n".join(f'{line},"x, y"' for line in text.replace("magnification", "magnification,age", 1).splitlines()),
        lambda text: text.replace("anna", '"anna"'),
    ],
)
def test_it_is_read_as_the_plain_one(tmp_path, spoilt):
    if "age" in (text := spoilt(PLAIN)):
        text = text.replace(',age,"x, y"', ",age", 1)
    assert rows(tmp_path, text) == rows(tmp_path, PLAIN)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_every_usual_encoding_is_read(tmp_path, encoding):
    assert rows(tmp_path, PLAIN.replace("anna", "Müller"), encoding)["a.png"][3] == "Müller"


def test_one_person_in_two_forms_of_unicode_is_one(tmp_path):
    found = rows(tmp_path, PLAIN.replace("a.png,anna", "a.png,Müller").replace("b.png,anna", "b.png," + unicodedata.normalize("NFD", "Müller")))
    assert len({row[3] for row in found.values()}) == 3


def test_persons_that_differ_in_capitals_or_blanks_only_are_told(tmp_path):
    _, notes = read(tmp_path, PLAIN.replace("carla", "Ber ta"))
    assert notes == ["patients that differ only in capitals or blanks are taken for different ones: Ber ta = berta"]


def test_columns_that_are_not_used_and_a_magnification_that_nobody_says_are_told(tmp_path):
    found, notes = read(tmp_path, "path,patient,label,age\na.png,anna,0,50\nb.png,berta,1,60\n")
    assert {row[1] for row in found.values()} == {1}
    assert notes == ["other columns of the manifest are not used: age", "no column magnification: all images are taken for one, 1X"]


def test_a_patient_is_a_person_and_a_slide_a_part_of_them(tmp_path):
    found = rows(tmp_path, "path,patient,slide,label\na.png,anna,s1,0\nb.png,anna,s2,0\nc.png,berta,,1\n")
    assert [row[2:4] for row in found.values()] == [("s1", "anna"), ("s2", "anna"), ("berta", "berta")]


def test_an_earlier_manifest_calls_the_person_case(tmp_path):
    found = rows(tmp_path, "path,patient,case,label\na.png,s1,anna,0\nb.png,s2,anna,0\nc.png,s3,,1\n")
    assert [row[2:4] for row in found.values()] == [("s1", "anna"), ("s2", "anna"), ("s3", "s3")]


def test_numbers_stay_the_text_that_they_are(tmp_path):
    found = rows(tmp_path, PLAIN.replace("anna", "007").replace("berta", "7").replace("carla", "1e5"))
    assert [row[3] for row in found.values()] == ["007", "007", "7", "1e5"]


@pytest.mark.parametrize(
    ("labels", "positive"),
    [(("normal", "tumor"), 1), (("malignant", "benign"), 0), (("healthy", "whatever"), 1), (("stage 1", "invasive"), 1)],
)
def test_which_class_is_positive_follows_from_the_names_and_is_told(tmp_path, labels, positive):
    text = PLAIN.replace(",0,", f",{labels[0]},").replace(",1,", f",{labels[1]},")
    found, notes = read(tmp_path, text)
    assert [row[5] for row in found.values()] == [1 - positive, 1 - positive, positive, positive]
    assert notes == ([] if "benign" in labels else [f"label {labels[positive]} is positive, {labels[1 - positive]} negative"])


def test_or_is_asked_for_and_given(tmp_path):
    text = PLAIN.replace(",0,", ",left,").replace(",1,", ",right,")
    with pytest.raises(DataError, match="label left, right: expected two classes of which one is known as positive; say which, as --positive left"):
        read(tmp_path, text)
    assert [row[5] for row in rows(tmp_path, text, positive="Left").values()] == [1, 1, 0, 0]
    with pytest.raises(DataError, match="data.positive = 'up': the manifest .* has the labels left, right; name one of them"):
        read(tmp_path, text, positive="up")


def test_of_more_than_two_classes_some_may_be_positive(tmp_path):
    text = PLAIN.replace("d.png,carla,1", "d.png,carla,2")
    with pytest.raises(DataError, match="3 classes .0, 1, 2.: two can be trained so far; say --positive 0 for one against the rest"):
        read(tmp_path, text)
    assert [row[5] for row in rows(tmp_path, text, positive="1,2").values()] == [0, 0, 1, 1]


@pytest.mark.parametrize("unknown", ["", "NA", "unknown", "-1", "nan"])
def test_new_patients_need_no_label(tmp_path, unknown):
    text = PLAIN.replace(",0,", f",{unknown},").replace("carla,1", f"carla,{unknown}")
    assert [row[5] for row in rows(tmp_path, text, labelled=False).values()] == [-1, -1, 1, -1]
    with pytest.raises(DataError, match="line 2: label .*: expected a class for every image"):
        read(tmp_path, text)


def test_paths_of_windows_and_of_a_mac_are_found(tmp_path):
    from data.store import load_dataset

    write_png(tmp_path / "img" / unicodedata.normalize("NFD", "ä.png"), 1)
    write_png(tmp_path / "img" / "b.png", 2)
    (tmp_path / "own.csv").write_text("path,patient,label,magnification\nimg/ä.png,anna,0,40\nimg\\b.png,berta,1,40\n")
    assert len(load_dataset(tmp_path / "own.csv", 32).table) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAIN.replace("a.png,anna,0,40", "a.png,anna,0,40,x"), "expected CSV with a column name or a value a field"),
        (PLAIN.replace("c.png,berta,1,40", "c.png,berta,1,40,x"), "Expected 4 fields in line 4, saw 5"),
        (PLAIN.replace("c.png,berta,1,40", "c.png,berta"), "line 4: magnification '': expected a number"),
        (PLAIN.replace("label,magnification", "label,Label", 1), r"repeated columns \['label'\]"),
        (PLAIN.replace("path", "datei", 1), r"missing columns \['path'\], it has \['datei', 'patient'"),
        (PLAIN.replace("b.png", "a.png"), "line 3: path 'a.png' is listed twice"),
        (PLAIN.replace("anna,0,40", "an\x07na,0,40"), r"line 2: patient 'an\\x07na': expected text without control characters"),
        (PLAIN.replace(",100", ",1e2"), "line 3: magnification '1e2': expected a number such as 40"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_where(tmp_path, text, said):
    with pytest.raises(DataError, match=said) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_name_that_no_disk_can_hold_is_a_bad_file(tmp_path):
    from data.store import load_dataset

    (tmp_path / "own.csv").write_text(f"path,patient,label\n{'a' * 300}.png,anna,0\nb.png,berta,1\n")
    with pytest.raises(DataError, match=r"2 bad file\(s\): a+.png \(cannot be read: File name too long\)"):
        load_dataset(tmp_path / "own.csv", 32)


def test_the_slides_of_a_manifest_are_checked_as_those_of_a_tree(tmp_path):
    found = rows(tmp_path, "path,patient,slide,label\na.png,anna,1,0\nb.png,berta,1,1\n")
    with pytest.raises(DataError, match="patient 1 stands under both classes"):
        build_table(list(found.values()))
