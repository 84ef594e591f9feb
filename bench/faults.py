"""Kills at random: does a study that is killed again and again end with the numbers of one that never was?

`python -m bench faults [--kills 20] [--trials 24] [--nodes 2]`. A search on a small synthetic data set, one trial at a time, runs twice:
once in peace, once with SIGKILL to a worker, to the driver, to a node of the cluster with all that runs on it, or to everything, each
after a random number of lines that the search has printed and a random wait; a killed driver is resumed, and a lost node gets a successor.
Then every trial's configuration, status and metrics of every epoch are compared, and the states in optuna.db counted. Without nodes
(`--nodes 0`) the driver starts Ray, which then dies with it or after it.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import optuna

from bench.machine import describe_machine
from bench.ray_nodes import Nodes, descendants, kill_all
from data.synthetic import generate
from mmnet.records import read_trials

ROOT = Path(__file__).parent.parent
SEARCH = (
    "--space smoke --concurrency 1 --backbone tiny --weights none --image-size 32 --folds 2 --epochs 9 --seed 0 "
    "--set model.width=8 --set model.heads=2 --set optim.lr=0.003 --set optim.batch_size=16"
).split()
VICTIMS = ("worker", "driver", "everything")
OF_A_CLUSTER = (*VICTIMS, "node")


def search(
    data: Path, output: Path, name: str, trials: int, kills: list[str], rng: random.Random, most_lines: int = 2, nodes: Nodes | None = None
) -> Counter:
    """Run a search to its end, one kill of each kind in `kills` on the way -> how many of each there was time for.

    `nodes`: the cluster to run it on.
    """
    done: Counter = Counter()
    begin = ["--data", str(data), "--name", name, "--trials", str(trials), *SEARCH]
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
                if kill(process.pid, kills[0], nodes):
                    print(f"killed {kills[0]} after {line}", end="", flush=True)
                    done[kills.pop(0)] += 1
                after = rng.randint(1, most_lines)
        status = process.wait()
        if status == 0:
            return done
        if status != -signal.SIGKILL and "cannot reach or start Ray" not in "".join(said[-1:]):  # the machine is too busy: the next one may
            raise RuntimeError(f"the search ended with status {status}:\n{''.join(said[-20:])}")


def kill(driver: int, victim: str, nodes: Nodes | None = None) -> bool:
    """SIGKILL to a trial's process, the node that it runs on, the driver, or the driver and all of Ray; whether there was one."""
    below = [*descendants(driver), *(nodes.processes() if nodes else ())]
    trials = [process for process in below if command(process).startswith("ray::_Inner")]
    if victim == "node":
        assert nodes is not None
        chosen = [node for node in nodes.nodes if set(trials) & set(descendants(node))][:1]
        for node in chosen:
            nodes.replace(node)
    else:
        chosen = {"worker": trials, "driver": [driver], "everything": [*below, driver]}[victim]
        kill_all(chosen)
    if victim == "everything" and nodes:
        nodes.restart()
    return bool(chosen)


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
    found += [f"trial {number} is new" for number in others]
    states = Counter(trial.state.name for trial in optuna.load_study(storage=f"sqlite:///{second / 'optuna.db'}", study_name=None).trials)
    found += [f"{count} trials are {state} in optuna.db" for state, count in states.items() if state in ("RUNNING", "FAIL", "WAITING")]
    return found + [f"{path} is left" for path in (second / "trials").rglob(".*") if path.is_file()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench faults")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=2, help="of the cluster, 0: what the driver starts")
    arguments = parser.parse_args()
    print(describe_machine())
    rng = random.Random(arguments.seed)  # noqa: S311
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        output, nodes = Path(place), stack.enter_context(Nodes(arguments.nodes)) if arguments.nodes else None
        kills = rng.choices(OF_A_CLUSTER, (3, 3, 1, 3), k=arguments.kills) if nodes else rng.choices(VICTIMS, k=arguments.kills)
        data = generate(output / "data", cases=16, images=2, size=32, seed=0)
        search(data, output, "peace", arguments.trials, [], rng, nodes=nodes)
        done = search(data, output, "war", arguments.trials, kills, rng, nodes=nodes)
        found = differences(output / "peace", output / "war")
        records = read_trials(output / "war")
    kinds = ", ".join(f"{count} {victim}" for victim, count in done.items())
    print(f"{sum(done.values())} kills ({kinds}) in a search of {len(records)} trials: {len(found)} differences")
    print("\n".join(found))


if __name__ == "__main__":
    main()
