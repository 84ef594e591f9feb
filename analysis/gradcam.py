"""Where the networks look: Grad-CAM panels of the patients called right, called wrong, and least certain.

Selvaraju et al., Grad-CAM, ICCV 2017, on the output of the backbone. One view of a patient is shown, explained by the network
that never saw the patient. The logit is that of malignant and its negative that of benign, so what is shown is the evidence
for the class that the patient was called. A map says where a network looks, not why.
"""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from matplotlib.axes import Axes
from rich.console import Console
from torch import Tensor

from analysis.figure import GREY, save_figure
from analysis.networks import of_mmnet, study_networks
from analysis.predictions import Level, Predictions, chosen_trial, require_agreement, trial_predictions
from analysis.tables import narrow_table
from data.augment import shrink, to_float
from data.dataset import Dataset
from data.errors import InputError
from data.views import MISSING
from mmnet.backbones import build_backbone
from mmnet.build import channels_of
from mmnet.config import Config
from mmnet.device import autocast
from mmnet.device_kind import precision_of
from mmnet.network import MMNet
from mmnet.predict import load_networks
from study.folder import read_study
from study.records import write_json

CLASSES = ("benign", "malignant")
GROUPS = {"right": "Most confident right patients", "wrong": "Most confident wrong patients", "uncertain": "Least certain of the others"}
PER_GROUP = 4  # patients of a figure
THRESHOLD = 0.5
HOT = 0.1  # the hottest tenth of an image's area
COLOURS = plt.colormaps["inferno"]  # perceptually uniform, and readable by the colour-blind
VEIL = (0.15, 0.75)  # opacity of the colours where there is no evidence, and where it is strongest
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue in the brightness of a pixel, ITU-R BT.601
FIGURE_PIXELS = 900_000  # of all tiles of a figure: a PDF of photographs then stays below 2 MB
DPI = 200  # at which `save_figure` draws images
LARGEST_TILE, TEXT = 1.3, 7  # inches, points
GAP = 24  # between the two tiles of a pair: their side divided by this


class Explained(NamedTuple):
    """One view of one patient. M magnifications, images of S px."""

    entry: dict[str, Any]  # of gradcam.json, see `explain`
    tiles: np.ndarray  # (M, S, S, 3) uint8, black where there is no image
    heat: np.ndarray  # (M, S, S) evidence in logits, 0 where there is no image


def choose(level: Level, count: int) -> dict[str, list[str]]:
    """Up to `count` patients a group, none in two, each group by falling probability. `level`: of patients.

    right: the most confident of each class in turn; wrong: the most confident of either class; uncertain: of all others those
    nearest to 0.5. Ties go by order.
    """
    right = (level.probability >= THRESHOLD) == (level.label == 1)
    confidence = np.abs(level.probability - THRESHOLD).round(12)  # 0.9 and 0.1 are equally far from 0.5
    surest, nearest = np.argsort(-confidence, kind="stable"), np.argsort(confidence, kind="stable")
    found = {"right": _classes_in_turn(surest[right[surest]], level.label)[:count], "wrong": surest[~right[surest]][:count]}
    found["uncertain"] = nearest[~np.isin(nearest, np.concatenate([found["right"], found["wrong"]]))][:count]
    return {group: level.patient[rows[np.argsort(-level.probability[rows], kind="stable")]].tolist() for group, rows in found.items()}


def one_class_each(predictions: Predictions) -> Predictions:
    """A patient with views of both classes is two, as at the level of patients: `22549 benign` and `22549 malignant`."""
    patient, label = predictions.patient, predictions.label
    both = np.isin(patient, np.intersect1d(patient[label == 0], patient[label == 1]))
    named = np.char.add(np.char.add(patient, " "), np.array(CLASSES)[label])
    return replace(predictions, patient=np.where(both, named, patient))


