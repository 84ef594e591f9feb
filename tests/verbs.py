"""The verbs as a user runs them: in a process of their own."""

import subprocess
import sys
from collections.abc import Callable, Mapping

from tests.test_imports import ROOT

Completed = subprocess.CompletedProcess[str]


def caller(environment: Mapping[str, str]) -> Callable[..., Completed]:
    """A function of a verb's words that runs it in this environment and holds its exit status to be `expect`."""

    def call(*arguments: object, expect: int = 0) -> Completed:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    return call
