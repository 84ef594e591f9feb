"""Does fusion find what was planted? `python -m bench.planted [--part fused|nothing|order] [--patients N] [--seeds N]`.

Synthetic BreakHis with a known truth. First: four magnifications that each know a little; the fused network against the
best single one, paired on the same patients. Then: one magnification knows nothing; its learned importance weight, and what
the out-of-fold log loss loses when each magnification is masked out. Last: magnifications that know more and more; are
they missed, and able alone, in that order?
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr

from analysis.bootstrap import paired_difference
from analysis.missing import showing
from bench.machine import describe_machine
from data.dataset import Dataset
from data.grammar import MAGNIFICATIONS
from data.splits import Splits, build_splits
from data.store import load_dataset
from data.synthetic import best_auc, generate
from mmnet import crossval
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from mmnet.metrics import evaluate_one
from mmnet.predict import predict_out_of_fold

SIZE, IMAGES, FOLDS, EPOCHS = 48, 4, 3, 18
BASE = {
    "data.image_size": SIZE, "data.folds": FOLDS, "data.test_fraction": 0.0, "model.backbone": "tiny", "model.weights": None, "model.width": 32,
    "dropout.classifier": 0.3, "augment.crop": 1.0, "augment.color": 0.0, "optim.lr": 3e-3, "optim.batch_size": 16, "optim.epochs": EPOCHS,
    "optim.patience": EPOCHS,
}  # fmt: skip


def planted(knowledge: dict[int, float], patients: int, seed: int, folder: Path) -> tuple[Dataset, Splits]:
    dataset = load_dataset(generate(folder, patients=patients, images=IMAGES, size=SIZE, seed=seed, knowledge=knowledge), SIZE)
    return dataset, build_splits(dataset.table, None, folds=FOLDS, test_fraction=0.0, grouping="patient", seed=seed)


def train(dataset: Dataset, splits: Splits, values: dict[str, Any]) -> CrossValidation:
    config = Config().with_values(BASE | values)
    trial = crossval.run(config, dataset.select_magnifications(config.data.magnifications), splits, device=torch.device("cpu"))
    for _ in trial:
        pass
    return trial


def score_showing(trial: CrossValidation, columns: list[int], metric: str = "log_loss") -> float:
    """Out-of-fold score of the last epoch's networks when views show only some magnifications."""
    oof = trial.out_of_fold
    rows, _ = showing(oof.rows, columns)
    return evaluate_one(metric, predict_out_of_fold(trial.networks, trial.batches, rows, oof.fold), oof.label, oof.patient)


def changes_when_masked(trial: CrossValidation) -> np.ndarray:
    """(M,) what the out-of-fold log loss changes by when each magnification is masked."""
    columns = range(len(MAGNIFICATIONS))
    masked = [score_showing(trial, [c for c in columns if c != m]) for m in columns]
    return np.array(masked) - trial.history[-1].metrics["log_loss"]


