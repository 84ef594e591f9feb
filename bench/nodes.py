"""A long study on machines that vanish: `python -m bench nodes [--trials 10000] [--nodes 16] [--slots 4]`.

`run_study` as it is, with Tune's own loop, actor manager and failure handling, our searcher, promotion, database, callbacks, trainable
and records; simulated are only what is below Tune's calls to Ray (nodes, actors, their time) and the training, which is a made-up curve with a
real checkpoint. Every simulated minute a node dies with what runs on it, half of the time after a worker wrote an epoch that it could
not report; Tune hears of it 15 s later, and another node comes after 90 s. At the end every trial is accounted for: its status, its
epochs one by one against a curve never cut, its state in optuna.db.

CPU of the driver by thousands of trials: all that this process computes but for what the simulated workers do.
"""

import argparse
import heapq
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, chdir
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna
import ray
from ray.air.execution.resources import ResourceManager
from ray.exceptions import ActorDiedError
from rich.console import Console
from rich.table import Table

from bench.driver import BASE, EPOCHS, FOLDS
from bench.machine import describe_machine
from data.splits import make_splits
from data.store import load_dataset
from data.synthetic import generate
from mmnet.config import Config
from mmnet.crossval import EpochReport, OutOfFold, derive_seed
from mmnet.metrics import METRICS
from search_spaces import get_space
from study.records import TrialRecord, read_trials
from tuning.searcher import StudySearcher
from tuning.settings import StudySettings, rungs
from tuning.study import run_study

MINUTE, NOTICED, REPLACED = 60.0, 15.0, 90.0  # simulated seconds: between deaths, until Tune hears of one, until another node comes
START, EPOCH = 5.0, (10.0, 60.0)  # simulated seconds that a process takes to start, and an epoch


class Curve:
    """As much of a `CrossValidation` as the trainable and its records look at; the scores follow from the configuration alone."""

    device = "cpu"
    best_weights = None
    computed = 0  # epochs, of all
    went_on = 0  # times that one went on from a checkpoint

    def __init__(self, config: Config):
        self.config = config
        self.history: list[EpochReport] = []
        views = np.zeros(2, dtype=np.int64)
        self.out_of_fold = OutOfFold(views, views, views, views, views, views)

    @property
    def finished(self) -> bool:
        return len(self.history) == EPOCHS

    def __next__(self) -> EpochReport:
        Curve.computed += 1
        self.history.append(self.report(len(self.history) + 1))
        return self.history[-1]

    def report(self, epoch: int) -> EpochReport:
        draw = np.random.default_rng(derive_seed(int(1e9 * self.config.optim.lr), int(1e9 * self.config.optim.weight_decay))).random()
        score = 0.3 + 0.4 * draw + 0.3 / epoch
        metrics, views = dict.fromkeys(METRICS, score), np.zeros(2, dtype=np.float32)
        return EpochReport(
            epoch, metrics, [metrics] * FOLDS, [score] * FOLDS, 1e-3, 1.0, score, epoch, epoch == EPOCHS, views, views[:, None]
        )

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": len(self.history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = [self.report(epoch + 1) for epoch in range(state["epoch"])]
        Curve.went_on += 1


class Answer:
    """What a call on a simulated actor returns."""

    ready = False
    value: Any = None
    error: Exception | None = None


class Actor:
    """A process on a simulated node that does one call after the other."""

    def __init__(self, cluster: "Cluster", node: int, kind: type, arguments: dict[str, Any]):
        self._cluster, self._kind, self._arguments, self.node = cluster, kind, arguments, node
        self.trainable: Any = None
        self.open: list[tuple[Answer, str]] = []  # calls that have not been answered
        self.free_at, self.alive = cluster.now, True

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments, **named: self._call(name, arguments, named))

    def _call(self, name: str, arguments: tuple, named: dict[str, Any]) -> Answer:
        future, cluster = Answer(), self._cluster
        self.open.append((future, name))
        if not self.alive:
            cluster.at(cluster.now, lambda: self.fail(future))
            return future
        seconds = {"__ray_ready__": START, "train": cluster.rng.uniform(*EPOCH)}.get(name, 0.1)
        self.free_at = max(self.free_at, cluster.now) + seconds

        def answer() -> None:
            if self.alive:
                future.value, future.ready = self.compute(name, arguments, named), True
                self.open.remove((future, name))

        cluster.at(self.free_at, answer)
        return future

    def compute(self, name: str, arguments: tuple = (), named: dict[str, Any] | None = None) -> Any:
        started = time.process_time()
        if self.trainable is None:
            self.trainable = self._kind(**self._arguments)
        value = None if name == "__ray_ready__" else getattr(self.trainable, name)(*arguments, **named or {})
        self._cluster.worker_seconds += time.process_time() - started
        return value

    def fail(self, future: Answer) -> None:
        future.error, future.ready = ActorDiedError(), True


