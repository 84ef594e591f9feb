"""Which metric orders configurations of mixed losses best, early and for patients that nothing has seen?

`python -m bench metric FOLDER` reads a table of `bench outer`: of each metric at each rung, out of fold, Kendall's rank correlation over
configurations with what the same configuration gives at the end on the unseen parts, and what the best by it in each part gives.

`python -m bench metric --simulate` needs no data. Configurations differ in what they know (distance between the classes), in how fast they
learn it, and in how their loss sets the scale of their logits: focal loss and smoothing flatten them, cross-entropy sharpens them
as training goes on. Patients shift all of their views. 32 patients, 9 of them benign, 19 views each, judge by each metric; what is right is known: log
loss, AUC and refinement of each configuration at the end over 300 other patients.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from bench.outer_table import FOLLOWED, Judge, load, score

EPOCHS = (1, 3, 9, 27)
JUDGED = ("log_loss", "auc", "refinement")
PATIENTS, BENIGN, VIEWS, OTHERS = 32, 9, 19, 300


def read(folder: Path) -> None:
    table = load(folder)
    parts, judge, count = list(table.parts.values()), Judge(table, resamples=1), len(table.configs)

    def unseen(rows: list[int], epochs: list[int]) -> np.ndarray:
        """(1, P, V): of each part what one configuration says after one epoch."""
        said = iter(part.unseen[row, epoch] for part, row, epoch in zip(parts, rows, epochs, strict=True))
        return np.stack([np.concatenate([next(said) for _ in table.of(number)]) for number in table.partitions])[None]

    def worth(rows: list[int], epochs: list[int]) -> tuple[float, float]:
        said = unseen(rows, epochs)
        return judge.values(said, "images", "log_loss"), judge.values(said, "images", "auc")

    last = parts[0].oof.shape[1] - 1
    ends = np.array([worth([row] * len(parts), [last] * len(parts)) for row in range(count)])
    print(f"{count} configurations, {len(parts)} outer parts; a random one at the end {ends[:, 0].mean():.3f} and {ends[:, 1].mean():.3f}")
    for name in FOLLOWED:
        for epoch in EPOCHS:
            scores = np.stack([part.scores[name][:, epoch - 1] for part in parts], 1)  # (C, parts)
            loss, area = worth(scores.argmin(0).tolist(), [last] * len(parts))
            to = [kendalltau(scores.mean(1), sign * ends[:, column])[0] for column, sign in ((0, 1), (1, -1))]
            print(
                f"{name:18} epoch {epoch:2}: rank correlation with unseen log loss {to[0]:+.2f}, with unseen AUC {to[1]:+.2f}; the best by it in "
                f"each part, at the end: {loss:.3f}, {area:.3f}"
            )


@dataclass(frozen=True)
class Configurations:
    """What C invented configurations are like."""

    knows: np.ndarray  # (C,) distance between the classes in the end, in standard deviations of what patients and views add
    speed: np.ndarray  # epochs
    flat: np.ndarray  # scale of the logits by the loss, 1: right
    sharpens: np.ndarray  # by how much the scale grows until the last epoch
    bias: np.ndarray

    def says(self, epoch: int, label: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """label (V,), noise (C, V) of variance 1 -> probabilities (C, V). The right logit is twice the distance times signal."""
        distance = self.knows * (1 - np.exp(-epoch / self.speed))
        signal = (label - 0.5) * distance[:, None] + noise
        scale = self.flat * (1 + self.sharpens * epoch / EPOCHS[-1]) * distance
        return 1 / (1 + np.exp(-(scale[:, None] * signal + self.bias[:, None])))


def invent(count: int, rng: np.random.Generator) -> Configurations:
    flat = rng.choice([0.45, 0.65, 1.0, 1.0], count) * np.exp(rng.normal(0, 0.15, count))
    sharpens = rng.choice([0.0, 0.5, 1.0], count) * (flat > 0.8)
    return Configurations(
        rng.normal(2.6, 0.5, count).clip(0.6), np.exp(rng.normal(np.log(3), 0.7, count)), flat, sharpens, rng.normal(0, 0.4, count)
    )


def patients(count: int, benign: int, configurations: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """label, patient (V,) and noise (C, V): of the patient and the view, which all configurations see, and each one's own."""
    label, patient = (np.arange(count) >= benign).astype(int).repeat(VIEWS), np.arange(count).repeat(VIEWS)
    shared = 0.8 * rng.normal(size=count).repeat(VIEWS) + 0.4 * rng.normal(size=len(label))
    return label, patient, shared + 0.45 * rng.normal(size=(configurations, len(label)))


def simulate(repeats: int, count: int) -> None:
    rng = np.random.default_rng(0)
    found: dict[tuple[str, int], list[list[float]]] = {(name, epoch): [] for name in FOLLOWED for epoch in EPOCHS}
    for _ in range(repeats):
        configurations = invent(count, rng)
        label, patient, noise = patients(PATIENTS, BENIGN, count, rng)
        others, _, their = patients(OTHERS, OTHERS * BENIGN // PATIENTS, count, rng)
        end = configurations.says(EPOCHS[-1], others, their)
        right = {name: score(name, end, others, others, others) for name in JUDGED}
        for (name, epoch), values in found.items():
            scores = score(name, configurations.says(epoch, label, noise), label, patient, patient % 5)
            values.append([kendalltau(scores, right[judged])[0] for judged in JUDGED])
    print(f"{repeats} repeats of {count} configurations: rank correlation of what is seen with what is right at the end, mean ± standard error")
    for (name, epoch), values in found.items():
        mean, error = np.mean(values, 0), np.std(values, 0, ddof=1) / len(values) ** 0.5
        cells = ", ".join(f"{judged} {m:+.2f} ± {e:.2f}" for judged, m, e in zip(JUDGED, mean, error, strict=True))
        print(f"{name:18} epoch {epoch:2}: {cells}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench metric", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--configurations", type=int, default=40)
    arguments = parser.parse_args()
    if arguments.simulate:
        simulate(arguments.repeats, arguments.configurations)
    elif arguments.folder:
        read(arguments.folder)
    else:
        parser.error("expected a folder of bench outer, or --simulate")


if __name__ == "__main__":
    main()
