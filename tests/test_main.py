"""main.py as a user runs it: killed and gone on with, judged once, one magnification at a time, nested."""

import csv
import json
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.errors import InputError
from mmnet.config import load_config, save_config
from study.members import differences
from study.records import read_trials
from tests.data.trees import write_png
from tests.gate import Gate
from tests.mmnet.tiny import tiny_config
from tests.test_verbs import SMALL


def predictions(trial: Path) -> dict[str, list]:
    with np.load(trial / "predictions.npz") as saved:
        return {name: saved[name].tolist() for name in saved.files}


def killed(epochs: int, options: list[str]) -> str:
    """Train the study `cut` and kill it before the epoch after so many, whichever of its trainings that belongs to; what it said."""
    with Gate() as gate:
        command = gate.start("main.py", "--name", "cut", *options)
        gate.after(epochs, command)
        command.process.kill()
        return command.ends(-signal.SIGKILL)


def results(study: Path) -> dict[str, str | dict]:
    """What stands in results/, but for what any second run has of its own: dates, times and memory."""
    found: dict[str, str | dict] = {}
    for path in sorted((study / "results").iterdir()):
        if path.name == "leaderboard.csv":
            with path.open() as file:
                (row,) = csv.DictReader(file)
            found[path.name] = {key: value for key, value in row.items() if key not in ("seconds", "peak_mib")}
        elif path.name == "sealed_test.json":
            (opening,) = json.loads(path.read_text())
            found[path.name] = opening | {"opened": ""}
        else:
            found[path.name] = path.read_text()
    return found


def test_a_training_killed_in_the_middle_goes_on_to_the_same_numbers(run, data, tmp_path):
    options = ["--data", str(data), "--output", str(tmp_path), *SMALL]
    run("main.py", "--name", "whole", *options)
    killed(2, options)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    (record,) = read_trials(cut)
    assert record.status == "running" and len(record.epochs) == 2 and not (cut / "results").exists()

    run("main.py", "--resume", "--name", "cut", "--output", tmp_path)
    (one,), (other,) = read_trials(whole), read_trials(cut)
    assert [line | {"seconds": 0} for line in one.epochs] == [line | {"seconds": 0} for line in other.epochs]
    assert predictions(one.folder) == predictions(other.folder)
    assert results(whole) == results(cut) and "sealed_test.json" in results(cut)
    assert [path.name for path in cut.rglob(".*")] == [".lock"]  # no file that was half written


def test_ctrl_c_ends_with_the_command_that_goes_on(run, data, tmp_path):
    with Gate() as gate:
        command = gate.start("main.py", "--name", "cut", "--data", data, "--output", tmp_path, *SMALL)
        gate.after(2, command)
        command.process.send_signal(signal.SIGINT)
        shown = command.ends(130)
    assert "epoch 2/4" in shown and "epoch 3/4" not in shown
    (hint,) = re.findall(r"go on with  python (main.py --resume .*)", shown)
    after = run(*hint.split()).stdout
    assert "epoch 1/4" not in after and "epoch 4/4" in after and "sealed test" in after


def test_the_sealed_test_is_opened_once_and_again_only_on_demand(run, data, tmp_path):
    first = run("main.py", "--data", data, "--name", "s", "--output", tmp_path, *SMALL).stdout
    path = tmp_path / "s" / "results" / "sealed_test.json"
    record = path.read_bytes()
    opened = json.loads(record)[0]["opened"]
    assert "sealed test (SYNTHETIC DATA)" in first and "was opened on" not in first
    second = run("main.py", "--resume", "--name", "s", "--output", tmp_path).stdout
    assert f"the sealed test was opened on {opened}; it is not evaluated again" in second
    assert path.read_bytes() == record
    assert first[first.index("sealed test (SYN") :] == second[second.index("sealed test (SYN") :]  # the same table
    assert "epoch 1/" not in second
    third = run("main.py", "--resume", "--name", "s", "--output", tmp_path, "--again").stdout
    assert f"second opening on {json.loads(path.read_text())[1]['opened']}, first on {opened}" in third
    assert first[first.index("sealed test (SYN") :] == third[third.index("sealed test (SYN") :]


