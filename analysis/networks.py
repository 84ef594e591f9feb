"""The trained networks that stand for a study: those of its folds, and of a mean those of every member."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import nn

from analysis.predictions import chosen_trial
from data.dataset import Dataset
from data.errors import InputError
from data.views import ViewIndex, Views
from mmnet.config import Config
from mmnet.network import MMNet
from mmnet.predict import predict_ensemble
from study.folder import read_study
from study.members import member_names
from study.records import read_trials


class Networks(NamedTuple):
    """The fold networks of one configuration."""

    member: str  # "" where it stands for the study alone
    folder: Path
    config: Config


def study_networks(study: Path) -> list[Networks]:
    """One entry, or one a member of a mean. Raises InputError where a study has no such networks."""
    about = read_study(study)
    if about.get("nested"):
        raise InputError(f"study {study.name} is nested: each outer fold has networks of its own; train with main.py without --nested")
    if about.get("repeats"):
        raise InputError(f"study {study.name} is of repeats, each with networks of its own; train with main.py without --repeats")
    names = member_names(about)
    if not names:
        return [Networks("", study / "models", Config().with_values(chosen_trial(study).config))]
    records = zip(names, read_trials(study), strict=False)
    return [Networks(name, study / "models" / name, Config().with_values(record.config)) for name, record in records]


def of_mmnet(networks: Sequence[nn.Module]) -> list[MMNet]:
    """The same, whose parts are known. Raises InputError for a network of one's own."""
    if not all(isinstance(network, MMNet) for network in networks):
        raise InputError("the study is of a network of its own (model.name): what looks into MMNet's parts cannot look into that")
    return cast("list[MMNet]", list(networks))


def predict_all(networks: list[Networks], dataset: Dataset, device: torch.device) -> tuple[np.ndarray, Views, ViewIndex]:
    """Probability (T, F, V) of the positive class by the F fold networks of each of T entries of every patient's evaluation views, as `predict_ensemble`.

    What stands for the study is the mean over all T F networks. Members share magnifications, and so views.
    """
    made = [predict_ensemble(one.folder, one.config, dataset, device) for one in networks]
    return np.stack([probability[..., 1] for probability, _, _ in made]), *made[0][1:]
