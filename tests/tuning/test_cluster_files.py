"""cluster.yaml and clusters/: Ray's own schema takes them, they let nobody in, and they install what is pinned."""

import copy
import re
import subprocess

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


@launched
def test_rays_schema_would_see_a_misspelt_key(path):
    with pytest.raises(Exception, match="were unexpected|was unexpected"):
        validate_config(prepare_config(read(path) | {"max_wokers": 2}))


@launched
def test_only_who_has_the_token_gets_an_answer(path):
    cluster = read(path)
    assert len(starts(cluster)) == 2
    assert all(re.search(r"RAY_AUTH_MODE=token [^;&]*ray start", line) for line in starts(cluster))
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert cluster["setup_commands"][0] == "chmod 600 ~/.ray/auth_token"
    assert "export RAY_AUTH_MODE=token" in (ROOT / "clusters" / "environment.sh").read_text()


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


@launched
def test_ray_exec_and_ray_submit_find_python(path):
    assert any("environment.sh' >> ~/.bashrc" in command for command in read(path)["setup_commands"])
    lines = (ROOT / "clusters" / "environment.sh").read_text()
    assert 'PATH="$HOME/mmnet-tune/.venv/bin:$PATH"' in lines and 'PYTHONPATH="$HOME/mmnet-tune"' in lines


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


def test_the_slurm_script_asks_for_a_token_of_its_own():
    script = ROOT / "clusters" / "slurm.sh"
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    text = script.read_text()
    assert text.index("RAY_AUTH_MODE=token") < text.index("ray symmetric-run") and "umask 077" in text
    assert "RAY_USAGE_STATS_ENABLED=0" in text and "--exclusive" in text
