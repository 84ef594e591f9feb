"""Joining or starting Ray, quietly, while other things are made ready."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.errors import InputError
from tuning import TOKEN_FILE
from tuning.capacity import Node, carried, measure
from tuning.settings import AUTO, StudySettings, gpu_share

if TYPE_CHECKING:
    from rich.console import Console

    from data.dataset import Dataset, Values
    from data.splits import Splits
    from mmnet.config import Config

ROOT = Path(__file__).parent.parent
NOT_CODE = [".venv", ".git", "output", "tests", "bench", "**/__pycache__"]
CARRIED = ("OMP_WAIT_POLICY", "MMNET_CACHE", "TORCH_HOME", "HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE")  # settings of the environment that a worker reads too


@contextmanager
def joining(address: str | None) -> Iterator[Future[None]]:
    """Join the cluster at `address`, or start Ray on this machine, beside whatever is done within; Ray is left at the end.

    Ray's own start is seconds of waiting for its processes. `result()` waits for it; raises InputError when it cannot be
    reached or started.
    """
    if address is None:  # read when ray is imported: all its processes then listen on loopback only, as they do on a Mac
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray  # not in the thread, where it would take turns with all that is imported here meanwhile, and Ray's start would wait

    with ThreadPoolExecutor(1, "joining") as thread:
        connected = thread.submit(_connect, address)
        try:
            yield connected
        finally:
            if connected.exception() is None:  # waits: what is half started cannot be shut down
                ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker is retried, and told by the progress view
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            with _fewer_processes():
                ray.init(num_cpus=os.cpu_count(), include_dashboard=False, **quiet)
            with suppress(OSError):  # Ray makes it readable for everybody, and whoever has it runs code as this user
                TOKEN_FILE.chmod(0o600)
        else:
            settings = {name: os.environ[name] for name in CARRIED if name in os.environ}
            runtime = {"working_dir": str(ROOT), "excludes": NOT_CODE, "env_vars": settings}
            ray.init(address=address, runtime_env=runtime, **quiet)
    except Exception as error:  # of many kinds, plain Exception among them where a busy machine is too slow for Ray's start
        remedy = "check that a cluster answers there, or leave --address out" if address else "run it again when less else runs here"
        raise InputError(f"--address {address or 'local'}: cannot reach or start Ray: {str(error).splitlines()[0]}; {remedy}") from error


@contextmanager
def _fewer_processes() -> Iterator[None]:
    """Ray's start without the autoscaler's monitor and the one of the workers' logs, which nothing here asks: a third of the time it takes.

    `ray start` has the options --no-monitor and --include-log-monitor, `ray.init` lacks them: they go in where both fill in the rest.
    """
    from ray._private import parameter as module

    parameter: Any = module  # a class cannot be replaced in a module that mypy knows
    complete = parameter.RayParams
    parameter.RayParams = partial(complete, no_monitor=True, include_log_monitor=False)
    try:
        yield
    finally:
        parameter.RayParams = complete


def resources(
    settings: StudySettings, base: Config, dataset: Dataset, splits: Splits, console: Console | None = None
) -> tuple[dict[str, float], int]:
    """({"cpu", "gpu"} of one trial, how many trials at once), also counting nodes that an autoscaler is yet to add.

    Raises InputError when not even one trial fits on any node, of those that run and those that may come.
    """
    import ray

    capacity, cpu = measure(), settings.cpus_per_trial
    if settings.gpus_per_trial == AUTO and capacity.has_gpu:
        gpu = gpu_share(*ray.get(ray.remote(num_gpus=1)(_memory_of_a_trial).remote(base, dataset, splits)))
    else:
        gpu = float(capacity.has_gpu) if settings.gpus_per_trial in (None, AUTO) else float(settings.gpus_per_trial or 0)
    now, most = carried(capacity.now, cpu, gpu), capacity.trials(cpu, gpu)
    if capacity.unknown and settings.concurrency and settings.gpus_per_trial not in (None, AUTO):
        most = max(most, settings.concurrency)
    if most < 1:
        largest = max((*capacity.now, *capacity.most), key=lambda node: (node.gpus, node.cpus), default=Node(0, 0))
        remedy = "ask for less"
        if capacity.unknown:
            remedy += ", or, as nodes may come of which nobody says what they have, give --gpus-per-trial and --concurrency as numbers"
        raise InputError(
            f"--cpus-per-trial {cpu:g} --gpus-per-trial {gpu:g}: no node carries a trial, the largest has {largest.cpus:g} CPUs "
            f"and {largest.gpus:g} GPUs; {remedy}"
        )
    concurrency = min(settings.concurrency or most, most)
    if console is not None and now < concurrency:
        console.print(
            f"cluster   {now} of {concurrency} trials at once fit on the nodes that run now; the others wait for nodes to come",
            soft_wrap=True,
            highlight=False,
        )
    return {"cpu": cpu, "gpu": gpu}, concurrency


def shareable(dataset: Dataset) -> Dataset:
    """The data set with plain arrays: Ray shares them between processes, but gives each its own copy of a memory-mapped one."""

    def plain(array: Values | None) -> np.ndarray | None:
        return None if array is None else np.asarray(array)

    return replace(dataset, images=plain(dataset.images), features=plain(dataset.features))


def _memory_of_a_trial(base: Config, dataset: Dataset, splits: Splits) -> tuple[float, float]:
    """(bytes of the GPU in use after one short epoch of the base configuration, its context included, bytes that it has)."""
    import torch

    from mmnet import crossval

    short = {"optim.epochs": 1, "sampling.views_per_slide": 1, "optim.compile": False}  # compiling would take longer than all else
    trial = crossval.run(base.with_values(short), dataset, splits)
    next(trial)
    free, memory = torch.cuda.mem_get_info()  # while `trial` still holds what it holds
    return memory - free, memory
