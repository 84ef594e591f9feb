"""What one more worker costs: `python -m bench memory --study output/first [--workers 3]`.

Proportional set size (a page shared by n processes counts 1 / n in each) of a Python that only imported torch and of one to
three Ray workers that train the base configuration of that study at the same time: between two epochs, and the most that was seen
within one. A worker may cost 200 MB more than importing torch.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from data.dataset import Dataset
from data.splits import Splits
from mmnet.config import Config
from mmnet.device import best_device
from study.command_line import prepare
from study.folder import read_study
from tuning.cluster import joining, shareable

PARTS = {"Pss": "all", "Pss_Anon": "own", "Pss_File": "libraries, cached files", "Pss_Shmem": "object store"}


def memory(process: int) -> dict[str, float]:
    """{part: proportional set size in MB} of a process."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    values = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return {name: values[key] for key, name in PARTS.items()}


class Worker:
    """A trial in a Ray worker, as `tune.run` sets it up."""

    def __init__(self, number: int, base: Config, dataset: Dataset, splits: Splits, study: Path):
        from tuning.trainable import MMNetTrainable
        from tuning.trial_place import TrialPlace

        self.imported = memory(os.getpid())
        self.trial = MMNetTrainable.__new__(MMNetTrainable)
        step = {"number": number, "params": {}, "since": 0, "until": base.optim.epochs, "take": number}
        self.trial.setup(step, dataset=dataset, splits=splits, base=base, place=TrialPlace(study), threads=1)

    def train(self, epochs: int) -> tuple[int, float]:
        """-> its process, the most MB seen meanwhile."""
        done, seen = threading.Event(), [0.0]

        def watch() -> None:
            while not done.wait(0.03):
                seen.append(memory(os.getpid())["all"])

        watcher = threading.Thread(target=watch)
        watcher.start()
        for _ in range(epochs):
            self.trial.step()
        done.set()
        watcher.join()
        return os.getpid(), max(seen)

    def after_import(self) -> dict[str, float]:
        return self.imported


def measure(base: Config, dataset: Dataset, splits: Splits, workers: int, console: Console) -> None:
    table = Table(title=f"proportional set size, MB; {dataset.name}, {len(dataset.table)} images")
    for column in ("workers", "process", *PARTS.values(), "over torch alone", "within an epoch, over torch"):
        table.add_column(column, justify="left" if column == "process" else "right")
    alone = subprocess.Popen(
        [sys.executable, "-c", "import torch; print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert alone.stdout is not None
    alone.stdout.readline()
    base = base.with_values({"optim.epochs": 2 * workers + 1, "optim.patience": 2 * workers + 1})  # no trial ends meanwhile
    with joining(None) as connected, tempfile.TemporaryDirectory() as place:
        connected.result()
        shared, started = ray.put(shareable(dataset)), list[Any]()
        for count in range(1, workers + 1):
            worker: Any = ray.remote(Worker).options(num_cpus=0).remote(count, base, shared, splits, Path(place))
            started.append(worker)
            trained = ray.get([each.train.remote(2) for each in started])
            torch_alone = memory(alone.pid)
            rows: list[tuple[str, dict[str, float], float | None]] = [("torch alone", torch_alone, None)]
            if count == 1:
                rows.append(("worker 1 before its trial", ray.get(worker.after_import.remote()), None))
            rows += [(f"worker {number}", memory(process), most) for number, (process, most) in enumerate(trained, start=1)]
            for name, parts, most in rows:
                over = [f"{value - torch_alone['all']:.0f}" for value in (parts["all"], most) if value is not None]
                table.add_row(str(count), name, *(f"{value:.0f}" for value in parts.values()), *([] if name == "torch alone" else over))
            table.add_section()
    alone.terminate()
    alone.wait()
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench memory")
    parser.add_argument("--study", type=Path, required=True, help="a study's folder: its data, splits and base configuration")
    parser.add_argument("--workers", type=int, default=3)
    arguments = parser.parse_args()
    console = Console(width=120)
    console.print(describe_machine())
    about = read_study(arguments.study)
    base = Config().with_values(about["config"])
    prepared = prepare(base, about["data"]["path"], console, best_device().type, Splits.from_json(about["splits"]))
    measure(base, prepared.development, prepared.splits, arguments.workers, console)


if __name__ == "__main__":
    main()
