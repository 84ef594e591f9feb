"""What the corpus found, in three numbers."""

from tests.faults.corpus import TALLY


def pytest_terminal_summary(terminalreporter):
    if TALLY["tried"]:
        terminalreporter.write_line(f"bad inputs: {TALLY['tried']} tried, {TALLY['clear']} clear, {TALLY['lost']} lost work")
