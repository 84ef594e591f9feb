"""How a study is run: everything that is not the configuration of a trial."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import InputError

AUTO = "auto"
PROMOTE, ASHA, NO_RUNGS = SCHEDULERS = ("promote", "asha", "none")
MOST_ON_A_GPU = 16
FINALISTS = 3  # at the end of a search so many trials go on at every rung: with fewer nothing can be said about ties

GP, TPE, RANDOM = "gp", "tpe", "random"
SAMPLERS = (AUTO, GP, TPE, RANDOM)


@dataclass(frozen=True)
class StudySettings:
    name: str
    trials: int  # in all, also over several runs of a resumed study
    output: Path = Path("output")
    space: str = "full"
    time_budget: float | None = None  # seconds of this run
    gpus_per_trial: float | str | None = None  # AUTO: as one trial's memory is measured; None: 1 where the cluster has a GPU, else 0
    cpus_per_trial: float = 1
    concurrency: int | None = None  # None (auto): as many trials as the cluster's CPUs and GPUs carry
    address: str | None = None  # of a Ray cluster; None: this machine
    scheduler: str = PROMOTE  # trials rest at rungs, the best go on; asha: a rung stops them for good (Ray's); none: no rungs
    max_failures: int | None = None  # failed trials after which the study ends; None: as many as there are
    max_cost: float | None = None  # dollars of the cluster's nodes, all runs of the study together
    disk_budget: float = 20.0  # GiB of what can be computed again: checkpoints of resting trials, networks of those that are not best
    retry_failed: bool = False  # of a resumed study
    front: Sequence[str] = ()  # objectives beside the metric, see mmnet.pareto
    sampler: str = AUTO  # what proposes configurations; gp: a model of all rungs; tpe: Optuna's; auto: see `chosen_sampler`
    eta: int = 3  # a rung keeps the best 1 / eta of its trials; the next one comes after eta times the epochs

    def __post_init__(self) -> None:
        for flag, value, valid, expected in (
            ("--trials", self.trials, self.trials >= 1, "at least 1"),
            ("--time-budget", self.time_budget, self.time_budget is None or self.time_budget > 0, "more than 0"),
            ("--gpus-per-trial", self.gpus_per_trial, _is_gpu_share(self.gpus_per_trial), "a number from 0 on, or auto"),
            ("--cpus-per-trial", self.cpus_per_trial, 0 < self.cpus_per_trial < math.inf, "more than 0"),
            ("--concurrency", self.concurrency, self.concurrency is None or self.concurrency >= 1, "at least 1"),
            ("--scheduler", self.scheduler, self.scheduler in SCHEDULERS, f"one of {', '.join(SCHEDULERS)}"),
            ("--sampler", self.sampler, self.sampler in SAMPLERS, f"one of {', '.join(SAMPLERS)}"),
            ("--max-failures", self.max_failures, self.max_failures is None or self.max_failures >= 0, "0 or more"),
            ("--max-cost", self.max_cost, self.max_cost is None or self.max_cost > 0, "more than 0"),
            ("--disk-budget", self.disk_budget, self.disk_budget >= 0, "0 or more GiB"),
            ("--eta", self.eta, self.eta >= 2, "at least 2"),
        ):
            if not valid:
                raise InputError(f"{flag} {value}: expected {expected}")

    @property
    def folder(self) -> Path:
        return self.output / self.name


def _is_gpu_share(value: float | str | None) -> bool:
    return value in (None, AUTO) or (not isinstance(value, str) and 0 <= value < math.inf)


def chosen_sampler(sampler: str, scheduler: str, epochs: int, *, warm: bool = False) -> str:
    """What `auto` is: at random where trials rest at rungs, `warm` from an earlier study gp, else Optuna's. gp with one epoch has no
    rungs to model: Optuna's.

    On two recorded tables neither model found better configurations than chance under promotion, and the mean of the three best was
    better of random ones, which differ more (bench/RESULTS.md).
    """
    if sampler == AUTO:
        sampler = (GP if warm else RANDOM) if scheduler == PROMOTE else TPE
    return TPE if sampler == GP and epochs == 1 else sampler


def gpu_share(peak: float, memory: float) -> float:
    """The share of a GPU to ask for, so that as many trials of `peak` bytes as fit into 90 % of `memory` run on it.

    One over a whole number, at most `MOST_ON_A_GPU`: a trial also needs a CPU and a CUDA context, which `peak` is to hold.
    """
    return 1 / min(max(int(0.9 * memory / peak), 1), MOST_ON_A_GPU)


def rungs(epochs: int, eta: int) -> tuple[int, ...]:
    """Epochs at which trials are compared: all levels r, r·η, r·η² … below the full length.

    Successive halving with minimum resource r = max(1, R / η³), R = `epochs`. Li et al., A System for Massively Parallel
    Hyperparameter Tuning (ASHA), MLSys 2020, algorithm 2.
    """
    first = max(1, epochs // eta**3)
    levels = []
    while first < epochs:
        levels.append(first)
        first *= eta
    return tuple(levels)


def expected_epochs(trials: int, levels: tuple[int, ...], epochs: int, eta: int) -> float:
    """Epochs that a search of `trials` with rungs at `levels` takes, where of each rung's trials one in `eta` goes on."""
    alive, expected, past = float(trials), 0.0, 0
    for level in (*levels, epochs):
        expected += alive * (level - past)
        alive, past = max(alive / eta, min(FINALISTS, alive)), level
    return expected


def parse_gpus(text: str) -> float | str:
    """`auto`, or a number. Raises InputError."""
    try:
        return AUTO if text == AUTO else float(text)
    except ValueError as error:
        raise InputError(f"--gpus-per-trial {text}: expected a number such as 0.5, or auto") from error


def parse_concurrency(text: str) -> int | None:
    """`auto` (None), or a number. Raises InputError."""
    try:
        return None if text == AUTO else int(text)
    except ValueError as error:
        raise InputError(f"--concurrency {text}: expected a whole number, or auto") from error


def parse_duration(text: str) -> float:
    """`90`, `90s`, `30m`, `2h`, `1d` -> seconds. Raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise InputError(f"--time-budget {text}: expected a duration such as 90s, 30m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