class Cluster(ResourceManager):
    """Nodes that die and come, in simulated time, behind the few names of Ray that Tune's actor manager calls."""

    actor, ObjectRef = ray.actor, Answer

    def __init__(self, nodes: int, slots: int, rng: np.random.Generator):
        self.now, self.rng, self._slots = 0.0, rng, slots
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order, self._names = count(), count()
        self.free: dict[int, int] = {next(self._names): slots for _ in range(nodes)}
        self.actors: dict[int, list[Actor]] = {node: [] for node in self.free}
        self.deaths = self.lost = self.unreported = 0
        self.worker_seconds = 0.0
        self._came = False
        self.at(MINUTE, self._die)

    def at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), event))

    def _advance(self) -> None:
        self.now, _, event = heapq.heappop(self._events)
        event()

    def _die(self) -> None:
        self.at(self.now + MINUTE, self._die)
        self.at(self.now + REPLACED, self._come)
        if not self.free:
            return
        node = int(self.rng.choice(list(self.free)))
        del self.free[node]
        self.deaths += 1
        for actor in self.actors.pop(node):
            trains = [name for _, name in actor.open][:1] == ["train"]
            self.lost += trains
            if trains and self.rng.random() < 0.5:
                actor.compute("train")
                self.unreported += 1
            actor.alive = False
            for future, _ in actor.open:
                self.at(self.now + NOTICED, partial(actor.fail, future))

    def _come(self) -> None:
        node = next(self._names)
        self.free[node], self.actors[node] = self._slots, []
        self._came = True

    # of `ray`

    def wait(self, futures: Sequence[Answer], num_returns: int = 1, timeout: float | None = None) -> tuple[list[Answer], list[Answer]]:
        """The first answer; none when another node came before that."""
        while not (ready := [future for future in futures if future.ready]) and not self._came:
            self._advance()
        self._came = False
        return ready[:1], []

    def get(self, future: Answer) -> Any:
        while not future.ready:
            self._advance()
        if future.error is not None:
            raise future.error
        return future.value

    def kill(self, actor: Actor) -> None:
        actor.alive = False

    # of Tune's resource manager

    def request_resources(self, resource_request: Any) -> None: ...

    def cancel_resource_request(self, resource_request: Any) -> None: ...

    def clear(self) -> None: ...

    def has_resources_ready(self, resource_request: Any) -> bool:
        return any(self.free.values())

    def acquire_resources(self, resource_request: Any) -> Any:
        node = max(self.free, key=lambda name: self.free[name])
        self.free[node] -= 1

        def started(kind: Any) -> Any:
            def remote(**arguments: Any) -> Actor:
                actor = Actor(self, node, kind.__ray_metadata__.modified_class, arguments)
                self.actors.setdefault(node, []).append(actor)
                return actor

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(
            node=node, resource_request=resource_request, annotate_remote_entities=lambda kinds: [started(kind) for kind in kinds]
        )

    def free_resources(self, acquired_resource: Any) -> None:
        if acquired_resource.node in self.free:
            self.free[acquired_resource.node] += 1


def faults(records: list[TrialRecord], trials: int, database: Path) -> list[str]:
    """What is not as it has to be."""
    found = [f"trial {number} is lost" for number in sorted(set(range(trials)) - {record.number for record in records})]
    for record in records:
        curve = Curve(BASE.with_values(record.params))
        expected = [curve.report(epoch + 1).score for epoch in range(len(record.epochs))]
        if [line["score"] for line in record.epochs] != expected:
            found.append(f"trial {record.number}: other numbers")
        if record.status == "running" or (record.status == "failed"):
            found.append(f"trial {record.number}: {record.status} {record.reason}")
        elif len(record.epochs) not in (*rungs(EPOCHS, 3), EPOCHS):
            found.append(f"trial {record.number}: {record.status} at epoch {len(record.epochs)}")
    states = Counter(trial.state.name for trial in optuna.load_study(storage=f"sqlite:///{database}", study_name=None).trials)
    found += [f"{number} trials are {state} in optuna.db" for state, number in states.items() if state not in ("COMPLETE", "PRUNED")]
    return found if sum(states.values()) == trials else [*found, f"{sum(states.values())} trials in optuna.db"]


