"""The mean of the best three configurations: what a search recommends where more than one network may be used.

The best of a search on few patients are tied, and which of them comes first is luck; the mean of their predictions is better than
any of them on a fresh replicate (bench/RESULTS.md). As with every ensemble, each fold is judged by what the others chose.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from analysis.bootstrap import paired_difference
from analysis.ensembles import Candidates, cross_fit, mean_of_best
from analysis.leaderboard import rank
from analysis.tables import metric_in_words
from mmnet.config import Config, save_config
from mmnet.metrics import METRICS, evaluate
from study.records import TrialRecord, whole_file

MEMBERS = 3
FOLDER = "recommended_mean"
RESAMPLES = 2000
METHODS = {"single": mean_of_best(1), "mean": mean_of_best(MEMBERS)}


def furthest(records: Sequence[TrialRecord]) -> list[int]:
    """Places of the trials that may be members: the full-length ones, and where those are too few, who trained longest besides."""
    order = sorted(range(len(records)), key=lambda place: (records[place].status != "done", -len(records[place].epochs)))
    done = sum(record.status == "done" for record in records)
    return sorted(order[: max(done, MEMBERS)])


def judge_mean(candidates: Candidates, records: Sequence[TrialRecord], metric: str, rng: np.random.Generator) -> dict[str, Any] | None:
    """Which trials are members, and their mean against one trial, both chosen by the other folds; None: fewer than MEMBERS trials.

    `records`: of the candidates, in their order. `difference` is mean minus single in `metric`, paired over patients.
    """
    if len(records) < MEMBERS:
        return None
    places = furthest(records)
    eligible = candidates._replace(names=[candidates.names[place] for place in places], oof=[candidates.oof[place] for place in places])
    members = rank([records[place] for place in places], metric)[:MEMBERS]
    label, patient = candidates.label, candidates.patient
    honest = cross_fit(eligible, metric, METHODS)
    difference = paired_difference(metric, honest["mean"], honest["single"], label, patient, rng=rng, count=RESAMPLES)
    return {
        "trials": [record.name for record in members],
        "honest": evaluate(honest["mean"], label, patient),
        "single": evaluate(honest["single"], label, patient),
        "difference": difference._asdict(),
    }


def write_members(study: Path, records: Mapping[str, TrialRecord], trials: Sequence[str], note: str) -> None:
    """recommended_mean/<trial>.yaml of each member, as `main.py --config` takes the folder; those of an earlier choice go."""
    folder = study / FOLDER
    folder.mkdir(exist_ok=True)
    for name in trials:
        with whole_file(folder / f"{name}.yaml") as building:
            save_config(Config().with_values(records[name].config), building, f"one of {', '.join(trials)}, whose mean is recommended\n{note}")
    for left in folder.glob("*.yaml"):
        if left.stem not in trials:
            left.unlink()


def mean_in_words(found: Mapping[str, Any], metric: str, study: Path) -> str:
    """The sentence of the answer."""
    d = found["difference"]
    better = d["value"] < 0 if METRICS[metric] == "min" else d["value"] > 0
    first = "Better than any one of them" if better else "Another choice, which was no better here"
    return (
        f"{first}: the mean of trials {', '.join(found['trials'][:-1])} and {found['trials'][-1]} (python main.py --config {study / FOLDER}); where "
        f"the other folds choose, its {metric_in_words(metric)} is {found['honest'][metric]:.3f} against {found['single'][metric]:.3f} of a single trial "
        f"(difference {d['value']:+.3f}, 95 % {d['low']:+.3f} to {d['high']:+.3f})."
    )
