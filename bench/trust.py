"""Are the numbers of analysis/trust.py right? Studies with known truth, and recorded curves judged by their replicate.

    python -m bench trust --curves FILE --part planted --patients 40 --configurations 500 --studies 200
    python -m bench trust --curves FILE --part null
    python -m bench trust --curves FILE --part recorded

`planted` and `null` draw new patients from a model that FILE (600 random configurations, as `bench/outer_table.py` reads it) was measured for: the
logit of a view = mean of its class and configuration + patient + view, both multivariate normal over all configurations with
the recorded covariance (leading factors and a diagonal rest). So configurations are as alike as they are, patients and views
interact with them as they do, and the truth of each is known: AUC in closed form, log loss by Gauss-Hermite quadrature.
`null` gives both classes the same mean: every AUC is 0.5. `recorded` draws studies from FILE itself and judges what they say
of their winner by its replicate: another seed and partition, the same patients.
"""

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.polynomial.hermite_e import hermegauss
from rich.console import Console
from rich.table import Table
from scipy.special import expit
from scipy.stats import norm

from analysis.bias_corrected import Candidates, choices, choose_best, corrected_interval, left_out_scores, out_of_bag_scores
from analysis.bootstrap import draw_patients, intervals_of, jackknife_weights, strata_of
from analysis.patient_scores import patient_scores
from analysis.tie_set import paired, tie_p_values
from bench.machine import describe_machine
from bench.outer_table import patients_of
from mmnet.metrics import METRICS

EPOCHS = (13, 26)  # of the recorded 27, counted from 0: what a simulated trial may choose its best epoch from
BENIGN = 0.31  # share of the patients, as in BreakHis
PATIENT_FACTORS, VIEW_FACTORS = 20, 40
RESAMPLES = 400
JUDGED = ("auc", "log_loss")


class Recorded(NamedTuple):
    """Recorded curves: C configurations, E epochs, V views."""

    oof: np.ndarray  # (C, E, V)
    replicate: np.ndarray  # (C, V)
    label: np.ndarray  # (V,)
    patient: np.ndarray  # (V,)


def read_curves(path: Path) -> Recorded:
    saved = np.load(path)
    return Recorded(
        saved["oof"].astype(np.float32), saved["oof_replicate"].astype(np.float32), saved["label"].astype(int), patients_of(saved)
    )


