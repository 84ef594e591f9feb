"""What a cluster carries."""

import pytest
import yaml

from tests.test_imports import ROOT
from tuning.capacity import Node, carried, workers


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
    assert workers(cluster) == [Node(8, 1)] * 8  # the head and the kind that is switched off are not in it
    small = {"resources": {"CPU": 2}}
    cluster["available_node_types"]["small"] = small
    assert workers(cluster) == [Node(8, 1)] * 8  # as many as max_workers, the most capable ones
    assert workers(cluster | {"max_workers": 9}) == [Node(8, 1)] * 8 + [Node(2, 0)]
