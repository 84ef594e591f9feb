"""Joining or starting Ray, quietly, while other things are made ready."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.errors import InputError
from tuning import TOKEN_FILE
from tuning.settings import AUTO, StudySettings, gpu_share

if TYPE_CHECKING:
    from data.dataset import Dataset
    from data.splits import Splits
    from mmnet.config import Config

ROOT = Path(__file__).parent.parent
NOT_CODE = [".venv", ".git", "output", "tests", "bench", "**/__pycache__"]


@contextmanager
def joining(address: str | None) -> Iterator[Future[None]]:
    """Join the cluster at `address`, or start Ray on this machine, beside whatever is done within; Ray is left at the end.

    Ray's own start is seconds of waiting for its processes. `result()` waits for it; raises InputError when it cannot be
    reached or started.
    """
    if address is None:  # read when ray is imported: all its processes then listen on loopback only, as they do on a Mac
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    with ThreadPoolExecutor(1, "joining") as thread:
        connected = thread.submit(_connect, address)
        try:
            yield connected
        finally:
            if connected.exception() is None:  # waits: what is half started cannot be shut down
                import ray

                ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker is retried, and told by the progress view
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            ray.init(num_cpus=os.cpu_count(), include_dashboard=False, **quiet)
            with suppress(OSError):  # Ray makes it readable for everybody, and whoever has it runs code as this user
                TOKEN_FILE.chmod(0o600)
        else:
            runtime = {"working_dir": str(ROOT), "excludes": NOT_CODE}
            ray.init(address=address, runtime_env=runtime, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--address {address or 'local'}: cannot reach or start Ray: {str(error).splitlines()[0]}") from error


def resources(settings: StudySettings, base: Config, dataset: Dataset, splits: Splits) -> tuple[dict[str, float], int]:
    """({"cpu", "gpu"} of one trial, how many trials at once). Raises InputError when not even one fits."""
    import ray

    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    if settings.gpus_per_trial == AUTO and gpus:
        gpu = gpu_share(*ray.get(ray.remote(num_gpus=1)(_memory_of_a_trial).remote(base, dataset, splits)))
    else:
        gpu = float(gpus > 0) if settings.gpus_per_trial in (None, AUTO) else float(settings.gpus_per_trial or 0)
    fits = int(cpus // settings.cpus_per_trial)
    if gpu:
        fits = min(fits, int(gpus / gpu + 1e-9))
    if fits < 1:
        raise InputError(
            f"--cpus-per-trial {settings.cpus_per_trial:g} --gpus-per-trial {gpu:g}: the cluster has {cpus:g} CPUs and {gpus:g} GPUs; ask for less"
        )
    return {"cpu": settings.cpus_per_trial, "gpu": gpu}, min(settings.concurrency or fits, fits)


def shareable(dataset: Dataset) -> Dataset:
    """The data set with plain arrays: Ray shares them between processes, but gives each its own copy of a memory-mapped one."""

    def plain(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.asarray(array)

    return replace(dataset, images=plain(dataset.images), features=plain(dataset.features))


def _memory_of_a_trial(base: Config, dataset: Dataset, splits: Splits) -> tuple[float, float]:
    """(bytes of the GPU in use after one short epoch of the base configuration, its context included, bytes that it has)."""
    import torch

    from mmnet import crossval

    short = {"optim.epochs": 1, "sampling.views_per_patient": 1, "optim.compile": False}  # compiling would take longer than all else
    trial = crossval.run(base.with_values(short), dataset, splits)
    next(trial)
    free, memory = torch.cuda.mem_get_info()  # while `trial` still holds what it holds
    return memory - free, memory
