"""SIGKILL to a worker, to the driver, to a node, and to everything, a node that is cut off: the study ends as if nothing had happened."""

import random

import pytest

from bench.faults import OF_A_CLUSTER, VICTIMS, differences, otherwise, search
from bench.ray_nodes import Nodes
from data.synthetic import generate

pytestmark = pytest.mark.slow


def test_a_search_that_is_killed_three_times_ends_with_the_numbers_of_one_left_in_peace(tmp_path):
    data, rng = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0), random.Random(0)  # noqa: S311
    search(data, tmp_path, "peace", 16, [], rng)
    done = search(data, tmp_path, "war", 16, list(VICTIMS), rng)
    assert done == dict.fromkeys(VICTIMS, 1)
    assert differences(tmp_path / "peace", tmp_path / "war") == []


def test_so_does_one_whose_nodes_die_or_are_cut_off_and_come_back(tmp_path):
    data, rng = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0), random.Random(0)  # noqa: S311
    with Nodes(2) as nodes:
        search(data, tmp_path, "peace", 28, [], rng, nodes=nodes)
        done = search(data, tmp_path, "war", 28, list(OF_A_CLUSTER), rng, nodes=nodes)
    assert done == dict.fromkeys(OF_A_CLUSTER, 1)
    assert differences(tmp_path / "peace", tmp_path / "war") == []
    assert otherwise(tmp_path / "war", 28) == []


def test_of_several_trials_at_once_each_has_the_numbers_of_its_configuration(tmp_path):
    data, rng = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0), random.Random(1)  # noqa: S311
    with Nodes(2) as nodes:
        done = search(data, tmp_path, "war", 44, list(OF_A_CLUSTER), rng, nodes=nodes, concurrency=2)
    assert done == dict.fromkeys(OF_A_CLUSTER, 1)
    assert otherwise(tmp_path / "war", 44) == []
