"""Published against compact: `python -m bench variants --data DIR --weights FILE --magnifications 200 --seeds 5 --out FILE`.

Each variant of the head trains on the same frozen maps, folds by patient and seeds (a seed also deals the folds), 27 epochs to the end.
A line a training goes to FILE; `--read FILE` prints the table: means over seeds at the best epoch, and the difference to the first
variant, paired by seed, with its standard error over seeds. Seeds share patients: what it says is of these patients.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mmnet import crossval
from mmnet.config import Config
from study.command_line import prepare

MEAN = {"model.pool": "mean", "model.channel_attention": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "softmax + channel attention": {"model.pool": "softmax", "model.channel_attention": True},
    "softmax": {"model.pool": "softmax", "model.channel_attention": False},
    "mean + channel attention": {"model.pool": "mean", "model.channel_attention": True},
    "mean": MEAN,
    "mean, attention alone": MEAN | {"model.concatenation": False},
    "mean, concatenation alone": MEAN | {"model.cross_attention": False},
    "mean, neither branch": MEAN | {"model.cross_attention": False, "model.concatenation": False},
    "gate + channel attention": {"model.pool": "gate", "model.channel_attention": True},
    "published": {"model.channel_attention": True, "model.pool": "gate", "model.width": None, "model.heads": 8, "model.hidden": 512},
}
SHOWN = ("log_loss", "auc", "refinement", "patient_auc")


def train(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    config = Config().with_values(
        {
            "model.backbone": "timm:tf_efficientnet_lite0",
            "model.weights": arguments.weights,
            "model.frozen": True,
            "data.magnifications": arguments.magnifications,
            "data.test_fraction": 0.0,
            "data.split_seed": seed,
            "seed": seed,
            "optim.patience": None,
        }
        | VARIANTS[name]
    )
    prepared = prepare(config, arguments.data, Console(quiet=True), "cpu")
    start = time.perf_counter()
    reports = list(crossval.run(config, prepared.development, prepared.splits, device=torch.device("cpu")))
    best = min(reports, key=lambda report: report.metrics["log_loss"])
    return {
        "variant": name,
        "seed": seed,
        "seconds": time.perf_counter() - start,
        "parameters": best.parameters,
        "best": {metric: best.metrics[metric] for metric in SHOWN},
        "last": {metric: reports[-1].metrics[metric] for metric in SHOWN},
    }


def show(lines: list[dict[str, Any]]) -> None:
    of = {name: {line["seed"]: line for line in lines if line["variant"] == name} for name in VARIANTS}
    base = of[next(iter(VARIANTS))]
    for name, found in of.items():
        if not found:
            continue
        means = " ".join(f"{metric} {np.mean([line['best'][metric] for line in found.values()]):.3f}" for metric in SHOWN)
        apart = [line["best"]["log_loss"] - base[seed]["best"]["log_loss"] for seed, line in found.items() if seed in base]
        error = np.std(apart, ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
        seconds, parameters = (np.mean([line[key] for line in found.values()]) for key in ("seconds", "parameters"))
        print(f"{name:28} n {len(found)} {means} | {np.mean(apart):+.3f} ± {error:.3f} | {seconds:.0f} s, {parameters:,.0f} parameters")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench variants")
    parser.add_argument("--read", type=Path)
    parser.add_argument("--data")
    parser.add_argument("--weights", help="of EfficientNet-Lite0")
    parser.add_argument("--magnifications", type=int, nargs="+", default=[200])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS)[:-1])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not arguments.read:
        torch.set_num_threads(1)
        done = {(line["variant"], line["seed"]) for line in map(json.loads, arguments.out.open())} if arguments.out.exists() else set()
        for seed in range(arguments.seeds):
            for name in arguments.variants:
                if (name, seed) not in done:
                    with arguments.out.open("a") as file:
                        print(json.dumps(train(name, seed, arguments)), file=file)
    show(list(map(json.loads, (arguments.read or arguments.out).open())))


if __name__ == "__main__":
    main()
