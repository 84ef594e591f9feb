"""Our search against a plain Ray Tune script, for real: `python -m bench versus --data DIR --weights FILE --out DIR`.

For each seed both search side by side for the same time, one trial at a time on one thread each, so that whatever else the machine
does slows both: ours is `tune_mmnet.py` with its defaults, the peer `bench/plain_ray.py`. Same tiles (200X), frozen backbone, folds,
space, base configuration and metric. What each recommends, and the base, is then trained to its end under new seeds on new partitions,
the same ones for all, and judged there as `main.py --repeats` does, at its best epoch. Ours recommends the mean of three configurations;
its single one is judged as well, and the mean of Ray's three best, which Ray does not recommend.

A search that is done and a replicate that is done are files in `--out` and not run again: the same command goes on.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy.stats import t as student

from analysis.leaderboard import rank
from bench.machine import describe_machine
from data.dataset import Dataset
from data.errors import InputError
from data.splits import make_splits
from mmnet import crossval
from mmnet.config import Config, save_config
from mmnet.metrics import evaluate
from study.command_line import prepare
from study.records import TrialRecord, read_trials, write_json

ROOT = Path(__file__).parents[1]
OURS, ONE, RAY, RAY_MEAN = METHODS = ("ours", "ours, single", "plain Ray", "plain Ray, mean of 3")
JUDGES = ("log_loss", "auc", "patient_auc")
VALUES = {
    "data.magnifications": (200,), "data.test_fraction": 0.0, "model.backbone": "timm:tf_efficientnet_lite0", "model.frozen": True,
}  # fmt: skip
ENDLESS = 100_000  # trials: the time ends the search
GRACE = 900.0  # seconds that a search may take beyond its budget, to start and to write its report
FRESH = 1000  # seeds and partitions of replicates begin here: no search had them
LEVEL = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench versus", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, metavar="DIR")
    parser.add_argument("--weights", required=True, metavar="FILE", help="of timm's tf_efficientnet_lite0")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="where searches and replicates stand")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="of each search")
    parser.add_argument("--seeds", type=int, default=5, metavar="N")
    parser.add_argument("--replicates", type=int, default=5, metavar="N", help="of each configuration")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    console, out = Console(width=160), arguments.out.resolve()
    console.print(describe_machine(), highlight=False, soft_wrap=True)
    base = Config().with_values(VALUES | {"model.weights": arguments.weights})
    dataset = prepare(base, arguments.data, console, "cpu").dataset  # features are cached before a clock runs
    searches = []
    for seed in range(arguments.seeds):
        folder = out / f"seed-{seed}"
        config = base.with_values({"seed": seed})
        searches.append(once(folder / "found.json", partial(side_by_side, config, arguments.data, arguments.minutes, folder)))
        console.print(f"seed {seed}: {json.dumps(searches[-1])}", highlight=False, soft_wrap=True)

    def judge(members: list[dict[str, Any]], number: int) -> list[float]:
        configs = [fresh(base, params, number) for params in members]
        return judge_mean([once(out / "replicates" / f"{digest(c)}.json", partial(replicate, c, dataset)) for c in configs])

    for count in range(1, arguments.replicates + 1):  # a block of all at a time: what is compared is paired also where it is cut off
        reference, values = judged(searches, judge, count)
        console.print("\n".join(report(searches, reference, values)), highlight=False, soft_wrap=True)


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON of a file; made and written where there is none."""
    if not path.exists():
        write_json(path, make())
    return json.loads(path.read_text())


