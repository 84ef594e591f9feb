"""A search on a cluster that has no worker yet: nodes come because trials wait, and go when nothing is left to do."""

import json
from pathlib import Path

import pytest
import ray

from tests.test_imports import ROOT
from tests.tuning.ssh_hosts import Machine, machines, missing
from tests.tuning.test_two_machines import ENVIRONMENT, SEARCH, check_study, start_ray, wait

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("nodes"), pytest.mark.skipif(missing() != "", reason=missing())]
HEAD = "f" * 51 + "00000"  # how Ray's fake provider, whose nodes are processes, calls its head
CLUSTER = {
    "cluster_name": "fake",
    "max_workers": 2,
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 1.0,
    "provider": {"type": "fake_multinode", "launch_multiple": True, "head_node_id": HEAD},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1, "object_store_memory": 100_000_000}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    **{part: {} for part in ("auth", "docker", "file_mounts")},
    **{f"{part}_commands": [] for part in ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")},
    **{part: [] for part in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    "file_mounts_sync_continuously": False,
}
FAKE = f"RAY_FAKE_CLUSTER=1 AUTOSCALER_UPDATE_INTERVAL_S=1 RAY_enable_autoscaler_v2=1 RAY_CLOUD_INSTANCE_ID={HEAD} RAY_OVERRIDE_NODE_ID_FOR_TESTING={HEAD}"
COUNT = 'import ray; ray.init("auto", log_to_driver=False); nodes = ray.nodes(); print("NODES", sum(n["Alive"] for n in nodes), len(nodes))'


def nodes(cloud: Machine) -> tuple[int, ...]:
    """(nodes that run, nodes that ever ran), the head among them."""
    shown = cloud.run(f"{ENVIRONMENT}/bin/python -c '{COUNT}'", 120).stdout
    return tuple(int(word) for word in shown.rpartition("NODES ")[2].split()[:2])


def test_nodes_come_when_trials_wait_and_go_when_none_are_left(tmp_path):
    with machines(tmp_path / "net", "cloud") as (cloud,):
        (cloud.home / "cluster.yaml").write_text(json.dumps(CLUSTER))
        # Ray's wheel lacks the file of defaults of its fake provider: put it there, as this machine alone sees it
        (cloud.home / "fake").mkdir()
        (cloud.home / "fake" / "example.yaml").write_text(json.dumps(CLUSTER))
        place = Path(ray.__file__).parent / "autoscaler" / "_private" / "fake_multi_node"
        completed = cloud.run(f"cp -rn {place}/* ~/fake/ && mount --bind ~/fake {place}", 60)
        assert completed.returncode == 0, completed.stdout
        options = "--head --num-cpus=0 --object-store-memory=200000000 --dashboard-host=127.0.0.1 --autoscaling-config=~/cluster.yaml"
        start_ray(cloud, f"{FAKE} RAY_AUTH_MODE=disabled", options)
        assert nodes(cloud) == (1, 1)

        search = f"{ENVIRONMENT}/bin/python tune_mmnet.py --address auto --output /run/shared {' '.join(SEARCH)}"
        done = cloud.run(f"cd {ROOT} && RAY_AUTH_MODE=disabled {search}", 600)
        assert done.returncode == 0, done.stdout[-3000:]
        assert "0 of 2 trials at once fit on the nodes that run now" in done.stdout
        check_study(tmp_path / "net" / "shared" / "s")
        assert nodes(cloud)[1] == 3
        assert wait(120, lambda: nodes(cloud) == (1, 3)), "idle nodes stayed"

        refused = cloud.run(f"cd {ROOT} && RAY_AUTH_MODE=disabled {search.replace('--name s', '--name t')} --cpus-per-trial 2", 300)
        assert refused.returncode == 2 and "no node carries a trial, the largest has 1 CPUs and 0 GPUs" in refused.stdout
