"""DEHB on the recorded table, through `ask` and `tell`: differential evolution at the rungs of Hyperband.

Awad et al., DEHB: Evolutionary Hyperband for Scalable, Robust and Efficient Hyperparameter Optimization, IJCAI 2021. What Hyperband
promotes goes on from its rung here, although the library has no word for that.
"""

import tempfile
from typing import Any

import dehb

from bench.methods import ETA, Rungs, levels
from bench.simulation import Pool


class Dehb(Rungs):
    def __init__(self, pool: Pool, seed: int):
        super().__init__(pool, seed, levels(pool))
        self.folder = tempfile.TemporaryDirectory()  # DEHB wants one for its log
        self.dehb = dehb.DEHB(
            dimensions=len(pool.table.choices),
            min_fidelity=self.levels[0],
            max_fidelity=self.levels[-1],
            eta=ETA,
            n_workers=1,  # of its own; it does not ask who trains what it hands out
            seed=seed,
            save_freq="end",
            output_path=self.folder.name,
        )
        self.rows: dict[int, int] = {}  # by the number of the configuration
        self.jobs: dict[int, dict[str, Any]] = {}  # by row

    def next(self, free: int | None) -> tuple[int, int] | None:
        job = self.dehb.ask()
        number = job["config_id"]
        row = self.rows[number] if number in self.rows else self.pool.take(job["config"])
        if row is None:
            return None
        self.rows[number], self.jobs[row] = row, job
        job["config"] = self.dehb.config_repository.configs[number].config = self.pool.table.points[row]
        return row, round(job["fidelity"])

    def report(self, trial: int, epoch: int) -> None:
        super().report(trial, epoch)
        self.dehb.tell(self.jobs.pop(trial), {"fitness": self.rungs[epoch][str(trial)], "cost": epoch})
