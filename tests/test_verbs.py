"""The verbs as a user runs them: real processes, real Ray, real files."""

import csv
import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from mmnet.config import load_config
from study.records import read_trials
from tests.gate import Gate
from tests.verbs import caller

SMALL = (
    "--backbone tiny --weights none --image-size 32 --folds 2 --epochs 4 --seed 0 "
    "--set model.width=8 --set model.heads=2 --set optim.lr=0.003 --set optim.batch_size=16"
).split()


@pytest.fixture(scope="module")
def run():
    return caller()


def trials_of(study: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(storage=f"sqlite:///{study / 'optuna.db'}", study_name=study.name).trials


def hparams(folder: Path) -> list[str]:
    """Tags of TensorBoard's HPARAMS records in a trial's event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return sorted(EventAccumulator(str(folder)).Reload().summary_metadata)


@pytest.mark.xdist_group("ray")
def test_a_study_from_search_to_sealed_test(run, data, tmp_path):
    options = ("--space", "smoke", "--metric", "log_loss,parameters", "--trials", 5, "--name", "s", "--output", tmp_path, *SMALL)
    shown = run("tune_mmnet.py", "--data", data, *options).stdout
    study = tmp_path / "s"
    assert "SYNTHETIC DATA" in shown and "best of 5 trials" in shown and "fold-epochs" in shown
    assert not re.search(r"ray::|WARNING|Trial status|\(pid=", shown)  # Ray's chatter stays out

    with (study / "results" / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    required = "trial,status,epoch,fold_epochs,seconds,auc,balanced_accuracy,log_loss,patient_auc,patient_balanced_accuracy".split(",")
    assert len(rows) == 5 and set(required) | {"optim.lr", "dropout.classifier"} <= set(rows[0])
    assert float(rows[0]["log_loss"]) == min(float(row["log_loss"]) for row in rows)

    records = read_trials(study)
    states = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    for record, trial in zip(records, trials_of(study), strict=True):
        assert trial.state == states[record.status]
        assert trial.intermediate_values == pytest.approx({line["epoch"]: line["score"] for line in record.epochs})
        assert any("session_start" in tag for tag in hparams(record.folder)) and any("experiment" in tag for tag in hparams(record.folder))
        assert np.load(record.folder / "predictions.npz")["oof"].shape[0] == len(record.epochs)
    assert {"stopped", "done"} == {record.status for record in records}
    events = {record.name: list(record.folder.glob("events.out.tfevents.*")) for record in records}
    assert {name for name, files in events.items() if any(file.name.endswith(".figures") for file in files)} == {rows[0]["trial"]}
    assert max(sum(file.stat().st_size for file in files) for files in events.values()) < 200_000
    for plot in ("optimisation_history", "learning_curves", "parallel_coordinates", "importance", "roc_curves"):
        assert (study / "plots" / f"{plot}.png").stat().st_size > 5000

    # it ends with its answer, on a page of its own and as a configuration
    trust = json.loads((study / "results" / "trust.json").read_text())
    assert trust["ready"] and all(sentence in shown for sentence in trust["sentences"]) and "report.html" in shown
    recommended = next(record for record in records if record.name == trust["recommended"]["trial"])
    assert load_config(study / "recommended_config.yaml").to_dict() == recommended.config
    assert "<html" in (study / "report.html").read_text() and (study / "MODEL_CARD.md").exists()

    # all networks of this space have one size, so one trial is on the front
    with (study / "results" / "pareto.csv").open() as file:
        front = list(csv.DictReader(file))
    assert [row["on_front"] for row in front] == ["1", *["0"] * (len(front) - 1)] and front[0]["trial"] == rows[0]["trial"]
    assert f"front of log_loss, parameters: 1 of {len(front)} full-length trials" in shown

    # the sealed patients were in nothing that the search left behind
    about = json.loads((study / "study.json").read_text())
    sealed = set(about["splits"]["test"])
    judged = np.load(records[0].folder / "predictions.npz")
    assert sealed and not sealed & set(judged["slide"].tolist())
    assert about["sealed_patients"] and not set(about["sealed_patients"]) & set(judged["patient"].tolist())
    assert not any(name in (study / "report.html").read_text() for name in (*sealed, *about["sealed_patients"]))

    # the best configuration gives the same numbers in main.py, without Ray, and opens the sealed test once
    best = load_config(study / "best_config.yaml")
    main = ("main.py", "--data", data, "--config", study / "best_config.yaml", "--name", "m", "--output", tmp_path)
    first = run(*main).stdout
    assert best.seed == 0 and "sealed test" in first and "opened on" not in first
    assert read_trials(tmp_path / "m")[0].score == pytest.approx(float(rows[0]["log_loss"]), abs=1e-6)
    (recorded,) = json.loads((tmp_path / "m" / "results" / "sealed_test.json").read_text())
    assert {row["patient"] for row in recorded["patients"]} == set(about["sealed_patients"]) and recorded["synthetic"]
    again = run("main.py", "--resume", "--name", "m", "--output", tmp_path).stdout
    assert "was opened on" in again
    assert json.loads((tmp_path / "m" / "results" / "sealed_test.json").read_text()) == [recorded]


def numbers(study: Path) -> list[tuple]:
    """What a study says of its trials, but for how long they took."""
    return [(record.status, record.params, [line["metrics"] for line in record.epochs]) for record in read_trials(study)]


@pytest.fixture(scope="module")
def left_in_peace(run, data, tmp_path_factory):
    """(options, study): a search of three trials, one at a time. Read only: tests share it."""
    output = tmp_path_factory.mktemp("peace")
    options = ["--data", str(data), "--space", "smoke", "--trials", "3", "--concurrency", "1", *SMALL]
    run("tune_mmnet.py", "--name", "whole", "--output", output, *options)
    return options, output / "whole"


@pytest.mark.xdist_group("ray")
def test_a_search_that_loses_a_worker_and_is_stopped_by_ctrl_c_goes_on_with_the_same_numbers(run, left_in_peace, tmp_path):
    options, whole = left_in_peace
    with Gate() as gate:
        command = gate.start("tune_mmnet.py", "--name", "cut", "--output", tmp_path, *options)
        os.kill(gate.after(1, command), signal.SIGKILL)  # a worker
        gate.after(1, command)
        os.killpg(command.process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        gate.open()
        assert "--resume --name cut" in command.ends(130)
    assert numbers(tmp_path / "cut") != numbers(whole)
    assert "best of 3 trials" in run("tune_mmnet.py", "--resume", "--name", "cut", "--output", tmp_path).stdout
    assert numbers(tmp_path / "cut") == numbers(whole)
    assert TrialState.RUNNING not in {trial.state for trial in trials_of(tmp_path / "cut")}


def test_backbones_that_cannot_be_had_are_left_out_and_a_resumed_study_keeps_its_own(monkeypatch, capsys, tmp_path):
    from rich.console import Console

    import tune_mmnet
    from mmnet import backbones
    from mmnet.config import Config
    from search_spaces import get_space
    from study.folder import StudyFolder

    space, console = get_space("full", Config()), Console(width=200)
    monkeypatch.setattr(
        backbones, "obtainable", lambda names, *rest: {name: "no network" if name.startswith("conv") else "" for name in names}
    )
    study = StudyFolder(tmp_path, Config(), "data", "tune")
    found = tune_mmnet.with_backbones(space, study, console).choices("model.backbone")
    assert found == tuple(name for name in space.choices("model.backbone") if name != "convnext_tiny")
    assert "left out  convnext_tiny: no network" in capsys.readouterr().out
    resumed = StudyFolder(tmp_path, Config(), "data", "tune", {"backbones": ["resnet18", "efficientnet_b0"]})
    assert tune_mmnet.with_backbones(space, resumed, console).choices("model.backbone") == ("resnet18", "efficientnet_b0")
    frozen = get_space("full", Config().with_values({"model.frozen": True}))
    assert tune_mmnet.with_backbones(frozen, study, console) == frozen


def test_slide_grouping_and_official_folds_print_what_they_leak(run, data, tmp_path):
    shown = run("tune_mmnet.py", "--data", data, "--dry-run", "--grouping", "slide", *SMALL).stdout
    assert re.search(r"leak +\d+ patient\(s\) stand on both sides: 10\d+ \(", shown)
    assert not list(tmp_path.iterdir())


def test_the_leak_audit_also_speaks_where_the_magnifications_leave_slides_out(capsys):
    from rich.console import Console

    from data.splits import Splits
    from mmnet.config import Config
    from study.command_line import Prepared, describe
    from tests.mmnet.tiny import feature_dataset

    dataset = feature_dataset(patients=6, images=1)
    a, b, *rest = dataset.table.slides().tolist()
    patient = dataset.table.patient.copy()
    patient[dataset.table.slide == b] = dataset.table.patient[dataset.table.slide == a][0]
    leaking = dataclasses.replace(dataset, table=dataclasses.replace(dataset.table, patient=patient))
    splits = Splits(((a, *rest[:2]), (b, *rest[2:], "SOB_B_A_14-9999")), (), "slide", "generated")  # the last has no image at these
    describe(Prepared(leaking, splits, Config()), Config(), Console())
    assert "1 patient(s) stand on both sides" in capsys.readouterr().out


def test_bad_input_is_one_line_and_status_2(run):
    done = run("tune_mmnet.py", "--data", "/nowhere", expect=2)
    assert done.stderr.startswith("error: data /nowhere: no such folder") and done.stderr.count("\n") == 1 and not done.stdout


def test_help_names_every_option(run):
    shown = run("tune_mmnet.py", "--help").stdout
    for flag in (
        "data name output space trials time-budget metric folds grouping test-fraction splits label classes positive epochs magnifications image-size backbone weights "
        "frozen stop-at-noise gpus-per-trial cpus-per-trial concurrency scheduler eta address config set seed resume dry-run"
    ).split():
        assert f"--{flag}" in shown
