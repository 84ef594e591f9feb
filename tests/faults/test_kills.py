"""SIGKILL to a worker, to the driver, to a node, and to everything, a node that is cut off: the study ends as if nothing had happened."""

import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.faults import SEARCH, differences, otherwise
from bench.ray_nodes import Nodes, descendants, kill_all
from tests.gate import Command, Gate

TRIALS = 6
FATAL = ("driver", "everything")  # which end the command


def search(data: Path, output: Path, runs: Sequence[Sequence[str]], nodes: Nodes | None = None, concurrency: int = 1) -> Path:
    """A search in several runs, each of which loses its victims one after the other while a training waits between two epochs; its study."""
    words = ["--data", data, "--trials", TRIALS, *SEARCH, "--concurrency", concurrency]
    for victims in runs:
        with Gate() as gate:
            address = ["--address", nodes.address] if nodes else []
            environment = nodes.environment if nodes else None
            command = gate.start("tune_mmnet.py", "--name", "s", "--output", output, *words, *address, environment=environment)
            seen = {lose(victim, command, gate, nodes) for victim in victims}
            if "split" in victims and nodes:
                while (waits := gate.after(0, command)) in seen and concurrency > 1:
                    pass  # the other trial; the one that was cut off comes in another process, once its node is held to be dead
                assert waits not in seen
                nodes.let_back()
            gate.open()
            command.ends(-signal.SIGKILL if victims and victims[-1] in FATAL else 0)
        words = ["--resume"]
    return output / "s"


def lose(victim: str, command: Command, gate: Gate, nodes: Nodes | None) -> int:
    """Lose it when two more epochs are on record; the process whose training waited."""
    waits = gate.after(1, command)
    if victim in ("node", "split"):
        assert nodes is not None
        (node,) = (node for node in nodes.nodes if waits in descendants(node))
        (nodes.replace if victim == "node" else nodes.cut_off)(node)
    else:
        driver = command.process.pid
        everything = [*descendants(driver), *(nodes.processes() if nodes else ()), driver]
        kill_all({"worker": [waits], "driver": [driver], "everything": everything}[victim])
    if victim == "everything" and nodes:
        nodes.restart()
    return waits


@pytest.mark.xdist_group("ray")
def test_a_search_that_is_killed_three_times_ends_with_the_numbers_of_one_left_in_peace(data, tmp_path):
    peace = search(data, tmp_path / "peace", [()])
    assert differences(peace, search(data, tmp_path / "war", [("worker", "driver"), ("everything",), ()])) == []


@pytest.mark.slow
@pytest.mark.xdist_group("nodes")
@pytest.mark.parametrize("concurrency", [1, 2])
def test_so_does_one_whose_nodes_die_or_are_cut_off_and_come_back(data, tmp_path, concurrency):
    """Each trial has the numbers that its configuration gives when it is trained by itself, in this process."""
    with Nodes(2) as nodes:
        study = search(data, tmp_path, [("worker", "driver"), ("node", "everything"), ("split",)], nodes, concurrency)
    assert otherwise(study, TRIALS, concurrency) == []
