"""What each parameter does to the score with all others as they were tried, and whether two of them act together."""

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial
from sklearn.ensemble import ExtraTreesRegressor

from analysis.bootstrap import Interval

FORESTS, TREES, LEAST_LEAF = 20, 20, 3
GRID, PAIR_GRID = 12, 7
PAIR_AMONG = 4  # the most important parameters, whose pairs are looked at


class Axis(NamedTuple):
    """A parameter of all trials: its place in the design and the points where its effect is shown."""

    name: str
    kind: str  # number, log, choice
    points: np.ndarray  # coded: the value, its logarithm, or the number of the choice
    labels: list[Any]  # of the points: numbers or texts


def design(trials: list[FrozenTrial], names: list[str]) -> tuple[np.ndarray, list[Axis]]:
    """((T, P) coded parameters, P axes) of the parameters that every trial has and that vary; conditional ones are left out."""
    columns, axes = [], []
    for name in names:
        if not all(name in trial.params for trial in trials):
            continue
        distribution = trials[0].distributions[name]
        values = [trial.params[name] for trial in trials]
        labels: list[Any]
        if isinstance(distribution, CategoricalDistribution):
            texts = sorted({str(value) for value in values})
            column, kind = np.array([float(texts.index(str(value))) for value in values]), "choice"
            points, labels = np.arange(len(texts), dtype=np.float64), list(texts)
        else:
            kind = "log" if getattr(distribution, "log", False) else "number"
            column = np.log(np.array(values, dtype=np.float64)) if kind == "log" else np.array(values, dtype=np.float64)
            points = np.unique(np.quantile(column, np.linspace(0.02, 0.98, GRID)))
            labels = [float(v) for v in (np.exp(points) if kind == "log" else points)]
        if len(points) > 1:
            columns.append(column)
            axes.append(Axis(name, kind, points, labels))
    return np.array(columns).T.reshape(len(trials), len(columns)), axes


def fit_forests(inputs: np.ndarray, score: np.ndarray, rng: np.random.Generator, count: int = FORESTS) -> list[ExtraTreesRegressor]:
    """One forest a bootstrap resample of the trials (T, P), (T,). Geurts, Ernst & Wehenkel, Machine Learning 2006."""
    forests = []
    for _ in range(count):
        rows = rng.integers(len(score), size=len(score))
        forest = ExtraTreesRegressor(TREES, min_samples_leaf=LEAST_LEAF, random_state=int(rng.integers(2**31)))
        forests.append(forest.fit(inputs[rows], score[rows]))
    return forests


def partial_dependence(forest: ExtraTreesRegressor, inputs: np.ndarray, columns: list[int], points: np.ndarray) -> np.ndarray:
    """(G,) mean prediction over all trials with `columns` set to each of the points (G, len(columns)). Friedman, Ann. Stat. 2001, eq. 53."""
    at = np.repeat(inputs[None], len(points), axis=0)
    at[:, :, columns] = points[:, None]
    return forest.predict(at.reshape(-1, inputs.shape[1])).reshape(len(points), -1).mean(1)


def interaction_share(joint: np.ndarray) -> float:
    """Friedman's H² (Friedman & Popescu, Ann. Appl. Stat. 2008, eq. 44) of a grid of joint partial dependence (X, Y): the share of
    its variance that no sum of a function of either explains; 0 additive, 1 nothing but interaction.
    """
    centred = joint - joint.mean()
    rest = centred - centred.mean(1, keepdims=True) - centred.mean(0)
    total = (centred**2).sum()
    return float((rest**2).sum() / total) if total > 0 else 0.0


def marginal_effects(trials: list[FrozenTrial], names: list[str], *, rng: np.random.Generator, count: int = FORESTS) -> dict[str, Any]:
    """{"marginals": {parameter: curve}, "interaction": the strongest pair or None}; `names`: by importance, the largest first.

    Curves are the mean of partial dependence over forests fitted to resamples of the trials, bands their 2.5 and 97.5 percentiles.
    """
    inputs, axes = design(trials, names)
    if not axes:
        return {"marginals": {}, "interaction": None}
    forests = fit_forests(inputs, np.array([trial.value for trial in trials], dtype=np.float64), rng, count)
    marginals = {}
    for column, axis in enumerate(axes):
        curves = np.stack([partial_dependence(forest, inputs, [column], axis.points[:, None]) for forest in forests])
        low, high = np.quantile(curves, [0.025, 0.975], axis=0)
        marginals[axis.name] = {
            "kind": axis.kind,
            "x": axis.labels,
            "mean": curves.mean(0).tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
        }
    return {"marginals": marginals, "interaction": _strongest_pair(forests, inputs, axes)}


def _strongest_pair(forests: list[ExtraTreesRegressor], inputs: np.ndarray, axes: list[Axis]) -> dict[str, Any] | None:
    """The pair, among the most important parameters, whose joint effect varies most beyond the sum of its parts."""
    best: tuple[float, dict[str, Any]] | None = None
    for first, second in combinations(range(min(len(axes), PAIR_AMONG)), 2):
        chosen = [axes[i] for i in (first, second)]
        places = [np.unique(np.linspace(0, len(axis.points) - 1, PAIR_GRID).round().astype(int)) for axis in chosen]
        grids = [axis.points[place] for axis, place in zip(chosen, places, strict=True)]
        points = np.stack(np.meshgrid(*grids, indexing="ij"), axis=-1).reshape(-1, 2)
        shape = (len(grids[0]), len(grids[1]))
        joint = np.stack([partial_dependence(forest, inputs, [first, second], points).reshape(shape) for forest in forests])
        mean = joint.mean(0)
        strength = interaction_share(mean) * float(mean.var())
        if best is None or strength > best[0]:
            drawn = [interaction_share(grid) for grid in joint]
            value = interaction_share(mean)
            interval = Interval(value, min(float(np.quantile(drawn, 0.025)), value), float(np.quantile(drawn, 0.975)))
            labels = [[axis.labels[i] for i in place] for axis, place in zip(chosen, places, strict=True)]
            best = (
                strength,
                {
                    "pair": [axis.name for axis in chosen],
                    "strength": interval._asdict(),
                    "x": labels[0],
                    "y": labels[1],
                    "kinds": [axis.kind for axis in chosen],
                    "mean": mean.tolist(),
                },
            )
    return best[1] if best else None
