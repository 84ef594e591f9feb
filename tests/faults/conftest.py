"""What all tables of bad input use, and what they found, in three numbers."""

import pytest

from data.synthetic import generate
from tests.faults.corpus import TALLY


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data"), cases=16, images=2, size=32, seed=0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def pytest_terminal_summary(terminalreporter):
    if TALLY["tried"]:
        terminalreporter.write_line(f"bad inputs: {TALLY['tried']} tried, {TALLY['clear']} clear, {TALLY['lost']} lost work")
