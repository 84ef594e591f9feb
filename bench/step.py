"""What a step costs, and what comes on top of it: `python -m bench step [--backbone NAME --size PX --images N --repeats N --threads N]`.

The training part of an epoch of a real trial against the same number of steps on resident random tensors, in turn, on the
same networks and optimizers: fine-tuned (one fold) and frozen (all folds together). Goal: a ratio of at most 1.05. Then views a
second: judged in the product's batches against one by one, and the backbone trained in bfloat16 against float32.
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
from mmnet.device import autocast, best_device
from mmnet.losses import focal_loss
from mmnet.precision import measure
from mmnet.predict import predict

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


def bare_epoch(trial: CrossValidation, steps: int, batch: int) -> None:
    """Forward, loss, backward, clip, update, on one resident batch."""
    learner, (inputs, mask) = trial.learners[0], trial.batches.evaluation(np.arange(batch)[:, None])
    inputs = inputs.contiguous()  # as augmented ones are
    target = (torch.arange(batch, device=trial.device) % 2).float()
    everyone, shown = np.ones(len(learner.networks), dtype=bool), np.ones((len(learner.networks), batch), dtype=bool)
    weight = torch.full((len(learner.networks), batch), 1 / batch, device=trial.device)
    for network in learner.networks:
        network.train()
    for _ in range(steps):
        with autocast(trial.device, trial.config.optim.precision):
            logit = learner.logits(inputs, mask, shown)
        learner.accumulate(focal_loss(logit.float(), target, alpha=0.5, gamma=3.0, label_smoothing=0.0, weight=weight))
        learner.descend(everyone)
    logit.sum().item()


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turn(works: tuple[Callable[[], object], Callable[[], object]], repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (repeats,) of each of two works, by turns; a first time, which warms up, does not count."""
    times = np.array([[seconds(work) for work in works] for _ in range(repeats + 1)])[1:]
    return times[:, 0], times[:, 1]


def trial_on(dataset: Dataset, config: Config) -> CrossValidation:
    splits = make_splits(dataset.table, folds=FOLDS, test_fraction=0.0, grouping="patient", seed=0)
    return CrossValidation(config, dataset, splits, best_device())


def steps_of(trial: CrossValidation, images: int) -> tuple[int, int]:
    """(steps of an epoch, views a step) where each of so many images is a view; frozen, a step serves all folds."""
    of_a_fold = round(images * (FOLDS - 1) / FOLDS)
    steps = -(-of_a_fold // trial.batch_size)
    return steps, round((images if trial.config.model.frozen else of_a_fold) / steps)


def epoch_against_resident(trial: CrossValidation, images: int, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of the training part of an epoch, and of as many steps on resident tensors."""
    learner, (steps, size) = trial.learners[0], steps_of(trial, images)
    return in_turn((lambda: trial._train(learner, range(len(learner.networks)), 0), lambda: bare_epoch(trial, steps, size)), repeats)


def judged_against_one_by_one(trial: CrossValidation, images: int, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of judging all images in the product's batches, and one at a time."""

    def judge(at_once: int | None) -> None:
        trial.batches.judged_at_once = at_once
        predict(trial.networks[0], trial.batches, np.arange(images)[:, None])

    return in_turn((lambda: judge(None), lambda: judge(1)), repeats)


def bfloat16_against_float32(trial: CrossValidation, images: int, repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of so many images in each precision, as the product times a backbone's steps; a glance where bfloat16 is emulated."""
    config = trial.config
    times = [measure(config.model, config.data.image_size, trial.device) for _ in range(repeats)]
    ours, peer = (images * np.array([each[precision] for each in times]) for precision in ("bfloat16", "float32"))
    return ours, peer


def spread_of(values: np.ndarray, digits: int) -> str:
    return f"{np.median(values):.{digits}f} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def table_of(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    return table


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
    pixels, features = (noise(arguments.size, arguments.images, frozen) for frozen in (False, True))
    tuned, frozen = (
        trial_on(dataset, base.with_values(values))
        for dataset, values in ((pixels, {"optim.batch_size": 16}), (features, {"model.frozen": True}))
    )
    images, about = len(pixels.table), f"n = {arguments.repeats}, median (range)"
    tuned_name = f"fine-tuned {arguments.backbone}, {arguments.size} px, one fold"
    epochs = table_of(f"training part of an epoch, {about}", "steps", "real epoch, s", "resident tensors, s", "ratio, paired")
    for name, trial in ((tuned_name, tuned), (f"frozen maps 7 x 7 x {CHANNELS}, {FOLDS} folds together", frozen)):
        real, bare = epoch_against_resident(trial, images, arguments.repeats)
        epochs.add_row(name, str(steps_of(trial, images)[0]), spread_of(real, 2), spread_of(bare, 2), spread_of(real / bare, 3))
    console.print(epochs)
    rates = table_of(f"views a second, {about}", "this", "peer", "times as fast, paired")
    for name, compare in (
        ("judged: product's batches, peer one by one", judged_against_one_by_one),
        ("backbone's step: bfloat16, peer float32", bfloat16_against_float32),
    ):
        ours, peer = compare(tuned, images, arguments.repeats)
        rates.add_row(name, spread_of(images / ours, 1), spread_of(images / peer, 1), spread_of(peer / ours, 2))
    console.print(rates)


if __name__ == "__main__":
    main()