def fused_against_single(patients: int, seed: int, console: Console) -> None:
    knowledge = dict.fromkeys(MAGNIFICATIONS, 0.8)
    with tempfile.TemporaryDirectory() as folder:
        dataset, splits = planted(knowledge, patients, seed, Path(folder))
        fused = train(dataset, splits, {"seed": seed})
        oof = fused.out_of_fold
        best = fused.history[fused.history[-1].best_epoch - 1]
        table = Table(
            title=f"seed {seed}: fused network against each single magnification, {patients} patients, each knows 0.8", title_justify="left"
        )
        for column in (
            "magnification",
            "ideal AUC",
            "view log loss",
            "patient AUC",
            "fused - single: patient AUC (95 %)",
            "log loss (95 %)",
        ):
            table.add_column(column, justify="right")
        table.add_row(
            "all four", f"{best_auc(knowledge):.3f}", f"{best.metrics['log_loss']:.3f}", f"{best.metrics['patient_auc']:.3f}", "", ""
        )
        for magnification in MAGNIFICATIONS:
            single = train(dataset, splits, {"seed": seed, "data.magnifications": [magnification]})
            report = single.history[single.history[-1].best_epoch - 1]
            assert np.array_equal(single.out_of_fold.slide, oof.slide)
            gains = [
                paired_difference(metric, best.probability, report.probability, oof.label, oof.patient, rng=np.random.default_rng(0))
                for metric in ("patient_auc", "log_loss")
            ]
            table.add_row(
                f"{magnification}X", f"{best_auc({magnification: 0.8}):.3f}", f"{report.metrics['log_loss']:.3f}",
                f"{report.metrics['patient_auc']:.3f}", *(f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" for gain in gains),
            )  # fmt: skip
        console.print(table)


def know_nothing(patients: int, seeds: int, console: Console) -> None:
    table = Table(
        title=f"one magnification knows nothing, the others 1.0; {patients} patients, mean of {seeds} seeds", title_justify="left"
    )
    for title in (
        "knows nothing",
        "patient AUC",
        *(f"weight {m}X" for m in MAGNIFICATIONS),
        "log loss when it is masked",
        "… when another is",
    ):
        table.add_column(title, justify="right")
    for blind in MAGNIFICATIONS:
        column = MAGNIFICATIONS.index(blind)
        knowledge = {m: 0.0 if m == blind else 1.0 for m in MAGNIFICATIONS}
        found = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                trial = train(*planted(knowledge, patients, seed, Path(folder)), {"seed": seed})
                report = trial.history[-1]
                drops = changes_when_masked(trial)
                found.append([report.metrics["patient_auc"], *report.importance.mean(0), drops[column], np.delete(drops, column).mean()])
        auc, *weights, own, others = np.mean(found, axis=0)
        shown = [f"[bold]{w:.2f}[/]" if m == blind else f"{w:.2f}" for m, w in zip(MAGNIFICATIONS, weights, strict=True)]
        table.add_row(f"{blind}X", f"{auc:.3f}", *shown, f"{own:+.3f}", f"{others:+.3f}")
    console.print(table)


def planted_order(patients: int, seeds: int, console: Console) -> None:
    """Magnifications that know more and more: is each missed, and able alone, in that order? With and without masking in training."""
    knowledge = dict(zip(MAGNIFICATIONS, (0.2, 0.5, 0.9, 1.4), strict=True))
    for masking in (0.0, 0.3):
        missed, alone, weights, aucs = [], [], [], []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                trial = train(*planted(knowledge, patients, seed, Path(folder)), {"seed": seed, "augment.masking": masking})
            missed.append(changes_when_masked(trial))
            alone.append([score_showing(trial, [m]) for m in range(len(MAGNIFICATIONS))])
            aucs.append([score_showing(trial, [m], "patient_auc") for m in range(len(MAGNIFICATIONS))])
            weights.append(trial.history[-1].importance.mean(0))
        table = Table(
            title=f"more and more knowledge, {patients} patients, {seeds} seeds (mean, sd over them); augment.masking {masking:g}",
            title_justify="left",
        )
        columns = (
            "magnification",
            "knows",
            "ideal AUC alone",
            "ideal AUC without",
            "patient AUC alone",
            "log loss alone",
            "… change when masked",
            "weight",
        )
        for column in columns:
            table.add_column(column, justify="right")
        for m, magnification in enumerate(MAGNIFICATIONS):
            others = {other: knows for other, knows in knowledge.items() if other != magnification}
            found = (f"{np.mean(part, 0)[m]:.3f} ({np.std(part, 0)[m]:.3f})" for part in (aucs, alone, missed, weights))
            ideal = best_auc({magnification: knowledge[magnification]}), best_auc(others)
            table.add_row(f"{magnification}X", f"{knowledge[magnification]}", *(f"{auc:.3f}" for auc in ideal), *found)
        console.print(table)
        for name, part, sign in (
            ("log loss alone", alone, -1),
            ("patient AUC alone", aucs, 1),
            ("change when masked", missed, 1),
            ("weight", weights, 1),
        ):
            of_seed = [spearmanr(list(knowledge.values()), sign * np.array(values)).statistic for values in part]
            of_mean = spearmanr(list(knowledge.values()), sign * np.mean(part, 0)).statistic
            console.print(
                f"rank correlation with what was planted, {name}: of the means {of_mean:.1f}; by seed {', '.join(f'{value:.1f}' for value in of_seed)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.planted")
    parser.add_argument("--part", choices=("fused", "nothing", "order"), help="default: all")
    parser.add_argument("--patients", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=180)
    console.print(describe_machine())
    if arguments.part in (None, "fused"):
        fused_against_single(arguments.patients, 0, console)
    if arguments.part in (None, "nothing"):
        know_nothing(arguments.patients, arguments.seeds, console)
    if arguments.part in (None, "order"):
        planted_order(arguments.patients, arguments.seeds, console)


if __name__ == "__main__":
    main()
