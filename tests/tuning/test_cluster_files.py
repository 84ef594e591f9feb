"""cluster.yaml and clusters/: Ray's own schema takes them, they let nobody in, and they install what is pinned."""

import copy
import os
import re
import subprocess
import sys

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.test_imports import MAY, ROOT

FILES = [ROOT / "cluster.yaml", *sorted(path for path in (ROOT / "clusters").glob("*.yaml") if path.name != "kuberay.yaml")]
CLOUDS = [path for path in FILES if path.name != "local.yaml"]
launched = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
PARTS = {*MAY, "configs", "tune_mmnet.py", "main.py", "eval.py"}  # of the project, beside its tests and measurements


def read(path):
    return yaml.safe_load(path.read_text())


def starts(cluster):
    return [line for name in ("head", "worker") for line in cluster[f"{name}_start_ray_commands"] if "ray start" in line]


def pinned(name):
    """Package (with its extras) -> version of a requirements file."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


def test_every_cluster_file_is_looked_at():
    assert {path.name for path in FILES} == {"cluster.yaml", "gcp.yaml", "local.yaml"}


@launched
def test_rays_schema_takes_it(path):
    validate_config(prepare_config(copy.deepcopy(read(path))))


def test_rays_schema_would_see_a_misspelt_key():
    with pytest.raises(Exception, match="were unexpected|was unexpected"):
        validate_config(prepare_config(read(ROOT / "cluster.yaml") | {"max_wokers": 2}))


@launched
def test_only_who_has_the_token_gets_an_answer(path):
    cluster = read(path)
    assert len(starts(cluster)) == 2
    assert all(re.search(r"RAY_AUTH_MODE=token [^;&]*ray start", line) for line in starts(cluster))
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert cluster["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"


@pytest.mark.parametrize("path", sorted({ROOT / "cluster.yaml", *(ROOT / "clusters").iterdir()}), ids=lambda path: path.name)
def test_nothing_listens_for_the_whole_world(path):
    assert "0.0.0.0" not in path.read_text()


def test_the_dashboard_listens_on_the_heads_loopback_only():
    heads = [line for path in FILES for line in starts(read(path)) if "--head" in line]
    slurm = (ROOT / "clusters" / "slurm.sh").read_text()
    command = slurm[slurm.index("ray symmetric-run") :].partition(" -- ")[0]
    assert len(heads) == len(FILES) and all("--dashboard-host=127.0.0.1 " in f"{text} " for text in (*heads, command))


def test_aws_lets_in_ssh_only():
    """Without rules of its own, Ray's group lets in SSH from outside and everything between its members."""
    cluster = read(ROOT / "cluster.yaml")
    assert set(cluster["provider"]["security_group"]) == {"GroupName"}
    assert not any("SecurityGroupIds" in kind["node_config"] for kind in cluster["available_node_types"].values())


@launched
def test_nothing_is_reported_to_rays_makers(path):
    assert all(re.search(r"RAY_USAGE_STATS_ENABLED=0 [^;&]*ray start", line) for line in starts(read(path)))


@launched
def test_nodes_install_what_is_pinned_and_nothing_else(path):
    cluster = read(path)
    commands = [*cluster["setup_commands"], *cluster["head_setup_commands"], *cluster["worker_setup_commands"]]
    assert "cd ~/mmnet-tune && MMNET_CLUSTER=1 bash setup.sh" in commands
    assert not any("pip" in command for command in commands)


