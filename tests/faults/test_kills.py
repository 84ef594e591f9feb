"""SIGKILL to a worker, to the driver, to a node, and to everything: the study ends as if nothing had happened."""

import random

import pytest

from bench.faults import OF_A_CLUSTER, VICTIMS, differences, search
from bench.ray_nodes import Nodes
from data.synthetic import generate

pytestmark = pytest.mark.slow


def test_a_search_that_is_killed_three_times_ends_with_the_numbers_of_one_left_in_peace(tmp_path):
    data, rng = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0), random.Random(0)  # noqa: S311
    search(data, tmp_path, "peace", 6, [], rng)
    done = search(data, tmp_path, "war", 6, list(VICTIMS), rng)
    assert sum(done.values()) == 3
    assert differences(tmp_path / "peace", tmp_path / "war") == []


def test_so_does_one_whose_nodes_die(tmp_path):
    data, rng = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0), random.Random(0)  # noqa: S311
    with Nodes(2) as nodes:
        search(data, tmp_path, "peace", 6, [], rng, nodes=nodes)
        done = search(data, tmp_path, "war", 6, ["node", *OF_A_CLUSTER], rng, nodes=nodes)
    assert done == {"node": 2, "worker": 1, "driver": 1, "everything": 1}
    assert differences(tmp_path / "peace", tmp_path / "war") == []