def study(trials: int, cluster: Cluster, concurrency: int, folder: Path, console: Console) -> list[tuple[int, float]]:
    """Run it -> (trials begun, CPU seconds of the driver) as it went."""
    dataset = load_dataset(generate(folder / "data", patients=16, images=1, size=32, seed=0), 32)
    splits = make_splits(dataset.table, folds=2, test_fraction=0.0, grouping="patient", seed=0)
    settings = StudySettings(name="s", output=folder, trials=trials, concurrency=concurrency)
    spent: list[tuple[int, float]] = []

    class Timed(StudySearcher):
        def suggest(self, trial_id: str) -> Any:
            spent.append((self._number, time.process_time() - cluster.worker_seconds))
            if self._number * 10 // trials > spent[max(len(spent) - 2, 0)][0] * 10 // trials:
                console.print(
                    f"{self._number} trials begun: {spent[-1][1]:.1f} s of the driver, {cluster.worker_seconds:.1f} s of the workers"
                )
            return super().suggest(trial_id)

    with ExitStack() as replaced:
        replaced.enter_context(chdir(Path.cwd()))  # Tune's trainables go to their trial's folder
        for place, thing in {
            "ray.air.execution._internal.actor_manager.ray": cluster,
            "ray.air.execution._internal.event_manager.ray": cluster,
            "ray.tune.experiment.trial.ray": cluster,
            "ray.tune.execution.tune_controller.PlacementGroupResourceManager": lambda: cluster,
            "mmnet.crossval.run": lambda config, *_: Curve(config),
            "study.records.CHECKPOINT_SHARE": float("inf"),  # an epoch takes no time here, and is to leave a checkpoint as a real one
            "tuning.study.resources": lambda *_: ({"cpu": 1.0, "gpu": 0.0}, concurrency),
            "tuning.study.StudySearcher": Timed,
            "tuning.study.ray": SimpleNamespace(nodes=lambda: [], shutdown=lambda: None),
            "tuning.trial_place.seen_by_nodes": lambda *_: {},
            "ray.cluster_resources": lambda: {"CPU": float(concurrency)},
            "ray.train._internal.storage._get_ray_train_session_dir": lambda: str(folder / "ray"),
            "ray.tune.tune._ray_auto_init": lambda *_, **__: None,
        }.items():
            replaced.enter_context(patch(place, thing))
        connected: Future[None] = Future()
        connected.set_result(None)
        outcome = run_study(settings, get_space("full", BASE), BASE, rungs(EPOCHS, 3), dataset, splits, Console(quiet=True), connected)
    assert outcome.complete, outcome
    return spent


def show(spent: list[tuple[int, float]], console: Console) -> None:
    table = Table(title="CPU of the driver, ms a trial")
    for column in ("trials", "ms"):
        table.add_column(column, justify="right")
    begun, seconds = np.array(spent).T
    step = max(int(begun[-1]) // 10, 1)
    marks = [int(np.searchsorted(begun, at)) for at in range(0, int(begun[-1]) + 1, step)]
    for first, last in zip(marks, marks[1:], strict=False):
        table.add_row(
            f"{begun[first]:.0f} to {begun[last]:.0f}", f"{1e3 * (seconds[last] - seconds[first]) / (begun[last] - begun[first]):.1f}"
        )
    table.add_row("all", f"{1e3 * (seconds[-1] - seconds[0]) / begun[-1]:.1f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench nodes")
    parser.add_argument("--trials", type=int, default=10000)
    parser.add_argument("--nodes", type=int, default=16)
    parser.add_argument("--slots", type=int, default=4, help="trials on a node")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    console = Console(width=160)
    console.print(describe_machine())
    cluster = Cluster(arguments.nodes, arguments.slots, np.random.default_rng(arguments.seed))
    with tempfile.TemporaryDirectory() as place:
        started = time.monotonic()
        spent = study(arguments.trials, cluster, arguments.nodes * arguments.slots, Path(place), console)
        wall = time.monotonic() - started
        records = read_trials(Path(place) / "s")
        found = faults(records, arguments.trials, Path(place) / "s" / "optuna.db")
    states = Counter(record.status for record in records)
    epochs = sum(len(record.epochs) for record in records)
    console.print(
        f"{len(records)} trials in {cluster.now / 3600:.1f} simulated hours ({wall:.0f} s): {dict(states)}; {cluster.deaths} nodes died, "
        f"with {cluster.lost} trials that were training, {cluster.unreported} of them between writing an epoch and reporting it;\n"
        f"{epochs} epochs on record, {Curve.computed - epochs} computed twice; {Curve.went_on} times a trial went on from a checkpoint; "
        f"{len(found)} faults"
    )
    console.print("\n".join(found[:20]))
    show(spent, console)


if __name__ == "__main__":
    main()
