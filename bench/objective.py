"""Which metric picks configurations that hold on unseen patients: `python -m bench objective FILE …` (tables as `bench/record.py` writes).

Again and again the patients are split at random, both classes alike. Of 100 configurations drawn at random each metric chooses the best,
and its best epoch, on the one part, as the product does; what it chose is judged on the other part, which it has not seen. Both
parts are out of fold. *Again* judges the replicate of the choice: trained anew with another seed on another partition, last epoch.

Two intervals of the difference to choosing by log loss. The narrow one is over splits: what these very patients say. The wide one also
asks whether other patients would say it: they are drawn with replacement, within their class, before they are split (one that
was drawn twice counts twice, on one side).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.recorded import CLIP, patients_of
from mmnet.metrics import METRICS

REFERENCE = "log_loss"
JUDGES = ("auc", "balanced_accuracy", "brier", "log_loss")
ITS_LAST, BY_LAST = f"{REFERENCE}, last networks", f"{REFERENCE} of last epoch"  # chosen as always, judged at the end; chosen there
NOTHING = "nothing"  # chosen by: a configuration drawn at random, last epoch
SHARE = 0.6  # of the patients choose, the others judge
LEVEL = 95  # percent


@dataclass(frozen=True)
class Level:
    """Predictions of N views, or of N patients."""

    loss: dict[str, np.ndarray]  # of metrics that are means of these: (C, E, N) each
    odds: np.ndarray  # (C, E, N) logarithms
    order: tuple[np.ndarray, np.ndarray]  # (C, E, N) ascending by probability: of equal ones benign first, malignant first
    label: np.ndarray  # (N,)
    patient: np.ndarray  # (N,) index

    def scores(self, metric: str, weight: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(c, E): a metric, without prefix, of some configurations; weight (N,) says how often each view counts."""
        positive, negative = weight * self.label, weight * (1 - self.label)
        if metric == "auc":
            return np.mean([weighted_auc(order[rows], positive, negative) for order in self.order], axis=0)
        if metric == "refinement":
            return refined(self.odds[rows], positive, negative)
        loss = self.loss[metric][rows]
        if metric == "accuracy":
            return loss @ (weight / weight.sum())
        return loss @ (positive / positive.sum() + negative / negative.sum()) / 2


