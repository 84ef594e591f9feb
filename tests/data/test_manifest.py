"""Manifests as spreadsheets, pandas and R write them: each is read as the plain one is, or one line says what is wrong."""

import unicodedata

import pytest

from data.errors import DataError
from data.labels import POSITIVE
from data.manifest import MOST_OTHERS, read_manifest
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
    found = {path: (*row[:5], row[5].casefold() in POSITIVE) for path, row in rows(tmp_path, text).items()}
    assert found == {path: (*row[:5], row[5] == "malignant") for path, row in rows(tmp_path, PLAIN).items()}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_every_usual_encoding_is_read(tmp_path, encoding):
    assert rows(tmp_path, PLAIN.replace("anna", "Müller"), encoding)["a.png"][3] == "Müller"


def test_one_person_in_two_forms_of_unicode_is_one(tmp_path):
    found = rows(
        tmp_path, PLAIN.replace("a.png,anna", "a.png,Müller").replace("b.png,anna", "b.png," + unicodedata.normalize("NFD", "Müller"))
    )
    assert len({row[3] for row in found.values()}) == 3


def test_persons_that_differ_in_capitals_or_blanks_only_are_told(tmp_path):
    _, _, notes = read(tmp_path, PLAIN.replace("carla", "Ber ta"))
    assert notes == ["patients that differ only in capitals, blanks, dashes or leading zeros are taken for different ones: Ber ta = berta"]


def test_other_columns_are_kept_and_a_magnification_that_nobody_says_is_told(tmp_path):
    found, kept, notes = read(tmp_path, "path,patient,label,age, Site\na.png,anna,0, 50,A\nb.png,berta,1,60,\n")
    assert {row[1] for row in found.values()} == {1}
    assert kept == {"age": {"a.png": "50", "b.png": "60"}, "site": {"a.png": "A", "b.png": ""}}
    assert notes == ["no column magnification: all images are taken for one"]


def test_of_very_many_other_columns_the_first_are_kept_and_the_others_named(tmp_path):
    names = [f"c{number}" for number in range(MOST_OTHERS + 2)]
    _, kept, notes = read(tmp_path, f"path,patient,label,magnification,{','.join(names)}\na.png,anna,0,40{',x' * len(names)}\n")
    assert list(kept) == names[:MOST_OTHERS]
    assert notes == [f"other columns of the manifest are not kept beyond the first {MOST_OTHERS}: {names[-2]}, {names[-1]}"]


def test_a_patient_is_a_person_and_a_slide_a_part_of_them(tmp_path):
    found = rows(tmp_path, "path,patient,slide,label\na.png,anna,s1,0\nb.png,anna,s2,0\nc.png,berta,,1\n")
    assert [row[2:4] for row in found.values()] == [("s1", "anna"), ("s2", "anna"), ("berta", "berta")]


def test_an_earlier_manifest_calls_the_person_case(tmp_path):
    found = rows(tmp_path, "path,patient,case,label\na.png,s1,anna,0\nb.png,s2,anna,0\nc.png,s3,,1\n")
    assert [row[2:4] for row in found.values()] == [("s1", "anna"), ("s2", "anna"), ("s3", "s3")]


def test_numbers_stay_the_text_that_they_are(tmp_path):
    found = rows(tmp_path, PLAIN.replace("anna", "007").replace("berta", "7").replace("carla", "1e5"))
    assert [row[3] for row in found.values()] == ["007", "007", "7", "1e5"]


def test_spellings_of_a_class_that_differ_in_capitals_are_one(tmp_path):
    found = rows(tmp_path, PLAIN.replace("a.png,anna,0", "a.png,anna,Left").replace(",0,", ",left,").replace(",1,", ",RIGHT,"))
    assert [row[5] for row in found.values()] == ["Left", "Left", "RIGHT", "RIGHT"]


def test_three_classes_are_three_names(tmp_path):
    found = rows(tmp_path, PLAIN.replace("d.png,carla,1", "d.png,carla,2"))
    assert [row[5] for row in found.values()] == ["0", "0", "1", "2"]


@pytest.mark.parametrize("unknown", ["", "NA", "unknown", "-1", "nan"])
def test_new_patients_need_no_label(tmp_path, unknown):
    text = PLAIN.replace(",0,", f",{unknown},").replace("carla,1", f"carla,{unknown}")
    assert [row[5] for row in rows(tmp_path, text, labelled=False).values()] == ["", "", "malignant", ""]
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
    with pytest.raises(DataError, match="slide 1 stands under more than one patient.*need the patient in their name"):
        build_table(list(found.values()))


def test_patients_that_a_number_may_be_written_as_are_one_or_told(tmp_path):
    lines = [f"{number}.png,{patient},{number % 2}" for number, patient in enumerate(("7", "7.0", "007", "P-1", "P_1", "P\u20131"))]
    (tmp_path / "own.csv").write_text("path,patient,label\n" + "\n".join(lines))
    found, _, notes = read_manifest(tmp_path / "own.csv")
    assert [row[3] for row in found.values()] == ["7", "7", "007", "P-1", "P_1", "P\u20131"]
    assert "007 = 7" in notes[-1] and "P-1 = P_1 = P\u20131" in notes[-1]


@pytest.mark.parametrize("missing", ["NA", "#N/A", "<NA>", "null"])
@pytest.mark.parametrize("column", ["patient", "label"])
def test_what_other_programs_write_for_nothing_is_no_name(tmp_path, missing, column):
    cells = {"patient": "p3", "label": "1"} | {column: missing}
    (tmp_path / "own.csv").write_text(f"path,patient,label\na.png,p1,0\nb.png,p2,1\nc.png,{cells['patient']},{cells['label']}\n")
    with pytest.raises(DataError, match=rf"line 4: {column}.*{missing}"):
        read_manifest(tmp_path / "own.csv")


@pytest.mark.parametrize("value", ["40", "40.0", "40,0", "040", "40X", "40\u00d7"])
def test_a_magnification_is_understood_as_it_is_written(tmp_path, value):
    (tmp_path / "own.csv").write_text(f"\n\npath;patient;label;magnification\na.png;p1;0;{value}\n")
    assert read_manifest(tmp_path / "own.csv")[0]["a.png"][1] == 40
