"""What the data path costs beside the network: `python -m bench step [--backbone NAME --size PX --images N --repeats N --threads N]`.

The training part of an epoch of one fold of a real trial against the same number of steps on one resident random batch, by turns, on the same
network and optimizer; fine-tuned, and frozen on maps. Goal: a ratio of at most 1.05 for fine-tuning.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.machine import describe_machine
from data.dataset import Dataset
from data.splits import make_splits
from data.table import BREAKHIS, build_table
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from mmnet.device import best_device

FOLDS, PATIENTS, CHANNELS = 5, 20, 1280


def noise(size: int, images: int, frozen: bool, side: int = 7) -> Dataset:
    """20 patients at 200X: pixels, or feature maps of side x side positions, that know nothing."""
    rows = [
        (f"{number}/{image}.png", 200, f"slide {number}", f"patient {number}", ("A", "DC")[number % 2], BREAKHIS[number % 2])
        for number in range(PATIENTS)
        for image in range(images)
    ]
    rng = np.random.default_rng(0)
    table = build_table(rows)
    if frozen:
        features = rng.standard_normal((len(table), CHANNELS, side, side), dtype=np.float32).astype(np.float16)
        return Dataset(table, None, "noise", "noise", features=features)
    return Dataset(table, rng.integers(0, 256, (len(table), size, size, 3), dtype=np.uint8), "noise", "noise")


def trial_on(dataset: Dataset, config: Config) -> CrossValidation:
    splits = make_splits(dataset.table, folds=FOLDS, test_fraction=0.0, grouping="patient", seed=0)
    return CrossValidation(config, dataset, splits, best_device())


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def epoch_against_resident(trial: CrossValidation, repeats: int) -> np.ndarray:
    """(repeats, 2) seconds of the training part of one fold's epoch: as it is, and on one batch that is made once."""
    made, real = {}, trial.batches.training

    def once(rows: np.ndarray, target: np.ndarray, generator: torch.Generator) -> object:
        if len(rows) not in made:
            made[len(rows)] = real(rows, target, generator)
        return made[len(rows)]

    def resident() -> None:
        trial.batches.training = once  # type: ignore[method-assign,assignment]
        try:
            trial._train(0, 0)
        finally:
            trial.batches.training = real  # type: ignore[method-assign]

    works = (lambda: trial._train(0, 0), resident)
    return np.array([[timed(work, trial.device) for work in works] for _ in range(repeats + 1)])[1:]  # the first warms up


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench step")
    parser.add_argument("--backbone", default="timm:tf_efficientnet_lite0")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--images", type=int, default=4, help="of each of 20 patients")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console(width=140)
    console.print(describe_machine(), soft_wrap=True)
    base = Config().with_values(
        {"data.magnifications": [200], "data.image_size": arguments.size, "model.weights": None, "model.backbone": arguments.backbone}
    )
    table = Table(title=f"training part of one fold's epoch, n = {arguments.repeats}, median (range)", title_justify="left")
    for column in ("", "real, s", "resident batch, s", "ratio, paired"):
        table.add_column(column, justify="right" if column else "left")
    for name, frozen in ((f"fine-tuned {arguments.backbone}, {arguments.size} px", False), (f"frozen maps 7 x 7 x {CHANNELS}", True)):
        values = {"model.frozen": True} if frozen else {"optim.batch_size": 16}
        seconds = epoch_against_resident(
            trial_on(noise(arguments.size, arguments.images, frozen), base.with_values(values)), arguments.repeats
        )
        ratio = seconds[:, 0] / seconds[:, 1]
        table.add_row(name, *(f"{np.median(v):.2f} ({v.min():.2f} to {v.max():.2f})" for v in (*seconds.T, ratio)))
    console.print(table)


if __name__ == "__main__":
    main()
