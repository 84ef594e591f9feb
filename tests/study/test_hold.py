"""One run works on a study; what an earlier one left running writes no more. In a folder, and in an object store."""

import os
import platform
from contextlib import closing, suppress

import pytest

from data.errors import InputError, StorageError
from study import hold as module
from study.bucket import Bucket
from study.hold import STALE, Hold, is_gone
from study.mirror import Mirror, TakenOver
from study.records import TrialWriter
from tests.object_store import object_store  # noqa: F401
from tests.study.test_records import CONFIG, new_trial
from tuning.trial_place import TrialPlace

HERE = platform.node()


PLACES = ("folder", "folder without locks", "store")
WITHOUT_LOCKS = pytest.mark.parametrize("place", PLACES[1:], indirect=True)


@pytest.fixture(params=PLACES)
def place(request, tmp_path, monkeypatch):
    """A function that gives the study as another process has it."""
    if request.param == "store":
        store = request.getfixturevalue("object_store")
        return lambda name: Mirror(tmp_path / name / "s", Bucket(store.url("out/s")))
    if request.param == "folder without locks":

        def none(file, operation):
            raise OSError("no locks")

        monkeypatch.setattr(module.fcntl, "flock", none)
    return lambda name: Mirror(tmp_path / "s")


@pytest.fixture
def taken(place):
    """(the mirror of a run that holds the study, its hold); it is let go at the end."""
    mirror = place("first")
    hold = Hold(mirror)
    yield mirror, hold
    hold.release()


def everything(mirror):
    """{name: content} of the study where it stands, but for who holds it."""
    if mirror.bucket is None:
        return {path.name: path.read_bytes() for path in mirror.folder.rglob("*") if path.is_file() and path.name != ".lock"}
    copy = Mirror(mirror.folder.parent / "copy" / "s", mirror.bucket)
    copy.pull()
    return {path.name: path.read_bytes() for path in copy.folder.rglob("*") if path.is_file()}


def lost(mirror, hold):
    """As when the driver was killed on a machine of which nothing is known any more."""
    hold._ended.set()
    if hold._file is not None:
        hold._file.close()
    mirror.write_lock(f"process 1 on elsewhere, run {mirror.run}")


def overtaken(place, taken, monkeypatch):
    """The hold of a second run, which found the first one lost."""
    lost(*taken)
    monkeypatch.setattr(module, "STALE", -1.0)
    return Hold(place("second"))


def test_a_second_run_is_refused_with_who_works_on_the_study_and_the_way_out(place, taken):
    with pytest.raises(InputError, match=rf"s: process {os.getpid()} on {HERE} works on it.*; wait for its end.*or start another --name"):
        Hold(place("second"))
    taken[0].check_run()


def test_a_study_that_was_let_go_is_free(place):
    Hold(place("first")).release()
    second = place("second")
    with closing_hold(Hold(second)):
        second.check_run()


def closing_hold(hold):
    hold.close = hold.release
    return closing(hold)


def test_a_worker_that_outlived_its_driver_writes_nothing_into_a_study_that_another_run_has(place, taken, monkeypatch, tmp_path):
    mirror, _ = taken
    place_of_worker = TrialPlace(mirror.folder, url=mirror.bucket.url if mirror.bucket else "", run=mirror.run)
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    worker = place_of_worker.mirror()
    writer, trial = TrialWriter(worker.folder / "trials" / "0000", 0, {}, CONFIG, worker), new_trial()
    next(trial)
    writer.report(trial)
    before = everything(mirror)
    assert {"config.json", "epochs.jsonl", "checkpoint.pt", "status.json"} <= {name.rpartition("/")[2] for name in before}
    with closing_hold(overtaken(place, taken, monkeypatch)):
        next(trial)
        writes = {
            "an epoch": lambda: writer.report(trial),
            "a checkpoint": lambda: writer.save(trial),
            "its end": lambda: writer.status("done", ""),
            "predictions": lambda: writer.finish(trial),
            "a new trial": lambda: TrialWriter(worker.folder / "trials" / "0001", 1, {}, CONFIG, worker).status("running", ""),
            "a removal": lambda: mirror.unlink(mirror.folder / "trials" / "0000" / "checkpoint.pt"),
        }
        for what, write in writes.items():
            refused = pytest.raises(StorageError, match=rf"process {os.getpid()} on {HERE} has taken it over; this run .* writes no more")
            unsent = what == "an epoch" and mirror.bucket is not None  # not every epoch is sent to a store at once
            with suppress(StorageError) if unsent else refused:
                write()
            assert everything(mirror) == before, what


