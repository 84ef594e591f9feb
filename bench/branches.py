"""What the branches of the published fusion contribute after a whole training: `python -m bench branches --data DIR --weights FILE`.

The head as published on frozen maps at two magnifications, 27 epochs at lr 1e-4, 5 folds by patient. Of the fold networks at the last epoch:
the mixing ratio r that started at 0.5, how long each branch's part of the fused vector is, and the out-of-fold log loss and AUC with each
branch left out (the other alone), with equal weights of the magnifications, and without attention between them.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from mmnet import crossval
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from mmnet.metrics import auc, log_loss
from mmnet.network import MMNet
from mmnet.predict import predict, predict_out_of_fold
from study.command_line import prepare


def scores(trial: CrossValidation, change: Callable[[MMNet], None]) -> tuple[float, float]:
    """Out-of-fold log loss and AUC of copies of the networks that were changed."""
    import copy

    networks = copy.deepcopy(trial.networks)
    for network in networks:
        assert isinstance(network, MMNet)
        change(network)
    oof = trial.out_of_fold
    found = predict_out_of_fold(networks, trial.batches, oof.rows, oof.fold)
    return log_loss(found, oof.label), auc(found, oof.label)


def lengths(trial: CrossValidation) -> list[list[float]]:
    """Of each fold r, and the mean length of r · attention and of (1 − r) · concatenation over its held-out views."""
    found = []
    for fold, network in enumerate(trial.networks):
        assert isinstance(network, MMNet)
        fusion: Any = network.head.fusion
        seen = list[Tensor]()
        hooks = [
            fusion.cross_attention.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out[0].mean(1))),
            fusion.concatenation.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out)),
        ]
        oof = trial.out_of_fold
        predict(network, trial.batches, oof.rows[oof.fold == fold])
        for hook in hooks:
            hook.remove()
        ratio = float(fusion.ratio)
        attention, concatenation = (float(torch.cat(seen[which::2]).norm(dim=1).mean()) for which in (0, 1))
        found.append([ratio, ratio * attention, (1 - ratio) * concatenation])
    return found


def set_ratio(value: float) -> Callable[[MMNet], None]:
    return lambda network: network.head.fusion.ratio.data.fill_(value)  # type: ignore[union-attr,return-value]


def equal_weights(network: MMNet) -> None:
    network.head.fusion.importance = None


def no_hierarchy(network: MMNet) -> None:
    network.head.hierarchy = None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench branches")
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True, help="of EfficientNet-Lite0")
    parser.add_argument("--epochs", type=int, default=27)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = Config().with_values(
        {
            "model.backbone": "timm:tf_efficientnet_lite0",
            "model.weights": arguments.weights,
            "model.frozen": True,
            "model.channel_attention": True,
            "model.pool": "gate",
            "model.width": None,
            "model.heads": 8,
            "model.hidden": 512,
            "data.magnifications": [100, 200],
            "data.test_fraction": 0.0,
            "optim.epochs": arguments.epochs,
            "optim.patience": None,
        }
    )
    prepared = prepare(config, arguments.data, Console(quiet=True), "cpu")
    trial = crossval.run(config, prepared.development, prepared.splits, device=torch.device("cpu"))
    for report in trial:
        print(f"epoch {report.epoch}: log loss {report.metrics['log_loss']:.3f}, {report.seconds:.0f} s", flush=True)
    for fold, (ratio, attention, concatenation) in enumerate(lengths(trial), start=1):
        print(f"fold {fold}: r {ratio:.4f}, r · attention {attention:.2f}, (1 − r) · concatenation {concatenation:.2f}")
    changes = {"as trained": lambda network: None, "attention alone": set_ratio(1.0), "concatenation alone": set_ratio(0.0)}
    for name, change in (changes | {"equal weights": equal_weights, "no attention between magnifications": no_hierarchy}).items():
        print(f"{name:38} log loss {scores(trial, change)[0]:.3f}, AUC {scores(trial, change)[1]:.3f}")


if __name__ == "__main__":
    main()
