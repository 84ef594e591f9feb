"""Random sampling without a database."""

from collections.abc import Iterator

import optuna


def random_study(seed: int = 0) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


def asked(study: optuna.Study, count: int) -> Iterator[optuna.Trial]:
    return (study.ask() for _ in range(count))
