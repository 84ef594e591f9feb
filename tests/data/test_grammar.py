"""File names: what they say, and the reason when they break the grammar."""

from collections import Counter

import pytest

from data.grammar import ImageName, file_name, parse


def test_every_part_of_a_name_is_read():
    assert parse("SOB_B_PT-14-22704-400-012.png") == ImageName("SOB_B_PT_14-22704", "22704", "PT", "benign", 400)
    assert parse("SOB_M_DC-13-2523-40-001.PNG") == ImageName("SOB_M_DC_13-2523", "2523", "DC", "malignant", 40)


def test_block_letters_belong_to_the_slide_but_not_to_the_patient():
    blocks = [parse(f"SOB_B_A-14-22549{block}-40-001.png") for block in ("AB", "CD", "G")]
    assert {name.patient for name in blocks} == {"22549"}
    assert [name.slide for name in blocks] == ["SOB_B_A_14-22549AB", "SOB_B_A_14-22549CD", "SOB_B_A_14-22549G"]


def test_the_whole_breakhis_parses(real_files):
    names = [parse(record["file"]) for record in real_files]
    assert len(names) == 7909
    assert len({name.slide for name in names}) == 82
    assert len({name.patient for name in names}) == 70
    assert Counter(name.magnification for name in names) == {40: 1995, 100: 2081, 200: 2013, 400: 1820}
    assert Counter(kind for _, kind in {(name.slide, name.kind) for name in names}) == {"benign": 24, "malignant": 58}


def test_file_name_spells_every_real_name(real_files):
    for record in real_files:
        name = parse(record["file"])
        sequence = int(record["file"].removesuffix(".png").rsplit("-", 1)[1])
        assert file_name(name.slide, name.magnification, sequence) == record["file"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "file name does not follow SOB_<B|M>_<subtype>"),
        ("tissue.png", "file name does not follow"),
        ("SOB_X_A-14-1001-40-001.png", "file name does not follow"),  # class
        ("sob_b_a-14-1001-40-001.png", "file name does not follow"),  # small letters
        ("SOB_B_A_14-1001-40-001.png", "file name does not follow"),  # the folder's spelling
        ("SOB_B_A-2014-1001-40-001.png", "file name does not follow"),  # year
        ("SOB_B_A-14-AB-40-001.png", "file name does not follow"),  # slide id without a number
        ("SOB_B_A-14-1001-40X-001.png", "file name does not follow"),  # magnification with a unit
        ("SOB_B_A-14-1001-40.png", "file name does not follow"),  # no sequence
        ("SOB_B_A-14-1001-40-001.gif", "file name does not follow"),  # suffix
        ("SOB_B_A-14-1001-40-001.png.png", "file name does not follow"),
        ("copy of SOB_B_A-14-1001-40-001.png", "file name does not follow"),
        ("SOB_B_A-14-1001-40-001.png\n", "file name does not follow"),
        ("SOB_B_ZZ-14-1001-40-001.png", "unknown subtype 'ZZ', expected one of A, F, PT"),
        ("SOB_M_A-14-1001-40-001.png", "subtype A does not belong to class M"),
        ("SOB_B_DC-14-1001-40-001.png", "subtype DC does not belong to class B"),
        ("SOB_B_A-14-1001-50-001.png", "magnification 50, expected one of 40, 100, 200, 400"),
    ],
)
def test_a_broken_name_gives_its_reason(name, reason):
    with pytest.raises(ValueError) as caught:
        parse(name)
    assert reason in str(caught.value)
