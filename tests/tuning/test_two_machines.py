"""The cluster files on two machines that know nothing of each other but an address and a key: `ray up`, a search, `ray down`."""

import json
import secrets
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bench.faults import SEARCH as KILLED
from bench.ray_nodes import GIVEN_UP, descendants
from data.synthetic import generate
from study.records import read_trials
from tests.gate import Gate
from tests.test_imports import ROOT
from tests.test_verbs import SMALL
from tests.tuning.ssh_hosts import Machine, machines, missing

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nodes"), pytest.mark.skipif(missing() != "", reason=missing())]
ENVIRONMENT = Path(sys.prefix)
TRIES = 3  # of starting Ray: it gives its processes 15 s (fixed in its code), too little where much else runs
NODE = "--num-cpus=1 --object-store-memory=200000000"
SEARCH = ("--data", "synthetic", "--space", "smoke", "--trials", "6", "--name", "s", *SMALL)


def install(machine: Machine) -> None:
    """The environment that the tests run in, as if setup.sh had made it there: it takes minutes and needs a network."""
    place = machine.home / "mmnet-tune" / ".venv"
    place.mkdir(parents=True)
    for part in ENVIRONMENT.iterdir():
        if part.name != "installed.sum":
            (place / part.name).symlink_to(part)
    files = ("requirements.txt", "requirements-cluster.txt")
    (place / "installed.sum").write_bytes(subprocess.run(["cksum", *files], cwd=ROOT, capture_output=True, check=True).stdout)


