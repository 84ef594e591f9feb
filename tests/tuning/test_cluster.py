"""What trials on one machine share."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console

from data.errors import InputError
from tests.mmnet.tiny import deal, feature_dataset, tiny_config
from tests.test_imports import ROOT
from tuning.capacity import Capacity, Node
from tuning.cluster import resources, shareable
from tuning.settings import StudySettings


@pytest.mark.parametrize("what", ["features", "images"])
def test_memory_mapped_arrays_are_handed_over_outside_the_pickle(tmp_path, what):
    """Ray puts such buffers into shared memory; what stands in the pickle itself, every process copies."""
    dataset = feature_dataset()
    np.save(tmp_path / "array.npy", np.zeros((len(dataset.table), 8, 5, 5), dtype=np.float16))  # a size that nothing else has
    mapped = dataclasses.replace(dataset, **{what: np.load(tmp_path / "array.npy", mmap_mode="r")})
    size = getattr(mapped, what).nbytes

    def outside(dataset):
        buffers: list[pickle.PickleBuffer] = []
        pickle.dumps(dataset, protocol=5, buffer_callback=buffers.append)
        return [buffer.raw().nbytes for buffer in buffers]

    assert size in outside(shareable(mapped)) and size not in outside(mapped)
    assert np.shares_memory(getattr(shareable(mapped), what), getattr(mapped, what))


def planned(monkeypatch, capacity, console=None, **settings):
    """What a trial gets of a cluster of this capacity, and how many trials run at once."""
    monkeypatch.setattr("tuning.cluster.measure", lambda: capacity)
    dataset = feature_dataset()
    return resources(StudySettings("s", 1, **settings), tiny_config({"model.frozen": True}), dataset, deal(dataset), console)


def still(*nodes):
    """A cluster that does not grow."""
    return Capacity(nodes, nodes)


@pytest.mark.parametrize(
    ("have", "settings", "expected"),
    [
        ([Node(8, 0)], {}, ({"cpu": 1, "gpu": 0.0}, 8)),
        ([Node(8, 0)], {"cpus_per_trial": 3}, ({"cpu": 3, "gpu": 0.0}, 2)),
        ([Node(8, 0)], {"concurrency": 3}, ({"cpu": 1, "gpu": 0.0}, 3)),
        ([Node(2, 0)], {"concurrency": 3}, ({"cpu": 1, "gpu": 0.0}, 2)),
        ([Node(8, 0)], {"gpus_per_trial": "auto"}, ({"cpu": 1, "gpu": 0.0}, 8)),  # there is no GPU to share
        ([Node(8, 2)], {}, ({"cpu": 1, "gpu": 1.0}, 2)),
        ([Node(8, 2)], {"gpus_per_trial": 0.1}, ({"cpu": 1, "gpu": 0.1}, 8)),
        ([Node(4, 0), Node(8, 2)], {}, ({"cpu": 1, "gpu": 1.0}, 2)),
        ([Node(3, 0), Node(3, 0)], {"cpus_per_trial": 2}, ({"cpu": 2, "gpu": 0.0}, 2)),  # not 3: no trial lies on two nodes
    ],
)
def test_as_many_trials_run_at_once_as_cores_and_gpus_carry(monkeypatch, capsys, have, settings, expected):
    assert planned(monkeypatch, still(*have), Console(width=200), **settings) == expected
    assert capsys.readouterr().out == ""  # none waits for a node


def test_a_trial_that_no_node_can_carry_is_an_error(monkeypatch):
    with pytest.raises(InputError, match="no node carries a trial, the largest has 2 CPUs and 0 GPUs; ask for less"):
        planned(monkeypatch, still(Node(2, 0), Node(2, 0)), cpus_per_trial=4)


GROWING = Capacity(now=(Node(0, 0),), most=(Node(0, 0), *[Node(8, 1)] * 4))  # cluster.yaml, just started


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ({"cpu": 1, "gpu": 1.0}, 4)),
        ({"gpus_per_trial": 0.25}, ({"cpu": 1, "gpu": 0.25}, 16)),
        ({"gpus_per_trial": 0}, ({"cpu": 1, "gpu": 0.0}, 32)),
        ({"concurrency": 2}, ({"cpu": 1, "gpu": 1.0}, 2)),
        ({"concurrency": 9}, ({"cpu": 1, "gpu": 1.0}, 4)),
    ],
)
def test_nodes_that_the_autoscaler_may_add_count(monkeypatch, capsys, settings, expected):
    assert planned(monkeypatch, GROWING, Console(width=200), **settings) == expected
    assert f"0 of {expected[1]} trials at once fit on the nodes that run now" in capsys.readouterr().out


def test_what_no_node_could_ever_carry_is_an_error_also_on_a_growing_cluster(monkeypatch):
    with pytest.raises(InputError, match="--gpus-per-trial 2: no node carries a trial, the largest has 8 CPUs and 1 GPUs; ask for less"):
        planned(monkeypatch, GROWING, gpus_per_trial=2)


def test_where_the_autoscaler_says_nothing_what_is_asked_for_is_believed(monkeypatch):
    nothing = Capacity((Node(0, 0),), (Node(0, 0),), unknown=True)
    assert planned(monkeypatch, nothing, gpus_per_trial=0.5, concurrency=8) == ({"cpu": 1, "gpu": 0.5}, 8)
    for half_said in ({"concurrency": 8}, {"gpus_per_trial": 0.5}, {"gpus_per_trial": "auto", "concurrency": 8}):
        with pytest.raises(InputError, match="give --gpus-per-trial and --concurrency as numbers"):
            planned(monkeypatch, nothing, **half_said)


LOCAL = """
import json
from tuning.cluster import joining

with joining(None) as connected:
    connected.result()
    import ray
    import psutil  # Ray brings it
    from ray._common.usage.usage_lib import usage_stats_enabled
    class Trial:
        def train(self):
            pass
    trial = ray.remote(runtime_env={"env_vars": {"AS": "Tune"}})(Trial).remote()  # a worker listens too
    ray.get(trial.train.remote())
    addresses, commands = [], []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            commands.append(" ".join(process.cmdline()))
            addresses += [socket.laddr.ip for socket in process.net_connections("tcp") if socket.status == psutil.CONN_LISTEN]
        except psutil.NoSuchProcess:
            pass
    print(json.dumps({"addresses": addresses, "commands": commands, "statistics": usage_stats_enabled()}))
"""


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory):
    """What LOCAL says of Ray as a search starts it on one machine, and its home folder."""
    home = tmp_path_factory.mktemp("home")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"OMP_NUM_THREADS": "1", "HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", LOCAL], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), home


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_on_this_machine_listens_on_loopback_only_with_a_token_of_its_own_and_sends_no_statistics(local_ray):
    found, home = local_ray
    assert len(found["addresses"]) >= 5 and set(found["addresses"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert not found["statistics"]
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_on_this_machine_starts_no_process_that_a_search_has_no_use_for(local_ray):
    commands = local_ray[0]["commands"]
    assert sum(command.startswith("ray::Trial") for command in commands) == 1
    programs = [word for command in commands for word in command.split()[:3]]
    assert not [program for program in programs if program == "ray::IDLE" or program.endswith(("default_worker.py", "monitor.py"))]
