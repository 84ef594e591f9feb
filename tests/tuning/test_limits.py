"""What is removed when the disk budget is used up, and what a cluster costs; worked by hand."""

import json
from types import SimpleNamespace

import pytest

from data.errors import InputError
from mmnet.config import Config
from study.mirror import Mirror
from study.records import TrialRecord
from tuning import study as study_module
from tuning.limits import Kept, hourly_price, surplus
from tuning.study import CostCallback, DiskCallback, StatusCallback, StudyStopper


def kept(rank, size):
    return Kept((rank,), size, ())


def test_the_least_promising_go_until_the_rest_fits():
    a, b, c = kept(1, 10), kept(2, 20), kept(3, 30)
    assert surplus([b, c, a], 60) == []
    assert surplus([b, c, a], 59) == [c]
    assert surplus([b, c, a], 29) == [c, b]


def test_the_most_promising_one_stays_whatever_it_takes():
    assert surplus([kept(1, 10), kept(2, 20)], 0) == [kept(2, 20)]


def test_the_price_is_that_of_all_nodes_alive_busy_or_not():
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "cents_per_hour": 10.0}},
        {"Alive": True, "Resources": {"GPU": 1.0, "cents_per_hour": 50.0}},
        {"Alive": False, "Resources": {"GPU": 1.0, "cents_per_hour": 50.0}},
        {"Alive": True, "Resources": {"CPU": 2.0}},
    ]
    assert hourly_price(nodes) == pytest.approx(0.6)


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of one node at this price, and a clock to turn."""
    state = SimpleNamespace(price=3.6, now=0.0)
    node = {"Alive": True, "Resources": {}}
    monkeypatch.setattr(
        study_module.ray, "nodes", lambda: [node | {"Resources": {"cents_per_hour": 100 * state.price} if state.price else {}}]
    )
    monkeypatch.setattr(study_module.time, "monotonic", lambda: state.now)
    return state


def test_a_study_ends_when_its_nodes_have_cost_enough_earlier_runs_included(cluster):
    stopper = StudyStopper(None)
    cost = CostCallback(1.0, 1.05, stopper)
    for now, spent in ((5.0, 1.0), (10.0, 1.01), (40.0, 1.04)):  # 0.001 dollars a second
        cluster.now = now
        cost.on_step_end(0, [])
        assert cost.spent == pytest.approx(spent) and not stopper.reason
    cluster.price = 7.2  # another node came: from the next look on
    cluster.now = 50.0
    cost.on_step_end(0, [])
    assert stopper.reason == "$1.05 spent of --max-cost 1.05"


def test_a_limit_without_prices_is_refused(cluster):
    cluster.price = None
    assert CostCallback(0.0, None, StudyStopper(None)).spent == 0
    with pytest.raises(InputError, match=r"--max-cost 5: no node of the cluster says what it costs; expected a resource cents_per_hour"):
        CostCallback(0.0, 5.0, StudyStopper(None))


def rested(tmp_path, number, epoch, score, size, finished=False):
    folder = tmp_path / f"{number:04d}"
    (folder / "weights").mkdir(parents=True)
    (folder / ("weights/fold_1.safetensors" if finished else "checkpoint.pt")).write_bytes(bytes(size))
    result = {"epoch": epoch, "score": score, "rests": not finished, "finished": finished}
    return SimpleNamespace(config={"number": number}, last_result=result)


def held(tmp_path):
    return {
        path.parent.name[:4] if path.name == "checkpoint.pt" else path.parent.parent.name for path in tmp_path.rglob("*") if path.is_file()
    }


def test_checkpoints_beyond_the_budget_go_lowest_rung_and_worst_score_first(tmp_path):
    disk = DiskCallback(tmp_path, "log_loss", 25 / 2**30, [], Mirror(tmp_path))
    for trial in (rested(tmp_path, 0, 1, 0.5, 10), rested(tmp_path, 1, 3, 0.6, 10)):
        disk.on_trial_complete(0, [], trial)
    disk.on_trial_complete(0, [], rested(tmp_path, 2, 1, 0.4, 5))
    assert held(tmp_path) == {"0000", "0001", "0002"}
    disk.on_trial_complete(0, [], rested(tmp_path, 3, 27, 0.7, 5, finished=True))
    assert held(tmp_path) == {"0001", "0002", "0003"}


def test_who_ran_to_its_end_by_itself_is_worth_more_than_who_rests_at_a_higher_rung(tmp_path):
    disk = DiskCallback(tmp_path, "log_loss", 10 / 2**30, [], Mirror(tmp_path))
    disk.on_trial_complete(0, [], rested(tmp_path, 0, 2, 0.9, 10, finished=True))
    disk.on_trial_complete(0, [], rested(tmp_path, 1, 3, 0.4, 10))
    assert held(tmp_path) == {"0000"}


@pytest.mark.parametrize(("metric", "left"), [("log_loss", {"0001"}), ("auc", {"0000"})])
def test_the_worst_score_is_that_of_the_metric(tmp_path, metric, left):
    disk = DiskCallback(tmp_path, metric, 10 / 2**30, [], Mirror(tmp_path))
    disk.on_trial_complete(0, [], rested(tmp_path, 0, 1, 0.9, 10))
    disk.on_trial_complete(0, [], rested(tmp_path, 1, 1, 0.5, 10))
    assert held(tmp_path) == left


def test_what_trains_is_never_removed(tmp_path):
    disk = DiskCallback(tmp_path, "log_loss", 10 / 2**30, [], Mirror(tmp_path))
    worst = rested(tmp_path, 0, 1, 0.9, 10)
    disk.on_trial_complete(0, [], worst)
    disk.on_trial_start(0, [], worst)
    disk.on_trial_complete(0, [], rested(tmp_path, 1, 1, 0.5, 10))
    assert held(tmp_path) == {"0000", "0001"}


@pytest.mark.parametrize(("status", "left"), [("stopped", {"0001"}), ("running", {"0000", "0001"})])
def test_what_an_earlier_run_left_counts_but_for_what_is_yet_to_go_on(tmp_path, status, left):
    rested(tmp_path, 0, 1, 0.5, 10)
    record = TrialRecord(tmp_path / "0000", 0, {}, {}, status, "", [{"epoch": 1, "score": 0.5, "finished": False}], 1.0, 1.0)
    disk = DiskCallback(tmp_path, "log_loss", 15 / 2**30, [record], Mirror(tmp_path))
    disk.on_trial_complete(0, [], rested(tmp_path, 1, 1, 0.4, 10))
    assert held(tmp_path) == left


def test_more_failures_than_allowed_end_the_study_with_the_last_reason(tmp_path):
    stopper = StudyStopper(None)
    status = StatusCallback(tmp_path, Config(), (), stopper, failures_left=1)
    for number in (1, 2):
        assert not stopper.reason
        status.on_trial_complete(
            0, [], SimpleNamespace(trial_id=str(number), config={"number": number}, last_result={"failed": "no memory"})
        )
    assert stopper.reason == "more trials failed than --max-failures allows, the last with: no memory" and not stopper.error


@pytest.mark.parametrize("one_worked", [False, True])
def test_a_study_is_hopeless_when_its_first_five_trials_failed_and_none_gave_a_score(tmp_path, one_worked):
    stopper = StudyStopper(None)
    status = StatusCallback(tmp_path, Config(), (), stopper)
    if one_worked:
        status.on_trial_result(0, [], None, {"epoch": 1, "score": 0.5})
    for number in range(5):
        assert not stopper.error
        status.on_trial_complete(0, [], SimpleNamespace(trial_id="", config={"number": number}, last_result={"failed": "no memory"}))
    assert stopper.error == ("" if one_worked else "the first 5 trials all failed, the last with: no memory")


def test_a_trial_that_lost_its_process_fails_when_it_gets_no_other_and_with_what_ray_says(tmp_path):
    given_up, stopper = set(), StudyStopper(None)
    status = StatusCallback(tmp_path, Config(), (), stopper, given_up=lambda number: number in given_up)
    (tmp_path / "error.txt").write_text("Failure # 1 (occurred at …)\nThe actor died unexpectedly.\nits node was lost\n\n")
    trial = SimpleNamespace(config={"number": 3, "params": {}}, error_file=str(tmp_path / "error.txt"))
    status.on_trial_error(0, [], trial)
    assert not (tmp_path / "0003").exists()
    given_up.add(3)
    status.on_trial_error(0, [], trial)
    record = json.loads((tmp_path / "0003" / "status.json").read_text())
    assert record["status"] == "failed" and record["reason"] == "worker lost 6 times without finishing an epoch: its node was lost"
