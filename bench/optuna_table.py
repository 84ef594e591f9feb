"""A recorded table as Optuna's samplers see it: a unit cube, in which they learn from the configuration that stood in for a proposal."""

import numpy as np
import optuna

from bench.simulation import Pool


def take(trial: optuna.Trial, pool: Pool) -> int | None:
    """The row nearest to what the sampler proposes, whose parameters the trial has from then on; None: all rows are used."""
    choices = pool.table.choices
    proposal = [
        trial.suggest_int(f"x{place}", 0, count - 1) / (count - 1) if count else trial.suggest_float(f"x{place}", 0, 1)
        for place, count in enumerate(choices)
    ]
    row = pool.take(np.array(proposal))
    if row is not None:
        for (name, distribution), value, count in zip(trial.distributions.items(), pool.table.points[row], choices, strict=True):
            stands_in = round(value * (count - 1)) if count else float(value)
            trial.study._storage.set_trial_param(trial._trial_id, name, stands_in, distribution)
    return row
