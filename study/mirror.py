"""A study in an object store: its folder on this machine, and what goes up and down between the two.

Whoever reads or writes records does so in a plain folder; only here is it known that the folder is a copy. The truth is in
the store, so the copy begins empty in every process, and what a process leaves behind the next one throws away. For a study
that stands in a folder itself, nothing below does anything.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, TYPE_CHECKING

from data.cache import cache_root, only_process
from data.errors import StorageError
from study.bucket import Bucket, is_url

if TYPE_CHECKING:
    from rich.console import Console

LOCK = ".lock"  # names the run that a study belongs to, see study.hold
TAKEN = ".taken"  # in a trial's folder: the run and number of its last handing out to a process, likewise
CHECKPOINTS, EVENTS, WEIGHTS = "checkpoint.pt", "events.out.tfevents.*", "*.safetensors"
SHARE = 0.05  # of a process's time that may go into sending what the next sending would include too
AT_ONCE = 16  # files in flight: a request is mostly waiting
SETTLED = 60  # seconds: an object's time has no finer unit than one, and the store's clock is not this machine's
KEPT = 24 * 3600  # seconds that a copy stays after its process, for whoever opens the report or passes a file on by its path
# A reader of the store must find what it would find on a disk after the same writes: epochs before the checkpoint that
# follows from them, the status last
FIRST, LAST = ("config.json", "epochs.jsonl"), ("status.json", "study.json")


class TakenOver(StorageError):
    """Another process trains this trial now, because this one was held to be lost."""


class Mirror:
    """A folder, and what stands in the store for it. Names are paths below the folder; hidden files are passed over."""

    def __init__(self, folder: Path, bucket: Bucket | None = None):
        self.folder, self.bucket = folder, bucket
        self.run = ""  # for which this process writes, see study.hold; "": it was not asked who works on the study
        self.trial: tuple[Path, int] | None = None  # that this process trains: its folder, and the number of the handing out
        self._here: dict[str, tuple[int, int]] = {}  # of each file that the store has too: its local time and size then
        self._there: dict[str, tuple[int, int]] = {}  # of each object fetched: its size and time then
        self._sent, self._cost = time.monotonic(), 0.0

    def __str__(self) -> str:
        return str(self.bucket or self.folder)

    def exists(self) -> bool:
        """Whether anything stands here already."""
        return bool(self.bucket.files()) if self.bucket else self.folder.exists() and any(self.folder.iterdir())

    def pull(self, folder: Path | None = None, *, leave: tuple[str, ...] = ()) -> None:
        """Fetch what is new or changed in the store, or only in `folder`, but for files named as in `leave`. Raises StorageError."""
        if self.bucket is None:
            return
        now, wanted = time.time(), {}
        for name, stamp in self.bucket.files(self._name(folder)).items():
            left = any(fnmatch(name.rpartition("/")[2], pattern) for pattern in leave)
            if not left and not _hidden(name) and (self._there.get(name) != stamp or stamp[1] > now - SETTLED):
                wanted[name] = stamp
        with ThreadPoolExecutor(AT_ONCE, "fetching") as threads:
            try:
                fetched = dict(zip(wanted, threads.map(self._fetch, wanted), strict=True))
            except BaseException:
                threads.shutdown(cancel_futures=True)  # the others would fail too, each after its own retries
                raise
        self._there |= {name: stamp for name, stamp in wanted.items() if fetched[name]}

    def push(self, folder: Path | None = None) -> None:
        """Send what changed here, or only in `folder`, and remove there what was removed here. Raises StorageError."""
        if self.bucket is None:
            return
        started = time.monotonic()
        self.check_run()
        below = self._name(folder)
        present = {self._name(path): _stamp(path) for path in _files(folder or self.folder)}
        for name in sorted((name for name, stamp in present.items() if self._here.get(name) != stamp), key=_turn):
            self.bucket.put(self.folder / name, name)
            self._here[name] = present[name]
        for name in [name for name in self._here if name not in present and f"{name}/".startswith(f"{below}/" if below else "")]:
            self.bucket.remove(name)
            del self._here[name]
        self._sent = time.monotonic()
        self._cost = self._sent - started

    def push_at_times(self, folder: Path | None = None) -> None:
        """`push`, unless that would take over 5 % of the time."""
        if time.monotonic() - self._sent >= self._cost / SHARE:
            self.push(folder)

    def sizes(self, folder: Path) -> dict[Path, int]:
        """{path: bytes} of the files in a folder, in the store where it stands in one: also of those that did not come here."""
        if self.bucket is None:
            return {path: path.stat().st_size for path in _files(folder)}
        return {self.folder / name: size for name, (size, _) in self.bucket.files(self._name(folder)).items()}

    def unlink(self, path: Path) -> None:
        """Remove a file here and there. Raises StorageError."""
        self.check_run()
        path.unlink(missing_ok=True)
        if self.bucket is not None:
            self._here.pop(self._name(path), None)
            self.bucket.remove(self._name(path))

    def drop(self, folder: Path) -> None:
        """Remove a folder here and not there, so that the next `pull` fetches it again."""
        if self.bucket is None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        for known in (self._here, self._there):
            for name in [name for name in known if name.startswith(f"{self._name(folder)}/")]:
                del known[name]

    def check_run(self) -> None:
        """To be asked before anything is written. Raises StorageError when another run has taken the study over, or TakenOver."""
        if self.run and (found := self.read_lock()) is not None and self.run not in found[0]:
            raise StorageError(f"study {self}: {found[0].partition(',')[0]} has taken it over; this run was given up and writes no more")
        if self.trial is not None and (found := self._read(f"{self._name(self.trial[0])}/{TAKEN}")) is not None:
            run, number = found[0].split(" ")
            if run == self.run and int(number) > self.trial[1]:
                raise TakenOver(f"study {self}: trial {self.trial[0].name} was given to another process; this one writes no more")

    def hand_out(self, folder: Path, number: int) -> None:
        """Note that from now on only the process with this number, higher than all before, trains a trial. Raises StorageError."""
        text = f"{self.run} {number}"
        if self.bucket is not None:
            self.bucket.write(text.encode(), f"{self._name(folder)}/{TAKEN}")
            return
        from study.records import whole_file  # here: whoever reads nothing but a lock does without

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError.of(folder / TAKEN, error.strerror) from error
        with whole_file(folder / TAKEN) as building:
            building.write_text(text)

    def read_lock(self) -> tuple[str, float] | None:
        """(what the lock says, seconds since it was written); None where there is none."""
        return self._read(LOCK)

    def _read(self, name: str) -> tuple[str, float] | None:
        if self.bucket is not None:
            return self.bucket.read(name)
        path = self.folder / name
        try:
            return path.read_text(), time.time() - path.stat().st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError.of(path, error.strerror) from error

    def write_lock(self, text: str) -> None:
        if self.bucket is not None:
            self.bucket.write(text.encode(), LOCK)
        else:
            path = self.folder / LOCK
            try:
                path.write_text(text)  # in place: the file itself is what is locked
            except OSError as error:
                raise StorageError.of(path, error.strerror) from error

    def renew_lock(self) -> None:
        """As written now."""
        if self.bucket is None:
            os.utime(self.folder / LOCK)
        elif (found := self.bucket.read(LOCK)) is not None:
            self.bucket.write(found[0].encode(), LOCK)

    def remove_lock(self) -> None:
        if self.bucket is not None:
            self.bucket.remove(LOCK)
        else:
            (self.folder / LOCK).unlink(missing_ok=True)

    def store(self, console: Console) -> None:
        """`push`, and say where."""
        self.push()
        if self.bucket is not None:
            console.print(f"stored in {self}", highlight=False, soft_wrap=True)

    def _fetch(self, name: str) -> bool:
        assert self.bucket is not None
        path = self.folder / name
        if fetched := self.bucket.get(name, path):
            self._here[name] = _stamp(path)
        return fetched

    def _name(self, path: Path | None) -> str:
        return "" if path is None or path == self.folder else path.relative_to(self.folder).as_posix()


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size


def _files(folder: Path) -> Iterator[Path]:
    """Every file below a folder but hidden ones: what is being written, and Ray's own."""
    for path in sorted(folder.glob("*")):
        if _hidden(path.name):
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _hidden(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".")


