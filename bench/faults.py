"""Kills at random: does a study that is killed again and again end with the numbers of one that never was?

`python -m bench faults [--kills 20] [--trials 24] [--nodes 2] [--concurrency 1]`. A search on a small synthetic data set runs with SIGKILL to
a worker, to the driver, to a node of the cluster with all that runs on it, or to everything, each after a random number of lines that the
search has printed and a random wait; a killed driver is resumed, and a lost node gets a successor. A node may also be cut off ("split"),
and come back some lines later, when another process has its trials. Then every trial on record is trained
again by itself, as far as it came, and epochs, predictions and networks are compared; so are the states in optuna.db. One trial at a time,
the same search also runs in peace and has to give the same trials; of several at once, which configurations come depends on who is first.
Without nodes (`--nodes 0`) the driver starts Ray, which then dies with it or after it.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path

import numpy as np
import optuna
import torch
from rich.console import Console
from safetensors.torch import load_file

from bench.machine import describe_machine
from bench.ray_nodes import Nodes, descendants, kill_all
from data.dataset import Dataset
from data.splits import Splits
from data.synthetic import generate
from mmnet import crossval
from mmnet.config import Config
from study.command_line import prepare
from study.folder import read_study
from study.mirror import TAKEN
from study.records import TrialRecord, TrialWriter, read_trial, read_trials
from tuning.searcher import NEVER_STARTED

ROOT = Path(__file__).parent.parent
SEARCH = (
    "--space smoke --concurrency 1 --backbone tiny --weights none --image-size 32 --folds 2 --epochs 9 --seed 0 "
    "--set model.width=8 --set model.heads=2 --set optim.lr=0.003 --set optim.batch_size=16"
).split()
VICTIMS = ("worker", "driver", "everything")
OF_A_CLUSTER = (*VICTIMS, "node", "split")


def search(
    data: Path,
    output: Path,
    name: str,
    trials: int,
    kills: list[str],
    rng: random.Random,
    most_lines: int = 2,
    nodes: Nodes | None = None,
    concurrency: int = 1,
) -> Counter:
    """Run a search to its end, one kill of each kind in `kills` on the way -> how many of each there was time for.

    `nodes`: the cluster to run it on.
    """
    done: Counter = Counter()
    begin = ["--data", str(data), "--name", name, "--trials", str(trials), *SEARCH, "--concurrency", str(concurrency)]
    while True:
        resumes = (output / name / "study.json").exists()
        words = ["--resume", "--name", name] if resumes else begin
        process = subprocess.Popen(
            [sys.executable, "-u", "tune_mmnet.py", *words, "--output", str(output), *(("--address", nodes.address) if nodes else ())],
            cwd=ROOT,
            env=nodes.environment if nodes else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        after, said = rng.randint(1, most_lines), []
        for line in process.stdout:
            said.append(line)
            after -= line.startswith("[")  # a line about a trial
            if kills and after == 0:
                time.sleep(rng.random())
                if kill(process.pid, kills[0], rng, nodes):
                    print(f"killed {kills[0]} after {line}", end="", flush=True)
                    done[kills.pop(0)] += 1
                after = rng.randint(1, most_lines)
        status = process.wait()
        if nodes:
            nodes.let_back()
        if status == 0:
            return done
        if status != -signal.SIGKILL and "cannot reach or start Ray" not in "".join(said[-1:]):  # the machine is too busy: the next one may
            raise RuntimeError(f"the search ended with status {status}:\n{''.join(said[-20:])}")


def kill(driver: int, victim: str, rng: random.Random, nodes: Nodes | None = None) -> bool:
    """SIGKILL to one trial's process, the node that it runs on, the driver, or the driver and all of Ray; whether there was one.

    A "split" only cuts that node off, until the next one.
    """
    if nodes:
        nodes.let_back()
    below = [*descendants(driver), *(nodes.processes() if nodes else ())]
    trials = [process for process in below if command(process).startswith("ray::_Inner")]
    if victim in ("node", "split"):
        assert nodes is not None
        chosen = one_of([node for node in nodes.nodes if set(trials) & set(descendants(node))], rng)
        for node in chosen:
            (nodes.replace if victim == "node" else nodes.cut_off)(node)
    else:
        chosen = {"worker": one_of(trials, rng), "driver": [driver], "everything": [*below, driver]}[victim]
        kill_all(chosen)
    if victim == "everything" and nodes:
        nodes.restart()
    return bool(chosen)


def one_of(processes: list[int], rng: random.Random) -> list[int]:
    return rng.sample(processes, min(len(processes), 1))


def command(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text()
    return ""


def differences(first: Path, second: Path) -> list[str]:
    """What two studies do not have in common, seconds apart; and what a study must not leave behind in the second."""
    found, others = [], {record.number: record for record in read_trials(second)}
    for record in read_trials(first):
        other = others.pop(record.number, None)
        if other is None:
            found.append(f"trial {record.number} is lost")
        elif (record.params, record.status) != (other.params, other.status):
            found.append(f"trial {record.number}: {record.status} {record.params} became {other.status} {other.params}")
        elif [line["metrics"] for line in record.epochs] != [line["metrics"] for line in other.epochs]:
            found.append(f"trial {record.number}: other numbers")
    return found + [f"trial {number} is new" for number in others] + remains(second)


def remains(study: Path, never_started: Collection[int] = ()) -> list[str]:
    """What an ended study must not leave behind."""
    states = Counter(trial.state.name for trial in in_database(study) if trial.number not in never_started)
    found = [f"{count} trials are {state} in optuna.db" for state, count in states.items() if state in ("RUNNING", "FAIL", "WAITING")]
    return found + [f"{path} is left" for path in (study / "trials").rglob(".*") if path.is_file() and path.name != TAKEN]


def in_database(study: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(storage=f"sqlite:///{study / 'optuna.db'}", study_name=None).trials


def otherwise(study: Path, trials: int, concurrency: int = 1) -> list[str]:
    """What an ended study of so many trials has on record that its configurations do not give when each is trained by itself in peace.

    Of several at once, one may be lost with everything before its first epoch while a later one is on record: its number stays without.
    """
    about, threads = read_study(study), torch.get_num_threads()
    base, splits = Config().with_values(about["config"]), Splits.from_json(about["splits"])
    development = prepare(base, about["data"]["path"], Console(quiet=True), "cpu", splits).development
    records, told = {record.number: record for record in read_trials(study)}, in_database(study)
    gaps = set(range(max(records, default=-1) + 1)) - set(records)
    found = [f"trial {number} is lost" for number in gaps if concurrency == 1 or told[number].user_attrs.get("reason") != NEVER_STARTED]
    if len(records) != trials:
        found.append(f"{len(records)} trials are on record in place of {trials}")
    torch.set_num_threads(1)  # as in the search
    for record in records.values():
        ended = {"done": "COMPLETE", "stopped": "PRUNED"}.get(record.status)
        seen = [(line["epoch"], line["score"]) for line in record.epochs]
        if ended is None or told[record.number].state.name != ended or [*told[record.number].intermediate_values.items()] != seen:
            found.append(f"trial {record.number} is {record.status} after {len(seen)} epochs; in optuna.db {told[record.number]}")
        if record.status == "stopped" and len(seen) not in about["rungs"]:
            found.append(f"trial {record.number} rests at epoch {len(seen)}, which is no rung")
        if record.config != base.with_values(record.params).to_dict():
            found.append(f"trial {record.number}: config.json does not follow from its params")
        found += [f"trial {record.number}: other {what}" for what in retrained(record, development, splits)]
    torch.set_num_threads(threads)
    return found + remains(study, gaps)


def retrained(record: TrialRecord, development: Dataset, splits: Splits) -> Iterator[str]:
    """What on record is not what the configuration gives when it is trained again, as far as the trial came."""
    config = Config().with_values(record.config)
    trial = crossval.run(config, development, splits, device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as place:
        writer = TrialWriter(Path(place), record.number, record.params, config)
        for _ in islice(trial, len(record.epochs)):
            writer.report(trial)
        writer.write_predictions(trial)
        again = read_trial(Path(place))
        if [line | {"seconds": 0} for line in record.epochs] != [line | {"seconds": 0} for line in again.epochs]:
            yield "epochs"
        left, right = (np.load(folder / "predictions.npz") for folder in (record.folder, Path(place)))
        if set(left) != set(right) or not all(np.array_equal(left[key], right[key]) for key in left):
            yield "predictions"
    if record.status == "stopped":
        networks = torch.load(record.folder / "checkpoint.pt", weights_only=True)["networks"]
        expected = [network.state_dict() for network in trial.networks]
    else:  # a study keeps those of its best trial
        networks = [load_file(path) for path in sorted((record.folder / "weights").glob("fold_*.safetensors"))]
        expected = trial.best_weights if networks and trial.best_weights else []
    for left, right in zip(networks, expected, strict=True):
        if left.keys() != right.keys() or not all(torch.equal(left[key], right[key]) for key in left):
            yield "networks"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench faults")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=2, help="of the cluster, 0: what the driver starts")
    parser.add_argument("--concurrency", type=int, default=1)
    arguments = parser.parse_args()
    print(describe_machine())
    rng = random.Random(arguments.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        output, nodes = Path(place), stack.enter_context(Nodes(arguments.nodes)) if arguments.nodes else None
        kills = rng.choices(OF_A_CLUSTER, (3, 3, 1, 3, 3), k=arguments.kills) if nodes else rng.choices(VICTIMS, k=arguments.kills)
        data = generate(output / "data", patients=16, images=2, size=32, seed=0)
        done = search(data, output, "war", arguments.trials, kills, rng, nodes=nodes, concurrency=arguments.concurrency)
        found = otherwise(output / "war", arguments.trials, arguments.concurrency)
        if arguments.concurrency == 1:
            search(data, output, "peace", arguments.trials, [], rng, nodes=nodes)
            found += differences(output / "peace", output / "war")
        records = read_trials(output / "war")
    kinds = ", ".join(f"{count} {victim}" for victim, count in done.items())
    print(
        f"{sum(done.values())} kills ({kinds}) in a search of {len(records)} trials, {arguments.concurrency} at once: {len(found)} differences"
    )
    print("\n".join(found))


if __name__ == "__main__":
    main()
