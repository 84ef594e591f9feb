"""Which metric orders configurations of mixed losses best, early and for patients that nothing has seen?

`python -m bench metric --data DIR [--configurations 40] [--outer 5] --out FILE.jsonl`. Random configurations of the space `full` on frozen,
pooled features. Of each outer part (patients that no training sees), every configuration is trained on the others in 5 folds, to
the end; at each of EPOCHS every metric is computed out of fold, and the part is predicted by the mean of the fold networks at the last epoch.
`--read FILE` prints, of each metric and epoch, Kendall's rank correlation with what counts at the end: log loss and AUC on the unseen
part. A part is a row of the file and recorded once, so that a run that was ended goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from rich.console import Console
from scipy.stats import kendalltau

from data.splits import nested_splits
from mmnet import crossval
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from mmnet.metrics import METRICS, auc, evaluate, log_loss, recalibrated
from mmnet.predict import predict
from search_spaces import get_space
from study.command_line import prepare

EPOCHS = (1, 3, 9, 27)
FOLLOWED = ("log_loss", "brier", "auc", "balanced_accuracy", "refinement", "cross-fitted")


def cross_fitted(trial: CrossValidation, probability: np.ndarray) -> float:
    """Log loss after a slope and a bias that the other folds fitted."""
    oof, found = trial.out_of_fold, np.empty((len(probability), 2))
    for fold in np.unique(oof.fold):
        here = oof.fold == fold
        joined = np.concatenate([probability[~here], probability[here]])
        found[here] = recalibrated(probability[~here], oof.label[~here], joined)[(~here).sum() :]
    return log_loss(found, oof.label)


def record(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    base = Config().with_values(
        {
            "model.backbone": "timm:tf_efficientnet_lite0",
            "model.weights": arguments.weights,
            "model.frozen": True,
            "model.pooled": True,
            "data.magnifications": arguments.magnifications,
            "data.test_fraction": 0.0,
            "optim.patience": None,
        }
    )
    prepared = prepare(base, arguments.data, Console(quiet=True), "cpu")
    dataset, space = prepared.dataset, get_space("full", base)
    parts = nested_splits(dataset.table, arguments.outer, folds=5, grouping="patient", seed=arguments.seed)
    done = {(row["part"], row["number"]) for row in map(json.loads, arguments.out.open())} if arguments.out.exists() else set()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=arguments.seed))
    with arguments.out.open("a") as file:
        for number in range(arguments.configurations):
            params = space.sample(study.ask(), base)
            for part, splits in enumerate(parts):
                if (part, number) not in done:
                    print(
                        json.dumps({"part": part, "number": number} | one(base.with_values(params), dataset, splits)), file=file, flush=True
                    )


def one(config: Config, dataset: Any, splits: Any) -> dict[str, Any]:
    """What a configuration's metrics say at each of EPOCHS, and what it gives on the unseen part at the end."""
    trial = crossval.run(config, dataset.select_slides(splits.development()), splits, device=torch.device("cpu"))
    oof, seen = trial.out_of_fold, {}
    for report in trial:
        if report.epoch in EPOCHS:
            values = evaluate(report.probability, oof.label, oof.patient) | {"cross-fitted": cross_fitted(trial, report.probability)}
            seen[report.epoch] = {name: values[name] for name in FOLLOWED}
    return {"loss": config.loss.name, "epochs": seen, **outer(trial, dataset, splits)}


def outer(trial: CrossValidation, dataset: Any, splits: Any) -> dict[str, Any]:
    from data.views import ViewIndex
    from mmnet.batches import Batches

    rest = dataset.select_slides(splits.test)
    index = ViewIndex(rest.table, trial.config.data.magnifications)
    views = index.evaluation(np.arange(len(index.slides)))
    batches = Batches(rest, trial.config, trial.device)
    probability = np.mean([predict(network, batches, views.rows)[0] for network in trial.networks], axis=0)
    label = index.label[views.slide]
    return {"probability": probability[:, 1].round(5).tolist(), "label": label.tolist()}


def read(path: Path) -> None:
    rows = [json.loads(line) for line in path.open()]
    by = {(row["part"], row["number"]): row for row in rows}
    parts = sorted({part for part, _ in by})
    numbers = [number for number in sorted({number for _, number in by}) if all((part, number) in by for part in parts)]

    def unseen(chosen: list[int]) -> tuple[float, float]:
        """Log loss and AUC of one configuration for each part, over the patients of all parts."""
        of = [by[part, number] for part, number in zip(parts, chosen, strict=True)]
        probability, label = (np.concatenate([row[name] for row in of]) for name in ("probability", "label"))
        return log_loss(probability, label), auc(probability, label)

    ends = np.array([unseen([number] * len(parts)) for number in numbers])
    print(
        f"{len(numbers)} configurations, {len(parts)} outer parts; a random one reaches {ends[:, 0].mean():.3f} and {ends[:, 1].mean():.3f}"
    )
    for name in FOLLOWED:
        sign = -1 if METRICS.get(name, "min") == "max" else 1
        for epoch in EPOCHS:
            score = {(part, number): sign * by[part, number]["epochs"][str(epoch)][name] for part in parts for number in numbers}
            mean = [np.mean([score[part, number] for part in parts]) for number in numbers]
            loss, area = unseen([min((score[part, number], number) for number in numbers)[1] for part in parts])
            print(
                f"{name:18} epoch {epoch:2}: rank correlation with unseen log loss {kendalltau(mean, ends[:, 0])[0]:+.2f}, with unseen AUC "
                f"{kendalltau(mean, -ends[:, 1])[0]:+.2f}; the best by it in each part: log loss {loss:.3f}, AUC {area:.3f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench metric")
    parser.add_argument("--data")
    parser.add_argument("--weights", help="of EfficientNet-Lite0")
    parser.add_argument("--magnifications", type=lambda text: [int(part) for part in text.split(",")], default=[200])
    parser.add_argument("--configurations", type=int, default=40)
    parser.add_argument("--outer", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--read", type=Path)
    arguments = parser.parse_args()
    if arguments.read:
        read(arguments.read)
    else:
        record(arguments)


if __name__ == "__main__":
    main()
