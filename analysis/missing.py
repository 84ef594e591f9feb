"""What the fold networks of a study say when magnifications or images are missing.

Every view is judged by the network that never saw its patient. Hiding is random and always leaves a view, a patient
something to show; how much was really hidden is therefore counted, not assumed.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor, nn

from analysis.figure import BLUE, ORANGE, VERMILION, save_figure
from analysis.predictions import Predictions
from data.dataset import Dataset
from data.table import PatientTable
from data.views import MISSING, ViewIndex, hide
from mmnet.batches import Batches
from mmnet.config import Config
from mmnet.metrics import evaluate_one
from mmnet.network import MMNet
from mmnet.predict import in_parts, predict_out_of_fold

SCORES = {"log_loss": "view log loss", "auc": "view AUC", "patient_auc": "patient AUC"}
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # to hide; 1: all but the one that must stay
REPEATS = 20
KINDS = {  # what is hidden -> (words, colour)
    "view": ("magnifications of a view", BLUE),
    "slide": ("magnifications of a slide", VERMILION),
    "image": ("images of a slide", ORANGE),
}
Judge = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows (V, M) of the table, fold (V,) -> (V,) probability of malignant


class Remaining(NamedTuple):
    """What is left to judge. W views."""

    rows: np.ndarray  # (W, M)
    of: np.ndarray  # (W,) a whole view of the same slide
    hidden: float  # share of what was there


Hider = Callable[[float, np.random.Generator], Remaining]


def showing(rows: np.ndarray, columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Rows (V, M) with only some magnifications left -> (rows, (V,) bool: which views still show something).

    A view that would be empty stays as it was, for a network cannot be asked about nothing.
    """
    left = np.full_like(rows, MISSING)
    left[:, columns] = rows[:, columns]
    seen = (left != MISSING).any(1)
    return np.where(seen[:, None], left, rows), seen


def hide_in_views(rows: np.ndarray, share: float, rng: np.random.Generator) -> Remaining:
    """Each image of a view goes with probability `share`, but for one."""
    left = hide(rows, share, rng)
    return Remaining(left, np.arange(len(rows)), 1 - float((left != MISSING).sum() / (rows != MISSING).sum()))


def hide_in_slides(rows: np.ndarray, slide: np.ndarray, share: float, rng: np.random.Generator) -> Remaining:
    """Each magnification of a slide goes, from all of its views, with probability `share`, but for one."""
    _, first, member = np.unique(slide, return_index=True, return_inverse=True)
    left = hide(rows[first], share, rng)
    hidden = 1 - float((left != MISSING).sum() / (rows[first] != MISSING).sum())
    return Remaining(np.where(left[member] == MISSING, MISSING, rows), np.arange(len(rows)), hidden)


def hide_images(
    rows: np.ndarray, slide: np.ndarray, table: PatientTable, magnifications: tuple[int, ...], share: float, rng: np.random.Generator
) -> Remaining:
    """Each image of a slide goes with probability `share`, but for one; the slide's views are made anew of what stays."""
    images = np.unique(rows[rows != MISSING])
    stays = images[keep_one(table.slide[images], share, rng)]
    index = ViewIndex(table.select(stays), magnifications)
    views = index.evaluation(np.arange(len(index.slides)))
    names, first = np.unique(slide, return_index=True)
    of = first[np.searchsorted(names, index.slides[views.slide])]
    return Remaining(np.where(views.mask, stays[views.rows], MISSING), of, 1 - len(stays) / len(images))


