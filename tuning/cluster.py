"""Joining or starting Ray, quietly."""

import logging
import os
from pathlib import Path

import ray

from data.errors import InputError
from tuning.settings import StudySettings

ROOT = Path(__file__).parent.parent
NOT_CODE = [".venv", ".git", "output", "tests", "bench", "**/__pycache__"]


def connect(address: str | None) -> None:
    """Join the cluster at `address`, or start Ray on this machine. Raises InputError when it cannot be reached."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a lost worker is retried, and told by the progress view
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            ray.init(num_cpus=os.cpu_count(), include_dashboard=False, **quiet)
        else:
            runtime = {"working_dir": str(ROOT), "excludes": NOT_CODE}
            ray.init(address=address, runtime_env=runtime, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise InputError(f"--address {address or 'local'}: cannot reach or start Ray: {str(error).splitlines()[0]}") from error


def resources(settings: StudySettings) -> tuple[dict[str, float], int]:
    """({"cpu", "gpu"} of one trial, how many trials at once). Raises InputError when not even one fits."""
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
    gpu = settings.gpus_per_trial if settings.gpus_per_trial is not None else float(gpus > 0)
    fits = int(cpus // settings.cpus_per_trial)
    if gpu:
        fits = min(fits, int(gpus / gpu + 1e-9))
    if fits < 1:
        raise InputError(
            f"--cpus-per-trial {settings.cpus_per_trial:g} --gpus-per-trial {gpu:g}: the cluster has {cpus:g} CPUs and {gpus:g} GPUs; ask for less"
        )
    return {"cpu": settings.cpus_per_trial, "gpu": gpu}, min(settings.concurrency or fits, fits)
