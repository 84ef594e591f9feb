"""Where the workers of a study find and leave its trials: a folder that every node sees, or a place in an object store.

Ray starts workers on any node of the cluster. A folder, or a file of weights, that only the driver's node has would fail trial
by trial, each with its own surprise: that file, and a marker that the driver leaves in the folder, are looked for from every node
before the first trial, and by every trial before its first epoch, because nodes may join later.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.errors import StorageError
from mmnet.config import ModelConfig
from study.mirror import EVENTS, Mirror, scratch

MARKER = ".seen-from-every-node-"
ANSWER = 60  # seconds in which a node says what it sees; one that does not is asked again by its first trial


@dataclass(frozen=True)
class TrialPlace:
    """What a worker has to know, wherever it runs."""

    study: Path  # on the driver's node; on every node, unless `url`
    url: str = ""  # of the study in an object store
    marker: str = ""  # name of a file in the study's folder
    run: str = ""  # that the worker belongs to, see study.hold
    weights: str = ""  # file that every trial reads, see `weights_read`

    def mirror(self) -> Mirror:
        """The study as this worker has it, in a folder of its own where it stands in an object store."""
        mirror = scratch(self.url) if self.url else Mirror(self.study)
        mirror.run = self.run
        return mirror

    def take_up(self, mirror: Mirror, folder: Path) -> None:
        """Bring a trial here as the last process left it. Raises StorageError where this node does not see the study, or the weights."""
        if self.marker and not sees(self.study / self.marker):
            raise StorageError(refusal(self.study, [socket.gethostname()]))
        if self.weights and not sees(Path(self.weights)):
            raise StorageError(without_weights(self.weights, [socket.gethostname()]))
        mirror.drop(folder)
        mirror.pull(folder, leave=(EVENTS,))


def sees(file: Path) -> bool:
    """Whether this process finds what it will need."""
    return file.expanduser().exists()


def refusal(study: Path, blind: list[str]) -> str:
    return (
        f"--output {study.parent}: not the same folder on {', '.join(sorted(blind))}, where trials would run: pass a folder that all nodes "
        "share (NFS, EFS, Filestore), or an object store: --output s3://BUCKET/PREFIX"
    )


@contextmanager
def reachable(study: Path, mirror: Mirror) -> Iterator[TrialPlace]:
    """Where workers find the trials of the study that `mirror` is of. Raises StorageError when a node cannot."""
    if mirror.bucket is not None:
        yield TrialPlace(study, url=mirror.bucket.url, run=mirror.run)
        return
    with marked(study) as marker:
        require_shared(study, seen_by_nodes(study / marker))
        yield TrialPlace(study, marker=marker, run=mirror.run)


@contextmanager
def marked(study: Path) -> Iterator[str]:
    """The name of a marker that stands in the folder meanwhile. It is new each time: a node may remember what it did not find."""
    for left in study.glob(f"{MARKER}*"):  # of a driver that was killed
        left.unlink(missing_ok=True)
    marker = study / f"{MARKER}{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    try:
        marker.touch()
    except OSError as error:
        raise StorageError.of(marker, error.strerror) from error
    try:
        yield marker.name
    finally:
        marker.unlink(missing_ok=True)


def require_shared(study: Path, seen: Mapping[str, bool]) -> None:
    """Raises StorageError when a node (by its name) does not see the study's folder."""
    blind = [node for node, found in seen.items() if not found]
    if blind:
        raise StorageError(refusal(study, blind))


def weights_read(model: ModelConfig) -> str:
    """The file of weights that every trial fine-tunes; "": none, as frozen features travel by themselves."""
    return "" if model.frozen or model.weights in (None, "imagenet") else str(model.weights)


def require_weights(file: str) -> None:
    """Raises StorageError when a node lacks what `weights_read` names."""
    blind = [node for node, found in seen_by_nodes(Path(file)).items() if not found] if file else []
    if blind:
        raise StorageError(without_weights(file, blind))


def without_weights(file: str, blind: list[str]) -> str:
    return (
        f"--weights {file}: no such file on {', '.join(sorted(blind))}, where trials would run; put it there under the same "
        "absolute path or in a folder that all nodes share, or train with --frozen, whose features travel to every node"
    )


def seen_by_nodes(marker: Path, look: Callable[[Path], bool] = sees) -> dict[str, bool]:
    """{node: whether it sees the marker} of every other node that can run a trial; those that do not answer are left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    own = ray.get_runtime_context().get_node_id()
    others = (node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU") and node["NodeID"] != own)
    nodes = {node["NodeID"]: node["NodeName"] for node in others}
    asked = {}
    for node in nodes:
        task = ray.remote(num_cpus=0, max_retries=0)(look)
        asked[task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(marker)] = node
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER)
    seen = {}
    for answer in answered:
        try:
            seen[f"{nodes[asked[answer]]} ({asked[answer][:8]})"] = ray.get(answer)
        except ray.exceptions.RayError:  # the node is gone
            continue
    return seen
