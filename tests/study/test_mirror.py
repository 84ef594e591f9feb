"""A folder and its copy in an object store: what goes up, what comes down, in which order."""

import os

import pytest

from study import mirror as mirror_module
from study.bucket import Bucket
from study.mirror import CHECKPOINTS, Mirror, open_output
from tests.object_store import object_store  # noqa: F401


class Shelf:
    """A bucket in memory, with what was asked of it in order."""

    def __init__(self):
        self.held: dict[str, tuple[bytes, int]] = {}
        self.asked: list[str] = []
        self.now = 1

    def files(self, below=""):
        return {name: (len(content), at) for name, (content, at) in self.held.items() if not below or name.startswith(f"{below}/")}

    def get(self, name, path):
        self.asked.append(f"get {name}")
        if name not in self.held:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.held[name][0])
        return True

    def put(self, path, name):
        self.asked.append(f"put {name}")
        self.held[name] = path.read_bytes(), self.now

    def remove(self, name):
        self.asked.append(f"remove {name}")
        self.held.pop(name, None)


@pytest.fixture
def shelf():
    return Shelf()


@pytest.fixture
def mirror(shelf, tmp_path):
    return Mirror(tmp_path / "here", shelf)


def write(mirror, **files):
    for name, text in files.items():
        path = mirror.folder / "trials" / "0001" / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_files_go_up_in_the_order_that_a_reader_needs_and_only_once(mirror, shelf):
    write(mirror, status_json="done", weights__a="w", epochs_jsonl="1\n", config_json="c", checkpoint_pt="p", _hidden="h")
    mirror.push()
    names = ["config.json", "epochs.jsonl", "checkpoint.pt", "weights/a", "status.json"]
    assert shelf.asked == [f"put trials/0001/{name}" for name in names]
    mirror.push()
    assert len(shelf.asked) == 5


def test_what_changed_goes_up_again_and_what_was_removed_is_removed_after_it(mirror, shelf):
    write(mirror, checkpoint_pt="1", status_json="running")
    mirror.push()
    shelf.asked.clear()
    write(mirror, weights__a="w", status_json="done")
    (mirror.folder / "trials" / "0001" / "checkpoint.pt").unlink()
    mirror.push(mirror.folder / "trials" / "0001")
    assert shelf.asked == ["put trials/0001/weights/a", "put trials/0001/status.json", "remove trials/0001/checkpoint.pt"]


def test_what_never_came_here_is_not_removed_there(mirror, shelf):
    shelf.held = {"trials/0001/checkpoint.pt": (b"1", 1), "trials/0001/status.json": (b"2", 1), "trials/0010/status.json": (b"3", 1)}
    mirror.pull(leave=(CHECKPOINTS,))
    mirror.push()
    (mirror.folder / "trials" / "0010" / "status.json").unlink()
    mirror.push(mirror.folder / "trials" / "0001")
    assert len(shelf.held) == 3 and not any(asked.startswith("remove") for asked in shelf.asked)


def test_only_what_changed_comes_down(mirror, shelf, monkeypatch):
    shelf.held = {"trials/0001/epochs.jsonl": (b"1", 1), "trials/0002/epochs.jsonl": (b"1", 1)}
    mirror.pull()
    shelf.asked.clear()
    mirror.pull()
    assert shelf.asked == []
    shelf.held["trials/0002/epochs.jsonl"] = b"12", 2
    mirror.pull(mirror.folder / "trials" / "0001")
    assert shelf.asked == []
    mirror.pull()
    assert shelf.asked == ["get trials/0002/epochs.jsonl"]


def test_an_object_younger_than_the_clocks_can_tell_comes_down_again(mirror, shelf, monkeypatch):
    """Two writes of one size within a second look the same from outside."""
    monkeypatch.setattr(mirror_module.time, "time", lambda: 100.0)
    shelf.held = {"old": (b"1", 1), "new": (b"1", 99)}
    mirror.pull()
    shelf.held["new"] = b"2", 99
    mirror.pull()
    assert (mirror.folder / "new").read_bytes() == b"2" and shelf.asked.count("get old") == 1


def test_what_comes_down_does_not_go_up_again(mirror, shelf):
    shelf.held = {"trials/0001/status.json": (b"1", 1)}
    mirror.pull()
    mirror.push()
    assert shelf.asked == ["get trials/0001/status.json"]


def test_a_dropped_folder_stays_there_and_comes_again(mirror, shelf):
    write(mirror, checkpoint_pt="1")
    mirror.push()
    mirror.drop(mirror.folder / "trials" / "0001")
    mirror.push()
    assert "trials/0001/checkpoint.pt" in shelf.held and not (mirror.folder / "trials" / "0001").exists()
    mirror.pull()
    assert (mirror.folder / "trials" / "0001" / "checkpoint.pt").read_text() == "1"


def test_now_and_then_is_a_share_of_the_time(shelf, tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(mirror_module.time, "monotonic", lambda: clock[0])
    mirror, put = Mirror(tmp_path, shelf), shelf.put

    def slow(path, name):
        clock[0] += 1.0
        put(path, name)

    shelf.put = slow
    for epoch in range(100):
        write(mirror, epochs_jsonl="x" * epoch)
        mirror.push_at_times()
        clock[0] += 1.0
    assert len(shelf.asked) == 5  # of 100 seconds of training each takes one


def test_a_study_in_a_folder_is_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "file").write_text("1")
    mirror = open_output(tmp_path).study("s")
    for act in (mirror.pull, mirror.push, mirror.push_at_times, lambda: mirror.drop(tmp_path / "s")):
        act()
    assert (tmp_path / "s" / "file").read_text() == "1" and mirror.exists() and str(mirror) == str(tmp_path / "s")
    mirror.unlink(tmp_path / "s" / "file")
    assert not mirror.exists()


def test_every_process_has_a_folder_of_its_own_and_clears_away_those_of_the_dead(own_cache):
    for name in ("dead", "just ended"):
        (own_cache / "stored" / name).mkdir(parents=True)
    os.utime(own_cache / "stored" / "dead", (0, 0))
    first, second = open_output("s3://bucket/p"), open_output("s3://bucket/p")
    assert first.folder != second.folder and first.folder.is_dir() and second.folder.is_dir()
    assert not (own_cache / "stored" / "dead").exists() and (own_cache / "stored" / "just ended").exists()


def test_two_machines_hand_a_study_over(object_store, tmp_path):  # noqa: F811
    bucket = Bucket(object_store.url()).below("s")
    first, second = Mirror(tmp_path / "first", bucket), Mirror(tmp_path / "second", bucket)
    write(first, config_json="c", checkpoint_pt="1", status_json="running")
    first.push()
    second.pull()
    write(second, checkpoint_pt="2")
    second.unlink(second.folder / "trials" / "0001" / "status.json")
    second.push()
    first.drop(first.folder / "trials" / "0001")
    first.pull()
    left = {path.name: path.read_text() for path in (first.folder / "trials" / "0001").iterdir()}
    assert left == {"config.json": "c", "checkpoint.pt": "2"}
