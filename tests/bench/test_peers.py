"""The other libraries play by the table's rules."""

import numpy as np
import pytest

from bench.peers import PEERS, Tpe
from bench.recorded import Table, percentiles
from bench.simulation import Pool, simulate


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    points = generator.random((30, 2))
    points[:, 1] = np.round(points[:, 1] * 3) / 3
    scores = 0.5 + points[:, :1] - 0.01 * np.arange(9)
    return Table(points, (0, 4), scores, percentiles(scores[:, -1]), folds=1)


def test_tpe_learns_the_parameters_of_the_configuration_that_stood_in(table):
    tpe = Tpe(Pool(table), 0)
    row = tpe.begin()
    assert tpe.study.trials[0].params == {"x0": table.points[row, 0], "x1": round(table.points[row, 1] * 3)}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_finds_the_best_when_it_may_train_everything(name, table):
    assert simulate(table, PEERS[name](Pool(table), 0), 2, [30 * 9]) == [0]


@pytest.mark.parametrize("name", PEERS)
def test_the_same_seed_gives_the_same_recommendations(name, table):
    looks = [10, 20, 40]
    assert simulate(table, PEERS[name](Pool(table), 3), 1, looks) == simulate(table, PEERS[name](Pool(table), 3), 1, looks)
