"""What a cluster carries."""

import pytest
import yaml

from tests.test_imports import ROOT
from tuning.capacity import Capacity, Node, carried, workers


@pytest.mark.parametrize(
    ("node", "cpus", "gpus", "expected"),
    [
        (Node(8, 0), 1, 0, 8),
        (Node(8, 0), 1, 0.5, 0),
        (Node(8, 2), 1, 0.5, 4),
        (Node(8, 2), 1, 0.4, 4),  # two on each GPU: the 0.2 that each has left are not one share
        (Node(8, 2), 3, 0.1, 2),
        (Node(8, 4), 1, 2, 2),
        (Node(0.3, 0), 0.1, 0, 3),
    ],
)
def test_a_node_carries_whole_trials(node, cpus, gpus, expected):
    assert node.trials(cpus, gpus) == expected


def test_trials_are_not_divided_among_nodes():
    assert carried([Node(3, 0), Node(3, 0)], 2, 0) == 2


def test_a_cluster_file_says_what_may_come():
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert workers(cluster | {"max_workers": 20}) == [Node(8, 1)] * 8  # neither the head nor the kind that is switched off
    many_cores = {"resources": {"CPU": 64}}  # as many of them as max_workers
    cluster["available_node_types"] = {"many_cores": many_cores} | cluster["available_node_types"]
    assert workers(cluster) == [Node(8, 1)] * 8  # those with GPUs before all others
    assert workers(cluster | {"max_workers": 10}) == [Node(8, 1)] * 8 + [Node(64, 0)] * 2


def test_what_runs_counts_also_where_the_autoscaler_would_not_start_it_again():
    assert Capacity(now=(Node(8, 0),) * 3, most=(Node(8, 0),)).trials(4, 0) == 6
    assert Capacity(now=(Node(8, 0),), most=(Node(8, 0),) * 3).trials(4, 0) == 6