def test_a_cluster_runs_the_ray_that_a_laptop_runs():
    version = pinned("requirements.txt")["ray[tune]"]
    assert pinned("requirements-cluster.txt")["ray[default]"] == version
    assert read_kuberay()["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"FROM rayproject/ray:{version}-py311\n" in (ROOT / "clusters" / "Dockerfile").read_text()


@launched
def test_the_whole_program_is_copied_and_no_data_set(path):
    mounts = read(path)["file_mounts"]
    here = {remote.removeprefix("~/mmnet-tune/"): local for remote, local in mounts.items() if remote.startswith("~/mmnet-tune/")}
    assert PARTS | {"clusters", "setup.sh", "requirements.txt", "requirements-cluster.txt"} == set(here)
    assert all((ROOT / local).exists() and local == remote for remote, local in here.items())
    assert set(mounts) - {f"~/mmnet-tune/{part}" for part in here} == {"~/.ray/auth_token"}


def test_the_image_holds_the_whole_program_and_no_data_set():
    lines = [line.split() for line in (ROOT / "clusters" / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    assert {source for line in lines for source in line[1:-1]} == PARTS | {"requirements.txt", "requirements-cluster.txt"}
    folders = [line[1:] for line in lines if line[-1] != "./"]  # a folder that is copied to ./ is not there: what is in it is
    assert sorted(folders) == [[part, part] for part in sorted(PARTS) if (ROOT / part).is_dir()]


@launched
def test_every_shell_on_a_node_reads_the_environment(path):
    assert any("environment.sh' >> ~/.bashrc" in command for command in read(path)["setup_commands"])


def test_ray_exec_and_ray_submit_find_python_send_the_token_and_report_nothing():
    script = ROOT / "clusters" / "environment.sh"
    before = {"HOME": "/home/x", "PATH": "/bin:/usr/bin"}
    done = subprocess.run(["bash", "-c", f". '{script}'; env"], env=before, capture_output=True, text=True)
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert found["PATH"] == "/home/x/mmnet-tune/.venv/bin:/bin:/usr/bin" and found["PYTHONPATH"] == "/home/x/mmnet-tune"
    assert found["RAY_AUTH_MODE"] == "token" and found["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("path", CLOUDS, ids=lambda path: path.name)
def test_gpus_come_when_trials_wait_and_the_head_trains_nothing(path):
    cluster = read(path)
    kinds = cluster["available_node_types"]
    spot, full_price = kinds["gpu_spot"], kinds["gpu_on_demand"]
    assert kinds[cluster["head_node_type"]]["resources"]["CPU"] == 0
    assert all(kind["resources"]["cents_per_hour"] > 0 for kind in kinds.values())  # what --max-cost counts
    assert spot["min_workers"] == 0 and spot["max_workers"] == cluster["max_workers"] > 0 and spot["resources"]["GPU"] == 1
    assert full_price["max_workers"] == 0 and spot["priority"] > full_price["priority"]
    assert cluster["idle_timeout_minutes"] == 5 and cluster["max_workers"] == 8


def test_on_premise_all_workers_start():
    """Ray 2.60's second autoscaler starts only the first worker of the provider `local`."""
    head, _ = starts(read(ROOT / "clusters" / "local.yaml"))
    assert re.search(r"RAY_enable_autoscaler_v2=0 [^;&]*ray start --head", head)


def read_kuberay():
    return next(iter(yaml.safe_load_all((ROOT / "clusters" / "kuberay.yaml").read_text())))


def test_the_rayjob_asks_for_a_token_and_keeps_the_data_set_on_the_head():
    job = read_kuberay()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["entrypoint"].startswith("python tune_mmnet.py --address auto ") and job["spec"]["shutdownAfterJobFinishes"]
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"} and cluster["enableInTreeAutoscaling"] is True
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert workers["minReplicas"] == 0 and f"--concurrency {workers['maxReplicas']}" in job["spec"]["entrypoint"]
    mounts = {}
    for name, group in (("head", head), ("worker", workers)):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == "registry.example.org/mmnet-tune:1"
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        mounts[name] = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {volume["name"] for volume in group["template"]["spec"]["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    assert mounts == {"head": {"/data", "/results"}, "worker": {"/results"}}


def test_on_kubernetes_a_policy_closes_the_pods():
    job, policy = yaml.safe_load_all((ROOT / "clusters" / "kuberay.yaml").read_text())
    pods = job["spec"]["rayClusterSpec"]
    groups = (pods["headGroupSpec"], *pods["workerGroupSpecs"])
    assert policy["kind"] == "NetworkPolicy" and policy["spec"]["policyTypes"] == ["Ingress"]
    assert all(group["template"]["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"] for group in groups)
    inside, outside = policy["spec"]["ingress"]
    assert inside["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    assert outside["ports"] == [{"protocol": "TCP", "port": 8265}]
    assert all("podSelector" in source for source in outside["from"])


# What stands in for Slurm's programs, for the clock, for Ray and for the search; the last two note what they are given.
NOW = 1_000_000
RAY = """
env >~/environment
ls -l "$RAY_AUTH_TOKEN_PATH" | cut -c 1-10 >~/token
cat "$RAY_AUTH_TOKEN_PATH" >>~/token
printf '%s\n' "$@" >~/ray
[ -n "${BROKEN:-}" ] && exit
while [[ $1 != -- ]]; do shift; done
"${@:2}"
"""
TOOLS = {
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "scontrol": "cat <<<$'head\\nworker'",  # in one write, as Slurm does: the script reads no more than the first line
    "hostname": "echo 10.0.0.1 10.0.0.2",
    "date": f"echo {NOW}",
    "ray": RAY,
    "python": f'[ "$1" = -c ] && exec {sys.executable} "$@"; printf "%s\\n" "$@" >~/search',
}


@pytest.fixture
def slurm(tmp_path):
    """Runs clusters/slurm.sh as a job of two machines, with `left` seconds where Slurm says when it ends."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name, text in TOOLS.items():
        (tmp_path / ".venv" / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / ".venv" / "bin" / name).chmod(0o755)
    (tmp_path / ".venv" / "bin" / "activate").touch()

    def run(*arguments, left=None, **environment):
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "head,worker", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "4"}
        if left is not None:
            job["SLURM_JOB_END_TIME"] = str(NOW + left)
        job |= {"HOME": str(tmp_path), "SLURM_SUBMIT_DIR": str(tmp_path), "PATH": f"{tmp_path}/.venv/bin:{os.environ['PATH']}"}
        command = ["bash", ROOT / "clusters" / "slurm.sh", *arguments]
        done = subprocess.run(command, env=job | environment, capture_output=True, text=True)
        assert list((tmp_path / ".ray").iterdir()) == []  # the job's secret ends with it
        return done

    return run


def told(path):
    return path.read_text().splitlines()


def test_a_slurm_job_has_a_token_of_its_own_that_nobody_else_reads(slurm, tmp_path):
    assert slurm().returncode == 0
    environment = dict(line.split("=", 1) for line in told(tmp_path / "environment"))
    assert environment["RAY_AUTH_MODE"] == "token" and environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["RAY_AUTH_TOKEN_PATH"] == f"{tmp_path}/.ray/mmnet-tune-7"
    rights, first = told(tmp_path / "token")
    assert slurm().returncode == 0
    assert rights == "-rw-------" and len(first) == 64 and told(tmp_path / "token")[1] != first
    assert "\n#SBATCH --exclusive " in (ROOT / "clusters" / "slurm.sh").read_text()  # Ray's end on a machine ends all Ray there


def test_a_slurm_job_starts_ray_on_all_its_machines_and_hands_its_arguments_to_the_search(slurm, tmp_path):
    assert slurm("--data", "a folder", "--trials", "200").returncode == 0
    own = told(tmp_path / "ray")
    own = own[: own.index("--")]
    assert own == ["symmetric-run", "--address", "10.0.0.1:20007", "--min-nodes", "2", "--num-cpus=4", "--dashboard-host=127.0.0.1"]
    assert told(tmp_path / "search") == ["tune_mmnet.py", "--address", "10.0.0.1:20007", "--data", "a folder", "--trials", "200"]


@pytest.mark.parametrize(("left", "budget"), [(43200, "42600s"), (1000, "500s")])
def test_a_search_stops_ten_minutes_before_its_slurm_job_is_ended_or_half_way_in_a_short_one(slurm, tmp_path, left, budget):
    assert slurm("--resume", left=left).returncode == 0
    assert told(tmp_path / "search")[-3:] == ["--time-budget", budget, "--resume"]


def test_a_slurm_job_whose_ray_does_not_start_fails(slurm):
    """`ray symmetric-run` reports success also then."""
    done = slurm(BROKEN="1")
    assert done.returncode == 1 and "Ray did not start" in done.stderr