@dataclass(frozen=True)
class Table:
    """C configurations, E epochs; `again`: of the replicate, E = 1."""

    views: Level
    patients: Level
    again: Level  # views
    patient_label: np.ndarray  # (K,)

    @property
    def count(self) -> int:
        return len(self.views.order[0])

    def scores(self, metric: str, weight: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(c, E) of a metric by its name; weight (K,) of each patient."""
        level = self.patients if metric.startswith("patient_") else self.views
        return level.scores(metric.removeprefix("patient_"), weight[level.patient], rows)


def weighted_auc(order: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """order (..., N) ascending by probability, weights (N,) of malignant and of benign -> (...): share of pairs in the right order."""
    below = negative[order].cumsum(-1)
    return (positive[order] * below).sum(-1) / (positive.sum() * negative.sum())


def refined(odds: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """odds (..., N), weights (N,) of malignant and of benign -> (...): `mmnet.metrics.refinement`, all fitted at once."""
    seen = positive + negative > 0
    odds, label = odds[..., seen].astype(np.float64), (positive > 0)[seen]
    weight = (positive / positive.sum() + negative / negative.sum())[seen] / 2
    slope = bias = np.zeros(odds.shape[:-1])

    def loss(slope: np.ndarray, bias: np.ndarray) -> np.ndarray:
        right = np.where(label, 1, -1) * (slope[..., None] * odds + bias[..., None])
        return np.logaddexp(0, -right) @ weight + 1e-6 * (slope**2 + bias**2)

    value = loss(slope, bias)
    for _ in range(50):  # Newton's method, each step halved until it gains
        called = 0.5 + 0.5 * np.tanh((slope[..., None] * odds + bias[..., None]) / 2)
        error, curve = weight * (called - label), weight * called * (1 - called)
        down = (error * odds).sum(-1) + 2e-6 * slope, error.sum(-1) + 2e-6 * bias
        one, both, other = (curve * odds**2).sum(-1) + 2e-6, (curve * odds).sum(-1), curve.sum(-1) + 2e-6
        steps = np.stack([other * down[0] - both * down[1], one * down[1] - both * down[0]]) / (one * other - both**2)
        for _ in range(14):
            found = loss(slope - steps[0], bias - steps[1])
            worse = found > value
            if not worse.any():
                break
            steps = steps * np.where(worse, 0.5, 1)
        gain = np.where(worse, 0, value - found)
        slope, bias, value = slope - steps[0] * ~worse, bias - steps[1] * ~worse, value - gain
        if gain.max() < 1e-10:
            break
    return np.where(slope < 0, np.log(2), value - 1e-6 * (slope**2 + bias**2))


def make_level(probability: np.ndarray, label: np.ndarray, patient: np.ndarray) -> Level:
    """probability (C, E, N) of malignant; losses as in mmnet.metrics."""
    clipped = np.clip(probability.astype(np.float32), CLIP, 1 - CLIP)
    loss = {
        "log_loss": -np.log(np.where(label == 1, clipped, 1 - clipped)),
        "brier": (clipped - label) ** 2,
        "accuracy": ((clipped >= 0.5) == (label == 1)).astype(np.float32),
    }
    orders = []
    for first in (0, 1):
        swapped = np.argsort(label != first, kind="stable")
        orders.append(swapped[clipped[..., swapped].argsort(-1, kind="stable")].astype(np.int16))
    odds = np.log(clipped) - np.log1p(-clipped)
    return Level(loss | {"balanced_accuracy": loss["accuracy"]}, odds, (orders[0], orders[1]), label, patient)


def load(path: Path) -> Table:
    with np.load(path) as file:
        return make_table(file["oof"], file["oof_replicate"][:, None], file["label"].astype(int), patients_of(file))


def make_table(probability: np.ndarray, replicate: np.ndarray, label: np.ndarray, names: np.ndarray) -> Table:
    """Out-of-fold probability (C, E, V), of the replicate (C, 1, V); label and patient of each view (V,).

    A patient who has views of both classes counts once in each, as in mmnet.metrics.
    """
    _, first_of_patient, patient = np.unique(names, return_index=True, return_inverse=True)
    _, first, member = np.unique(2 * patient + label, return_index=True, return_inverse=True)
    mean = np.eye(len(first), dtype=np.float32)[member] / np.bincount(member)  # (V, P)
    return Table(
        make_level(probability, label, patient),
        make_level(probability.astype(np.float32) @ mean, label[first], patient[first]),
        make_level(replicate, label, patient),
        label[first_of_patient],
    )


def split(patient_label: np.ndarray, drawn: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """How often each patient was drawn (K,) -> the same of those that choose and of those that judge, `SHARE` of each class chooses."""
    chooses = np.zeros(len(drawn), dtype=bool)
    for value in (0, 1):
        there = rng.permutation(np.flatnonzero((patient_label == value) & (drawn > 0)))
        chooses[there[: min(max(round(SHARE * len(there)), 1), len(there) - 1)]] = True
    return drawn * chooses, drawn * ~chooses


def hold_out(table: Table, drawn: np.ndarray, configurations: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One split: {chosen by: (2, judges), as it is and again}."""
    rows = rng.choice(table.count, min(configurations, table.count), replace=False)
    choosing, judging = split(table.patient_label, drawn, rng)
    here = np.stack([table.scores(judge, judging, rows) for judge in JUDGES], -1)  # (c, E, judges)
    again = np.stack([table.again.scores(judge, judging[table.again.patient], rows)[:, 0] for judge in JUDGES], -1)  # (c, judges)
    found = {NOTHING: np.stack([here[:, -1].mean(0), again.mean(0)])}
    for metric, mode in METRICS.items():
        values = table.scores(metric, choosing, rows) * (1 if mode == "min" else -1)
        row, epoch = np.unravel_index(values.argmin(), values.shape)
        found[metric] = np.stack([here[row, epoch], again[row]])
        if metric == REFERENCE:
            found[ITS_LAST] = np.stack([here[row, -1], again[row]])
            row = values[:, -1].argmin()
            found[BY_LAST] = np.stack([here[row, -1], again[row]])
    return found


def hold_outs(table: Table, drawn: np.ndarray, configurations: int, splits: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """{chosen by: (splits, 2, judges)}."""
    found = [hold_out(table, drawn, configurations, rng) for _ in range(splits)]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def cohorts(patient_label: np.ndarray, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Patients drawn with replacement within their class: how often each, (K,), at least two of a class."""
    for _ in range(count):
        drawn = np.zeros(len(patient_label), dtype=int)
        for value in (0, 1):
            members = np.flatnonzero(patient_label == value)
            while (drawn[members] > 0).sum() < 2:
                drawn[members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)))
        yield drawn


def interval(values: np.ndarray) -> np.ndarray:
    """(N, ...) -> (2, ...), percentiles."""
    return np.percentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)


def over_splits(differences: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(splits, ...) -> (2, ...): bootstrap interval of the mean."""
    return interval(np.stack([differences[rng.integers(len(differences), size=len(differences))].mean(0) for _ in range(2000)]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench objective", description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--cohorts", type=int, default=100, help="of patients drawn with replacement, for the wide interval")
    parser.add_argument("--splits-a-cohort", type=int, default=20)
    parser.add_argument("--configurations", type=int, default=100, help="drawn for each split")
    arguments = parser.parse_args()
    for path in arguments.curves:
        table, rng = load(path), np.random.default_rng(0)
        benign = int((table.patient_label == 0).sum())
        print(
            f"\n{path.name}: {table.count} configurations, {len(table.patient_label)} patients ({benign} benign); best of {arguments.configurations} "
            f"configurations, {arguments.splits} splits, {SHARE:.0%} of the patients choose"
        )
        found = hold_outs(table, np.ones(len(table.patient_label), dtype=int), arguments.configurations, arguments.splits, rng)
        wide: dict[str, list[np.ndarray]] = {name: [] for name in found}  # (2, judges) each
        for drawn in cohorts(table.patient_label, arguments.cohorts, rng):
            there = hold_outs(table, drawn, arguments.configurations, arguments.splits_a_cohort, rng)
            for name, values in there.items():
                wide[name].append((values - there[REFERENCE]).mean(0))
        for place, judge in enumerate(JUDGES):
            print(f"  {judge + ' of choice by':26s} {'as it is; difference to ' + REFERENCE:56s} trained again; difference")
            for name, values in found.items():
                shown = [
                    cell(values[:, kind, place], found[REFERENCE][:, kind, place], np.stack(wide[name])[:, kind, place], rng)
                    for kind in (0, 1)
                ]
                print(f"  {name:26s} {shown[0]:56s} {shown[1]}", flush=True)


def cell(values: np.ndarray, reference: np.ndarray, wide: np.ndarray, rng: np.random.Generator) -> str:
    """Values (splits,) -> their mean; mean difference to the reference with its intervals, the wide one of differences (cohorts,)."""
    if values is reference or (values == reference).all():
        return f"{values.mean():.3f}"
    narrow, outer = over_splits(values - reference, rng), interval(wide)
    return f"{values.mean():.3f} {(values - reference).mean():+.3f} [{narrow[0]:+.3f},{narrow[1]:+.3f}] ({outer[0]:+.3f},{outer[1]:+.3f})"


if __name__ == "__main__":
    main()
