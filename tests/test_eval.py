"""The verb that looks at results, as a user runs it: a real study, real files, new patients."""

import csv
import importlib
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from data.errors import InputError
from data.sources import breakhis_row
from data.synthetic import generate
from tests.test_verbs import SMALL


@pytest.fixture(scope="module")
def trained(run, data, tmp_path_factory):
    """A study of main.py. Read only: tests share it."""
    output = tmp_path_factory.mktemp("output")
    run("main.py", "--data", data, "--name", "m", "--output", output, *SMALL)
    return output / "m"


@pytest.fixture
def study(trained, tmp_path):
    """A copy of it to write in."""
    return shutil.copytree(trained, tmp_path / "output" / "m")


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    """8 patients in 9 slide folders, whose numbers are not those of the study: `generate` numbers every data set from the same patient on."""
    made = generate(tmp_path_factory.mktemp("made"), patients=8, images=2, size=32, seed=5)
    root = tmp_path_factory.mktemp("unseen")
    for file in made.rglob("*.png"):
        shutil.copy(file, root / file.name.replace("-1000", "-2000"))
    shutil.copy(made / "SYNTHETIC.json", root)
    return root


def patients_of(folder: Path) -> list[str]:
    return sorted({breakhis_row(file.name)[3] for file in folder.glob("*.png")})


def rows_of(study: Path) -> list[dict[str, str]]:
    with (study / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def evaluate(run, study, *arguments, expect=0):
    return run("eval.py", "--output", study.parent, "--study", study.name, *arguments, expect=expect)


def one_error(done) -> str:
    """What a verb said on stderr: one line."""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


# parts of a study ----------------------------------------------------------------------------------------------------


def test_all_parts_of_a_training_are_written_and_what_does_not_apply_is_skipped_with_a_reason(run, study):
    done = evaluate(run, study)
    skipped = re.findall(r"^skipped +--(\S+): (.+)$", done.stdout, re.MULTILINE)
    assert skipped == [
        ("ablation", "study m is no ablation: run  python tune_mmnet.py --space ablation"),
        ("ensembles", "ensembles: 1 trial(s) with predictions; expected at least 3, as a search by tune_mmnet.py leaves"),
    ]
    assert "SYNTHETIC DATA" in done.stdout and "Traceback" not in done.stderr and "Warning" not in done.stderr
    for name in ("performance.csv", "performance.md", "performance.tex", "thresholds.csv", "calibration.csv", "roc_curves.csv"):
        assert (study / "results" / name).stat().st_size > 100
    for name in ("roc_curves.png", "pr_curves.png", "reliability.png", "fold_curves.png"):
        assert (study / "plots" / name).stat().st_size > 5000
    assert (study / "results" / "magnifications.csv").exists() and list((study / "gradcam").glob("*.png"))
    assert not (study / "results" / "ensembles.json").exists()


def test_only_the_parts_asked_for_are_made_of_the_newest_study(run, study):
    newer = shutil.copytree(study, study.with_name("a"))
    shutil.copytree(study, study.with_name("z"))
    for name, when in (("m", 2000), ("a", 3000), ("z", 1000)):
        os.utime(study.with_name(name) / "study.json", (when, when))
    shown = run("eval.py", "--output", study.parent, "--table", "--thresholds").stdout
    assert re.match(r"study +a: main, data /", shown) and "skipped" not in shown
    assert (newer / "results" / "performance.csv").exists() and (newer / "results" / "thresholds.csv").exists()
    assert not (newer / "results" / "roc_curves.csv").exists() and not (study / "results" / "performance.csv").exists()


@pytest.fixture
def attempt(monkeypatch):
    """eval.py in this process."""

    def call(study, *arguments):
        arguments = ["eval.py", "--output", study.parent, "--study", study.name, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        importlib.import_module("eval").main()

    return call


@pytest.mark.parametrize("arguments", [["--magnitude"], ["--gradcam"], ["--predict", "--data", "unseen"]])
def test_a_nested_study_has_no_networks_to_look_into(attempt, study, unseen, arguments):
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | {"nested": [about["splits"]] * 2}))
    with pytest.raises(InputError, match="study m is nested: .* without --nested"):
        attempt(study, *(unseen if argument == "unseen" else argument for argument in arguments))


