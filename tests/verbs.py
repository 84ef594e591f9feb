"""The commands as a user runs them: in a process of their own, or, where only what they say and write matters, in this one."""

import importlib
import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from study.command_line import run_verb
from tests.test_imports import ROOT

Completed = subprocess.CompletedProcess[str]
MODULES = {"tune_mmnet.py": "tune_mmnet", "main.py": "main", "eval.py": "eval", "-m analysis": "analysis.__main__"}
WIDTH = {"COLUMNS": "200"}


def caller(environment: Mapping[str, str] | None = None) -> Callable[..., Completed]:
    """A function of a command's words that runs it in a process in this environment and holds its exit status to be `expect`."""

    def call(*arguments: object, expect: int = 0) -> Completed:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=environment or os.environ | WIDTH,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    return call


def run_here(*arguments: object, expect: int = 0) -> Completed:
    """The same in this process, which has imported already what would take a new one seconds."""
    words = list(map(str, arguments))
    command = " ".join(words[: 1 + (words[0] == "-m")])
    stdout, stderr, handler = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    argv = [command.removeprefix("-m "), *words[len(command.split()) :]]
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr), patch.object(sys, "argv", argv), patch.dict(os.environ, WIDTH):
            run_verb(importlib.import_module(MODULES[command]).main)
    except SystemExit as end:
        done = subprocess.CompletedProcess(words, end.code if isinstance(end.code, int) else 0, stdout.getvalue(), stderr.getvalue())
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert done.returncode == expect, done.stdout + done.stderr
    return done