def _turn(name: str) -> tuple[int, str]:
    file = name.rpartition("/")[2]
    return FIRST.index(file) if file in FIRST else len(FIRST) + (file in LAST), name


@dataclass(frozen=True)
class Output:
    """Where studies stand: a folder, or a place in an object store with a folder of this process before it."""

    folder: Path
    bucket: Bucket | None = None

    def study(self, name: str) -> Mirror:
        """The place of a study of this name."""
        return Mirror(self.folder / name, self.bucket and self.bucket.below(name))

    def fetch_heads(self) -> None:
        """Bring study.json of every study here, with the time that it was written: what `find_study` looks at."""
        if self.bucket is None:
            return
        for name, (_, written) in self.bucket.heads("study.json").items():
            if self.bucket.get(name, self.folder / name):
                os.utime(self.folder / name, (written, written))


def open_output(place: str | Path) -> Output:
    """`--output` as it was given. Raises InputError for a URL of another kind."""
    return Output(_own_folder(), Bucket(str(place))) if is_url(place) else Output(Path(place))


def scratch(url: str) -> Mirror:
    """An empty folder of this process before a place in an object store."""
    return Mirror(_own_folder(), Bucket(url))


_LOCKS: list[IO[str]] = []  # held while this process lives


def _own_folder() -> Path:
    """A new folder in the cache, for this process alone; those of processes that ended a while ago are removed."""
    root = cache_root() / "stored"
    with only_process(root / "folders"):
        for left in root.iterdir():
            if left.is_dir() and left.stat().st_mtime < time.time() - KEPT:
                with (left / ".lock").open("w") as lock, suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=root)).resolve()
        _LOCKS.append((folder / ".lock").open("w"))
        fcntl.flock(_LOCKS[-1], fcntl.LOCK_EX)
    return folder