def test_help_names_every_part(run):
    shown = run("eval.py", "--help").stdout
    for flag in "study output table thresholds calibration roc-curves learning-curves ensembles magnitude gradcam data predict".split():
        assert f"--{flag}" in shown


# new patients --------------------------------------------------------------------------------------------------------


def test_new_patients_have_one_row_each(run, study, unseen):
    shown = evaluate(run, study, "--predict", "--data", unseen).stdout
    rows = rows_of(study)
    assert [row["patient"] for row in rows] == patients_of(unseen) and len(rows) == 8
    assert all(0 < float(row["lowest"]) <= float(row["probability"]) <= float(row["highest"]) < 1 for row in rows)
    assert {row["label"] for row in rows} == {"benign", "malignant"}
    assert {row["patient"]: row["images_40X"] for row in rows if row["images_40X"] != "2"} == {"20005": "4"}  # two slides
    assert "8 new patients (SYNTHETIC DATA), mean of 2 fold models of study m" in shown and "AUC" in shown and "left out" not in shown


def test_a_broken_file_is_named_and_the_rest_is_predicted(run, study, unseen, tmp_path):
    whole = {row["patient"]: row for row in predicted(run, study, unseen)}
    broken = shutil.copytree(unseen, tmp_path / "broken")
    file = sorted(broken.glob("*-100-001.png"))[0]
    file.write_bytes(b"damaged")
    (broken / "holiday.png").write_bytes(b"not BreakHis")
    shown = evaluate(run, study, "--predict", "--data", broken).stdout
    rows = rows_of(study)
    assert re.search(rf"^  {file.name}: \S", shown, re.MULTILINE) and "holiday.png: " in shown and "2 left out" in shown
    concerned = breakhis_row(file.name)[3]
    for row in rows:
        assert (row == whole[row["patient"]]) == (row["patient"] != concerned)
    assert len(rows) == 8 and next(row for row in rows if row["patient"] == concerned)["images_100X"] == "1"


def predicted(run, study, folder) -> list[dict[str, str]]:
    evaluate(run, study, "--predict", "--data", folder)
    return rows_of(study)


def test_a_patient_of_the_study_among_the_new_ones_is_refused(run, study, unseen, data, tmp_path):
    mixed = shutil.copytree(unseen, tmp_path / "mixed")
    known = json.loads((study / "study.json").read_text())["splits"]["test"][0]  # also a sealed one
    for file in data.rglob(f"{known}/*/*.png"):
        shutil.copy(file, mixed)
    message = one_error(evaluate(run, study, "--predict", "--data", mixed, expect=2))
    assert f"1 of 9 patients belong to study m ({breakhis_row(file.name)[3]})" in message and not (study / "predictions.csv").exists()


def test_another_slide_of_a_sealed_patient_is_refused(run, study, unseen, data, tmp_path):
    mixed = shutil.copytree(unseen, tmp_path / "mixed")
    known = json.loads((study / "study.json").read_text())["splits"]["test"][0]
    file = next(data.rglob(f"{known}/*/*.png"))
    other = re.sub(r"-14-(\d+)[A-Z]*-", r"-14-\1XY-", file.name)
    shutil.copy(file, mixed / other)
    message = one_error(evaluate(run, study, "--predict", "--data", mixed, expect=2))
    assert f"1 of 9 patients belong to study m ({breakhis_row(other)[3]})" in message


def test_patients_of_a_manifest_without_labels_are_predicted_as_with_them(run, study, unseen, tmp_path):
    with_labels = predicted(run, study, unseen)
    lines = ["path,slide,magnification,patient"]
    for file in sorted(unseen.glob("*.png")):
        _, magnification, slide, patient, _, _ = breakhis_row(file.name)
        lines.append(f"{file},{slide},{magnification},{patient}")
    (tmp_path / "new.csv").write_text("\n".join(lines))
    shown = evaluate(run, study, "--predict", "--data", tmp_path / "new.csv").stdout
    rows = rows_of(study)
    unknown = {"label": "", "subtype": ""}
    assert rows == [row | unknown for row in with_labels]
    assert "patients with a label" not in shown
