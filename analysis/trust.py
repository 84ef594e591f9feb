"""How far to believe a search: corrected score, tie set, noise and importance of a study as it stands, in results/trust.json."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from analysis.bias_corrected import FEW_PATIENTS, METHOD, STOPPED, Candidates, Choose, Corrected, best_epochs, choose_best, corrected
from analysis.bootstrap import difference_intervals, draw_patients, intervals_of, jackknife_weights, strata_of
from analysis.ensembles import read_candidates
from analysis.importance import as_json, comparable_trials, importance_intervals, in_words
from analysis.marginals import marginal_effects
from analysis.mean_of_best import judge_mean, mean_in_words, write_members
from analysis.noise_floor import below_noise, expected_gain, patients_needed
from analysis.patient_scores import weighted_scores
from analysis.recommendation import RULE, choose_simplest, mechanisms_on, simplicity
from analysis.tables import metric_in_words, write_table
from analysis.tie_set import METHOD as TIE_METHOD
from analysis.tie_set import STOPPED as TIE_STOPPED
from analysis.tie_set import Paired, paired, stopped_p_value, tie_p_values
from data.errors import InputError
from mmnet.config import Config, save_config, text_of
from mmnet.metrics import METRICS
from study.folder import read_study
from study.members import member_names
from study.records import TrialRecord, read_trials, whole_file, write_json

FORMAT = 1
RESAMPLES = 2000
LEVEL = 0.95
STRONGEST = 4  # parameters that the answer names
ROW = ("trial", "status", "epochs", "epoch", "value", "difference", "low", "high", "p", "state", "recommended", "seconds", "fold_epochs", "mechanisms", "width")  # fmt: skip


class Search:
    """The trials of a study that have predictions, on the same patients."""

    def __init__(self, records: list[TrialRecord], metric: str):
        self.found = found = read_candidates(records)
        by_name = {record.name: record for record in records}
        self.metric, self.mode = metric, METRICS[metric]
        self.records = [by_name[name] for name in found.names]
        self.oof = [oof.astype(np.float32) for oof in found.oof]
        trial = np.repeat(np.arange(len(self.oof)), [len(oof) for oof in self.oof])
        self.candidates = Candidates(np.concatenate(self.oof), trial, found.label, found.patient)
        self.strata = strata_of(found.label, found.patient)
        self.everyone = np.ones((1, len(self.strata)))
        scores = weighted_scores(metric, self.candidates.probability, found.label, found.patient, self.everyone)
        self.by_epoch = [scores[trial == t, 0] for t in range(len(self.oof))]
        best, place = best_epochs(scores, trial, self.mode)
        self.value, self.place = best[:, 0], place[:, 0]  # (T,) score at the best epoch, candidate that is
        self.sign = 1 if self.mode == "min" else -1
        done = np.array([record.status == "done" for record in self.records])
        self.full = done if done.any() else np.ones(len(done), dtype=bool)  # what may be recommended

    def epoch(self, trial: int, reached: int | None = None) -> int:
        """Best epoch from 1 (of the first `reached`)."""
        return int(np.nanargmin(self.sign * self.by_epoch[trial][:reached])) + 1


def write_trust(study: Path) -> dict[str, Any]:
    """results/trust.json, tie_set.csv, recommended_config.yaml and recommended_mean/ of a search as it stands; `ready` false: nothing can be judged yet."""
    about = read_study(study)
    metric, records = about["config"]["metric"], read_trials(study)
    head = {"format": FORMAT, "ready": False, "synthetic": about["data"]["synthetic"], "metric": metric}
    if member_names(about):
        why = "its members were given, not chosen"
    else:
        try:
            search = Search(records, metric)
            fewest = min((search.strata == value).sum() for value in (0, 1))
            why = "" if fewest >= 2 else f"{fewest} patient(s) of one class; expected at least 2 of each"
        except InputError as error:
            why = str(error)
    if why:
        report = head | {"why": why}
    else:
        report = head | _report(study, search, records, np.random.default_rng(about["config"]["seed"]))
        rows = [["" if row[name] is None else row[name] for name in ROW] for row in report["tie_set"]["rows"]]
        write_table(study / "results" / "tie_set.csv", list(ROW), rows)
        chosen = next(record for record in records if record.name == report["recommended"]["trial"])
        with whole_file(study / "recommended_config.yaml") as building:
            save_config(Config().with_values(chosen.config), building, "\n".join(report["sentences"]))
        if report["mean"] is not None:
            write_members(study, {record.name: record for record in records}, report["mean"]["trials"], report["sentences"][-1])
    write_json(study / "results" / "trust.json", report)
    return report


def _report(study: Path, search: Search, records: list[TrialRecord], rng: np.random.Generator) -> dict[str, Any]:
    metric, strata = search.metric, search.strata
    weights = draw_patients(strata, RESAMPLES, rng)
    scores = search.candidates.scores(metric, search.place)
    drawn, left_out = scores.scores(weights), scores.scores(jackknife_weights(len(strata)))
    compared = paired(search.value, drawn, left_out, strata, search.mode)
    order = np.array(sorted(range(len(search.records)), key=lambda t: (*simplicity(search.records[t]), search.sign * search.value[t])))
    winner = int((search.sign * search.value).argmin())
    recommended = int(choose_simplest(search.sign * search.value[:, None], compared.error, search.full, order)[0])
    rules: dict[str, Choose] = {
        "winner": choose_best(search.mode),
        "recommended": lambda best: choose_simplest(search.sign * best, compared.error, search.full, order),
    }
    honest = corrected(metric, search.candidates, strata, rules, tuple(METRICS), rng=rng, count=RESAMPLES, level=LEVEL)
    ties = _tie_set(search, compared, drawn, left_out, winner, recommended)
    noise = _noise(search, compared)
    comparable = comparable_trials(study / "optuna.db", records) if (study / "optuna.db").exists() else None
    states = ("done", "stopped", "failed", "running")
    first = np.unique(search.candidates.patient, return_index=True)[1]
    report = {
        "ready": True,
        "mode": search.mode,
        "level": LEVEL,
        "resamples": RESAMPLES,
        "patients": len(strata),
        "views": len(search.candidates.label),
        "patients_by_class": {name: int((search.candidates.label[first] == value).sum()) for name, value in (("benign", 0), ("malignant", 1))},
        "trials": {"all": len(records), "used": len(search.records)} | {s: sum(r.status == s for r in records) for s in states},
        "winner": _trial(search, winner, weights),
        "recommended": _trial(search, recommended, weights) | {"rule": RULE, "why": _why(search, compared, recommended)},
        "corrected": {"method": METHOD, "words": STOPPED} | {rule: {n: _row(c) for n, c in of.items()} for rule, of in honest.items()},
        "tie_set": ties,
        "noise": noise,
        "importance": _importance(comparable, metric, rng),
        "mean": judge_mean(search.found, search.records, metric, rng),
    }
    return report | {"sentences": sentences(metric, report, study), "notes": _notes(report)}


def end_by_noise(records: list[TrialRecord], metric: str) -> str:
    """Why more trials are not worth it, or "": what they are expected to gain is less than what chance moves."""
    try:
        search = Search(records, metric)
    except InputError:  # nothing to judge yet
        return ""
    if min((search.strata == value).sum() for value in (0, 1)) < 2:
        return ""
    scores = search.candidates.scores(metric, search.place)
    left_out = scores.scores(jackknife_weights(len(search.strata)))
    noise = _noise(search, paired(search.value, left_out, left_out, search.strata, search.mode))
    return f"at the noise: {noise['words']}" if noise["stop"] else ""


def _row(found: Corrected) -> dict[str, float]:
    return found._asdict() | {"optimism": found.optimism}


def _trial(search: Search, trial: int, weights: np.ndarray) -> dict[str, Any]:
    record, place = search.records[trial], search.place[[trial]]
    naive = {
        name: intervals_of(name, search.candidates.scores(name, place), search.strata, weights, LEVEL)[0]._asdict() for name in METRICS
    }
    return {
        "trial": record.name,
        "epoch": search.epoch(trial),
        "params": {path: text_of(value) for path, value in record.params.items()},
        "seconds": round(record.seconds, 2),
        "fold_epochs": record.fold_epochs,
        "naive": naive,
    }


def _why(search: Search, compared: Paired, recommended: int) -> str:
    best = int(np.where(search.full, compared.value, np.inf).argmin())
    near = int((search.full & (compared.value - compared.value[best] <= compared.error[:, best])).sum())
    kind = "full-length trials" if all(search.records[t].status == "done" for t in np.flatnonzero(search.full)) else "trials"
    if near == 1:
        return f"no other of {int(search.full.sum())} {kind} is within one standard error of it"
    return f"the simplest of {near} {kind} within one standard error of the best"


def _tie_set(search: Search, compared: Paired, drawn: np.ndarray, left_out: np.ndarray, winner: int, recommended: int) -> dict[str, Any]:
    """Rows best first: full-length trials against each other, stopped ones against the best of those at equal epochs."""
    full = np.flatnonzero(search.full)
    best = int(full[compared.value[full].argmin()])
    among = Paired(compared.value[full], compared.drawn[full], compared.error[np.ix_(full, full)], compared.freedom[np.ix_(full, full)])
    p_values = dict(zip(full.tolist(), tie_p_values(among, len(search.strata)), strict=True))
    rows = []
    for trial in np.argsort(search.sign * search.value, kind="stable").tolist():
        record = search.records[trial]
        if search.full[trial]:
            pair = [trial, best]
            p, value, tried, left = float(p_values[trial]), search.value[pair], drawn[pair], left_out[pair]
            state = "best" if trial == best else "tied" if p > 1 - LEVEL else "worse"
        else:
            p, value, tried, left = _at_equal_epochs(search, trial, best)
            state = "undecided" if p > 1 - LEVEL else "stopped"
        between = difference_intervals(value[:1], value[1:], tried[:1] - tried[1:], left[:1] - left[1:], search.strata, LEVEL)[0]
        rows.append(
            {
                "trial": record.name,
                "status": record.status,
                "epochs": len(record.epochs),
                "epoch": search.epoch(trial),
                "value": float(search.value[trial]),
                "difference": between.value,
                "low": between.low,
                "high": between.high,
                "p": p,
                "state": state,
                "recommended": trial == recommended,
                "seconds": round(record.seconds, 2),
                "fold_epochs": record.fold_epochs,
                "mechanisms": mechanisms_on(record.config),
                "width": record.config.get("model", {}).get("width"),
            }
        )
    count = {state: sum(row["state"] == state for row in rows) for state in ("best", "tied", "undecided")}
    return {
        "method": TIE_METHOD,
        "words": TIE_STOPPED,
        "rule": RULE,
        "size": count["best"] + count["tied"],
        "compared": len(full),
        "undecided": count["undecided"],
        "rows": rows,
    }


def _at_equal_epochs(search: Search, trial: int, best: int) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """(p, values (2,), draws (2, B), left out (2, N)) of a stopped trial and the best one, each at its best epoch by then."""
    reached = min(len(search.by_epoch[trial]), len(search.by_epoch[best]))
    first = [int(np.flatnonzero(search.candidates.trial == t)[0]) + search.epoch(t, reached) - 1 for t in (trial, best)]
    scores = search.candidates.scores(search.metric, np.array(first))
    weights = draw_patients(search.strata, 200, np.random.default_rng(trial))  # an interval for the eye; the p-value is the jackknife's
    value = scores.scores(search.everyone)[:, 0]
    drawn, left_out = scores.scores(weights), scores.scores(jackknife_weights(len(search.strata)))
    return stopped_p_value(paired(value, drawn, left_out, search.strata, search.mode)), value, drawn, left_out


def _noise(search: Search, compared: Paired) -> dict[str, Any]:
    """The best two full-length trials, and what as many trials again would win."""
    full = np.flatnonzero(search.full)
    first, second = (full[np.argsort(compared.value[full], kind="stable")[[0, -1 if len(full) < 2 else 1]]]).tolist()
    difference, error = float(search.value[first] - search.value[second]), float(compared.error[first, second])
    patients = len(search.strata)
    needed = patients_needed(difference, error, patients) if first != second else None
    by_number = sorted(range(len(search.records)), key=lambda t: search.records[t].number)
    gain = expected_gain(search.value[by_number], len(by_number), search.mode)
    near = compared.error[first, full][compared.value[full] - compared.value[first] <= compared.error[first, full]]
    floor = float(np.median(near[near > 0])) if (near > 0).any() else error
    words = (
        f"{len(by_number)} more trials are expected to gain {gain:.4f}; differences to trials within one standard error of the best are uncertain by {floor:.4f} (median standard error over patients)"
        if gain is not None
        else "too few trials to say what more of them would gain"
    )
    return {
        "first": search.records[first].name,
        "second": search.records[second].name,
        "difference": difference,
        "standard_error": error,
        "patients_now": patients,
        "patients_needed": needed,
        "more_patients": None if needed is None else max(needed - patients, 0),
        "next_trials": len(by_number),
        "expected_gain": gain,
        "floor": floor,
        "stop": below_noise(gain, floor),
        "words": words,
    }


def _importance(comparable, metric: str, rng: np.random.Generator) -> dict[str, Any]:
    if comparable is None or not comparable.trials:
        count, epoch = (comparable.reached, comparable.epoch) if comparable else (0, 0)
        words = f"not enough trials: {count} that compare at one epoch"
        return {"enough": False, "words": words, "trials": count, "epoch": epoch} | _NOTHING
    ped = importance_intervals(comparable.trials, metric, "ped_anova", rng=rng)
    head = {"enough": bool(ped), "words": in_words(comparable, ped), "trials": len(comparable.trials), "epoch": comparable.epoch}
    if not ped:
        return head | _NOTHING
    fanova = importance_intervals(comparable.trials, metric, "fanova", rng=rng)
    effects = marginal_effects(comparable.trials, list(fanova), rng=rng)
    return head | {"ped_anova": as_json(ped), "fanova": as_json(fanova)} | effects


_NOTHING: dict[str, Any] = {"ped_anova": {}, "fanova": {}, "marginals": {}, "interaction": None}


def sentences(metric: str, report: dict[str, Any], study: Path) -> list[str]:
    """The answer: what to use, how good that is, what it is tied with, and what several networks together would be."""
    chosen, rows, ties, noise = report["recommended"], report["corrected"]["recommended"], report["tie_set"], report["noise"]
    names = list(report["importance"]["ped_anova"])[:STRONGEST] or list(chosen["params"])[:STRONGEST]
    told = [(path, chosen["params"][path]) for path in names if path in chosen["params"]]
    params = ", ".join(f"{path}={value:.3g}" if isinstance(value, float) else f"{path}={value}" for path, value in told)
    params += f" and {len(chosen['params']) - len(told)} more" if len(chosen["params"]) > len(told) else ""
    shown = [metric] + (["auc"] if metric != "auc" else [])
    scores = " and ".join(f"{metric_in_words(m)} {rows[m]['value']:.3f} (95 % {rows[m]['low']:.3f} to {rows[m]['high']:.3f})" for m in shown)
    naive = " and ".join(f"{rows[m]['naive']:.3f}" for m in shown)
    others = ties["size"] - 1
    tie = f"It cannot be told from {others} other full-length trial{'s' * (others != 1)} on these {report['patients']} patients" if others else (
        f"No other of {ties['compared']} full-length trials is tied with it on these {report['patients']} patients"
    )  # fmt: skip
    more = noise["more_patients"]
    needed = f"; about {more:,} more patients would be needed to tell the best two apart" if more else ""
    return [
        f"Recommended: trial {chosen['trial']} ({params}), {chosen['why']}.",
        f"Corrected for the choice among {report['trials']['used']} trials and all their epochs: {scores}; uncorrected they read {naive}.",
        f"{tie}{needed}.",
        *([mean_in_words(report["mean"], metric, study)] if report["mean"] is not None else []),
    ]


def _notes(report: dict[str, Any]) -> list[str]:
    notes = [
        f"only {count} {name} patients: the intervals of raw scores may be too narrow, and a corrected log loss reads too high"
        for name, count in report["patients_by_class"].items()
        if count < FEW_PATIENTS
    ]
    if report["trials"]["running"]:
        notes.append(f"{report['trials']['running']} trials are still running: what they have on record so far counts")
    if report["recommended"]["trial"] != report["winner"]["trial"]:
        notes.append(f"the best raw score is that of trial {report['winner']['trial']}, which is tied with the recommended one")
    if not report["trials"]["done"]:
        notes.append("no trial has reached its full length")
    return notes


def print_trust(report: dict[str, Any], console: Console) -> None:
    """The answer in three sentences, and what to keep in mind."""
    if not report["ready"]:
        console.print(f"cannot be judged yet: {report['why']}", highlight=False, soft_wrap=True)
        return
    lines = [*report["sentences"], *(f"note: {note}" for note in report["notes"]), report["importance"]["words"]]
    title = "SYNTHETIC DATA: these numbers say nothing about patients\n" if report["synthetic"] else ""
    console.print(title + "\n".join(lines), highlight=False, soft_wrap=True)
