"""The peer of `bench versus`: a search as the manual of Ray Tune gives it, `python -m bench.plain_ray --base FILE --data DIR --seconds N --out DIR`.

A function trainable that reports each epoch, OptunaSearch, ASHAScheduler, `Tuner.fit` with a time budget, and then
`get_best_result`, each with the defaults of Ray. It is spared what it could do wrong on its own: it gets our space with its
conditions as a define-by-run function, the base configuration as first point, the data set by the object store, and reports the score
at the best epoch so far, which is what our search follows, too.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ray import init, tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

from analysis.mean_of_best import MEMBERS
from data.dataset import Dataset
from data.splits import Splits
from mmnet import crossval
from mmnet.config import Config, load_config
from mmnet.metrics import METRICS
from search_spaces import get_space
from search_spaces.space import Space, Suggests
from study.command_line import prepare
from study.records import write_json
from tuning.cluster import shareable
from tuning.settings import StudySettings, rungs


def train(params: dict[str, Any], base: Config, dataset: Dataset, splits: Splits) -> None:
    torch.set_num_threads(1)
    for report in crossval.run(base.with_values(params["params"]), dataset, splits):
        tune.report({"score": report.score, "fold_epochs": report.fold_epochs, "finished": report.finished})


def suggested(space: Space, base: Config, trial: Suggests) -> dict[str, Any]:
    return {"params": space.sample(trial, base)}


def search(base: Config, dataset: Dataset, splits: Splits, seconds: float, folder: Path) -> tune.ResultGrid:
    space, mode = get_space(StudySettings.space, base), METRICS[base.metric]
    suggest = partial(suggested, space, base)  # Ray pickles it
    trainable = tune.with_resources(tune.with_parameters(train, base=base, dataset=dataset, splits=splits), {"cpu": 1})
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=-1,
            time_budget_s=seconds,
            max_concurrent_trials=1,
            search_alg=OptunaSearch(suggest, metric="score", mode=mode, points_to_evaluate=[space.encode(base)], seed=base.seed),
            scheduler=ASHAScheduler(
                metric="score",
                mode=mode,
                max_t=base.optim.epochs,
                grace_period=rungs(base.optim.epochs, StudySettings.eta)[0],
                reduction_factor=StudySettings.eta,
            ),
        ),
        run_config=tune.RunConfig(name="run", storage_path=str(folder.resolve())),
    )
    return tuner.fit()


def about(results: tune.ResultGrid, metric: str) -> dict[str, Any]:
    """What it recommends, what it took, and its best few."""
    best = results.get_best_result("score", METRICS[metric])
    scored = [result for result in (results[place] for place in range(len(results))) if result.metrics and "score" in result.metrics]
    several = sorted(map(_choice, scored), key=lambda one: (1 if METRICS[metric] == "min" else -1) * one["score"])[:MEMBERS]
    reported = [result.metrics for result in scored if result.metrics]
    return {
        "trials": len(reported),
        "full": sum(last["finished"] for last in reported),
        "fold_epochs": sum(last["fold_epochs"] for last in reported),
        "training_seconds": sum(last["time_total_s"] for last in reported),
        "recommended": _choice(best),
        "several": several,
    }


def _choice(result: tune.Result) -> dict[str, Any]:
    assert result.config is not None and result.metrics is not None
    return {"params": result.config["params"], "score": result.metrics["score"], "epochs": result.metrics["training_iteration"]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plain_ray", description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True, type=Path, metavar="FILE")
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--seconds", required=True, type=float, metavar="N")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    arguments = parser.parse_args()
    base = load_config(arguments.base)
    prepared = prepare(base, arguments.data, Console(), "cpu")
    init(address="local", num_cpus=1, include_dashboard=False)
    begun = time.perf_counter()
    results = search(base, shareable(prepared.development), prepared.splits, arguments.seconds, arguments.out)
    found = about(results, base.metric) | {"search_seconds": time.perf_counter() - begun}
    write_json(arguments.out / "found.json", found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
