"""Who works on a study: one run at a time, and nobody for a run that was given up; on a trial, one process of the run.

A run has a name that no other has. It stands in the study's `.lock`: in a folder beside a lock of the file system, which ends with its
process; in an object store, which has no locks (as on file systems without them), it is written again every `RENEWED` seconds, and
taken over when that has not happened for `STALE`, or when its process was one of this machine and is gone.

Whoever writes for a run looks there first (`Mirror.check_run`): a worker that outlived its driver, a driver that slept, two that began
in the same moment stop there. So does a worker whose machine was cut off and comes back: the driver notes in the trial's `.taken` which
handing out is the last one (`Mirror.hand_out`), and only its process writes. Between the look and the write is a moment. What happens in
it costs some epochs that are computed again, and no number: files appear whole, and a trial's epochs and checkpoints are the same
whoever computes them.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import platform
import re
import threading
import uuid
from contextlib import suppress
from typing import TextIO

from data.errors import InputError, StorageError
from study.mirror import LOCK, Mirror

RENEWED = 30  # seconds
STALE = 150  # seconds; the store's clock may be some off


class Hold:
    """This process's hold on a study, until `release` or its end. Raises InputError when another process has it, or nothing can be written."""

    def __init__(self, mirror: Mirror):
        self._mirror, self._ended = mirror, threading.Event()
        self._file = None if mirror.bucket else _locked(mirror)
        run = uuid.uuid4().hex
        if self._file is None:
            _require_free(mirror)
        mirror.run = run
        mirror.write_lock(f"process {os.getpid()} on {platform.node()}, run {run}")
        self._thread = None
        if self._file is None:
            mirror.check_run()  # another one may have begun in the same moment
            self._thread = threading.Thread(target=self._renew, name="holding", daemon=True)
            self._thread.start()
            atexit.register(self.release)

    def release(self) -> None:
        self._ended.set()
        if self._file is not None:
            self._file.close()
        if self._thread is not None:
            atexit.unregister(self.release)
            self._thread.join()
            with suppress(StorageError):  # the store may be gone, or the study another's
                self._mirror.check_run()
                self._mirror.remove_lock()

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED):
            with suppress(StorageError):  # the store is away, or the study another's: whoever writes next will say so
                self._mirror.check_run()
                self._mirror.renew_lock()


def is_gone(text: str, age: float) -> bool:
    """Whether a lock that was written `age` seconds ago is nobody's any more."""
    found = re.match(r"process (\d+) on (.*), run ", text)
    return not text or age > STALE or (found is not None and found[2] == platform.node() and not _runs(int(found[1])))


def _require_free(mirror: Mirror) -> None:
    found = mirror.read_lock()
    if found is None or is_gone(*found):
        return
    text, age = found
    raise InputError(
        f"study {mirror}: {text.partition(',')[0]} works on it (last sign of life {max(age, 0):.0f} s ago); wait for its end, or, if that was lost, "
        f"for {STALE - age:.0f} s; or start another --name"
    )


def _locked(mirror: Mirror) -> TextIO | None:
    """The lock file of a folder, locked; None: its file system has no locks."""
    path = mirror.folder
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / LOCK).open("a+")
    except OSError as error:
        raise InputError(
            f"--output {path.parent}: cannot write there: {error.strerror}; make it writable, or pass another --output"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise InputError(f"study {path}: {file.read().partition(',')[0]} works on it; wait for its end, or start another --name") from None
    except OSError:
        file.close()
        return None
    return file


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
