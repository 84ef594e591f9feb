"""What grows while a search runs for hours: `python -m bench soak --hours 3 [--output /tmp/soak]`.

A real search of very short trials on a small synthetic data set, one at a time, that has more trials than time. Once a minute, to
soak.csv: the memory (proportional set size, MB) of the driver, of each kind of Ray's processes and of the workers, the driver's open
files and threads, MB of the study's folder and of Ray's session. At the end: a table at every tenth of the time, and what each grew by
an hour and by 1,000 trials from the first tenth on (least squares; what comes before is the start).
"""

import argparse
import csv
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.faults import ROOT, SEARCH, command
from bench.machine import describe_machine
from bench.ray_nodes import descendants
from data.synthetic import generate

EVERY = 60.0  # seconds between two samples
KINDS = {  # of processes below the driver, by their command line
    "ray::_Inner": "workers",
    "ray::MMNetTrainable": "workers",  # before its first call
    "ray::IDLE": "idle workers",
    "gcs_server": "GCS",
    "raylet/raylet": "raylet",
    "log_monitor": "log monitor",
    "ray::RuntimeEnvAgent": "runtime env agent",
    "ray::DashboardAgent": "dashboard agent",
    "dashboard/dashboard": "dashboard",
    "monitor.py": "autoscaler",
}
MEMORY = ("driver", *dict.fromkeys(KINDS.values()), "others")


def memory(process: int) -> float:
    """Proportional set size, MB; 0 of a process that has ended."""
    with suppress(OSError):
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) / 1e3 if found else 0.0
    return 0.0


def kind(words: str) -> str:
    return next((name for part, name in KINDS.items() if part in words), "others")


def size(folder: Path) -> float:
    """MB of all files below a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total / 1e6


def sample(driver: int, study: Path) -> dict[str, float]:
    row = dict.fromkeys(MEMORY, 0.0)
    row["driver"] = memory(driver)
    session = None
    for process in descendants(driver):
        words = command(process)
        row[kind(words)] += memory(process)
        if found := re.search(r"session_dir=([^\0 ]+)", words):
            session = Path(found[1])
    with suppress(OSError):
        row["files"] = len(os.listdir(f"/proc/{driver}/fd"))
        row["threads"] = len(os.listdir(f"/proc/{driver}/task"))
    row["trials"] = sum(1 for _ in os.scandir(study / "trials")) if (study / "trials").exists() else 0
    row["study"] = size(study)
    row["session"] = size(session) if session else 0.0
    return row


def watch(process: subprocess.Popen, study: Path, seconds: float, path: Path) -> list[dict[str, float]]:
    """A row a minute until the time is up or the search ends, each written at once."""
    rows: list[dict[str, float]] = []
    started = time.monotonic()
    with path.open("w", newline="") as file:
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(min(EVERY, started + seconds - time.monotonic()))
            if process.poll() is not None:
                return rows
            rows.append({"hours": round((time.monotonic() - started) / 3600, 4)} | sample(process.pid, study))
            writer = csv.DictWriter(file, list(rows[0]))
            if len(rows) == 1:
                writer.writeheader()
            writer.writerow(rows[-1])
            file.flush()
            if time.monotonic() - started >= seconds:
                return rows


def show(rows: list[dict[str, float]], console: Console) -> None:
    columns = [name for name in rows[0] if name == "hours" or any(row[name] for row in rows)]
    table = Table(title="proportional set size, study and session in MB")
    for name in columns:
        table.add_column(name, justify="right")
    for tenth in range(11):
        row = rows[round(tenth * (len(rows) - 1) / 10)]
        table.add_row(*(f"{row[name]:.2f}" if name == "hours" else f"{row[name]:.0f}" for name in columns))
    table.add_section()
    later = rows[len(rows) // 10 :]
    for title, base, unit in (("an hour", "hours", 1.0), ("1,000 trials", "trials", 1000.0)):
        steps = np.array([row[base] for row in later]) / unit
        table.add_row(title, *(f"{slope(steps, np.array([row[name] for row in later])):+.2f}" for name in columns[1:]))
    console.print(table)


def slope(steps: np.ndarray, values: np.ndarray) -> float:
    """By least squares; a zero is a process that ended while it was looked at."""
    seen = values > 0
    return np.polyfit(steps[seen], values[seen], 1)[0] if seen.sum() > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench soak")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--output", type=Path, default=Path("/tmp/soak"), help="where the study and soak.csv go")  # noqa: S108
    arguments = parser.parse_args()
    console = Console(width=200)
    console.print(describe_machine())
    output = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    data = generate(output / "data", patients=16, images=2, size=32, seed=0)
    words = ["--data", str(data), "--output", str(output), "--name", "soak", "--trials", str(10**6), *SEARCH]
    with (output / "soak.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-u", "tune_mmnet.py", *words], cwd=ROOT, stdout=log, stderr=log)
        try:
            rows = watch(process, output / "soak", 3600 * arguments.hours, output / "soak.csv")
        finally:
            process.send_signal(signal.SIGINT)
            started = time.monotonic()
            status = process.wait()
    if len(rows) > 1:
        show(rows, console)
    console.print(
        f"{rows[-1]['trials'] if rows else 0:.0f} trials; ended with status {status}, {time.monotonic() - started:.0f} s after the signal"
    )


if __name__ == "__main__":
    main()