def test_of_two_workers_of_a_run_with_one_trial_only_the_one_that_it_was_given_to_last_writes(place, taken, monkeypatch, tmp_path):
    mirror, _ = taken
    monkeypatch.setenv("MMNET_CACHE", str(tmp_path / "cache"))
    of_worker = TrialPlace(mirror.folder, url=mirror.bucket.url if mirror.bucket else "", run=mirror.run)

    def take_up(number):
        mirror.hand_out(mirror.folder / "trials" / "0000", number)
        worker = of_worker.mirror()
        folder = worker.folder / "trials" / "0000"
        worker.trial = folder, number
        of_worker.take_up(worker, folder)
        writer, trial = TrialWriter(folder, 0, {}, CONFIG, worker), new_trial()
        writer.load(trial)
        return writer, trial

    first, trial = take_up(1)
    next(trial)
    first.report(trial)
    second, again = take_up(2)  # the machine of the first one was cut off
    for _ in again:
        second.report(again)
    second.status("done", "")
    before = everything(mirror)
    next(trial)
    writes = (lambda: first.save(trial), lambda: first.status("done", ""), lambda: first.finish(trial), lambda: first.rewind(trial))
    for write in writes[: 3 if mirror.bucket else 4]:  # not every epoch is sent to a store at once
        with pytest.raises(TakenOver, match="trial 0000 was given to another process; this one writes no more"):
            write()
        assert everything(mirror) == before
    mirror.check_run()  # the run itself goes on


def test_a_run_that_was_taken_over_does_not_take_the_study_back_or_let_it_go(place, taken, monkeypatch):
    with closing_hold(overtaken(place, taken, monkeypatch)) as second:
        taken[1].release()
        second._mirror.check_run()
        assert second._mirror.run in second._mirror.read_lock()[0]


@WITHOUT_LOCKS
def test_two_that_begin_in_the_same_moment_do_not_both_go_on(place, taken, monkeypatch):
    lost(*taken)
    monkeypatch.setattr(module, "_require_free", lambda mirror: None)
    first, second = place("a"), place("b")
    write = first.write_lock
    first.write_lock = lambda text: (write(text), second.write_lock("process 2 on elsewhere, run other"))
    with pytest.raises(StorageError, match="process 2 on elsewhere has taken it over"):
        Hold(first)


def test_a_lock_is_nobodys_when_it_was_not_renewed_or_its_process_was_here_and_is_gone(monkeypatch):
    monkeypatch.setattr(module, "_runs", lambda process: process == 7)
    assert not is_gone(f"process 7 on {HERE}, run x", 0)
    assert is_gone(f"process 8 on {HERE}, run x", 0)
    assert not is_gone("process 8 on elsewhere, run x", STALE) and is_gone("process 8 on elsewhere, run x", STALE + 1)
    assert not is_gone("damaged", 0) and is_gone("damaged", STALE + 1)


@WITHOUT_LOCKS
def test_a_sign_of_life_makes_the_lock_young_and_keeps_what_it_says(place, taken):
    mirror, _ = taken
    said = mirror.read_lock()[0]
    if mirror.bucket is None:
        os.utime(mirror.folder / ".lock", (0, 0))
    mirror.renew_lock()
    assert mirror.read_lock()[0] == said and mirror.read_lock()[1] < STALE


def test_a_lock_that_somebody_removed_stops_nobody(taken):
    mirror, _ = taken
    mirror.remove_lock()
    mirror.check_run()
