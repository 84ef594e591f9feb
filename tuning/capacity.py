"""What a cluster carries: the nodes that run, and those that its autoscaler may add."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml


@dataclass(frozen=True)
class Node:
    cpus: float
    gpus: float

    def trials(self, cpus: float, gpus: float) -> int:
        """How many trials of so many CPUs and GPUs it carries at once; a share of a GPU lies on one of them."""
        by_cpu = int(self.cpus / cpus + 1e-9)
        if not gpus:
            return by_cpu
        by_gpu = int(self.gpus) * int(1 / gpus + 1e-9) if gpus <= 1 else int(self.gpus / gpus + 1e-9)
        return min(by_cpu, by_gpu)


def carried(nodes: Iterable[Node], cpus: float, gpus: float) -> int:
    """How many trials at once: none is divided among nodes."""
    return sum(node.trials(cpus, gpus) for node in nodes)


@dataclass(frozen=True)
class Capacity:
    now: tuple[Node, ...]  # the nodes that run
    most: tuple[Node, ...]  # with every node that the autoscaler may add
    unknown: bool = False  # nodes may come of which nobody says what they have

    @property
    def has_gpu(self) -> bool:
        return any(node.gpus for node in (*self.now, *self.most))

    def trials(self, cpus: float, gpus: float) -> int:
        return max(carried(self.now, cpus, gpus), carried(self.most, cpus, gpus))


def measure() -> Capacity:
    """Of the cluster that this process has joined.

    Not known is what an autoscaler on Kubernetes may add, for it runs elsewhere, and what machines on the premises have that
    `ray up` has not started yet.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    now = tuple(_node(resources) for resources in alive)
    heads = [_node(resources) for resources in alive if "node:__internal_head__" in resources]
    launched = _cluster_file(ray.get_runtime_context().gcs_address)
    if launched is None:
        return Capacity(now, now, unknown=os.environ.get("RAY_USAGE_STATS_KUBERAY_IN_USE") == "1")  # set by KubeRay in its pods
    awaited = 1 + len(launched["provider"].get("worker_ips", []))
    return Capacity(now, (*heads, *workers(launched)), unknown=len(now) < awaited)


def workers(cluster: dict[str, Any]) -> list[Node]:
    """All workers that a cluster file allows at once; where its kinds exceed `max_workers`, those with the most GPUs, then CPUs."""
    most = cluster["max_workers"]
    kinds = {name: kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]}
    nodes = [_node(kind["resources"]) for kind in kinds.values() for _ in range(kind.get("max_workers", most))]
    return sorted(nodes, key=lambda node: (node.gpus, node.cpus), reverse=True)[:most]


def _node(resources: dict[str, float]) -> Node:
    return Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def _cluster_file(gcs_address: str) -> dict[str, Any] | None:
    """What the autoscaler of this cluster was started with, where it runs on this machine: beside a driver on the head."""
    import psutil  # which Ray brings

    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        options = dict(word.split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if any(word.endswith("monitor.py") for word in words) and options.get("--gcs-address") == gcs_address:
            file = options.get("--autoscaling-config")
            if file is None:
                return None
            with open(os.path.expanduser(file)) as text:
                return yaml.safe_load(text)
    return None