def _classes_in_turn(rows: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The first of each class, then the second of each, …"""
    malignant = label[rows] == 1
    return rows[np.argsort(np.where(malignant, malignant.cumsum(), (~malignant).cumsum()), kind="stable")]


def nearest_view(probability: np.ndarray, views: np.ndarray) -> int:
    """Of a patient's views (indices into probability) the one nearest to their mean, the first of equals."""
    return int(views[np.abs(probability[views] - probability[views].mean()).round(12).argmin()])


def hottest_share(heat: np.ndarray, area: float) -> float:
    """The share of the evidence (S, S) in the hottest part of the area; NaN where there is none. A flat map gives `area`."""
    count = max(1, round(area * heat.size))
    return float(np.sort(heat, axis=None)[-count:].sum() / heat.sum()) if heat.any() else float("nan")


def networks_on_pixels(study: Path, images: Dataset, config: Config, device: torch.device) -> list[MMNet]:
    """The fold networks of a study with their backbones, in evaluation mode; a frozen study saved the heads only."""
    folder = study_networks(study)[0].folder
    if not config.model.frozen:
        return [network.eval() for network in of_mmnet(load_networks(folder, config, images, device))]
    backbone = build_backbone(config.model, config.input_size, config.seed).eval()
    shape = (0, channels_of(backbone, config.input_size), 1, 1)
    heads = of_mmnet(load_networks(folder, config, replace(images, images=None, features=np.empty(shape, np.float16)), device))
    return [MMNet([backbone.to(device)], network.head).eval() for network in heads]


def grad_cam(network: MMNet, images: Tensor, mask: Tensor, *, malignant: bool) -> Tensor:
    """Evidence for a class in one view: images (1, M, 3, S, S), mask (1, M) -> (K, h, w) of the K images that are there.

    Equations 1 and 2 of the paper: ReLU of the sum of the feature maps, each times the spatial mean of the logit's gradient.
    """
    sign = 1 if malignant else -1

    def logit(images: Tensor, mask: Tensor) -> Tensor:
        return sign * network(images, mask).logit[:, 0]

    called = list(network.backbones)
    if len(called) > 1:  # one each: that of a missing image is not called
        called = [backbone for backbone, there in zip(called, mask[0].tolist(), strict=True) if there]
    maps = [LayerGradCam(logit, layer).attribute(images, additional_forward_args=(mask,), relu_attributions=True) for layer in called]
    return torch.cat(maps)[:, 0].detach()


def explain(
    patient: str, predictions: Predictions, networks: list[MMNet], images: Dataset, config: Config, device: torch.device
) -> Explained:
    """The view that stands for a patient, by the network that never saw it, for the class that the patient was called.

    Of the entry: `view` counts in predictions.npz, `row` in the development table, `fold` as the files in models/; `peak` is an
    image's maximum as a share of the view's; `cells` of a feature map.
    """
    views = np.flatnonzero(predictions.patient == patient)
    view = nearest_view(predictions.probability, views)
    probability, rows, fold = float(predictions.probability[views].mean()), predictions.rows[view], int(predictions.fold[view])
    there = rows != MISSING
    assert images.images is not None
    tiles = np.where(there[:, None, None, None], images.images[rows], np.uint8(0))
    inputs, mask = shrink(to_float(torch.from_numpy(tiles)), config.model.input_size)[None].to(device), torch.from_numpy(there)[None]
    with torch.no_grad(), autocast(device, precision_of(config.optim.precision, device.type)):
        output = networks[fold](inputs, mask)
    maps = grad_cam(networks[fold], inputs, mask, malignant=probability >= THRESHOLD)
    heat = np.zeros(tiles.shape[:3], dtype=np.float32)
    heat[there] = LayerAttribution.interpolate(maps[:, None], tiles.shape[1:3], "bilinear")[:, 0].cpu().numpy()
    entry: dict[str, Any] = {
        "patient": patient,
        "subtype": str(predictions.subtype[view]),
        "label": int(predictions.label[view]),
        "called": int(probability >= THRESHOLD),
        "probability": probability,
        "view": view,
        "view_probability": float(output.logit.float().sigmoid()),
        "fold": fold + 1,
        "cells": maps[0].numel(),
        "images": {f"{magnification}X": None for magnification in predictions.magnifications},
    }
    for column in np.flatnonzero(there):
        entry["images"][f"{predictions.magnifications[column]}X"] = {
            "row": int(rows[column]),
            "path": str(images.table.path[rows[column]]),
            "importance": float(output.importance[0, column]),
            "peak": float(heat[column].max() / heat.max()) if heat.any() else 0.0,
            "hottest_tenth": hottest_share(heat[column], HOT),
        }
    return Explained(entry, tiles, heat)


def write_gradcam(study: Path, images: Dataset, config: Config, device: torch.device) -> dict[str, Any]:
    """gradcam/gradcam.json and a figure of each group that has patients. `images`: the development patients, with pixels.

    Raises InputError when the images or models/ are not those that made the predictions on record.
    """
    about, trial = read_study(study), chosen_trial(study)
    predictions = one_class_each(trial_predictions(trial))
    view, column = np.nonzero(predictions.rows != MISSING)
    rows = predictions.rows[view, column]
    if rows.max() >= len(images.table) or (images.table.slide[rows] != predictions.slide[view]).any():
        raise InputError(
            f"data {images.name}: its {len(images.table)} images are not those of the study's views, in their order; "
            "pass the study's own data, at its magnifications and without the sealed patients"
        )
    networks = networks_on_pixels(study, images, config, device)
    explained = {
        group: [explain(patient, predictions, networks, images, config, device) for patient in patients]
        for group, patients in choose(predictions.level("patient"), PER_GROUP).items()
    }
    entries = [{"group": group} | one.entry for group, members in explained.items() for one in members]
    views = [entry["view"] for entry in entries]
    require_agreement(study, trial, np.array([entry["view_probability"] for entry in entries]), predictions.probability[views])
    synthetic = about["data"]["synthetic"]
    report = {"synthetic": synthetic, "trial": trial.name, "evidence_for": "the class that the patient was called", "patients": entries}
    (study / "gradcam").mkdir(exist_ok=True)
    weighted = config.model.importance and len(predictions.magnifications) > 1
    for group, members in explained.items():
        path = study / "gradcam" / f"{group}.png"
        if members:
            plot_group(GROUPS[group], members, path, weighted=weighted, synthetic=synthetic)
        else:  # an earlier call may have had some
            path.unlink(missing_ok=True)
            path.with_suffix(".pdf").unlink(missing_ok=True)
    write_json(study / "gradcam" / "gradcam.json", report)
    return report


def blend(tile: np.ndarray, share: np.ndarray) -> np.ndarray:
    """tile (…, 3) uint8, share of the maximum (…) -> the tissue in grey below a veil of colour that is denser where there is more."""
    grey = (tile @ np.array(LUMA))[..., None]
    veil = (VEIL[0] + (VEIL[1] - VEIL[0]) * share)[..., None]
    return (grey * (1 - veil) + 255 * COLOURS(share)[..., :3] * veil).round().astype(np.uint8)


def plot_group(words: str, members: list[Explained], path: Path, *, weighted: bool, synthetic: bool) -> None:
    """A row a patient, a pair of tiles a magnification: the image, and its evidence. `weighted`: say the learned weights."""
    names = list(members[0].entry["images"])
    tile = min(LARGEST_TILE, (FIGURE_PIXELS / (2 * len(names) * PER_GROUP)) ** 0.5 / DPI)
    pair, beside, below = (2 + 1 / GAP) * tile, 0.15, 0.22 if len(names) > 1 else 0.1
    left, right, foot, head = 1.15, 0.15, 0.75, 0.85 + 0.15 * synthetic
    width, height = left + len(names) * (pair + beside) - beside + right, foot + len(members) * (tile + below) + head
    figure = plt.figure(figsize=(width, height))
    place: dict[str, Any] = {"left": left / width, "right": 1 - right / width}
    bar_place = place | {"bottom": (foot - 0.15) / height, "top": (foot - 0.07) / height}
    place |= {"bottom": (foot + below) / height, "top": 1 - head / height, "wspace": beside / pair, "hspace": below / tile}
    grid = figure.add_gridspec(len(members), len(names), **place)
    for line, explained in enumerate(members):
        for column, name in enumerate(names):
            axes = figure.add_subplot(grid[line, column], xticks=[], yticks=[])
            _draw_pair(axes, explained, column, name)
            image = explained.entry["images"][name]
            if image and len(names) > 1:
                weight = f"importance {image['importance']:.2f}, " if weighted else ""
                axes.set_xlabel(f"{weight}peak {image['peak']:.2f}", fontsize=TEXT, labelpad=2)
            if line == 0:
                axes.set_title(name, fontsize=TEXT + 2, pad=3)
            if column == 0:
                axes.set_ylabel(_row_label(explained.entry), fontsize=TEXT, rotation=0, ha="right", va="center", labelpad=4)
    bar = figure.add_subplot(figure.add_gridspec(1, 1, **bar_place)[0], yticks=[], xticks=[0, 0.25, 0.5, 0.75, 1])
    bar.imshow(blend(np.full((1, 256, 3), 200), np.linspace(0, 1, 256)[None]), aspect="auto", extent=(0, 1, 0, 1))
    bar.tick_params(labelsize=TEXT)
    notes = "Grad-CAM, share of the image's maximum"
    if len(names) > 1:
        weight = "importance: learned weight of the magnification; " if weighted else ""
        notes += f"\n{weight}peak: the image's maximum as a share of the view's"
    bar.set_xlabel(notes, fontsize=TEXT)
    with warnings.catch_warnings():  # a tight layout cannot tell the room that images of a fixed shape need: it is given above
        warnings.filterwarnings("ignore", message="This figure includes Axes that are not compatible with tight_layout")
        save_figure(figure, path, f"{words}:\nGrad-CAM evidence for the class that was called", synthetic)


def _draw_pair(axes: Axes, explained: Explained, column: int, name: str) -> None:
    """An image beside itself below its evidence, or what there is to say instead."""
    tile, heat, entry = explained.tiles[column], explained.heat[column], explained.entry
    size = len(tile)
    between = np.full((size, size // GAP, 3), 255, np.uint8)
    if entry["images"][name] is None:
        axes.imshow(np.full_like(np.concatenate([tile, between, tile], axis=1), 255))
        axes.spines[:].set(color=GREY, linestyle=":")
        axes.text(0.5, 0.5, "no image", transform=axes.transAxes, ha="center", va="center", fontsize=TEXT)
        return
    axes.spines[:].set_visible(False)
    said = "one cell: no\nplaces to compare" if entry["cells"] == 1 else ""
    if not heat.any():
        said = f"no evidence\nfor {CLASSES[entry['called']]}"
    over = blend(tile, np.zeros_like(heat) if said else heat / heat.max())
    axes.imshow(np.concatenate([tile, between, over], axis=1))
    if said:
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2}
        axes.text(0.755, 0.5, said, transform=axes.transAxes, ha="center", va="center", fontsize=TEXT - 1, bbox=box)


def _row_label(entry: dict[str, Any]) -> str:
    subtype = f"{entry['subtype']}, " if entry["subtype"] else ""
    return (
        f"{short_name(entry['patient'])}\n{subtype}{CLASSES[entry['label']]}\ncalled {CLASSES[entry['called']]}\n"
        f"P(malignant) {entry['probability']:.2f}\nthis view {entry['view_probability']:.2f}"
    )


def short_name(patient: str) -> str:
    """`SOB_M_DC_14-10001AB` -> `14-10001AB`, class and subtype stand beside it; of other long names the end."""
    name = re.sub(r"^SOB_[BM]_[A-Z]+_", "", patient)
    return name if len(name) <= 18 else "…" + name[-17:]


def print_gradcam(report: dict[str, Any], console: Console) -> None:
    title = f"Grad-CAM{' (SYNTHETIC DATA)' if report['synthetic'] else ''}: evidence for the class that was called"
    table = narrow_table(title, ("patients", "number", "images", "blank", "hottest tenth", "gradcam/"))
    for group, words in GROUPS.items():
        entries = [entry for entry in report["patients"] if entry["group"] == group]
        shares = [image["hottest_tenth"] for entry in entries for image in entry["images"].values() if image]
        known = [share for share in shares if share == share]
        median = f"{100 * np.median(known):.0f} %" if known else "–"
        figure = f"{group}.png" if entries else "no figure"
        table.add_row(words.removesuffix(" patients"), str(len(entries)), str(len(shares)), str(len(shares) - len(known)), median, figure)
    console.print(table)
    console.print("blank: no evidence; hottest tenth of an image: its share of evidence (median)", highlight=False)