def cluster_file(head: Machine, worker: Machine) -> str:
    """clusters/local.yaml with what it says to replace, and a core for each node."""
    cluster = yaml.safe_load((ROOT / "clusters" / "local.yaml").read_text())
    cluster["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address]}
    cluster["auth"] = {"ssh_user": "root", "ssh_private_key": "/run/machine/key"}
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        commands[1] = commands[1].replace("ray start ", f"ray start {NODE} ")
    return yaml.safe_dump(cluster)


def start_ray(machine: Machine, setting: str, options: str) -> None:
    """`ray start` with environment variables, so that a busy machine has several tries."""
    for _ in range(TRIES):
        started = machine.run(f"export {setting} PATH={ENVIRONMENT}/bin:$PATH; ray start {options}", 300)
        if started.returncode == 0:
            return
        machine.run(f"{ENVIRONMENT}/bin/ray stop", 120)
    raise AssertionError(started.stdout)


def wait(seconds: float, condition) -> bool:
    """Whether something became true in time."""
    deadline = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(1)
    return bool(true)


def trained_on(machine: Machine) -> bool:
    return any("MMNetTrainable" in log.read_text() for log in machine.folder.glob("tmp/ray/session_2*/logs/worker-*.out"))


def check_study(folder: Path) -> None:
    records = read_trials(folder)
    assert len(records) == 6 and {record.status for record in records} <= {"done", "stopped"}
    assert (folder / "best_config.yaml").exists()


def test_ray_up_a_search_on_both_machines_and_ray_down(tmp_path):
    with machines(tmp_path / "net", "laptop", "head", "worker") as (laptop, head, worker):

        def ray(words: str, tries: int = 1) -> str:
            done = laptop.run(f"cd {ROOT} && PATH={ENVIRONMENT / 'bin'}:$PATH ray {words}", timeout=600)
            if done.returncode != 0 and tries > 1:
                return ray(words, tries - 1)
            assert done.returncode == 0, done.stdout[-3000:]
            return done.stdout

        install(head)
        install(worker)
        (laptop.home / "cluster.yaml").write_text(cluster_file(head, worker))
        ray("get-auth-token --generate")
        ray("up --yes ~/cluster.yaml", TRIES)
        try:
            assert wait(120, lambda: worker.processes("raylet/raylet")), "the worker did not start"
            assert (head.home / ".ray" / "auth_token").stat().st_mode & 0o77 == 0

            # who has no token gets no answer, also when nothing but Ray's port stands between
            asked = laptop.run(f"RAY_AUTH_MODE=disabled {ENVIRONMENT / 'bin' / 'ray'} status --address {head.address}:6379", 120)
            assert asked.returncode != 0 and "Unauthenticated" in asked.stdout, asked.stdout

            seen = 'import ray, mmnet; ray.init("auto"); print(mmnet.__file__, len(ray.nodes()), "nodes")'
            asks = f"exec ~/cluster.yaml {shlex.quote(f'python -c {shlex.quote(seen)}')}"
            assert wait(120, lambda: "/mmnet-tune/mmnet/__init__.py 2 nodes" in ray(asks)), ray(asks)  # its process runs before it is one
            ray(f"submit ~/cluster.yaml tune_mmnet.py -- --address auto --output /run/shared {' '.join(SEARCH)}")
            check_study(tmp_path / "net" / "shared" / "s")
            assert trained_on(head) and trained_on(worker)
            # the data set was read on the head only; the worker got what it needs through Ray
            assert (head.home / ".cache" / "mmnet-tune").exists() and not (worker.home / ".cache").exists()
        finally:
            ray("down --yes ~/cluster.yaml")
        assert wait(240, lambda: not head.processes("ray/") and not worker.processes("ray/")), worker.processes("ray/")


SRUN = """#!/bin/bash
# As Slurm's: runs a command on the machines of the job, or on the one that is named, with this environment, in this folder.
machines="head worker"
while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && machines=${1#--nodelist=}; shift; done
export -p >/run/shared/environment
printf -v command '%q ' "$@"
pids=()
for machine in $machines; do
  ssh -n -i /run/machine/key -o StrictHostKeyChecking=no -o LogLevel=ERROR "$machine" ". /run/shared/environment; cd $PWD; $command" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=$?; done
exit $status
"""


def test_slurms_script_starts_ray_on_all_machines_and_ends_it(tmp_path):
    with machines(tmp_path / "net", "head", "worker") as (head, worker):
        shared = tmp_path / "net" / "shared"
        for folder in ("bin", "user", "project"):
            (shared / folder).mkdir()
        for part in ("tune_mmnet.py", "clusters"):
            (shared / "project" / part).symlink_to(ROOT / part)
        (shared / "project" / ".venv").symlink_to(ENVIRONMENT)
        for name, text in {"srun": SRUN, "scontrol": "#!/bin/sh\necho head\necho worker\n"}.items():
            (shared / "bin" / name).write_text(text)
            (shared / "bin" / name).chmod(0o755)
        job = {
            "HOME": "/run/shared/user",
            "SLURM_SUBMIT_DIR": "/run/shared/project",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "head,worker",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_JOB_END_TIME": str(int(time.time()) + 3600),
            "PATH": "/run/shared/bin:$PATH",
        }
        setting = " ".join(f"{name}={value}" for name, value in job.items())
        for _ in range(TRIES):
            done = head.run(f"{setting} bash {ROOT}/clusters/slurm.sh --output /run/shared {' '.join(SEARCH)}", timeout=900)
            if "Ray did not start" not in done.stdout:
                break
        assert done.returncode == 0, done.stdout[-3000:]
        check_study(shared / "s")
        assert trained_on(head) and trained_on(worker)
        assert list((shared / "user" / ".ray").iterdir()) == []  # the job's secret ended with it
        assert wait(240, lambda: not head.processes("ray/") and not worker.processes("ray/")), worker.processes("ray/")


TRIALS = 6
DEAD = 'import ray; ray.init("auto", log_to_driver=False); print(sum(not node["Alive"] for node in ray.nodes()), "dead")'
JUDGE = "import json; from pathlib import Path; from bench.faults import otherwise; print(json.dumps(otherwise(Path('/run/shared/s'), {})))"


def test_a_machine_whose_link_goes_down_and_comes_back_costs_no_trial_and_changes_no_number(tmp_path):
    """Cut off, it goes on by itself and still writes to the shared folder, while another has its trial."""
    with machines(tmp_path / "net", "head", "first", "second") as (head, first, second):
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "OMP_NUM_THREADS": "1"} | GIVEN_UP
        setting = " ".join(f"{name}={value}" for name, value in settings.items())

        def run(machine: Machine, words: str) -> subprocess.CompletedProcess[str]:
            return machine.run(f"cd {ROOT}; export {setting} PATH={ENVIRONMENT}/bin:$PATH; {words}", 300)

        joins = f"--address={head.address}:6379 {NODE}"
        begins = f"--head {NODE.replace('cpus=1', 'cpus=0')} --dashboard-host=127.0.0.1"
        for machine, words in ((head, begins), (first, joins), (second, joins)):
            start_ray(machine, setting, f"--node-ip-address={machine.address} {words}")
        shared = tmp_path / "net" / "shared"
        generate(shared / "data", patients=16, images=2, size=32, seed=0)
        place = f"--address {head.address}:6379 --data /run/shared/data --output /run/shared --name s"
        words = f"{place} --trials {TRIALS} {' '.join(KILLED)} --concurrency 2"
        with Gate(shared, "/run/shared") as gate:
            run(head, f"(python -u -m tests.gate {gate.place} tune_mmnet.py {words}; echo status $?) >/run/shared/said 2>&1 &")

            def said() -> str:
                return (shared / "said").read_text()

            while gate.after(0) not in descendants(first.process):
                pass
            run(first, "ip link set eth0 down")
            assert wait(120, lambda: "1 dead" in run(head, f"python -c '{DEAD}'").stdout), said()
            while gate.after(0) in descendants(first.process):
                pass  # cut off, it trains what it has
            run(first, "ip link set eth0 up")
            assert "status" not in said(), "the search ended before the machine was back"
            gate.open()
            assert wait(300, lambda: "status" in said()), said()
        assert said().endswith("status 0\n"), said()
        assert wait(120, lambda: not first.processes("raylet/raylet")), "who was held to be dead goes on"
        judged = run(head, f'python -c "{JUDGE.format(TRIALS)}"')
        assert json.loads(judged.stdout.splitlines()[-1]) == [], judged.stdout
