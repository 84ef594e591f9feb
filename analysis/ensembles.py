"""Ensembles of a study's trials, each judged on patients that did not choose it.

Whatever is fitted (the best trial, its best epoch, a selection, weights) is fitted on all folds but one and judged on that
one; the same fitted and judged on everything stands beside it as the optimistic figure.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from sklearn.linear_model import LogisticRegression

from analysis.bootstrap import Interval, paired_difference
from analysis.calibration import logit
from analysis.predictions import read_arrays
from analysis.tables import interval_text, narrow_table
from data.errors import InputError
from mmnet.metrics import METRICS, evaluate, evaluate_one, is_better
from study.folder import read_study
from study.records import TrialRecord, read_trials, write_json

POOL = 50  # trials considered: the best by the score on the fitting folds (Caruana et al., ICDM 2006, prune as well)
ROUNDS = 25  # of greedy selection, with replacement
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of stacking: inverse L2 penalties tried
RESAMPLES = 2000
Combine = Callable[[np.ndarray], np.ndarray]  # (T, N) probabilities of trials -> (N,)


class Fitting(NamedTuple):
    """What an ensemble may be fitted on."""

    probability: np.ndarray  # (T, N), trials by score, best first
    label: np.ndarray  # (N,)
    patient: np.ndarray  # (N,)
    fold: np.ndarray  # (N,)
    metric: str

    def score(self, probability: np.ndarray) -> float:
        return evaluate_one(self.metric, probability, self.label, self.patient)


def mean_of_best(count: int) -> Callable[[Fitting], np.ndarray]:
    """Weights (T,) of the plain mean of the `count` best trials."""

    def fit(data: Fitting) -> np.ndarray:
        weights = np.zeros(len(data.probability))
        weights[:count] = 1 / min(count, len(weights))
        return weights

    return fit


def greedy(data: Fitting, rounds: int = ROUNDS) -> np.ndarray:
    """Weights (T,) of forward selection with replacement from the best trial on, cut where the score was best.

    Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004, section 2.
    """
    counts = np.zeros(len(data.probability))
    counts[0] = 1
    total, best_score, best = data.probability[0].copy(), data.score(data.probability[0]), counts.copy()
    for size in range(2, rounds + 1):
        scores = [data.score((total + candidate) / size) for candidate in data.probability]
        chosen = int(np.nanargmin(scores) if METRICS[data.metric] == "min" else np.nanargmax(scores))
        counts[chosen] += 1
        total = total + data.probability[chosen]
        if is_better(data.metric, scores[chosen], best_score):
            best_score, best = scores[chosen], counts.copy()
    return best / best.sum()


def stacked(data: Fitting) -> Combine:
    """Logistic regression, balanced by class, on the trials' logits. Wolpert, Stacked Generalization, 1992.

    The L2 penalty is the one of best log loss over the fitting folds, each left out in turn; the strongest where there is only one.
    """
    logits = logit(data.probability).T  # (N, T)

    def model(strength: float, rows: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=strength, class_weight="balanced", max_iter=1000).fit(logits[rows], data.label[rows])

    def left_out_loss(strength: float) -> float:
        held = np.empty(len(data.label))
        for number in np.unique(data.fold):
            here = data.fold == number
            held[here] = model(strength, ~here).predict_proba(logits[here])[:, 1]
        return evaluate_one("log_loss", held, data.label, data.patient)

    strength = min(STRENGTHS, key=left_out_loss) if len(np.unique(data.fold)) > 1 else min(STRENGTHS)
    fitted = model(strength, np.ones(len(data.label), dtype=bool))
    return lambda probability: fitted.predict_proba(logit(probability).T)[:, 1]


Method = Callable[[Fitting], np.ndarray] | Callable[[Fitting], Combine]
METHODS: dict[str, Method] = {
    "best single": mean_of_best(1),
    "mean of 3 best": mean_of_best(3),
    "mean of 10 best": mean_of_best(10),
    "greedy selection": greedy,
    "stacked logistic": stacked,
}


class Candidates(NamedTuple):
    """Out-of-fold predictions of T trials on the same V views."""

    names: list[str]
    oof: list[np.ndarray]  # of each trial (E, V)
    label: np.ndarray
    patient: np.ndarray
    fold: np.ndarray


def read_candidates(records: list[TrialRecord]) -> Candidates:
    """Every trial with a score and predictions on record; early-stopped ones with the epochs they had."""
    saved = {r.name: read_arrays(r.folder / "predictions.npz") for r in records if r.ranked and (r.folder / "predictions.npz").exists()}
    if not saved:
        raise InputError("ensembles: no trial has predictions on record; let the study finish")
    first = next(iter(saved.values()))
    same = {name: arrays for name, arrays in saved.items() if np.array_equal(arrays["rows"], first["rows"])}
    columns = {name: first[name] for name in ("label", "patient", "fold")}
    return Candidates(list(same), [arrays["oof"].astype(np.float64) for arrays in same.values()], **columns)


def prepare(candidates: Candidates, rows: np.ndarray, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """((T,) trials, (T, V) their predictions): each at its best epoch by the rows given, the best POOL trials by those rows, best first."""
    label, patient = candidates.label[rows], candidates.patient[rows]
    scores, chosen = [], []
    for oof in candidates.oof:
        by_epoch = [evaluate_one(metric, probability[rows], label, patient) for probability in oof]
        best = int(np.nanargmin(by_epoch) if METRICS[metric] == "min" else np.nanargmax(by_epoch))
        scores.append(by_epoch[best])
        chosen.append(oof[best])
    order = np.argsort(np.array(scores) * (1 if METRICS[metric] == "min" else -1), kind="stable")[:POOL]
    return order, np.stack([chosen[t] for t in order])


class Judged(NamedTuple):
    """An ensemble method."""

    method: str
    honest: dict[str, float]  # metrics, each fold judged by what the other folds fitted
    optimistic: dict[str, float]  # fitted and judged on everything
    difference: Interval  # honest, in the study's metric, to the best single trial
    weights: dict[str, float]  # of each trial, fitted on everything; empty where it is not a weighted mean


def fit(
    candidates: Candidates, rows: np.ndarray, metric: str, methods: Mapping[str, Method] = METHODS
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{method: ((V,) combined predictions, (T,) weights by trial)} fitted on some rows; no weights where it is not a weighted mean."""
    trials, probability = prepare(candidates, rows, metric)
    data = Fitting(probability[:, rows], candidates.label[rows], candidates.patient[rows], candidates.fold[rows], metric)
    fits = {}
    for name, method in methods.items():
        fitted, weights = method(data), np.zeros(len(candidates.oof))
        if callable(fitted):
            fits[name] = fitted(probability), weights
        else:
            weights[trials] = fitted
            fits[name] = fitted @ probability, weights
    return fits


