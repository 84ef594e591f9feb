"""A new study that begins with what an earlier one found.

The earlier study's best configurations are tried right after the base: whatever changed since (data, space, code), that only costs
their trials. Where the earlier trials were judged on the same folds of the same data by the same metric, the sampler learns from
their values as well (Feurer et al., Initializing Bayesian Hyperparameter Optimization via Meta-Learning, AAAI 2015, for the former).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from data.dataset import same_data
from data.errors import InputError
from data.splits import Splits
from mmnet.config import Config
from mmnet.metrics import METRICS
from search_spaces.space import Space
from study.folder import read_study
from study.records import TrialRecord, read_trials
from tuning.searcher import distributions

POINTS = 3  # best configurations of the earlier study that are tried again
LEARNED = 100  # of its other trials that the sampler sees at most, evenly many


@dataclass(frozen=True)
class WarmSpace(Space):
    """A space whose first trials after the base are given."""

    first: tuple[dict[str, Any], ...] = ()

    def point(self, number: int, base: Config) -> dict[str, Any] | None:
        return self.first[number - 1] if 0 < number <= len(self.first) else super().point(number, base)


def read_earlier(folder: Path, space: Space, base: Config, fingerprint: str, splits: Splits) -> dict[str, Any]:
    """What study.json keeps of an earlier study, so that a resumed study does not need it: {"study", "points", "trials"}.

    Raises InputError where it has no trial with a score, or was judged by another metric.
    """
    about, records = read_study(folder), read_trials(folder)
    if about["config"]["metric"] != base.metric:
        raise InputError(
            f"--warm-start {folder}: its trials are judged by {about['config']['metric']}, expected {base.metric}; pass --metric {about['config']['metric']}"
        )
    ranked = _best_first([record for record in records if record.ranked], base.metric)
    if not ranked:
        raise InputError(f"--warm-start {folder}: none of its {len(records)} trials has a score; leave the flag out")
    encoded = [space.encode(Config().with_values(record.config)) for record in ranked]
    comparable = same_data(about["data"]["fingerprint"], fingerprint) and Splits.from_json(about["splits"]) == splits
    others = range(POINTS, len(ranked))
    step = max(-(-len(others) // LEARNED), 1)
    learned = [*range(min(POINTS, len(ranked))), *others[::step]] if comparable else []
    points: list[dict[str, Any]] = []
    for point in encoded:
        if len(points) < POINTS and point not in points and point != space.encode(base):
            points.append(point)
    return {"study": folder.name, "points": points, "trials": [_essence(ranked[place], encoded[place]) for place in learned]}


def warm_space(space: Space, earlier: dict[str, Any]) -> Space:
    return WarmSpace(space.name, space.dimensions, tuple(earlier["points"]))


def earlier_trials(space: Space, earlier: dict[str, Any]) -> list[FrozenTrial]:
    """As the sampler sees them. Their numbers are below 0: before all trials of this study."""
    trials = []
    for place, told in enumerate(earlier["trials"]):
        trial = create_trial(
            state=TrialState.COMPLETE if told["done"] else TrialState.PRUNED,
            value=told["score"],
            params=told["params"],
            distributions=distributions(space, told["params"]),
            intermediate_values={int(epoch): score for epoch, score in told["scores"].items()},
        )
        trial.number = place - len(earlier["trials"])
        trials.append(trial)
    return trials


def _best_first(records: list[TrialRecord], metric: str) -> list[TrialRecord]:
    """Trials that ran to their end before those that did not, each by score: a low rung flatters nobody here."""
    sign = 1 if METRICS[metric] == "min" else -1
    return sorted(records, key=lambda record: (record.status != "done", sign * record.score, record.number))


def _essence(record: TrialRecord, params: dict[str, Any]) -> dict[str, Any]:
    scores = {str(line["epoch"]): line["score"] for line in record.epochs if line["score"] is not None}
    return {"params": params, "score": record.score, "done": record.status == "done", "scores": scores}
