"""SIGKILL to a worker, to the driver, to a node, and to everything, a node that is cut off: the study ends as if nothing had happened."""

import random

import pytest

from bench.faults import OF_A_CLUSTER, VICTIMS, differences, otherwise, search
from bench.ray_nodes import Nodes
from data.synthetic import generate

pytestmark = pytest.mark.slow


def test_a_search_that_is_killed_three_times_ends_with_the_numbers_of_one_left_in_peace(tmp_path):
    data, rng = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0), random.Random(0)  # noqa: S311
    search(data, tmp_path, "peace", 6, [], rng)
    done = search(data, tmp_path, "war", 6, list(VICTIMS), rng)
    assert sum(done.values()), done
    assert differences(tmp_path / "peace", tmp_path / "war") == []


def test_so_does_one_whose_nodes_die_or_are_cut_off_and_come_back(tmp_path):
    data, rng = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0), random.Random(0)  # noqa: S311
    with Nodes(2) as nodes:
        search(data, tmp_path, "peace", 8, [], rng, nodes=nodes)
        done = search(data, tmp_path, "war", 8, ["split", *OF_A_CLUSTER], rng, nodes=nodes)
    assert done["split"], done  # a quick machine ends the search before the other kills
    assert differences(tmp_path / "peace", tmp_path / "war") == []
    assert otherwise(tmp_path / "war", 8) == []


def test_of_several_trials_at_once_each_has_the_numbers_of_its_configuration(tmp_path):
    data, rng = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0), random.Random(1)  # noqa: S311
    with Nodes(2) as nodes:
        done = search(data, tmp_path, "war", 8, [*OF_A_CLUSTER], rng, nodes=nodes, concurrency=2)
    assert sum(done.values()), done
    assert otherwise(tmp_path / "war", 8) == []