class OfClass(NamedTuple):
    """One class of the population, over K candidates (configuration x epoch)."""

    mean: np.ndarray  # (K,) logit
    patient: np.ndarray  # (K, F) loadings
    patient_rest: np.ndarray  # (K,)
    view: np.ndarray  # (K, G)
    view_rest: np.ndarray  # (K,)
    views: np.ndarray  # numbers of views of a patient that occur

    def take(self, rows: np.ndarray) -> "OfClass":
        return self._replace(**{name: getattr(self, name)[rows] for name in self._fields[:-1]})

    @property
    def variance(self) -> np.ndarray:
        return (self.patient**2).sum(1) + self.patient_rest**2 + (self.view**2).sum(1) + self.view_rest**2

    def draw(self, patients: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """((K, V) logits of new patients' views, (V,) patient)."""
        of = np.repeat(np.arange(patients), rng.choice(self.views, patients))

        def normal(loadings: np.ndarray, rest: np.ndarray, count: int) -> np.ndarray:
            shared = loadings.astype(np.float32) @ rng.standard_normal((loadings.shape[1], count), dtype=np.float32)
            return shared + rest.astype(np.float32)[:, None] * rng.standard_normal((len(rest), count), dtype=np.float32)

        patient = normal(self.patient, self.patient_rest, patients)
        return self.mean[:, None] + patient[:, of] + normal(self.view, self.view_rest, len(of)), of


def estimate(curves: Recorded) -> list[OfClass]:
    """The two classes of the recorded population, K = C x len(EPOCHS) candidates."""
    probability = np.clip(curves.oof[:, EPOCHS].reshape(-1, len(curves.label)).astype(np.float64), 1e-3, 1 - 1e-3)
    logit = np.log(probability / (1 - probability))
    found = []
    for value in (0, 1):
        parts = [logit[:, curves.patient == name] for name in np.unique(curves.patient[curves.label == value])]
        means = np.stack([part.mean(1) for part in parts], axis=1)
        within = np.concatenate([part - part.mean(1, keepdims=True) for part in parts], axis=1)
        mean = means.mean(1)
        patient = _factors(means - mean[:, None], len(parts) - 1, PATIENT_FACTORS)
        view = _factors(within, within.shape[1] - len(parts), VIEW_FACTORS)
        found.append(OfClass(mean, *patient, *view, np.array([part.shape[1] for part in parts])))
    return found


def _factors(deviations: np.ndarray, freedom: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """((K, F) loadings of the leading factors of a covariance, (K,) standard deviation of the rest)."""
    u, s, _ = np.linalg.svd(deviations, full_matrices=False)
    loadings = (u * s)[:, :count] / np.sqrt(freedom)
    return loadings, np.sqrt(np.maximum((deviations**2).sum(1) / freedom - (loadings**2).sum(1), 0))


def without_effect(classes: list[OfClass]) -> list[OfClass]:
    """The null: both classes are the malignant one, with its mean at 0."""
    one = classes[1]._replace(mean=np.zeros_like(classes[1].mean))
    return [one, one]


def truth(classes: list[OfClass]) -> dict[str, np.ndarray]:
    """{metric: (K,)} over the whole population."""
    nodes, weights = hermegauss(60)
    losses = [
        np.logaddexp(0, (1 - 2 * value) * (one.mean[:, None] + np.sqrt(one.variance)[:, None] * nodes)) @ weights / weights.sum()
        for value, one in enumerate(classes)
    ]
    area = norm.cdf((classes[1].mean - classes[0].mean) / np.sqrt(classes[0].variance + classes[1].variance))
    return {"auc": area, "log_loss": (losses[0] + losses[1]) / 2}


def simulate(classes: list[OfClass], configurations: int, patients: int, metric: str, rng: np.random.Generator) -> dict[str, Any]:
    """One study of new patients, chosen by `metric`: errors and coverage of its estimates, and whether its tie set holds the best."""
    epochs = len(EPOCHS)
    drawn = rng.choice(len(classes[0].mean) // epochs, configurations, replace=False)
    rows = (drawn[:, None] * epochs + np.arange(epochs)).ravel()
    classes = [one.take(rows) for one in classes]
    benign = round(BENIGN * patients)
    parts = [one.draw(count, rng) for one, count in zip(classes, (benign, patients - benign), strict=True)]
    patient = np.concatenate([parts[0][1], parts[1][1] + benign])
    label = np.repeat([0, 1], [len(part[1]) for part in parts])
    candidates = Candidates(expit(np.concatenate([part[0] for part in parts], axis=1)), np.repeat(np.arange(configurations), epochs), label, patient)  # fmt: skip
    return judge(candidates, truth(classes), metric, rng)


def judge(candidates: Candidates, true: dict[str, np.ndarray], metric: str, rng: np.random.Generator) -> dict[str, Any]:
    """`true`: {metric: (K,)} of every candidate."""
    strata, mode = strata_of(candidates.label, candidates.patient), METRICS[metric]
    everyone, rule = np.ones((1, len(strata))), {"best": choose_best(mode)}
    winner = choices(metric, candidates, everyone, rule)["best"]
    in_bag, spread = draw_patients(strata, RESAMPLES, rng), draw_patients(strata, RESAMPLES, rng)
    chosen = choices(metric, candidates, in_bag, rule)["best"]
    found: dict[str, Any] = {}
    for name in JUDGED:
        target = true[name][winner[0]]
        intervals = {
            "naive": intervals_of(name, candidates.scores(name, winner), strata, spread)[0],
            "corrected": corrected_interval(name, candidates, chosen, in_bag, strata, spread),
            "averaged": intervals_of(name, left_out_scores(name, candidates, chosen, in_bag), strata, spread)[0],
        }
        for kind, interval in intervals.items():
            found[f"{name} {kind} bias"] = interval.value - target
            found[f"{name} {kind} covers"] = interval.low <= target <= interval.high
            found[f"{name} {kind} above 0.5"] = interval.low > 0.5
        literal = out_of_bag_scores(name, candidates, chosen, in_bag)
        low, high = np.nanquantile(literal, [0.025, 0.975])
        found[f"{name} as published bias"] = np.nanmean(literal) - target
        found[f"{name} as published covers"] = low <= target <= high
        found[f"{name} as published above 0.5"] = low > 0.5
    # the tie set is about full-length trials: their last epoch
    last = np.flatnonzero(np.r_[candidates.trial[1:] != candidates.trial[:-1], True])
    scores_last = candidates.scores(metric, last)
    value, drawn, left_out = (scores_last.scores(w) for w in (everyone, spread, jackknife_weights(len(strata))))
    p = tie_p_values(paired(value[:, 0], drawn, left_out, strata, mode), len(strata))
    best = true[metric][last].argmin() if mode == "min" else true[metric][last].argmax()
    return found | {"tie set holds the best": p[best] > 0.05, "tie set's share": float((p > 0.05).mean())}


def recorded(curves: Recorded, configurations: int, metric: str, rng: np.random.Generator) -> dict[str, Any]:
    """One study of configurations drawn from the recorded ones, best of all 27 epochs; truth is the replicate."""
    drawn = rng.choice(len(curves.oof), configurations, replace=False)
    epochs = curves.oof.shape[1]
    everyone = np.ones((1, len(np.unique(curves.patient))))
    true = {
        name: np.repeat(patient_scores(name, curves.replicate[drawn], curves.label, curves.patient).scores(everyone)[:, 0], epochs)
        for name in JUDGED
    }
    oof = curves.oof[drawn].reshape(-1, len(curves.label))
    candidates = Candidates(oof, np.repeat(np.arange(configurations), epochs), curves.label, curves.patient)
    return judge(candidates, true, metric, rng)


def print_table(title: str, studies: list[dict[str, Any]], console: Console) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("", "bias", "sd", "95 % interval covers, %", "lower end above 0.5, %"):
        table.add_column(column, justify="right" if column else "left")
    count = len(studies)
    for name in JUDGED:
        for kind in ("naive", "corrected", "averaged", "as published"):
            bias, covers, above = (
                np.array([s[f"{name} {kind} {what}"] for s in studies], float) for what in ("bias", "covers", "above 0.5")
            )
            table.add_row(f"{name} {kind}", f"{bias.mean():+.4f} ± {bias.std() / count**0.5:.4f}", f"{bias.std():.3f}",
                          f"{100 * covers.mean():.1f}", f"{100 * above.mean():.1f}" if name == "auc" else "")  # fmt: skip
    console.print(table)
    holds, share = (np.mean([s[what] for s in studies]) for what in ("tie set holds the best", "tie set's share"))
    console.print(f"tie set: holds the true best in {100 * holds:.1f} %, is {100 * share:.0f} % of the configurations; {count} studies")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench trust")
    parser.add_argument("--curves", type=Path, required=True, help="recorded curves (.npz)")
    parser.add_argument("--part", choices=("planted", "null", "recorded"), default="planted")
    parser.add_argument("--patients", type=int, default=40)
    parser.add_argument("--configurations", type=int, default=50)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--metric", choices=JUDGED, default="log_loss", help="what chooses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=200, help="begin no further study after this long")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, rng = Console(width=140, highlight=False), np.random.default_rng(arguments.seed)
    curves = read_curves(arguments.curves)
    classes = [] if arguments.part == "recorded" else estimate(curves)
    classes = without_effect(classes) if arguments.part == "null" else classes
    begun, studies = time.perf_counter(), list[dict[str, Any]]()
    while len(studies) < arguments.studies and time.perf_counter() - begun < arguments.seconds:
        if arguments.part == "recorded":
            studies.append(recorded(curves, arguments.configurations, arguments.metric, rng))
        else:
            studies.append(simulate(classes, arguments.configurations, arguments.patients, arguments.metric, rng))
    console.print(describe_machine())
    where = "recorded tiles" if arguments.part == "recorded" else f"{arguments.patients} patients"
    print_table(f"{arguments.part}: {where}, {arguments.configurations} configurations, chosen by {arguments.metric}", studies, console)


if __name__ == "__main__":
    main()