def cross_fit(candidates: Candidates, metric: str, methods: Mapping[str, Method] = METHODS) -> dict[str, np.ndarray]:
    """{method: (V,) combined predictions}, those of each fold by what the other folds fitted."""
    honest = {method: np.empty(len(candidates.label)) for method in methods}
    for number in np.unique(candidates.fold):
        here = candidates.fold == number
        for method, (combined, _) in fit(candidates, ~here, metric, methods).items():
            honest[method][here] = combined[here]
    return honest


def judge(candidates: Candidates, metric: str, rng: np.random.Generator) -> list[Judged]:
    """Every method of METHODS against the best single trial, differences paired over patients."""
    label, patient = candidates.label, candidates.patient
    honest = cross_fit(candidates, metric)
    judged = []
    for method, (optimistic, weights) in fit(candidates, np.ones(len(label), dtype=bool), metric).items():
        judged.append(
            Judged(
                method,
                evaluate(honest[method], label, patient),
                evaluate(optimistic, label, patient),
                paired_difference(metric, honest[method], honest["best single"], label, patient, rng=rng, count=RESAMPLES),
                {candidates.names[t]: round(float(weights[t]), 4) for t in np.flatnonzero(weights)},
            )
        )
    return judged


def recommend(judged: list[Judged], metric: str) -> tuple[Judged, str]:
    """(the method of best honest score, how sure that is in words)."""
    sign = 1 if METRICS[metric] == "min" else -1
    best = min(judged, key=lambda row: sign * row.honest[metric])
    if best.method == "best single":
        return best, "no ensemble beats the best single trial"
    better = best.difference.high < 0 if sign == 1 else best.difference.low > 0
    if better:
        return best, f"{best.method} beats the best single trial, and the interval of the difference excludes 0"
    return best, f"{best.method} has the best honest score, but cannot be told from the best single trial on these patients"


def write_ensembles(study: Path) -> dict[str, Any]:
    """results/ensembles.json of a search. Raises InputError with fewer than 3 trials."""
    about = read_study(study)
    metric = about["config"]["metric"]
    candidates = read_candidates(read_trials(study))
    if len(candidates.names) < 3:
        raise InputError(
            f"ensembles: {len(candidates.names)} trial(s) with predictions; expected at least 3, as a search by tune_mmnet.py leaves"
        )
    judged = judge(candidates, metric, np.random.default_rng(about["config"]["seed"]))
    best, words = recommend(judged, metric)
    report = {
        "metric": metric,
        "trials": len(candidates.names),
        "synthetic": about["data"]["synthetic"],
        "recommended": best.method,
        "why": words,
        "methods": [row._asdict() | {"difference": row.difference._asdict()} for row in judged],
    }
    write_json(study / "results" / "ensembles.json", report)
    return report


def print_ensembles(report: dict[str, Any], console: Console) -> None:
    metric = report["metric"]
    name = metric.replace("_", " ")
    synthetic = " (SYNTHETIC DATA)" if report["synthetic"] else ""
    table = narrow_table(
        f"ensembles of {report['trials']} trials{synthetic}, judged on folds that did not choose them",
        ("method", name, "optimistic", "− best single (95 %)", "AUC", "trials"),
    )
    for row in report["methods"]:
        d = row["difference"]
        table.add_row(
            row["method"] + (" *" if row["method"] == report["recommended"] else ""),
            f"{row['honest'][metric]:.3f}",
            f"{row['optimistic'][metric]:.3f}",
            "" if row["method"] == "best single" else interval_text(d["value"], d["low"], d["high"], "+"),
            f"{row['honest']['auc']:.3f}",
            str(len(row["weights"]) or "all"),
        )
    console.print(table)
    console.print(f"* recommended: {report['why']}", highlight=False, soft_wrap=True)
