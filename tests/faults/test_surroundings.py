"""A search whose surroundings turn against it: a disk that fills up or cannot be written, a clock that jumps."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from bench.faults import SEARCH, differences
from bench.ray_nodes import Nodes
from data.errors import StorageError
from data.splits import make_splits
from study.mirror import LOCK, TAKEN
from study.records import read_trial, read_trials
from tests.faults.corpus import attempt
from tests.gate import Gate
from tests.mmnet.tiny import tiny_config
from tests.verbs import caller
from tuning.trainable import MMNetTrainable
from tuning.trial_place import TrialPlace

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nodes")]
TRIALS = ["--trials", "4"]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A cluster that many searches join, one after the other."""
    nodes = Nodes(1)
    nodes.environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    with nodes:
        yield nodes


@pytest.fixture(scope="module")
def peace(data, nodes, tmp_path_factory) -> Path:
    """A study that nothing happened to."""
    words = ["--data", data, "--name", "s", "--output", tmp_path_factory.mktemp("peace"), "--address", nodes.address]
    caller(nodes.environment)("tune_mmnet.py", *words, *TRIALS, *SEARCH)
    return words[5] / "s"


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A disk of its own of 8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a disk to fill cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def room(disk: Path, kib: int) -> Iterator[None]:
    """Only so much is free on the disk."""
    stat = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(bytes(max(stat.f_bavail * stat.f_frsize - 1024 * kib, 0)))
    yield
    (disk / "filler").unlink()


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.is_file() and path.name not in (LOCK, TAKEN)]


def test_a_trial_on_a_disk_that_fills_up_again_and_again_comes_to_the_same_numbers(disk, synthetic_dataset, tmp_path):
    splits = make_splits(synthetic_dataset.table, folds=2, test_fraction=0.0, grouping="patient", seed=0)

    def train(output: Path) -> str:
        """Until the trial is done (""), or an error ends the study."""
        worker = MMNetTrainable.__new__(MMNetTrainable)
        shared = {"dataset": synthetic_dataset, "splits": splits, "base": tiny_config(), "place": TrialPlace(output), "threads": 1}
        worker.setup({"number": 0, "params": {}, "since": 0, "until": 3, "take": 1}, **shared)
        result = worker.step()
        while not result["done"]:
            result = worker.step()
        with suppress(StorageError):
            worker.cleanup()
        assert "failed" not in result
        return result.get("abort", "")

    assert train(tmp_path) == ""
    ended = []
    for kib in range(0, 3000, 100):
        with room(disk, kib):
            ended.append(train(disk))
        assert not half_written(disk)
        if not ended[-1]:
            break
        assert re.match(rf"cannot write {disk}/.*No space left on device.*; free some space", ended[-1])
        assert all(record.status == "running" for record in read_trials(disk))
    assert ended[-1] == "" and len(ended) > 3
    peaceful, other = (read_trial(output / "trials" / "0000") for output in (tmp_path, disk))
    assert [line["metrics"] for line in other.epochs] == [line["metrics"] for line in peaceful.epochs] and other.status == "done"
    first, second = (np.load(record.folder / "predictions.npz") for record in (peaceful, other))
    np.testing.assert_array_equal(first["oof"], second["oof"])


def test_a_search_on_a_disk_that_fills_up_is_one_clear_line_and_goes_on_when_there_is_room(disk, peace, data, nodes):
    run, place = caller(nodes.environment), ["--name", "s", "--output", disk, "--address", nodes.address]
    words = ["--data", data, *TRIALS, *SEARCH]
    for kib in (12, 60, 600, 2000):  # study.json, optuna.db, trials, results
        with room(disk, kib):
            said = run("tune_mmnet.py", *words, *place, expect=2).stderr
        assert said.startswith("error: ") and said.count("\n") == 1 and re.search("full|No space left", said), said
        assert str(disk) in said and "free some space" in said and "--resume" in said, said
        assert not half_written(disk)
        words = ["--resume"]
    assert "best of 4 trials" in run("tune_mmnet.py", "--resume", *place).stdout
    assert differences(peace, disk / "s") == []


def test_where_nothing_can_be_written_every_verb_says_so_and_changes_nothing(disk, peace, data, monkeypatch, capfd):
    subprocess.run(["cp", "-r", peace, disk / "s"], check=True)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    new = " ".join(["--data", str(data), *SEARCH])
    for command in (
        f"tune --resume --name s --output {disk}",
        f"tune --name t {new} --output {disk}",
        f"eval --study s --table --output {disk}",
    ):
        status, said = attempt(monkeypatch, capfd, command)
        assert (status, said.count("\n")) == (2, 1) and str(disk) in said and "Read-only file system" in said and "writable" in said


CLOCK = """
import time
from pathlib import Path

shift, now = Path(__file__).with_name("shift"), time.time
time.time = lambda: now() + float(shift.read_text())
"""


def test_a_clock_that_jumps_changes_no_number_and_ends_no_study(peace, data, nodes, tmp_path):
    """Python reads this file before anything else in every process, Ray's as well."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK)

    def jump(days: float) -> None:
        (tmp_path / "building").write_text(str(86400 * days))
        (tmp_path / "building").replace(tmp_path / "shift")

    jump(0)
    elsewhen = Nodes(1)
    elsewhen.environment |= nodes.environment | {"PYTHONPATH": str(tmp_path)}
    with elsewhen:
        place = ["--name", "s", "--output", tmp_path, "--address", elsewhen.address, "--time-budget", "1h"]
        with Gate() as gate:
            first = gate.start("tune_mmnet.py", *place, "--data", data, *TRIALS, *SEARCH, environment=elsewhen.environment)
            for days in (400, -400):
                gate.after(0, first)
                jump(days)
            gate.after(0, first)
            first.process.terminate()
            gate.open()
            said = first.ends(130)
        with Gate() as gate:
            second = gate.start("tune_mmnet.py", *place, "--resume", environment=elsewhen.environment)
            gate.after(1, second)
            jump(3)
            gate.open()
            said += second.ends(0)
    assert differences(peace, tmp_path / "s") == []
    assert not re.search(r"-\d+ s this run|-\d+:\d\d", said)
    assert all(line["seconds"] >= 0 for record in read_trials(tmp_path / "s") for line in record.epochs)