def test_each_magnification_alone_stands_beside_the_fused_network(run, tmp_path):
    shown = run("main.py", "--data", "synthetic", "--single-mag", "all", "--epochs", 2, "--name", "m", "--output", tmp_path).stdout
    with (tmp_path / "m" / "results" / "single_magnification.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = ["40X alone", "100X alone", "200X alone", "400X alone", "mean of the singles"]
    assert [row["against"] for row in rows] == names and all(name in shown for name in names)
    assert len({row["patients"] for row in rows}) == 1 and len({row["log_loss_fused"] for row in rows}) == 1
    for row in rows:
        assert float(row["log_loss_difference"]) == pytest.approx(float(row["log_loss_fused"]) - float(row["log_loss_other"]), abs=2e-4)
        assert float(row["log_loss_low"]) < float(row["log_loss_difference"]) < float(row["log_loss_high"])
    records = read_trials(tmp_path / "m")
    assert [record.config["data"]["magnifications"] for record in records] == [[40, 100, 200, 400], [40], [100], [200], [400]]
    fold_of = [dict(zip(*(predictions(record.folder)[name] for name in ("slide", "fold")), strict=True)) for record in records]
    assert all(folds == fold_of[0] for folds in fold_of)
    assert "sealed test" in shown


def test_a_magnification_can_be_added_to_a_study_that_is_done(run, data, tmp_path):
    run("main.py", "--data", data, "--name", "m", "--output", tmp_path, *SMALL)
    before = (tmp_path / "m" / "trials" / "0000" / "epochs.jsonl").read_bytes()
    shown = run("main.py", "--resume", "--single-mag", "100", "--name", "m", "--output", tmp_path).stdout
    assert "100X alone: epoch 4/4" in shown and "fused: epoch" not in shown and "was opened on" in shown
    assert (tmp_path / "m" / "trials" / "0000" / "epochs.jsonl").read_bytes() == before
    shown = run("main.py", "--resume", "--single-mag", "40x", "--name", "m", "--output", tmp_path).stdout
    assert "40X alone: epoch 4/4" in shown and "100X alone: epoch" not in shown
    with (tmp_path / "m" / "results" / "single_magnification.csv").open() as file:
        assert [row["against"] for row in csv.DictReader(file)] == ["40X alone", "100X alone", "mean of the singles"]


def test_nested_cross_validation_judges_each_patient_once(run, data, tmp_path):
    shown = run("main.py", "--data", data, "--nested", 3, "--name", "n", "--output", tmp_path, *SMALL).stdout
    study = tmp_path / "n"
    about, report = (json.loads((study / name).read_text()) for name in ("study.json", "results/nested.json"))
    development = sorted(slide for fold in about["splits"]["folds"] for slide in fold)
    held_out = [{name: set(np.load(record.folder / "held_out.npz")[name].tolist()) for name in ("slide", "patient")} for record in read_trials(study)]
    assert len(held_out) == 3 and sorted(slide for part in held_out for slide in part["slide"]) == development
    for record, part in zip(read_trials(study), held_out, strict=True):
        trained = predictions(record.folder)
        assert not part["slide"] & set(trained["slide"]) and not part["patient"] & set(trained["patient"])
    patients = set().union(*(part["patient"] for part in held_out))
    assert len(patients) == sum(len(part["patient"]) for part in held_out) < len(development)
    assert report["patients"] == len(patients) and report["outer_folds"] == 3 and report["synthetic"]
    assert "nested cross-validation (SYNTHETIC DATA)" in shown and "the sealed test stays closed" in shown
    assert not (study / "results" / "sealed_test.json").exists()
    sealed = about["splits"]["test"]
    assert sealed and not [
        path for path in study.rglob("*.json*") if path.name != "study.json" and any(slide in path.read_text() for slide in sealed)
    ]

    record = (study / "results" / "nested.json").read_bytes()
    again = run("main.py", "--resume", "--name", "n", "--output", tmp_path).stdout
    assert "epoch 1/" not in again and (study / "results" / "nested.json").read_bytes() == record


def test_repeats_train_new_seeds_and_partitions_and_more_can_be_added(run, data, tmp_path):
    shown = run("main.py", "--data", data, "--repeats", 3, "--name", "r", "--output", tmp_path, *SMALL).stdout
    study = tmp_path / "r"
    report = json.loads((study / "results" / "repeats.json").read_text())
    assert [(row["seed"], row["split_seed"]) for row in report["repeats"]] == [(1, 1), (2, 1), (2, 2)]
    assert "repeated cross-validation (SYNTHETIC DATA)" in shown and "the sealed test stays closed" in shown
    about = json.loads((study / "study.json").read_text())
    sealed = about["splits"]["test"]
    assert sealed and not (study / "results" / "sealed_test.json").exists() and about["ended"]["reason"] == ""
    assert not [path for path in (study / "trials").rglob("*.json*") if any(slide in path.read_text() for slide in sealed)]

    more = run("main.py", "--resume", "--repeats", 4, "--name", "r", "--output", tmp_path).stdout
    assert "repeat 4 of 4: epoch 4/4" in more and "repeat 3 of 4: epoch" not in more
    again = json.loads((study / "results" / "repeats.json").read_text())
    assert again["repeats"][:3] == report["repeats"] and report["metrics"]["auc"]["sd_by_partition"] is not None


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A manifest of 12 patients that says no magnification. Read only: tests share it."""
    root = tmp_path_factory.mktemp("plain")
    for number in range(24):
        write_png(root / f"{number}.png", number)
    lines = (f"{number}.png,p{number // 2},{number // 2 % 2}" for number in range(24))
    (root / "own.csv").write_text("\n".join(["path,patient,label", *lines]))
    return root / "own.csv"


def test_images_of_no_magnification_are_trained_as_of_one_and_the_study_keeps_that(run, plain, tmp_path):
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(tiny_config({"optim.epochs": 1}).to_dict()))
    shown = run("main.py", "--data", plain, "--config", config, "--name", "s", "--output", tmp_path).stdout
    assert "no column magnification: all images are taken for one" in shown and "log_loss" in shown
    about = json.loads((tmp_path / "s" / "study.json").read_text())
    assert about["config"]["data"]["magnifications"] == [1]
    for more in ((), ("--config", config)):  # which says all four of BreakHis
        run("main.py", "--resume", "--name", "s", "--output", tmp_path, *more)
    assert json.loads((tmp_path / "s" / "study.json").read_text())["config"] == about["config"]


def test_of_one_magnification_none_stands_alone(run, plain, tmp_path):
    done = run("main.py", "--data", plain, "--single-mag", "all", "--name", "s", "--output", tmp_path, *SMALL, expect=2)
    assert done.stderr.startswith("error: --single-mag all: expected all or one of 1, in a study of at least two magnifications")
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.fixture
def folder(tmp_path_factory):
    """Two configurations that differ in loss, network and length."""
    folder = tmp_path_factory.mktemp("recommended_mean")
    base = tiny_config({"model.hierarchy": "none", "optim.patience": None, "optim.batch_size": 16})
    for name, values in (("0011", {"loss.gamma": 1.0, "model.width": 16, "optim.epochs": 2}), ("0007", {"optim.epochs": 4})):
        save_config(base.with_values(values), folder / f"{name}.yaml")
    return folder


def test_a_folder_of_configurations_killed_in_the_middle_goes_on_to_the_same_mean(run, data, folder, tmp_path):
    options = ["--data", str(data), "--output", str(tmp_path), "--config", str(folder)]
    shown = run("main.py", "--name", "whole", *options).stdout
    assert "member 0007: epoch 2/4" in killed(2, options)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert read_trials(cut)[-1].status == "running" and not (cut / "results").exists()
    after = run("main.py", "--resume", "--name", "cut", *options).stdout
    for name in ("mean.json", "mean.csv", "summary.csv", "fold_1.json", "fold_2.json"):
        assert (whole / "results" / name).read_bytes() == (cut / "results" / name).read_bytes()
    ((one,), (other,)) = (json.loads((study / "results" / "sealed_test.json").read_text()) for study in (whole, cut))
    assert one | {"opened": ""} == other | {"opened": ""} and list(one["members"]) == ["0007", "0011"]
    for text in (shown, after):
        text = " ".join(text.split())  # a title is broken where its table is narrow
        assert "mean of 2 members (SYNTHETIC DATA)" in text and "fold models of 2 members" in text and "best configuration" not in text
    judged = run("eval.py", "--output", tmp_path, "--study", "cut", "--table", "--learning-curves", "--magnitude", "--gradcam").stdout
    assert "the mean of its 2 members (0007, 0011)" in judged and "look at the first, 0007" in judged


def test_a_folder_of_configurations_is_not_nested(monkeypatch, data, folder, tmp_path):
    with pytest.raises(InputError, match="expected one configuration, got a folder of several"):
        call(monkeypatch, tmp_path, "--data", str(data), "--config", str(folder), "--nested", "3")
    assert not list(tmp_path.iterdir())


def test_a_member_that_cannot_be_built_stops_before_anything_is_written(monkeypatch, data, folder, tmp_path):
    save_config(load_config(folder / "0011.yaml").with_values({"model.backbone": "timm:nothing"}), folder / "0030.yaml")
    with pytest.raises(InputError, match="timm:nothing"):
        call(monkeypatch, tmp_path, "--data", str(data), "--config", str(folder))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("0007", "0030"), "was started with the members 0007, 0011, --config {folder} has the members 0007, 0030"),
        (("0007",), "was started with the members 0007, 0011, --config {folder} has one configuration"),
        (("0007", "0011"), "s, member 0011, was started with another configuration (loss.gamma 2.0 -> 1.0)"),
    ],
)
def test_a_study_keeps_its_members(monkeypatch, folder, tmp_path, files, expected):
    base, other = (load_config(folder / f"{name}.yaml") for name in ("0007", "0011"))
    members = {"0007": {}, "0011": differences(base, other) | {"loss.gamma": 2.0}}
    (tmp_path / "s").mkdir()
    about = {"format": 3, "verb": "main", "name": "s", "config": base.to_dict(), "settings": {"nested": None, "members": members}}
    about |= {"data": {"path": "nowhere", "fingerprint": "", "synthetic": True}}
    about |= {"splits": {"folds": [], "test": [], "grouping": "patient", "source": "generated"}}
    (tmp_path / "s" / "study.json").write_text(json.dumps(about))
    save_config(other, folder / "0030.yaml")
    for file in folder.iterdir():
        if file.stem not in files:
            file.unlink()
    with pytest.raises(InputError, match=re.escape(expected.format(folder=folder))):
        call(monkeypatch, tmp_path, "--resume", "--name", "s", "--config", str(folder))


def call(monkeypatch, output: Path, *arguments: str) -> None:
    """main.py in this process."""
    import main

    monkeypatch.setattr(sys, "argv", ["main.py", "--output", str(output), *arguments])
    main.main()


@pytest.mark.parametrize(
    ("kept", "options", "expected"),
    [
        ({"nested": 3, "single_magnifications": []}, "--nested 4", "--nested 4: the study has 3 outer folds"),
        ({"nested": 3, "single_magnifications": []}, "--single-mag 40", "not nested and not repeated"),
        ({"nested": None, "repeats": 3}, "--repeats 2", "--repeats 2: the study has 3 repeats"),
        ({"nested": 3, "single_magnifications": []}, "--again", "--again: nested and repeated cross-validation leave"),
    ],
)
def test_a_study_stays_nested_or_not(monkeypatch, tmp_path, kept, options, expected):
    from mmnet.config import Config

    (tmp_path / "s").mkdir()
    about = {"format": 3, "verb": "main", "name": "s", "config": Config().to_dict(), "settings": kept}
    about |= {"data": {"path": "nowhere", "fingerprint": "", "synthetic": True}}
    about |= {"splits": {"folds": [], "test": [], "grouping": "patient", "source": "generated"}}
    (tmp_path / "s" / "study.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=re.escape(expected)):
        call(monkeypatch, tmp_path, "--resume", "--name", "s", *options.split())
