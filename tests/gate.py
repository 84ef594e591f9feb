"""Commands whose trainings wait before every epoch until a test lets them go on.

What happens to a process then happens at a moment that is certain, however fast or slow the machine: a training that
waits at the gate has reported all epochs before, and is there to be killed, cut off or interrupted.
`python -m tests.gate SOCKET tune_mmnet.py …` is the command's side; it runs the product's own files, with one question more an epoch.
"""

import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.test_imports import ROOT
from tests.verbs import WIDTH

PATIENCE = 600.0  # seconds until a training that never comes fails the test, in place of waiting for ever


class Gate:
    """Closed as long as the context lasts, or until `open`. What it started ends with it.

    Its socket is a file, so that processes in a network of their own reach it, too.
    """

    def __init__(self, folder: Path | None = None, seen_as: str | None = None):
        """`folder`: of the socket, whose path may hold 107 characters. `seen_as`: that folder, as the command sees it."""
        self._own = tempfile.TemporaryDirectory(prefix="gate-")
        place = folder or Path(self._own.name)
        self.place = f"{seen_as or place}/gate"
        self._listens = socket.socket(socket.AF_UNIX)
        self._listens.bind(str(place / "gate"))
        self._listens.listen(64)
        self._listens.settimeout(1.0)
        self._waiting: dict[int, socket.socket] = {}  # by process
        self._commands: list[Command] = []

    def __enter__(self) -> "Gate":
        return self

    def __exit__(self, *error: object) -> None:
        for command in self._commands:
            if command.process.poll() is None:
                command.process.kill()
                command.process.wait()
        self.open()
        self._own.cleanup()

    def start(self, command: str, *words: object, environment: Mapping[str, str] | None = None) -> "Command":
        """Start a command in a session of its own."""
        said = Path(self._own.name) / f"said{len(self._commands)}"
        self._commands.append(Command([sys.executable, "-u", "-m", "tests.gate", self.place, command, *map(str, words)], environment, said))
        return self._commands[-1]

    def after(self, epochs: int, command: "Command | None" = None) -> int:
        """Let go who waits, and so many that come after; the process that comes next, which waits.

        Fails where `command` ends before that.
        """
        for _ in range(epochs + 1):
            for connection in self._waiting.values():
                connection.close()
            self._waiting.clear()
            process = self._arrival(command)
        return process

    def open(self) -> None:
        """Let everything go on, from now on."""
        self._listens.close()
        for connection in self._waiting.values():
            connection.close()

    def _arrival(self, command: "Command | None") -> int:
        for _ in range(int(PATIENCE)):
            with suppress(TimeoutError):
                connection, _ = self._listens.accept()
                process, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
                self._waiting[process] = connection
                return process
            assert command is None or command.process.poll() is None, (
                f"ended before its training came:\n{command.said() if command else ''}"
            )
        raise AssertionError(f"no training came in {PATIENCE:.0f} s:\n{command.said() if command else ''}")


class Command:
    """A process and all that it says, on stdout and stderr; it waits for nobody who reads that."""

    def __init__(self, words: list[str], environment: Mapping[str, str] | None, said: Path):
        self._said = said
        with said.open("w") as file:
            self.process = subprocess.Popen(
                words,
                cwd=ROOT,
                env={**(environment or os.environ), **WIDTH},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self._said.read_text()

    def ends(self, status: int) -> str:
        """Wait for its end, which is to be with this exit status; what it said."""
        assert self.process.wait(timeout=PATIENCE) == status, self.said()
        return self.said()


def ask(place: str) -> None:
    """Wait at the gate; where nobody holds it any more, do not."""
    with socket.socket(socket.AF_UNIX) as gate, suppress(ConnectionError, FileNotFoundError):
        gate.connect(place)
        gate.recv(1)


def gated(kind: type, place: str) -> type:
    """A trainable that asks before every step. Made in a function of `__main__`, so that it travels to the workers as it is."""

    class Gated(kind):  # type: ignore[misc, valid-type]
        def step(self) -> dict[str, Any]:
            ask(place)
            return super().step()

    Gated.__name__ = kind.__name__
    return Gated


def main() -> None:
    place, command, *words = sys.argv[1:]
    sys.argv = [command, *words]
    sys.path[0] = os.getcwd()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs in its background deaf to Ctrl-C
    if Path(command).name == "tune_mmnet.py":
        import tuning.trainable

        tuning.trainable.MMNetTrainable = gated(tuning.trainable.MMNetTrainable, place)  # type: ignore[misc]
    else:
        from mmnet.crossval import CrossValidation

        alone = CrossValidation.__next__

        def waits(trial: CrossValidation):
            ask(place)
            return alone(trial)

        CrossValidation.__next__ = waits  # type: ignore[method-assign]
    runpy.run_path(command, run_name="__main__")


if __name__ == "__main__":
    main()
