"""The verbs as a user runs them: real processes, real Ray, real files."""

import csv
import dataclasses
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from bench.faults import kill
from data.synthetic import generate
from mmnet.config import load_config
from mmnet.records import read_trials
from tests.test_imports import ROOT
from tests.verbs import caller

SMALL = (
    "--backbone tiny --weights none --image-size 32 --folds 2 --epochs 4 --seed 0 "
    "--set model.width=8 --set model.heads=2 --set optim.lr=0.003 --set optim.batch_size=16"
).split()
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data"), cases=16, images=2, size=32, seed=0)


@pytest.fixture
def environment(own_cache):
    return os.environ | {"MMNET_CACHE": str(own_cache), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.fixture
def run(environment):
    return caller(environment)


def trials_of(study: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(storage=f"sqlite:///{study / 'optuna.db'}", study_name=study.name).trials


def hparams(folder: Path) -> list[str]:
    """Tags of TensorBoard's HPARAMS records in a trial's event file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return sorted(EventAccumulator(str(folder)).Reload().summary_metadata)


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
    assert sealed and not sealed & set(np.load(records[0].folder / "predictions.npz")["patient"].tolist())
    assert not any(patient in (study / "report.html").read_text() for patient in sealed)

    # the best configuration gives the same numbers in main.py, without Ray, and opens the sealed test once
    best = load_config(study / "best_config.yaml")
    main = ("main.py", "--data", data, "--config", study / "best_config.yaml", "--name", "m", "--output", tmp_path)
    first = run(*main).stdout
    assert best.seed == 0 and "sealed test" in first and "opened on" not in first
    assert read_trials(tmp_path / "m")[0].score == pytest.approx(float(rows[0]["log_loss"]), abs=1e-6)
    (recorded,) = json.loads((tmp_path / "m" / "results" / "sealed_test.json").read_text())
    assert {row["patient"] for row in recorded["patients"]} == sealed and recorded["synthetic"]
    again = run("main.py", "--resume", "--name", "m", "--output", tmp_path).stdout
    assert "was opened on" in again
    assert json.loads((tmp_path / "m" / "results" / "sealed_test.json").read_text()) == [recorded]


def test_a_study_stopped_by_ctrl_c_goes_on_with_the_same_numbers(run, environment, data, tmp_path):
    options = ["--space", "smoke", "--trials", "4", "--concurrency", "1", "--output", str(tmp_path), *SMALL]
    run("tune_mmnet.py", "--data", data, "--name", "whole", *options)
    process = subprocess.Popen(
        [sys.executable, "-u", "tune_mmnet.py", "--data", str(data), "--name", "cut", *options],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(r"trial 0 (done|rests)", line):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    assert process.wait(timeout=120) == 130
    assert "--resume --name cut" in "".join(lines)
    resumed = run("tune_mmnet.py", "--resume", "--name", "cut", "--output", tmp_path).stdout
    assert "best of 4 trials" in resumed
    cut, whole = read_trials(tmp_path / "cut"), read_trials(tmp_path / "whole")
    assert [r.params for r in cut] == [r.params for r in whole]
    for a, b in zip(cut, whole, strict=True):
        assert [line["metrics"] for line in a.epochs] == [line["metrics"] for line in b.epochs]
    assert TrialState.RUNNING not in {trial.state for trial in trials_of(tmp_path / "cut")}


def test_a_killed_worker_costs_no_trial_and_changes_no_number(run, environment, data, tmp_path):
    options = ["--data", str(data), "--space", "smoke", "--trials", "3", "--concurrency", "1", "--output", str(tmp_path), *SMALL]
    run("tune_mmnet.py", "--name", "whole", *options)
    process = subprocess.Popen(
        [sys.executable, "-u", "tune_mmnet.py", "--name", "cut", *options], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    killed = False
    for line in process.stdout:
        while "first trial starts" in line and not killed and process.poll() is None:
            killed = kill(process.pid, "worker", random.Random(0))  # noqa: S311
    assert process.wait(timeout=120) == 0 and killed
    for a, b in zip(read_trials(tmp_path / "cut"), read_trials(tmp_path / "whole"), strict=True):
        assert (a.status, a.params, [line["metrics"] for line in a.epochs]) == (b.status, b.params, [line["metrics"] for line in b.epochs])


def test_a_study_joins_a_ray_cluster_of_another_process(environment, run, data, tmp_path, request):
    short = tempfile.TemporaryDirectory()  # a socket's path holds 107 characters, less than pytest's folders
    request.addfinalizer(short.cleanup)
    environment["RAY_AUTH_MODE"] = "disabled"  # for the head and the driver alike: whether a token lies on this machine is not the test's
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (
        f"start --head --block --port {port} --node-ip-address 127.0.0.1 --num-cpus 1 --include-dashboard=false --temp-dir {short.name}"
    )
    ray = Path(sys.executable).with_name("ray")
    head = subprocess.Popen([ray, *command.split()], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert head.stdout is not None and any("--block" in line for line in head.stdout), "the head did not come up"
        options = ["--space", "smoke", "--trials", 2, "--name", "s", "--output", tmp_path, "--address", f"127.0.0.1:{port}", *SMALL]
        run("tune_mmnet.py", "--data", data, *options)
    finally:
        head.terminate()
        head.wait(timeout=60)
    assert {record.status for record in read_trials(tmp_path / "s")} <= {"done", "stopped"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--data /nowhere", "data /nowhere: no such folder"),
        ("--backbone resnet19", "model.backbone = 'resnet19' is unknown"),
        ("--backbone resnet18 --weights /nowhere.pth", "model.weights = '/nowhere.pth': no such file"),
        ("--set loss.gama=1", "unknown configuration key 'loss.gama': did you mean loss.gamma?"),
        ("--set loss.gamma=-1", "configuration loss.gamma = -1.0: expected 0 to 10"),
        ("--metric log_loss,euros", "--metric log_loss,euros: unknown objective 'euros': expected one of log_loss"),
        ("--metric f7", "configuration metric = 'f7': expected one of log_loss"),
        ("--folds 30", "benign cases for 30 folds"),
        ("--space everything", "--space everything: expected one of ablation, dropout, focal"),
        ("--time-budget soon", "--time-budget soon: expected a duration"),
        ("--config nowhere", "--config nowhere: no such file"),
        ("--name ../up", "--name ../up: expected letters"),
        ("--resume --name nothing", "no readable study.json"),
        ("--magnifications 40,80", "magnifications 80: the data set"),
        ("--splits official:1", "not in the official folds"),
    ],
)
def test_bad_input_stops_before_anything_is_written(monkeypatch, capsys, data, tmp_path, options, expected):
    import tune_mmnet
    from data.errors import InputError

    arguments = ["--data", str(data), "--output", str(tmp_path), *SMALL, *options.split()]
    if "--resume" in options:
        arguments = [*options.split(), "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["tune_mmnet.py", *arguments])
    with pytest.raises(InputError, match=re.escape(expected)):
        tune_mmnet.main()
    assert not list(tmp_path.iterdir())


def test_an_existing_name_offers_resume_and_resume_refuses_other_data_and_configurations(monkeypatch, data, tmp_path):
    from rich.console import Console

    import tune_mmnet
    from data.errors import InputError
    from mmnet.study_folder import open_or_create

    def attempt(*arguments):
        monkeypatch.setattr(sys, "argv", ["tune_mmnet.py", "--output", str(tmp_path / "output"), *map(str, arguments)])
        tune_mmnet.main()

    study = open_or_create(tune_mmnet.parse(["--data", str(data), "--name", "s", "--output", str(tmp_path / "output"), *SMALL]), "tune")
    study.write(study.prepare(Console(quiet=True), None), settings={"space": "smoke", "trials": 2}, rungs=[])
    with pytest.raises(InputError, match="exists already; go on with it by --resume"):
        attempt("--data", data, "--name", "s", *SMALL)
    with pytest.raises(InputError, match=r"started with another configuration \(optim.epochs 4 -> 5\)"):
        attempt("--resume", "--name", "s", "--epochs", 5)
    with pytest.raises(InputError, match="searches space smoke"):
        attempt("--resume", "--name", "s", "--space", "full")
    other = generate(tmp_path / "other", cases=16, images=2, size=32, seed=1)
    with pytest.raises(InputError, match="changed since study s began|do not fit the data"):
        attempt("--resume", "--name", "s", "--data", other, "--trials", 2)


def test_backbones_that_cannot_be_had_are_left_out_and_a_resumed_study_keeps_its_own(monkeypatch, capsys, tmp_path):
    from rich.console import Console

    import tune_mmnet
    from mmnet import backbones
    from mmnet.config import Config
    from mmnet.study_folder import StudyFolder
    from search_spaces import get_space

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
    assert re.search(r"leak +\d+ case\(s\) stand on both sides: 10\d+ \(", shown)
    assert not list(tmp_path.iterdir())


def test_the_leak_audit_also_speaks_where_the_magnifications_leave_patients_out(capsys):
    from rich.console import Console

    from data.splits import Splits
    from mmnet.command_line import Prepared, describe
    from mmnet.config import Config
    from tests.mmnet.tiny import feature_dataset

    dataset = feature_dataset(cases=6, images=1)
    a, b, *rest = dataset.table.patients().tolist()
    case = dataset.table.case.copy()
    case[dataset.table.patient == b] = dataset.table.case[dataset.table.patient == a][0]
    leaking = dataclasses.replace(dataset, table=dataclasses.replace(dataset.table, case=case))
    splits = Splits(((a, *rest[:2]), (b, *rest[2:], "SOB_B_A_14-9999")), (), "slide", "generated")  # the last has no image at these
    describe(Prepared(leaking, splits), Config(), Console())
    assert "1 case(s) stand on both sides" in capsys.readouterr().out


def test_bad_input_is_one_line_and_status_2(run):
    done = run("tune_mmnet.py", "--data", "/nowhere", expect=2)
    assert done.stderr.startswith("error: data /nowhere: no such folder") and done.stderr.count("\n") == 1 and not done.stdout


def test_help_names_every_option(run):
    shown = run("tune_mmnet.py", "--help").stdout
    for flag in (
        "data name output space trials time-budget metric folds grouping test-fraction splits epochs magnifications image-size backbone weights "
        "frozen stop-at-noise gpus-per-trial cpus-per-trial concurrency scheduler eta address config set seed resume dry-run"
    ).split():
        assert f"--{flag}" in shown
