"""The other libraries play by the table's rules, and so does the product itself."""

from dataclasses import replace

import numpy as np
import pytest
from optuna.trial import TrialState

from bench.peers import PEERS, Tpe, Wilcoxon
from bench.product import Product
from bench.recorded import Table
from bench.simulation import Pool, simulate
from tests.bench.made_up import replicate
from tuning.searcher import all_trials

NEED = {"DEHB": "dehb", **dict.fromkeys(("Syne Tune ASHA", "Syne Tune PASHA", "Syne Tune BOHB"), "syne_tune")}
AT_HAND = [name for name in PEERS if not name.startswith(("DEHB", "Syne Tune"))]


@pytest.fixture
def table():
    generator = np.random.default_rng(0)
    points = generator.random((30, 2))
    points[:, 1] = np.round(points[:, 1] * 3) / 3
    scores = 0.5 + points[:, :1] - 0.01 * np.arange(9)
    return Table(points, (0, 4), scores, *replicate(scores[:, -1]), scores[:, -1:])


def recorded(table, row):
    return {"x0": table.points[row, 0], "x1": round(table.points[row, 1] * 3)}


def test_tpe_learns_the_parameters_of_the_configuration_that_stood_in(table):
    tpe = Tpe(Pool(table), 0)
    row = tpe.begin()
    assert tpe.study.trials[0].params == recorded(table, row)


@pytest.mark.parametrize("name", [name for name in NEED if name != "DEHB"])
def test_syne_tune_trains_and_learns_the_configurations_that_stood_in(name, table):
    pytest.importorskip(NEED[name])
    method = PEERS[name](Pool(table), 0)
    row, _ = method.next(None)
    told = method.trials[row].config
    assert {x: told[x] for x in ("x0", "x1")} == recorded(table, row)


def test_dehb_evolves_the_configurations_that_stood_in(table):
    pytest.importorskip("dehb")
    method = PEERS["DEHB"](Pool(table), 0)
    simulate(table, method, 1, [30])
    population = method.dehb.de[method.dehb.fidelities[0]].population
    assert sum((population[:, None] == table.points).all(2).any(1)) >= 3


@pytest.mark.parametrize("name", AT_HAND)
def test_a_peer_finds_the_best_when_it_may_train_everything(name, table):
    assert simulate(table, PEERS[name](Pool(table), 0), 2, [30 * 9])[0].best == 0


@pytest.mark.parametrize("name", [*AT_HAND, *NEED])
def test_the_same_seed_gives_the_same_recommendations(name, table):
    if name in NEED:
        pytest.importorskip(NEED[name])
    looks = [10, 20, 40]
    assert simulate(table, PEERS[name](Pool(table), 3), 1, looks) == simulate(table, PEERS[name](Pool(table), 3), 1, looks)


def test_wilcoxon_stops_the_worse_one_as_soon_as_four_folds_tell_and_calls_it_the_mean_of_them(table):
    """One-sided, four differences of one sign have p = 1/16, three 1/8; the pruner's threshold is 0.1."""
    folds = table.scores[:, -1:] + np.arange(5) / 100
    method = Wilcoxon(Pool(replace(table, last_by_fold=folds)), 0)
    simulate(method.pool.table, method, 1, [9 * 5 * 4])
    best, rows = np.inf, list(method.seen)
    for row, told in zip(rows[:-1], method.tpe.study.trials, strict=False):
        assert len(method.seen[row]) == (5 if folds[row].mean() < best else 4)
        assert told.value == pytest.approx(np.mean([folds[row, fold] for fold in method.order[row][: len(method.seen[row])]]))
        best = min(best, folds[row].mean())
    assert any(len(method.seen[row]) == 4 for row in rows[:-1])


def test_the_products_sampler_sees_who_rests_as_pruned_with_its_scores_and_its_recorded_parameters(table):
    method = Product(Pool(table), 0)
    simulate(table, method, 2, [40])
    seen = all_trials(method.searcher._study)
    assert {trial.state for trial in seen} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}
    for trial in seen:
        row = int(np.abs(table.points[:, 0] - trial.params["x0"]).argmin())
        assert trial.params == recorded(table, row)
        reached = max((level for level in method.levels if str(row) in method.rungs[level]), default=0)
        assert trial.intermediate_values == {epoch: table.scores[row, epoch - 1] for epoch in range(1, reached + 1)}
        assert (trial.state == TrialState.COMPLETE) == (reached == 9)
