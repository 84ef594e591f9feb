"""SIGKILL to a worker, to the driver, and to everything: the study ends as if nothing had happened."""

import random

import pytest

from bench.faults import VICTIMS, differences, search
from data.synthetic import generate


@pytest.mark.slow
def test_a_search_that_is_killed_three_times_ends_with_the_numbers_of_one_left_in_peace(tmp_path):
    data, rng = generate(tmp_path / "data", cases=16, images=2, size=32, seed=0), random.Random(0)  # noqa: S311
    search(data, tmp_path, "peace", 6, [], rng)
    done = search(data, tmp_path, "war", 6, list(VICTIMS), rng, most_lines=2)
    assert sum(done.values()) == 3
    assert differences(tmp_path / "peace", tmp_path / "war") == []
