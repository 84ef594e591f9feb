"""A Ray cluster of several nodes on this machine, each of which can die as a machine does.

`python -m bench.ray_nodes COUNT` is the cluster: it says its address and the process of each node that runs trials, and adds a node for every
line it reads. `Nodes` starts that, and kills.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parent.parent
STORE = 100_000_000  # bytes of a node's object store
# a node that says nothing for so long is dead to the others: 10 questions, a second each
GIVEN_UP = {"RAY_health_check_timeout_ms": "1000", "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "10"}
PATIENCE = 10  # seconds for such a node to end
TRIES = 50  # at a start, for which Ray waits 30 s: too short where others keep the machine busy


class Nodes:
    """A head that runs no trials, and `count` nodes of one core. A context, which ends them all."""

    def __init__(self, count: int):
        # Ray listens on every interface where other nodes may join: only who has this cluster's token may speak to it
        self.environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)} | GIVEN_UP
        self._count, self._silent = count, list[int]()

    def __enter__(self) -> "Nodes":
        self._start()
        return self

    def __exit__(self, *error: object) -> None:
        kill_all([self._cluster.pid, *self.processes()])
        self._cluster.communicate()
        self._folder.cleanup()

    def restart(self) -> None:
        """Lose all nodes with everything on them, and get others."""
        self.__exit__()
        self._start()

    def _start(self) -> None:
        for _ in range(TRIES):
            self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # a socket's path holds 107 characters
            self._cluster = subprocess.Popen(
                [sys.executable, "-m", "bench.ray_nodes", str(self._count)],
                cwd=ROOT,
                env=self.environment | {"RAY_TMPDIR": self._folder.name},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            self.address = self._answer("address ")
            self.nodes = [int(self._answer("node ") or 0) for _ in range(self._count)]
            if all(self.nodes):
                return
            self.__exit__()
        raise RuntimeError(f"no cluster came up in {TRIES} tries")

    def processes(self) -> list[int]:
        """Of all nodes, but not the one that started them."""
        return descendants(self._cluster.pid)

    def replace(self, node: int) -> None:
        """Lose a node with everything on it, and get another."""
        kill_all([node, *descendants(node)])
        self._replaced(node)

    def cut_off(self, node: int) -> None:
        """Stop a node with everything on it, which to the others is as if its network were gone, and get another."""
        self._silent = [*descendants(node), node]
        send(self._silent, signal.SIGSTOP)
        self._replaced(node)

    def let_back(self) -> None:
        """Let what was cut off last go on, its trials first. Ray ends it when it was held to be dead: wait for that a while."""
        send(self._silent, signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE
        while (left := [process for process in self._silent if Path(f"/proc/{process}/exe").exists()]) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left and left[-1] == self._silent[-1]:
            self.nodes.append(left[-1])  # nobody had missed it
        self._silent = []

    def _replaced(self, node: int) -> None:
        assert self._cluster.stdin is not None
        print("another", file=self._cluster.stdin, flush=True)
        self.nodes[self.nodes.index(node)] = int(self._answer("node "))

    def _answer(self, beginning: str) -> str:
        """The rest of the next line that begins so; empty: the cluster ended."""
        assert self._cluster.stdout is not None
        return next((line.removeprefix(beginning).strip() for line in self._cluster.stdout if line.startswith(beginning)), "")


def kill_all(processes: list[int]) -> None:
    send(processes, signal.SIGKILL)


def send(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def descendants(process: int) -> list[int]:
    """All processes below one (Linux)."""
    below: dict[int, list[int]] = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            below[int(stat.read_text().rpartition(")")[2].split()[1])].append(int(stat.parent.name))
    found = list(below[process])
    for child in found:
        found += below[child]
    return found


def serve(count: int) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE})
    print("address", cluster.address, flush=True)

    def add() -> None:
        for _ in range(TRIES):
            with suppress(Exception):  # of Ray's plain kind: the machine was too slow for a start
                node = cluster.add_node(wait=False, num_cpus=1, object_store_memory=STORE)
                print("node", node.all_processes["raylet"][0].process.pid, flush=True)
                return

    for _ in range(count):
        add()
    for _ in sys.stdin:
        add()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