def side_by_side(base: Config, data: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Both searches at the same time -> {method: what it took and recommends}. What a run that was cut off left goes."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "plain").mkdir(parents=True)
    save_config(base, folder / "base.yaml")
    common, seconds = ["--data", data], 60 * minutes
    ours = [
        "tune_mmnet.py", "--config", str(folder / "base.yaml"), "--time-budget", f"{seconds:g}s", "--trials", str(ENDLESS),
        "--concurrency", "1", "--output", str(folder), "--name", "ours",
    ]  # fmt: skip
    plain = ["-m", "bench.plain_ray", "--base", str(folder / "base.yaml"), "--seconds", f"{seconds:g}", "--out", str(folder / "plain")]
    walls = run_both([[*ours, *common], [*plain, *common]], [folder / "ours.log", folder / "plain.log"], seconds + GRACE)
    trust = json.loads((folder / "ours" / "results" / "trust.json").read_text())
    took = ours_took(read_trials(folder / "ours"), base.metric, trust)
    return {
        OURS: took | {"wall_seconds": walls[0]},
        RAY: json.loads((folder / "plain" / "found.json").read_text()) | {"wall_seconds": walls[1]},
    }


def run_both(commands: list[list[str]], logs: list[Path], limit: float) -> list[float]:
    """Seconds that each took; both run in sessions of their own. Raises InputError where one fails or takes longer than `limit` seconds."""
    begun, walls = time.monotonic(), [0.0] * len(commands)
    started = []
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("w") as output:
                started.append(
                    subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
                )
        while not all(walls):
            time.sleep(0.1)
            passed = time.monotonic() - begun
            for place, process in enumerate(started):
                if process.poll() is not None and not walls[place]:
                    walls[place] = passed
                if process.returncode or passed > limit:
                    raise InputError(f"{logs[place]}: exit status {process.returncode} after {passed:.0f} s; the log says why")
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait()
    return walls


def ours_took(records: list[TrialRecord], metric: str, trust: dict[str, Any]) -> dict[str, Any]:
    """As `plain_ray.about`, of our records; `trust`: results/trust.json. Too little on record to judge: the best score is recommended."""
    ranked = [record for record in rank(records, metric) if record.ranked]
    if not ranked:
        raise InputError(f"none of {len(records)} trials has a score; expected one: give the searches more --minutes")
    by_name = {record.name: record for record in records}
    mean = trust.get("mean")
    return {
        "trials": len(records),
        "full": sum(record.status == "done" for record in records),
        "fold_epochs": sum(record.fold_epochs for record in records),
        "training_seconds": sum(record.seconds for record in records),
        "recommended": _choice(by_name[trust["recommended"]["trial"]] if trust["ready"] else ranked[0]),
        "several": [_choice(by_name[name]) for name in mean["trials"]] if mean else [_choice(ranked[0])],
    }


def _choice(record: TrialRecord) -> dict[str, Any]:
    return {"params": record.params, "score": record.score, "epochs": len(record.epochs)}


def fresh(base: Config, params: dict[str, Any], number: int) -> Config:
    """A configuration with the seed and the partition of a replicate."""
    return base.with_values(params | {"seed": FRESH + number, "data.split_seed": FRESH + number})


def digest(config: Config) -> str:
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def replicate(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Its out-of-fold predictions at the best epoch."""
    settings = config.data
    splits = make_splits(dataset.table, folds=settings.folds, test_fraction=0.0, grouping=settings.grouping, seed=settings.split_seed)
    training = crossval.run(config, dataset, splits)
    history = list(training)
    best, views = history[-1].best_epoch, training.out_of_fold
    columns = {"probability": history[best - 1].probability, "label": views.label, "patient": views.patient, "row": views.rows[:, 0]}
    return {"config": config.to_dict(), "epoch": best} | {name: column.tolist() for name, column in columns.items()}


def judge_mean(replicates: list[dict[str, Any]]) -> list[float]:
    """The JUDGES of the mean of their predictions, which are of the same views."""
    first = replicates[0]
    assert all(other["row"] == first["row"] for other in replicates)
    probability = np.mean([one["probability"] for one in replicates], 0)
    found = evaluate(probability, np.array(first["label"]), np.array(first["patient"]))
    return [found[name] for name in JUDGES]


def judged(
    searches: list[dict[str, Any]], judge: Callable[[list[dict[str, Any]], int], list[float]], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """(of the base (R, J), of what each method recommends (S, M, R, J)) by `judge(configurations, replicate)`; S searches, J judges, R = `count`."""
    chosen = [
        [found[OURS]["several"], [found[OURS]["recommended"]], [found[RAY]["recommended"]], found[RAY]["several"]] for found in searches
    ]
    params = [[[one["params"] for one in members] for members in row] for row in chosen]
    values = [[[judge(members, number) for members in row] for row in params] for number in range(count)]  # (R, S, M, J)
    return np.array([judge([{}], number) for number in range(count)]), np.array(values).transpose(1, 2, 0, 3)


def mean_interval(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean of (S,) and its interval by Student's t; without width where one value says nothing of its spread: NaN."""
    count = len(differences)
    if count < 2:
        return float(differences.mean()), float("nan"), float("nan")
    half = student.ppf((1 + LEVEL) / 2, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return float(differences.mean()), float(differences.mean() - half), float(differences.mean() + half)


def report(searches: list[dict[str, Any]], base: np.ndarray, values: np.ndarray) -> list[str]:
    """A table for bench/RESULTS.md, and the differences over seeds. `base` (R, J), `values` (S, M, R, J)."""
    mean, ours, ray = values.mean(2), METHODS.index(OURS), METHODS.index(RAY)  # (S, M, J)
    lines = [
        f"{len(base)} replicates each; ours / plain Ray; differences: ours - Ray, ± standard error over replicates",
        "",
        "| seed | trials (of them ended) | fold-epochs | those a minute of training | score that chose | replicate log loss | difference | AUC | patient AUC |",
        "|" + "---|" * 9,
    ]
    for seed, found in enumerate(searches):
        paired = values[seed, ours, :, 0] - values[seed, ray, :, 0]
        error = paired.std(ddof=1) / np.sqrt(len(paired)) if len(paired) > 1 else np.nan
        took = [_took(found[method]) for method in (OURS, RAY)]
        lines.append(_row(str(seed), [" / ".join(pair) for pair in zip(*took, strict=True)], mean[seed, [ours, ray]], f" ± {error:.3f}"))
    nothing = [""] * 4
    lines.append(_row("mean", nothing, mean.mean(0)[[ours, ray]]))
    lines.append(_row("base", nothing, base.mean(0)[None]))
    lines.append("")
    others = {RAY: mean[:, ray], "base": base.mean(0)[None]}
    for first, second in ((OURS, RAY), (ONE, RAY), (RAY_MEAN, RAY), (OURS, "base"), (RAY, "base")):
        differences = mean[:, METHODS.index(first)] - others[second]  # (S, J)
        shown = [
            f"{name} {middle:+.3f} ({low:+.3f} to {high:+.3f})"
            for name, (middle, low, high) in zip(JUDGES, map(mean_interval, differences.T), strict=True)
        ]
        lines.append(f"{first} - {second}, mean over {len(searches)} seeds (95 % by t): {', '.join(shown)}")
    return lines


def _took(found: dict[str, Any]) -> list[str]:
    each = 60 * found["fold_epochs"] / found["training_seconds"]
    return [f"{found['trials']} ({found['full']})", f"{found['fold_epochs']}", f"{each:.0f}", f"{found['recommended']['score']:.3f}"]


def _row(name: str, took: list[str], scores: np.ndarray, error: str = "") -> str:
    """`scores` (methods, J)."""
    loss, *areas = [" / ".join(f"{value:.3f}" for value in column) for column in scores.T]
    difference = f"{scores[0, 0] - scores[1, 0]:+.3f}{error}" if len(scores) > 1 else ""
    return f"| {' | '.join([name, *took, loss, difference, *areas])} |"


if __name__ == "__main__":
    main()
