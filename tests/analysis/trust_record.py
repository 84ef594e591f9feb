"""results/trust.json made up: its form is right, its statistics are not."""

from typing import Any

from analysis.leaderboard import rank
from mmnet.config import text_of
from mmnet.metrics import METRICS
from study.records import TrialRecord

NOT_READY = {"format": 1, "ready": False, "why": "no trial has predictions on record yet.", "synthetic": True, "metric": "log_loss"}


def interval(value: float, half: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def made_up_trust(records: list[TrialRecord], metric: str = "log_loss", recommended: int = 0) -> dict[str, Any]:
    """Of trials with a score; `recommended` counts in the ranking."""
    ranked = [record for record in rank(records, metric) if record.ranked]
    best, chosen = ranked[0], ranked[recommended]
    params = list(dict.fromkeys(path for record in ranked for path in record.params))

    def about(record: TrialRecord) -> dict[str, Any]:
        naive = {name: interval(record.best["metrics"][name]) for name in METRICS}
        return {
            "trial": record.name,
            "epoch": record.best["epoch"],
            "params": {path: text_of(value) for path, value in record.params.items()},
            "seconds": record.seconds,
            "fold_epochs": record.fold_epochs,
            "naive": naive,
        }

    def corrected(record: TrialRecord) -> dict[str, Any]:
        values = {name: record.best["metrics"][name] for name in METRICS}
        return {name: interval(value + 0.02) | {"naive": value, "optimism": -0.02} for name, value in values.items()}

    def row(record: TrialRecord) -> dict[str, Any]:
        difference = record.score - best.score
        state = "best" if record is best else "undecided" if record.status == "stopped" else "tied" if difference < 0.05 else "worse"
        return {
            "trial": record.name,
            "status": record.status,
            "epochs": len(record.epochs),
            "epoch": record.best["epoch"],
            "value": record.score,
            "difference": difference,
            "low": difference - 0.03,
            "high": difference + 0.03,
            "p": 1.0,
            "state": state,
            "recommended": record is chosen,
            "seconds": record.seconds,
            "fold_epochs": record.fold_epochs,
            "mechanisms": 5,
            "width": 16,
        }

    rows = [row(record) for record in ranked]
    numbers = {path: [record.params[path] for record in ranked if path in record.params] for path in params}
    marginals = {path: _marginal(values) for path, values in numbers.items()}
    share = {path: interval(1 / (place + 2), 0.1) for place, path in enumerate(params)}
    pair = params[:2] if len(params) > 1 else None
    return {
        "format": 1,
        "ready": True,
        "synthetic": True,
        "metric": metric,
        "mode": METRICS[metric],
        "level": 0.95,
        "resamples": 2000,
        "patients": 8,
        "views": 8,
        "patients_by_class": {"benign": 4, "malignant": 4},
        "trials": {"all": len(records), "used": len(ranked), "done": 2, "stopped": 1, "failed": 2, "running": 0},
        "sentences": [
            f"Recommended: trial {chosen.name}, made up.",
            "Corrected, its log loss is 0.5 (95 % 0.4 to 0.6).",
            "It is tied with one other.",
        ],
        "notes": ["only 4 benign patients: intervals may be too narrow"],
        "winner": about(best),
        "recommended": about(chosen) | {"rule": "the cheapest of the tied.", "why": "It took the fewest fold-epochs."},
        "corrected": {
            "method": "a made-up method",
            "words": "Stopped trials enter at their last epoch.",
            "winner": corrected(best),
            "recommended": corrected(chosen),
        },
        "tie_set": {
            "method": "a made-up test",
            "words": "Stopped trials are compared at equal epochs.",
            "rule": "Tied where p > 0.05.",
            "size": sum(r["state"] in ("best", "tied") for r in rows),
            "compared": sum(r["status"] == "done" for r in rows),
            "undecided": sum(r["state"] == "undecided" for r in rows),
            "rows": rows,
        },
        "noise": {
            "first": best.name,
            "second": ranked[-1].name,
            "difference": -0.01,
            "standard_error": 0.02,
            "patients_now": 8,
            "patients_needed": None,
            "more_patients": None,
            "next_trials": 30,
            "expected_gain": 0.01,
            "floor": 0.02,
            "stop": True,
            "words": "Thirty more trials are expected to gain less than the noise.",
        },
        "mean": {
            "trials": [record.name for record in ranked[:3]],
            "honest": dict.fromkeys(METRICS, 0.61),
            "single": dict.fromkeys(METRICS, 0.64),
            "difference": interval(-0.03),
        },
        "importance": {
            "enough": len(params) > 0,
            "words": "Importance is made up.",
            "trials": len(ranked),
            "epoch": 1,
            "ped_anova": share,
            "fanova": share,
            "marginals": marginals,
            "interaction": pair
            and {
                "pair": pair,
                "strength": interval(0.3),
                "x": marginals[pair[0]]["x"],
                "y": marginals[pair[1]]["x"],
                "kinds": [marginals[path]["kind"] for path in pair],
                "mean": [[0.5 + 0.01 * i * j for j in range(len(marginals[pair[1]]["x"]))] for i in range(len(marginals[pair[0]]["x"]))],
            },
        },
    }


def _marginal(values: list[Any]) -> dict[str, Any]:
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    kind = "choice" if not numeric else "log" if min(values) > 0 and max(values) > 100 * min(values) else "number"
    x = sorted(set(values)) if numeric else sorted({str(value) for value in values})
    mean = [0.5 + 0.01 * place for place in range(len(x))]
    return {"kind": kind, "x": x, "mean": mean, "low": [m - 0.05 for m in mean], "high": [m + 0.05 for m in mean]}
