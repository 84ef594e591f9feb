"""Studies in an object store, as a user runs them: real processes, real Ray, an S3 server on loopback."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from study.bucket import Bucket
from study.mirror import Mirror
from study.records import read_trials
from tests.gate import Gate
from tests.object_store import google_store, object_store  # noqa: F401
from tests.test_verbs import SMALL
from tests.verbs import caller

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
SEARCH = ["--space", "smoke", "--trials", "4", "--concurrency", "1", *SMALL]


@pytest.fixture
def machine(tmp_path):
    """A function of a name: the environment of a machine with an empty disk."""

    def environment(name):
        return os.environ | {"MMNET_CACHE": str(tmp_path / name), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    return environment


def fetched(object_store, name: str, folder: Path) -> Path:  # noqa: F811
    """The whole study as it stands in the store."""
    Mirror(folder / name, Bucket(object_store.url()).below(name)).pull()
    return folder / name


def numbers(study: Path) -> list[tuple]:
    """All that a study says of its trials, but how long they took."""
    return [
        (record.status, record.reason, record.params, [{**line, "seconds": 0} for line in record.epochs]) for record in read_trials(study)
    ]


def test_a_search_leaves_the_same_records_in_an_object_store_as_in_a_folder(object_store, machine, data, tmp_path):  # noqa: F811
    run = caller(machine("one"))
    run("tune_mmnet.py", "--data", data, "--name", "s", "--output", tmp_path / "output", *SEARCH)
    shown = run("tune_mmnet.py", "--data", data, "--name", "s", "--output", object_store.url(), *SEARCH).stdout
    assert "stored in s3://studies/out/s\n" in shown
    here, there = tmp_path / "output" / "s", fetched(object_store, "s", tmp_path / "copy")

    def files(study):
        found = (path.relative_to(study) for path in study.rglob("*") if path.is_file())
        return {path.as_posix() for path in found if "tfevents" not in path.name and not path.name.startswith(".")}

    assert files(here) == files(there) and numbers(here) == numbers(there)
    events = [len(list(study.glob("trials/*/events.out.tfevents.*"))) for study in (here, there)]
    assert events[0] == events[1] > 4  # one a trial and stretch, and the figures of the best
    for record in read_trials(here):
        left, right = (np.load(study / "trials" / record.name / "predictions.npz")["oof"] for study in (here, there))
        assert np.array_equal(left, right)

    # whatever reads a study reads it there, on a machine that never saw it, and leaves there what it writes
    run = caller(machine("two"))
    assert "stored in s3://studies/out/s\n" in run("-m", "analysis", "best", "s", "--output", object_store.url()).stdout
    run("eval.py", "--output", object_store.url(), "--table", "--data", data)
    again = fetched(object_store, "s", tmp_path / "again")
    assert (again / "results" / "best").is_dir() and (again / "results" / "performance.csv").exists()
    assert "ended: every trial ended" in run("-m", "analysis", "watch", "s", "--output", object_store.url()).stdout
    taken = run("tune_mmnet.py", "--data", data, "--name", "s", "--output", object_store.url(), *SEARCH, expect=2).stderr
    assert "study s3://studies/out/s exists already" in taken
    unknown = run("eval.py", "--output", object_store.url(), "--study", "t", expect=2).stderr
    assert unknown.startswith("error: study t: no readable study.json in s3://studies/out/t") and unknown.count("\n") == 1


def test_a_study_whose_driver_is_killed_goes_on_from_another_machine_with_the_same_numbers(object_store, machine, data, tmp_path):  # noqa: F811
    caller(machine("one"))("tune_mmnet.py", "--data", data, "--name", "whole", "--output", tmp_path, *SEARCH)
    with Gate() as gate:
        words = ["--data", data, "--name", "cut", "--output", object_store.url(), *SEARCH]
        command = gate.start("tune_mmnet.py", *words, environment=machine("one"))
        gate.after(10, command)
        os.killpg(command.process.pid, signal.SIGKILL)
        command.ends(-signal.SIGKILL)
    before = fetched(object_store, "cut", tmp_path / "before")
    assert json.loads((before / "study.json").read_text())["ended"] is None
    ended = [record.name for record in read_trials(before) if record.status == "done"]
    assert ended and len(ended) < 3

    shown = caller(machine("two"))("tune_mmnet.py", "--resume", "--output", object_store.url(), "--data", data).stdout
    assert "best of 4 trials" in shown
    study = fetched(object_store, "cut", tmp_path / "after")
    assert numbers(study) == numbers(tmp_path / "whole")
    for name in ended:  # not run again
        assert (study / "trials" / name / "config.json").read_bytes() == (before / "trials" / name / "config.json").read_bytes()
        assert [line["seconds"] for line in map(json.loads, (study / "trials" / name / "epochs.jsonl").open())] == [
            line["seconds"] for line in map(json.loads, (before / "trials" / name / "epochs.jsonl").open())
        ]
    resting = {record.name for record in read_trials(study) if record.status == "stopped"}
    assert {path.parent.name for path in study.glob("trials/*/checkpoint.pt")} == resting


def test_a_study_in_googles_store_has_the_same_records_and_goes_on_from_another_machine(google_store, machine, data, tmp_path):  # noqa: F811
    run = caller(machine("one"))
    run("tune_mmnet.py", "--data", data, "--name", "s", "--output", tmp_path, *SEARCH)
    shown = run("tune_mmnet.py", "--data", data, "--name", "s", "--output", google_store.url(), *SEARCH, "--trials", "2").stdout
    assert "stored in gs://" in shown and "best of 2 trials" in shown
    run = caller(machine("two"))
    assert "best of 4 trials" in run("tune_mmnet.py", "--resume", "--output", google_store.url(), "--data", data, "--trials", "4").stdout
    there = fetched(google_store, "s", tmp_path / "copy")
    assert [record.params for record in read_trials(there)][:2] == [record.params for record in read_trials(tmp_path / "s")][:2]
    assert {record.status for record in read_trials(there)} <= {"done", "stopped"}
    assert run("-m", "analysis", "best", "s", "--output", google_store.url()).stdout


def test_training_one_configuration_goes_on_from_another_machine(object_store, machine, data, tmp_path):  # noqa: F811
    train = ["main.py", "--data", data, "--name", "m"]
    caller(machine("one"))(*train, "--output", tmp_path, *SMALL)
    with Gate() as gate:
        command = gate.start(*train, "--output", object_store.url(), *SMALL, environment=machine("one"))
        gate.after(2, command)
        command.process.kill()
        command.ends(-signal.SIGKILL)
    assert "opened" not in caller(machine("two"))("main.py", "--resume", "--output", object_store.url(), "--data", data).stdout
    study = fetched(object_store, "m", tmp_path / "after")
    assert numbers(study) == numbers(tmp_path / "m")
    with (study / "results" / "summary.csv").open() as file:
        assert list(csv.reader(file)) == list(csv.reader((tmp_path / "m" / "results" / "summary.csv").open()))
    assert (study / "models" / "fold_2.safetensors").exists() and (study / "results" / "sealed_test.json").exists()


def test_a_store_that_does_not_answer_or_lacks_the_bucket_stops_before_anything_is_computed(object_store, machine, data):  # noqa: F811
    run = caller(machine("one"))
    wrong = run("tune_mmnet.py", "--data", data, "--output", object_store.url(bucket="elsewhere"), *SEARCH, expect=2)
    assert "no such bucket: elsewhere; make the bucket first, or correct its name" in wrong.stderr and not wrong.stdout
    object_store.stop()
    gone = run("tune_mmnet.py", "--data", data, "--output", object_store.url(), *SEARCH, expect=2)
    assert "check the network and the endpoint" in gone.stderr and not gone.stdout
    for done in (wrong, gone):
        assert done.stderr.startswith("error: --output s3://") and done.stderr.count("\n") == 1


def test_a_store_that_goes_away_in_the_middle_ends_the_study_with_its_reason(object_store, machine, data):  # noqa: F811
    with Gate() as gate:
        command = gate.start("tune_mmnet.py", "--data", data, "--output", object_store.url(), *SEARCH, environment=machine("one"))
        gate.after(1, command)
        object_store.stop()
        gate.open()
        said = command.ends(2)
    assert said.splitlines()[-1].startswith("error: --output s3://studies/out") and "Traceback" not in said
