"""Does fusion find what was planted? `python -m bench.planted [--cases N] [--seeds N]`.

Synthetic BreakHis with a known truth. First: four magnifications that each know a little; the fused network against the
best single one, paired on the same cases. Then: one magnification knows nothing; its learned importance weight, and what
the out-of-fold log loss loses when each magnification is masked out.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from analysis.bootstrap import paired_difference
from bench.machine import describe_machine
from data.dataset import Dataset
from data.grammar import MAGNIFICATIONS
from data.splits import Splits, build_splits
from data.store import load_dataset
from data.synthetic import best_auc, generate
from data.views import MISSING
from mmnet import crossval
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from mmnet.metrics import log_loss
from mmnet.predict import predict

SIZE, IMAGES, FOLDS, EPOCHS = 48, 4, 3, 18
BASE = {
    "data.image_size": SIZE, "data.folds": FOLDS, "data.test_fraction": 0.0, "model.backbone": "tiny", "model.weights": None, "model.width": 32,
    "dropout.classifier": 0.3, "augment.crop": 1.0, "augment.color": 0.0, "optim.lr": 3e-3, "optim.batch_size": 16, "optim.epochs": EPOCHS,
    "optim.patience": EPOCHS,
}  # fmt: skip


def planted(knowledge: dict[int, float], cases: int, seed: int, folder: Path) -> tuple[Dataset, Splits]:
    dataset = load_dataset(generate(folder, cases=cases, images=IMAGES, size=SIZE, seed=seed, knowledge=knowledge), SIZE)
    return dataset, build_splits(dataset.table, None, folds=FOLDS, test_fraction=0.0, grouping="case", seed=seed)


def train(dataset: Dataset, splits: Splits, **values: object) -> CrossValidation:
    config = Config().with_values(BASE | values)
    trial = crossval.run(config, dataset.select_magnifications(config.data.magnifications), splits, device=torch.device("cpu"))
    for _ in trial:
        pass
    return trial


def masked_loss(trial: CrossValidation, column: int) -> float:
    """Out-of-fold log loss of the last epoch's networks with one magnification masked out."""
    oof = trial.out_of_fold
    probability = np.empty(len(oof.label))
    for fold, network in enumerate(trial.networks):
        rows = oof.rows[oof.fold == fold].copy()
        rows[:, column] = MISSING
        probability[oof.fold == fold] = predict(network, trial.batches, rows)[0]
    return log_loss(probability, oof.label)


def fused_against_single(cases: int, seed: int, console: Console) -> None:
    knowledge = dict.fromkeys(MAGNIFICATIONS, 0.8)
    with tempfile.TemporaryDirectory() as folder:
        dataset, splits = planted(knowledge, cases, seed, Path(folder))
        fused = train(dataset, splits, seed=seed)
        oof = fused.out_of_fold
        case_of = dataset.table.of_patients("case")
        case = np.array([case_of[patient] for patient in oof.patient.tolist()])
        best = fused.history[fused.history[-1].best_epoch - 1]
        table = Table(
            title=f"seed {seed}: fused network against each single magnification, {cases} cases, each knows 0.8", title_justify="left"
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
            single = train(dataset, splits, seed=seed, **{"data.magnifications": [magnification]})
            report = single.history[single.history[-1].best_epoch - 1]
            assert np.array_equal(single.out_of_fold.patient, oof.patient)
            gains = [
                paired_difference(metric, best.probability, report.probability, oof.label, oof.patient, case, rng=np.random.default_rng(0))
                for metric in ("patient_auc", "log_loss")
            ]
            table.add_row(
                f"{magnification}X", f"{best_auc({magnification: 0.8}):.3f}", f"{report.metrics['log_loss']:.3f}",
                f"{report.metrics['patient_auc']:.3f}", *(f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})" for gain in gains),
            )  # fmt: skip
        console.print(table)


def know_nothing(cases: int, seeds: int, console: Console) -> None:
    table = Table(title=f"one magnification knows nothing, the others 1.0; {cases} cases, mean of {seeds} seeds", title_justify="left")
    for column in (
        "knows nothing",
        "patient AUC",
        *(f"weight {m}X" for m in MAGNIFICATIONS),
        "log loss when it is masked",
        "… when another is",
    ):
        table.add_column(column, justify="right")
    for blind in MAGNIFICATIONS:
        column = MAGNIFICATIONS.index(blind)
        knowledge = {m: 0.0 if m == blind else 1.0 for m in MAGNIFICATIONS}
        found = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                trial = train(*planted(knowledge, cases, seed, Path(folder)), seed=seed)
                report = trial.history[-1]
                drops = np.array([masked_loss(trial, m) for m in range(len(MAGNIFICATIONS))]) - report.metrics["log_loss"]
                found.append([report.metrics["patient_auc"], *report.importance.mean(0), drops[column], np.delete(drops, column).mean()])
        auc, *weights, own, others = np.mean(found, axis=0)
        shown = [f"[bold]{w:.2f}[/]" if m == blind else f"{w:.2f}" for m, w in zip(MAGNIFICATIONS, weights, strict=True)]
        table.add_row(f"{blind}X", f"{auc:.3f}", *shown, f"{own:+.3f}", f"{others:+.3f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.planted")
    parser.add_argument("--cases", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=180)
    console.print(describe_machine())
    fused_against_single(arguments.cases, 0, console)
    know_nothing(arguments.cases, arguments.seeds, console)


if __name__ == "__main__":
    main()
