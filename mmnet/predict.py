"""Probabilities from trained networks, without gradients and in large batches."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from data.dataset import Dataset
from data.errors import InputError
from data.views import ViewIndex, Views
from mmnet.batches import Batches
from mmnet.build import build_networks, outputs_of
from mmnet.config import Config
from mmnet.device import autocast, free_unused, is_out_of_memory
from mmnet.device_kind import precision_of
from mmnet.losses import log_probabilities
from mmnet.network import Output

VIEWS_AT_ONCE = {True: 256, False: 64}  # by frozen
CACHED_VALUES = 2**23  # of frozen features at once on a CPU, float32: many more do not stay in its cache, and fewer leave it with the calls
T = TypeVar("T")


@torch.no_grad()
def predict(network: nn.Module, batches: Batches, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (V, M) of the table -> ((V, K) probabilities, (V, M) importance), float32."""
    network.eval()
    outputs: list[Output] = in_parts(partial(outputs_of, network), batches, rows)
    logit = torch.cat([output.logit.float() for output in outputs])
    importance = torch.cat([output.importance.float() for output in outputs])
    return log_probabilities(logit).exp().cpu().numpy(), importance.cpu().numpy()


def in_parts(work: Callable[[Tensor, Tensor], T], batches: Batches, rows: np.ndarray) -> list[T]:
    """What `work` makes of the inputs (B, M, …) and mask (B, M) of rows (V, M), as many views at once as is fast.

    Where memory runs out, half as many views go at once, from then on and for all that share the batches.
    """
    size = batches.judged_at_once or VIEWS_AT_ONCE[batches.frozen]
    if batches.frozen and batches.device.type == "cpu":
        size = min(size, max(CACHED_VALUES // (rows.shape[1] * batches.source[0].numel()), 1))
    made: list[T] = []
    done = 0
    while done < len(rows):
        part = rows[done : done + size]
        try:
            with autocast(batches.device, precision_of(batches.config.optim.precision, batches.device.type)):
                made.append(work(*batches.evaluation(part)))
            done += len(part)
            continue
        except RuntimeError as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
        size = batches.judged_at_once = (len(part) + 1) // 2  # here, where the error no longer holds what did not fit
        free_unused(batches.device)
    return made


def load_networks(folder: Path, config: Config, dataset: Dataset, device: torch.device) -> list[nn.Module]:
    """The fold networks that `records.write_weights` left in a folder. Raises InputError when they are damaged or absent."""
    try:
        folds = json.loads((folder / "network.json").read_text())["folds"]
        networks = build_networks(config.with_values({"model.weights": None, "optim.compile": False}), dataset, folds)
        for number, network in enumerate(networks, start=1):
            network.load_state_dict(load_file(folder / f"fold_{number}.safetensors"))
        return [network.to(device) for network in networks]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"models {folder}: absent, damaged or of another configuration: {str(error).splitlines()[0]}; train again with main.py"
        ) from error


def predict_ensemble(folder: Path, config: Config, dataset: Dataset, device: torch.device) -> tuple[np.ndarray, Views, ViewIndex]:
    """Probability (F, V, K) by each of F fold networks of the evaluation views of every slide of a data set.

    The ensemble's probability is the mean over the networks.
    """
    index = ViewIndex(dataset.table, config.data.magnifications)
    views = index.evaluation(np.arange(len(index.slides)))
    batches = Batches(dataset, config, device)
    networks = load_networks(folder, config, dataset, device)
    return np.stack([predict(network, batches, views.rows)[0] for network in networks]), views, index


def predict_out_of_fold(networks: Sequence[nn.Module], batches: Batches, rows: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """rows (V, M), fold (V,) -> (V, K) probability, each view by the network that did not see its fold."""
    place = np.concatenate([np.flatnonzero(fold == number) for number in range(len(networks))])
    found = np.concatenate([predict(network, batches, rows[fold == number])[0] for number, network in enumerate(networks)])
    return found[place.argsort()]
