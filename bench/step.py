"""What the data path costs beside the bare step: `python -m bench step [--backbone NAME --size PX --images N --repeats N --threads N]`.

The training part of an epoch of a real trial against the same number of steps on resident random tensors, in turn, on the
same networks and optimizers: fine-tuned (one fold) and frozen (all folds together). Goal: a ratio of at most 1.05.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from data.dataset import Dataset
from data.splits import make_splits
from data.table import build_table
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from mmnet.device import autocast, best_device
from mmnet.losses import focal_loss

FOLDS, CASES, CHANNELS = 5, 20, 1280


def noise(size: int, images: int, frozen: bool) -> Dataset:
    """20 cases at 200X: pixels, or 7 x 7 feature maps, that know nothing."""
    rows = [
        (f"{case}/{number}.png", 200, f"patient {case}", f"case {case}", "DC" if case % 2 else "A", case % 2)
        for case in range(CASES)
        for number in range(images)
    ]
    rng = np.random.default_rng(0)
    table = build_table(rows)
    if frozen:
        return Dataset(table, None, "noise", "noise", features=rng.normal(size=(len(table), CHANNELS, 7, 7)).astype(np.float16))
    return Dataset(table, rng.integers(0, 256, (len(table), size, size, 3), dtype=np.uint8), "noise", "noise")


def bare_epoch(trial: CrossValidation, steps: int, batch: int) -> None:
    """Forward, loss, backward, clip, update, on one resident batch."""
    learner, inputs = trial.learners[0], trial.batches.evaluation(np.arange(batch)[:, None])
    target = (torch.arange(batch, device=trial.device) % 2).float()
    everyone, shown = np.ones(len(learner.networks), dtype=bool), np.ones((len(learner.networks), batch), dtype=bool)
    weight = torch.full((len(learner.networks), batch), 1 / batch, device=trial.device)
    for network in learner.networks:
        network.train()
    for _ in range(steps):
        with autocast(trial.device, trial.config.optim.precision):
            logit = learner.logits(*inputs, shown)
        learner.accumulate(focal_loss(logit.float(), target, alpha=0.5, gamma=3.0, label_smoothing=0.0, weight=weight))
        learner.descend(everyone)
    logit.sum().item()


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def compare(config: Config, dataset: Dataset, repeats: int) -> tuple[list[float], list[float], int]:
    """(seconds of the real epoch, of the bare one, steps), in turn."""
    splits = make_splits(dataset.table, folds=FOLDS, test_fraction=0.0, grouping="case", seed=0)
    trial = CrossValidation(config, dataset, splits, best_device())
    learner = trial.learners[0]
    folds = range(len(learner.networks))
    of_a_fold = round(len(dataset.table) * (FOLDS - 1) / FOLDS)
    steps = -(-of_a_fold // trial.batch_size)
    size = round((len(dataset.table) if config.model.frozen else of_a_fold) / steps)  # frozen: each step serves all folds
    real, bare = [], []
    for repeat in range(repeats + 1):
        times = seconds(lambda: trial._train(learner, folds, 0)), seconds(lambda: bare_epoch(trial, steps, size))
        if repeat:  # the first one warms up
            real.append(times[0])
            bare.append(times[1])
    return real, bare, steps


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench step")
    parser.add_argument("--backbone", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--images", type=int, default=8, help="of each of 20 cases")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console(width=140)
    console.print(describe_machine())
    table = Table(title=f"training part of an epoch, n = {arguments.repeats}, median (range)", title_justify="left")
    for column in ("", "steps", "real epoch, s", "resident tensors, s", "ratio, paired"):
        table.add_column(column, justify="right" if column else "left")
    base = Config().with_values(
        {"data.magnifications": [200], "data.image_size": arguments.size, "model.weights": None, "model.backbone": arguments.backbone}
    )
    for name, frozen, values in (
        (f"fine-tuned {arguments.backbone}, {arguments.size} px, one fold", False, {"optim.batch_size": 16}),
        (f"frozen maps 7 x 7 x {CHANNELS}, {FOLDS} folds together", True, {"model.frozen": True}),
    ):
        dataset = noise(arguments.size, arguments.images, frozen)
        real, bare, steps = compare(base.with_values(values), dataset, arguments.repeats)
        ratio = statistics.median(np.array(real) / np.array(bare))
        shown = [f"{statistics.median(t):.2f} ({min(t):.2f} to {max(t):.2f})" for t in (real, bare)]
        table.add_row(name, str(steps), *shown, f"{ratio:.3f}")
    console.print(table)


if __name__ == "__main__":
    main()
