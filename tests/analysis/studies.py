"""Trial records made up, and a real study trained in seconds."""

import json
from pathlib import Path
from typing import Any

from data.dataset import Dataset
from data.splits import Splits
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from mmnet.metrics import METRICS
from study.folder import FORMAT
from study.records import TrialRecord, TrialWriter
from tests.mmnet.tiny import CPU, deal, feature_dataset, tiny_config

CONFIG = tiny_config({"model.frozen": True, "optim.epochs": 3, "optim.patience": None})
DATASET = feature_dataset(patients=12)


def record(
    number: int, scores: list[float | None], status: str = "done", params: dict[str, Any] | None = None, metric: str = "log_loss"
) -> TrialRecord:
    """A trial with these scores by epoch; the best epoch so far is the lowest."""
    epochs: list[dict[str, Any]] = []
    for epoch, score in enumerate(scores, start=1):
        known = [s for s in scores[:epoch] if s is not None]
        best = min(known) if known else None
        metrics = dict.fromkeys(METRICS, 0.6) | {metric: score}
        epochs.append(
            {
                "epoch": epoch,
                "metrics": metrics,
                "fold_metrics": [metrics, metrics],
                "score": best,
                "best_epoch": scores.index(best) + 1 if known else 1,
                "fold_epochs": 2 * epoch,
                "seconds": 1.0,
            }
        )
    return TrialRecord(Path(f"{number:04d}"), number, params or {}, {}, status, "", epochs, float(len(epochs)), 1.0)


def splits() -> Splits:
    """8 development patients in 2 folds, 4 sealed."""
    dealt = deal(DATASET, 3)
    return Splits(dealt.folds[:2], dealt.folds[2], "patient", "dealt")


def development() -> Dataset:
    return DATASET.select_slides(splits().development())


def run_trial(study: Path, number: int, params: dict[str, Any], status: str, *, epochs: int, reason: str = "") -> None:
    """Train a trial for some epochs and record how it ended."""
    config = CONFIG.with_values(params)
    writer, trial = (
        TrialWriter(study / "trials" / f"{number:04d}", number, params, config),
        CrossValidation(config, development(), splits(), CPU),
    )
    writer.load(trial)
    for _ in range(epochs):
        next(trial)
        writer.report(trial)
    writer.status(status, reason)


MEMBERS: dict[str, dict[str, Any]] = {
    "0026": {},
    "0011": {"optim.lr": 3e-2, "model.pool": "mean", "sampling.views_per_slide": 3},
    "0007": {"model.width": 16, "loss.gamma": 1.0, "optim.epochs": 2},
}


def make_mean(study: Path) -> Path:
    """A finished study of main.py whose members differ in network, loss, sampling and length."""
    for number, params in enumerate(MEMBERS.values()):
        run_trial(study, number, params, "done", epochs=CONFIG.with_values(params).optim.epochs)
    settings = {"nested": None, "repeats": None, "single_magnifications": [], "members": MEMBERS}
    return write_about(study, "main", "mean", CONFIG, settings=settings)


def write_about(study: Path, verb: str, name: str, config: Config, **more: Any) -> Path:
    """study.json; returns the study."""
    about = {
        "format": FORMAT,
        "verb": verb,
        "name": name,
        "config": config.to_dict(),
        "data": {"synthetic": True, "fingerprint": DATASET.fingerprint},
        "splits": splits().to_json(),
    }
    (study / "study.json").write_text(json.dumps(about | more))
    return study


def make_study(study: Path, config: Config = CONFIG) -> Path:
    """Two finished trials, one stopped, one failed after an epoch, one that failed at once, one that never started."""
    run_trial(study, 0, {"optim.lr": 1e-9}, "done", epochs=3)
    run_trial(study, 1, {"optim.lr": 3e-2, "model.pool": "softmax"}, "done", epochs=3)
    run_trial(study, 2, {"optim.lr": 1e-9, "model.pool": "mean"}, "stopped", epochs=1, reason="below the best")
    run_trial(study, 3, {"optim.lr": 2e-2}, "failed", epochs=1, reason="loss is nan")
    run_trial(study, 4, {"optim.lr": 1.0}, "failed", epochs=0, reason="out of memory")
    (study / "trials" / "0005").mkdir()
    return write_about(study, "tune", "tiny", config)


def patients_of(slides: tuple[str, ...]) -> list[str]:
    """The patients of some slides of DATASET."""
    of = DATASET.table.of_slides("patient")
    return sorted({str(of[slide]) for slide in slides})