def keep_one(group: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """(N,) bool: each member stays with probability 1 - `share`, and one of each group (N,) always does."""
    draw = rng.random(len(group))
    stays = draw >= share
    for name in np.unique(group):
        members = np.flatnonzero(group == name)
        stays[members[draw[members].argmax()]] = True
    return stays


def hiders(predictions: Predictions, table: PatientTable) -> dict[str, Hider]:
    """A way to hide for each of KINDS."""
    rows, slide = predictions.rows, predictions.slide
    return {
        "view": partial(hide_in_views, rows),
        "slide": partial(hide_in_slides, rows, slide),
        "image": partial(hide_images, rows, slide, table, predictions.magnifications),
    }


def scores_of(probability: np.ndarray, label: np.ndarray, patient: np.ndarray) -> dict[str, float]:
    """Every metric of SCORES of V views."""
    return {name: evaluate_one(name, probability, label, patient) for name in SCORES}


def score_by_share(hider: Hider, judge: Judge, predictions: Predictions, repeats: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """For each of SHARES: the share asked for and hidden, views, and mean, lowest and highest of each score over the repeats."""
    curve = []
    for share in SHARES:
        drawn = [hider(share, rng) for _ in range(repeats if share else 1)]
        scores = [
            scores_of(judge(left.rows, predictions.fold[left.of]), predictions.label[left.of], predictions.patient[left.of])
            for left in drawn
        ]
        point: dict[str, Any] = {"asked": share, "hidden": float(np.mean([left.hidden for left in drawn]))}
        point["views"] = float(np.mean([len(left.of) for left in drawn]))
        for name in SCORES:
            values = [score[name] for score in scores]
            point[name] = {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}
        curve.append(point)
    return curve


@torch.inference_mode()
def embed_once(networks: list[MMNet], batches: Batches, images: int, rows: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """The token (images, D, 1, 1) that the network which judges an image's patient makes of it; zero for images not in rows (V, M).

    An image is embedded by itself, so hiding others changes nothing before the tokens meet: this runs once, not once a pattern.
    """
    tokens = np.zeros((images, networks[0].head.width, 1, 1), dtype=np.float32)
    for number, network in enumerate(networks):
        network.eval()
        columns = [np.unique(column[column != MISSING]) for column in rows[fold == number].T]
        shown = np.full((max(map(len, columns)), len(columns)), MISSING)  # every image once, beside any of the other magnifications
        for place, column in enumerate(columns):
            shown[: len(column), place] = column
        values = np.concatenate(in_parts(partial(_tokens, network), batches, shown))
        there = shown != MISSING
        tokens[shown[there], :, 0, 0] = values[there]
    return tokens


def _tokens(network: MMNet, inputs: Tensor, mask: Tensor) -> np.ndarray:
    """Inputs (B, M, …), mask (B, M) -> (B, M, D) float32, with the host so that no more than a part is on the device."""
    return network.head.embed(network.maps(inputs, mask)).float().cpu().numpy()


def from_tokens(network: MMNet) -> MMNet:
    """The part of a network after `embed_once`: its inputs are tokens (B, M, D, 1, 1)."""
    head = copy.deepcopy(network.head)
    head.embeddings = nn.ModuleList(nn.Flatten() for _ in head.embeddings)
    return MMNet([], head)


def out_of_fold_judge(networks: list[MMNet], dataset: Dataset, config: Config, device: torch.device, predictions: Predictions) -> Judge:
    """How the fold networks judge the views of a study's own patients, whatever is hidden of them."""
    tokens = embed_once(networks, Batches(dataset, config, device), len(dataset.table), predictions.rows, predictions.fold)
    embedded = replace(dataset, images=None, features=tokens)
    batches = Batches(embedded, config.with_values({"model.frozen": True}), device)
    judges = [from_tokens(network) for network in networks]
    return lambda rows, fold: predict_out_of_fold(judges, batches, rows, fold)[:, 1]


def plot_missing(curves: dict[str, list[dict[str, Any]]], masking: float, path: Path, synthetic: bool) -> None:
    """Each score against the share that was really hidden; bands are the range of the repeats."""
    figure, panels = plt.subplots(1, len(SCORES), figsize=(10, 3.9))
    for axes, (name, words) in zip(panels, SCORES.items(), strict=True):
        for kind, (label, colour) in KINDS.items():
            hidden = [100 * point["hidden"] for point in curves[kind]]
            mean, low, high = (np.array([point[name][which] for point in curves[kind]], dtype=float) for which in ("mean", "low", "high"))
            axes.fill_between(hidden, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(hidden, mean, color=colour, marker="o", ms=3.5, lw=1.4, label=label)
        axes.axhline(np.log(2) if name == "log_loss" else 0.5, color="black", lw=0.8, ls=":", label="nothing known")
        axes.set(xlabel="hidden at random (%)", ylabel=words + (" (nats)" if name == "log_loss" else ""), xlim=(-3, 103))
        if name != "log_loss":
            axes.set_ylim(top=1.01)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_title(" ")  # room for a legend that is wider than its panel
    panels[1].legend(ncols=4, fontsize=9, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0)).set_in_layout(False)
    trained = f"with augment.masking {masking:g}" if masking else "without masking"
    save_figure(figure, path, f"Score when parts are missing (out of fold, trained {trained}; band: range of {REPEATS} draws)", synthetic)
