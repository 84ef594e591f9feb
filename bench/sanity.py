"""Checks that any learner must pass: `python -m bench.sanity [--data DIR --weights FILE]`.

It overfits 8 patients; it learns nothing from permuted labels; the same seed gives the same numbers, also when stopped after
epoch 3 and restored. On synthetic images, and on real tiles with frozen features where they are given.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from analysis.bootstrap import bootstrap_interval
from bench.machine import describe_machine
from data.dataset import Dataset
from data.labels import choose_classes
from data.splits import Splits, build_splits
from data.store import load_dataset
from data.synthetic import generate
from mmnet import crossval
from mmnet.config import Config
from mmnet.features import with_features

CPU = torch.device("cpu")
SYNTHETIC = {"data.image_size": 48, "model.backbone": "tiny", "model.weights": None, "model.width": 32, "optim.batch_size": 16}
SYNTHETIC |= {"optim.lr": 3e-3, "data.folds": 3, "data.test_fraction": 0.0}


def splits_of(dataset: Dataset, config: Config) -> Splits:
    return build_splits(dataset.table, None, folds=config.data.folds, test_fraction=0.0, grouping="patient", seed=0)


def overfit(dataset: Dataset, config: Config) -> str:
    table = dataset.table
    patients = [np.unique(table.patient[table.label == label])[:4] for label in (0, 1)]
    few = dataset.select_rows(np.isin(table.patient, np.concatenate(patients)))
    still = {f"dropout.{name}": 0.0 for name in ("classifier", "fusion", "attention", "path")}
    still |= {"augment.flip": False, "augment.turn": False, "augment.crop": 1.0, "augment.color": 0.0, "augment.stain": 0.0}
    config = config.with_values(
        still
        | {"data.folds": 2, "optim.epochs": 60, "optim.schedule": "constant", "optim.patience": None, "loss.gamma": 0.0, "optim.lr": 3e-3}
    )
    losses = [max(report.train_loss) for report in crossval.run(config, few, splits_of(few, config), device=CPU)]
    reached = next((epoch for epoch, loss in enumerate(losses, start=1) if loss < 0.02), None)
    return f"8 patients: training loss of the worse fold {losses[-1]:.4f} after {len(losses)} epochs, below 0.02 from epoch {reached}"


def permuted(dataset: Dataset, config: Config, seeds: int) -> str:
    """Labels dealt anew to patients: whatever is scored above chance then is leakage. Mean of several deals, as one is noisy."""
    config = config.with_values({"optim.epochs": 8, "optim.patience": None})
    found, covered = [], 0
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        _, first, number = np.unique(dataset.table.patient, return_index=True, return_inverse=True)
        dealt = rng.permutation(dataset.table.label[first])
        shuffled = replace(dataset, table=replace(dataset.table, label=dealt[number]))
        trial = crossval.run(config, shuffled, splits_of(shuffled, config), device=CPU)
        report = list(trial)[-1]
        oof = trial.out_of_fold
        interval = bootstrap_interval("auc", report.probability, oof.label, oof.patient, rng=rng, count=500)
        found.append(interval.value)
        covered += interval.low <= 0.5 <= interval.high
    spread = np.std(found, ddof=1)
    return (
        f"permuted labels, {seeds} deals: view AUC {np.mean(found):.3f} ± {spread / seeds**0.5:.3f} (standard error), sd {spread:.3f}, "
        f"the 95 % interval holds 0.5 in {covered}"
    )


def repeatable(dataset: Dataset, config: Config) -> str:
    config = config.with_values({"optim.epochs": 6, "optim.patience": None, "augment.mixup": 0.3})
    splits = splits_of(dataset, config)

    def scores(trial: crossval.CrossValidation) -> list[float]:
        return [report.metrics["log_loss"] for report in trial]

    whole, again = (scores(crossval.run(config, dataset, splits, device=CPU)) for _ in range(2))
    broken = crossval.run(config, dataset, splits, device=CPU)
    start = [next(broken).metrics["log_loss"] for _ in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        torch.save(broken.state_dict(), Path(folder) / "state.pt")
        state = torch.load(Path(folder) / "state.pt", weights_only=True)
    restored = start + scores(crossval.run(config, dataset, splits, device=CPU, state=state))
    return f"same seed: {'identical' if whole == again else 'DIFFERENT'}; stopped after epoch 3 and restored: {'identical' if whole == restored else 'DIFFERENT'} (6 epochs, log loss {whole[-1]:.6f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sanity")
    parser.add_argument("--data")
    parser.add_argument("--weights", help="of timm:tf_efficientnet_lite0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=160, highlight=False)
    console.print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        synthetic = load_dataset(generate(Path(folder), patients=30, images=3, size=48, seed=0), 48)
        config = Config().with_values(SYNTHETIC)
        console.print("synthetic images, fine-tuned:")
        for line in (overfit(synthetic, config), permuted(synthetic, config, 10), repeatable(synthetic, config)):
            console.print("  " + line)
    if arguments.data:
        values = {
            "model.backbone": "timm:tf_efficientnet_lite0",
            "model.weights": arguments.weights,
            "model.frozen": True,
            "optim.lr": 1e-3,
        }
        dataset = choose_classes(load_dataset(arguments.data, 224))
        present = [int(m) for m in np.unique(dataset.table.magnification)]
        config = Config().with_values(values | {"data.magnifications": present})
        dataset = with_features(dataset, config, CPU.type)
        console.print(f"{arguments.data}, frozen features, {','.join(map(str, present))}X:")
        for line in (overfit(dataset, config), permuted(dataset, config, 10), repeatable(dataset, config)):
            console.print("  " + line)


if __name__ == "__main__":
    main()
