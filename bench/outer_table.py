"""Outer tables as `bench/outer.py` records them: loading, scores, and judging what a rule recommends by patients that it has not seen.

A *prediction* here is what one rule says of the whole data set: every view by what was recommended without its patient, the outer
parts of a partition side by side. Rules are compared on the same draws of configurations, paired, over patients.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

CLIP = 1e-7  # of probabilities, as in mmnet.metrics.log_loss
FOLLOWED = ("log_loss", "brier", "auc", "balanced_accuracy", "refinement", "cross_refinement", "clipped_log_loss", "patient_log_loss")


@dataclass(frozen=True)
class Part:
    """One outer part: C configurations, E epochs, V views out of fold, U unseen ones. Probabilities of the second of two classes."""

    configs: list[dict]
    oof: np.ndarray  # (C, E, V)
    unseen: np.ndarray  # (C, E, U), mean over the fold networks
    label: np.ndarray  # (V,)
    patient: np.ndarray
    fold: np.ndarray
    unseen_label: np.ndarray  # (U,)
    unseen_slide: np.ndarray
    unseen_patient: np.ndarray
    regressions: Mapping[str, tuple[np.ndarray, np.ndarray]]  # {features and C: (out of fold (V,), unseen (U,))}

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """{metric: (C, E)}, lower is better."""
        return {name: score(name, self.oof, self.label, self.patient, self.fold) for name in FOLLOWED}


@dataclass(frozen=True)
class OuterTable:
    """Parts by (partition, outer part)."""

    parts: dict[tuple[int, int], Part]

    @property
    def configs(self) -> list[dict]:
        return next(iter(self.parts.values())).configs

    @property
    def partitions(self) -> list[int]:
        return sorted({partition for partition, _ in self.parts})

    def of(self, partition: int) -> list[Part]:
        return [part for (number, _), part in sorted(self.parts.items()) if number == partition]


def load(place: Path) -> OuterTable:
    """Configurations that every part has to the last epoch; those that diverged somewhere are left out.

    An .npz file holds curves of one partition without outer parts (`oof` (C, E, V), `config`, `fold`, `label`, `slide`): what
    stands for the unseen is their replicate, `oof_replicate` (C, V), the same patients trained again on another partition.
    """
    return load_curves(place) if place.is_file() else load_folder(place)


def load_curves(file: Path) -> OuterTable:
    with np.load(file) as saved:
        oof, label, patient = saved["oof"].astype(np.float32), saved["label"].astype(int), patients_of(saved)
        again = np.broadcast_to(saved["oof_replicate"].astype(np.float32)[:, None], oof.shape)
        configs, slide = [json.loads(text) for text in saved["config"]], saved["slide"]
        part = Part(configs, oof, again, label, patient, saved["fold"], label, slide, patient, {})
    return OuterTable({(0, 1): part})


def patients_of(saved: Mapping[str, np.ndarray]) -> np.ndarray:
    """(V,) the patient of each view of curves; earlier ones call it case, or have slides only, whose number it is (`data.grammar`)."""
    for name in ("patient", "case"):
        if name in saved:
            return saved[name]
    return np.array([re.sub(r"^.*-|\D+$", "", slide) for slide in saved["slide"].tolist()])


def load_folder(folder: Path) -> OuterTable:
    folders = {(int(path.name[1:].split("o")[0]), int(path.name.split("o")[1])): path for path in sorted(folder.glob("p*o*"))}
    raw = {place: {int(file.stem): dict(np.load(file)) for file in path.glob("[0-9]*.npz")} for place, path in folders.items()}
    numbers = sorted(set.intersection(*map(set, raw.values())))
    epochs = max(len(one["oof"]) for of in raw.values() for one in of.values())
    numbers = [number for number in numbers if all(len(of[number]["oof"]) == epochs for of in raw.values())]
    parts = {}
    for place, of in raw.items():
        views, lines = np.load(folders[place] / "views.npz"), dict(np.load(folders[place] / "baselines.npz"))
        names = {name.removesuffix(" oof") for name in lines if name.endswith(" oof")}
        parts[place] = Part(
            [json.loads(str(of[number]["config"])) for number in numbers],
            np.stack([of[number]["oof"][..., 1] for number in numbers]),
            np.stack([of[number]["unseen"][..., 1].mean(1) for number in numbers]),
            **{name: views[name] for name in ("label", "patient", "fold", "unseen_label", "unseen_slide", "unseen_patient")},
            regressions={name: (lines[f"{name} oof"], lines[f"{name} unseen"]) for name in sorted(names)},
        )
    return OuterTable(parts)


def score(name: str, probability: np.ndarray, label: np.ndarray, patient: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """probability (..., V) -> (...), lower is better."""
    weight = class_weights(label)
    if name.startswith("patient_"):
        kept, label = over(probability, patient, label)
        return score(name.removeprefix("patient_"), kept, label, np.arange(len(label)), fold)
    if name == "log_loss":
        return losses(probability, label) @ weight
    if name == "clipped_log_loss":
        return losses(np.clip(probability, 0.05, 0.95), label) @ weight
    if name == "brier":
        return (probability - label) ** 2 @ weight
    if name == "balanced_accuracy":
        return ((probability >= 0.5) != label) @ weight
    if name == "auc":
        return -weighted_auc(probability, label, np.ones(len(label)))
    odds = log_odds(probability)
    if name == "refinement":
        slope, bias = recalibration(odds, label)
        return losses_of_odds(slope[..., None] * odds + bias[..., None], label) @ weight
    if name == "cross_refinement":
        changed = np.empty_like(odds)
        for number in np.unique(fold):
            here = fold == number
            slope, bias = recalibration(odds[..., ~here], label[~here])
            changed[..., here] = slope[..., None] * odds[..., here] + bias[..., None]
        return losses_of_odds(changed, label) @ weight
    raise ValueError(name)


def class_weights(label: np.ndarray, times: np.ndarray | None = None) -> np.ndarray:
    """(V,) weights of a class-balanced mean; `times`: how often each view counts."""
    times = np.ones(len(label)) if times is None else times
    return sum(times * (label == value) / max((times * (label == value)).sum(), 1e-9) / 2 for value in (0, 1))  # type: ignore[return-value]


def losses(probability: np.ndarray, label: np.ndarray) -> np.ndarray:
    return -np.log(np.clip(np.where(label == 1, probability, 1 - probability), CLIP, 1))


def losses_of_odds(odds: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, np.where(label == 1, -odds, odds))


def log_odds(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability.astype(np.float64), CLIP, 1 - CLIP)
    return np.log(clipped) - np.log1p(-clipped)


def recalibration(odds: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """odds (..., V) -> slope (...), never negative, and bias (...): `mmnet.metrics.recalibrated`, all fitted at once by Newton's method."""
    weight = class_weights(label)
    sign = np.where(label == 1, 1, -1)
    slope = bias = np.zeros(odds.shape[:-1])

    def loss(slope: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return np.logaddexp(0, -sign * (slope[..., None] * odds + bias[..., None])) @ weight + 1e-6 * (slope**2 + bias**2)

    value = loss(slope, bias)
    for _ in range(30):
        called = 0.5 + 0.5 * np.tanh((slope[..., None] * odds + bias[..., None]) / 2)
        error, curve = weight * (called - label), weight * called * (1 - called)
        down = (error * odds).sum(-1) + 2e-6 * slope, error.sum(-1) + 2e-6 * bias
        one, both, other = (curve * odds**2).sum(-1) + 2e-6, (curve * odds).sum(-1), curve.sum(-1) + 2e-6
        steps = np.stack([other * down[0] - both * down[1], one * down[1] - both * down[0]]) / (one * other - both**2)
        for _ in range(14):  # halved until it gains
            found = loss(slope - steps[0], bias - steps[1])
            worse = found > value
            if not worse.any():
                break
            steps = steps * np.where(worse, 0.5, 1)
        gain = np.where(worse, 0, value - found)
        slope, bias, value = slope - steps[0] * ~worse, bias - steps[1] * ~worse, value - gain
        if gain.max() < 1e-9:
            break
    nothing = slope < 0
    return np.where(nothing, 0, slope), np.where(nothing, 0, bias)


def weighted_auc(probability: np.ndarray, label: np.ndarray, times: np.ndarray) -> np.ndarray:
    """probability (..., V), `times` (V,) each view counts -> (...); ties, which floats hardly have, as they fall."""
    order = probability.argsort(-1)
    positive, negative = (times * (label == value) for value in (1, 0))
    return (positive[order] * negative[order].cumsum(-1)).sum(-1) / (positive.sum() * negative.sum())


def over(probability: np.ndarray, unit: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """probability (..., V), slide or patient of each view -> (..., N) means, and labels (N,). A patient of both classes counts in each."""
    _, first, member = np.unique(np.char.add(unit.astype(str), np.char.add("/", label.astype(str))), return_index=True, return_inverse=True)
    return probability @ (np.eye(len(first))[member] / np.bincount(member)), label[first]


class Judge:
    """Predictions of rules (R, P, V): R draws, P partitions; metrics over images, slides and patients, differences paired over patients."""

    LEVELS = ("images", "slides", "patients")
    METRICS = ("log_loss", "auc", "balanced_accuracy")

    def __init__(self, table: OuterTable, resamples: int = 400, seed: int = 0):
        parts = [table.of(partition) for partition in table.partitions]
        self.label, self.slide, self.patient = (
            [np.concatenate([getattr(part, f"unseen_{name}") for part in of]) for of in parts] for name in ("label", "slide", "patient")
        )
        self.names = np.unique(self.patient[0])
        rng = np.random.default_rng(seed)
        kind = np.array([self.label[0][self.patient[0] == name].max() for name in self.names])
        self.times = np.zeros((resamples, len(self.names)))  # how often each patient was drawn, within its class
        for value in np.unique(kind):
            members = np.flatnonzero(kind == value)
            self.times[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)

    def values(self, prediction: np.ndarray, level: str, metric: str, times: np.ndarray | None = None) -> float:
        """Mean over draws and partitions. `times` (patients,): how often each counts."""
        found = []
        for number in range(prediction.shape[1]):
            label, unit = self.label[number], {"images": None, "slides": self.slide, "patients": self.patient}[level]
            probability, patient = prediction[:, number], self.patient[number]
            if unit is not None:
                _, first = np.unique(np.char.add(unit[number].astype(str), np.char.add("/", label.astype(str))), return_index=True)
                patient = patient[first]
                probability, label = over(probability, unit[number], label)
            weight = np.ones(len(label)) if times is None else times[np.searchsorted(self.names, patient)]
            if metric == "auc":
                found.append(weighted_auc(probability, label, weight).mean())
            else:
                lost = losses(probability, label) if metric == "log_loss" else ((probability >= 0.5) == label).astype(float)
                found.append((lost @ class_weights(label, weight)).mean())
        return float(np.mean(found))

    def difference(self, one: np.ndarray, other: np.ndarray, level: str, metric: str) -> tuple[float, float, float]:
        """one − other: value, and a 95 % percentile interval over patients."""
        drawn = [self.values(one, level, metric, times) - self.values(other, level, metric, times) for times in self.times]
        low, high = np.percentile(drawn, [2.5, 97.5])
        return self.values(one, level, metric) - self.values(other, level, metric), float(low), float(high)


def stacked(predictions: Iterable[list[np.ndarray]]) -> np.ndarray:
    """Of each draw a list of the partitions' views -> (R, P, V); partitions have the same number of views."""
    return np.array([list(of) for of in predictions])
