"""A study's folder: found by name or path, and whether its run has ended."""

import json
import os
import re

import pytest

from data.errors import InputError
from study.command_line import Prepared
from study.folder import StudyFolder, find_study, read_study, record_end
from tests.mmnet.tiny import deal, feature_dataset, tiny_config


@pytest.fixture
def output(tmp_path):
    for name in ("first", "fist", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(json.dumps({"format": 2}))
    return tmp_path


def test_a_study_is_found_by_its_name_or_its_folder(output):
    assert find_study(output, "first") == output / "first"
    assert find_study(output / "elsewhere", str(output / "other")) == output / "other"


def test_without_a_name_it_is_the_newest(output, tmp_path):
    for age, name in enumerate(("other", "first", "fist")):
        os.utime(output / name / "study.json", (1000 - age, 1000 - age))
    assert find_study(output, None) == output / "other"
    with pytest.raises(InputError, match="no study stands in .*elsewhere; pass --output DIR"):
        find_study(tmp_path / "elsewhere", None)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("firs", "did you mean first or fist?"),
        ("zzz", "pass a study's name (--output says where studies stand), or its folder"),
        ("../up", "pass a study's name"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_near_ones(output, name, hint):
    with pytest.raises(InputError, match=re.escape(f"study {name}: no readable study.json in {output / name}; {hint}")):
        find_study(output, name)


def test_a_run_notes_its_end_and_a_resumed_one_has_not_ended(tmp_path):
    dataset = feature_dataset(patients=6)
    prepared = Prepared(dataset, deal(dataset, 2), tiny_config())
    study = StudyFolder(tmp_path / "s", tiny_config(), "synthetic", "tune")
    study.write(prepared, settings={"trials": 3})
    assert read_study(study.path)["ended"] is None
    record_end(study.path, "time budget used up")
    about = read_study(study.path)
    assert about["ended"]["reason"] == "time budget used up" and about["ended"]["at"] and about["settings"] == {"trials": 3}
    resumed = StudyFolder(study.path, tiny_config(), "synthetic", "tune", about)
    with pytest.raises(InputError, match=rf"s: process {os.getpid()} on .* works on it; wait for its end"):
        resumed.write(prepared)
    assert read_study(study.path) == about  # nothing was written
    path = study.path
    del study  # as the end of its process
    resumed.write(prepared)
    assert read_study(path)["ended"] is None
