"""How a study is run: everything that is not the configuration of a trial."""

import re
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError


@dataclass(frozen=True)
class StudySettings:
    name: str
    trials: int  # in all, also over several runs of a resumed study
    output: Path = Path("output")
    space: str = "full"
    time_budget: float | None = None  # seconds of this run
    gpus_per_trial: float | None = None  # None: 1 where the cluster has a GPU, else 0
    cpus_per_trial: float = 1
    concurrency: int | None = None  # None: as many trials as the cluster's CPUs and GPUs carry
    address: str | None = None  # of a Ray cluster; None: this machine
    eta: int = 3  # a rung keeps the best 1 / eta of its trials; the next one comes after eta times the epochs

    def __post_init__(self) -> None:
        for flag, value, valid, expected in (
            ("--trials", self.trials, self.trials >= 1, "at least 1"),
            ("--time-budget", self.time_budget, self.time_budget is None or self.time_budget > 0, "more than 0"),
            ("--gpus-per-trial", self.gpus_per_trial, self.gpus_per_trial is None or self.gpus_per_trial >= 0, "0 or more"),
            ("--cpus-per-trial", self.cpus_per_trial, self.cpus_per_trial > 0, "more than 0"),
            ("--concurrency", self.concurrency, self.concurrency is None or self.concurrency >= 1, "at least 1"),
        ):
            if not valid:
                raise InputError(f"{flag} {value}: expected {expected}")

    @property
    def folder(self) -> Path:
        return self.output / self.name


def rungs(epochs: int, eta: int) -> tuple[int, ...]:
    """Epochs at which trials are compared: at most three levels below the full length, η apart.

    Successive halving with minimum resource r = max(1, R / η³), R = `epochs`. Li et al., A System for Massively Parallel
    Hyperparameter Tuning (ASHA), MLSys 2020, algorithm 2.
    """
    first = max(1, epochs // eta**3)
    levels = []
    while first < epochs:
        levels.append(first)
        first *= eta
    return tuple(levels)


def parse_duration(text: str) -> float:
    """`90`, `90s`, `30m`, `2h`, `1d` -> seconds. Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(f"--time-budget {text}: expected a duration such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
