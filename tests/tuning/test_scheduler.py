"""Rungs worked by hand: η = 3, 9 epochs, rungs at 1 and 3."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from tests.tuning.test_searcher import record
from tuning.scheduler import RungScheduler

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def add(scheduler, number):
    trial = SimpleNamespace(trial_id=f"ray-{number}", config={"number": number})
    scheduler.on_trial_add(None, trial)
    return trial


def step(scheduler, trial, epoch, score, finished=False):
    result = {"epoch": epoch, "score": score, "finished": finished}
    return scheduler.on_trial_result(None, trial, result)


@pytest.fixture
def scheduler():
    return RungScheduler("log_loss", 9, 3, (1, 3), [])


def test_the_best_third_goes_on_and_others_stop_with_a_mark(scheduler):
    first, second, third, fourth = (add(scheduler, n) for n in range(4))
    assert step(scheduler, first, 1, 0.6) == CONTINUE  # nothing to compare with yet
    assert step(scheduler, second, 1, 0.7) == STOP
    assert step(scheduler, third, 1, 0.64) == STOP  # in the best half of those before it, not in the best third: up to 0.633
    assert step(scheduler, fourth, 1, 0.5) == CONTINUE
    assert scheduler.stopped == {second.trial_id, third.trial_id}


def test_with_a_smaller_eta_more_go_on():
    scheduler = RungScheduler("log_loss", 8, 2, (1, 2, 4), [])
    scores = (0.6, 0.7, 0.64)  # as above, up to 0.65
    assert [step(scheduler, add(scheduler, number), 1, score) for number, score in enumerate(scores)] == [CONTINUE, STOP, CONTINUE]


def test_at_rungs_only_the_worst_one_stops():
    """81 epochs: the rungs begin at 3."""
    scheduler = RungScheduler("log_loss", 81, 3, (3, 9, 27), [])
    good, bad = (add(scheduler, n) for n in range(2))
    assert {step(scheduler, good, epoch, 0.1) for epoch in range(1, 28)} == {CONTINUE}
    early = [step(scheduler, bad, epoch, 9.9 if epoch not in (3, 9) else 0.1) for epoch in range(1, 27)]
    assert early == [CONTINUE] * 26 and step(scheduler, bad, 27, 9.9) == STOP


def test_a_metric_to_maximise_turns_the_rule_around():
    scheduler = RungScheduler("auc", 9, 3, (1, 3), [])
    assert step(scheduler, add(scheduler, 0), 1, 0.6) == CONTINUE
    assert step(scheduler, add(scheduler, 1), 1, 0.5) == STOP


def test_the_last_epoch_is_no_rungs_decision(scheduler):
    trial = add(scheduler, 0)
    decision = step(scheduler, trial, 9, 0.5, finished=True)
    assert decision == STOP and not scheduler.stopped


def test_rungs_are_filled_from_the_records_of_an_earlier_run(tmp_path):
    before = [record(tmp_path, n, "done", [score] * 9) for n, score in enumerate((0.3, 0.35, 0.4))]
    scheduler = RungScheduler("log_loss", 9, 3, (1, 3), before)
    assert step(scheduler, add(scheduler, 7), 1, 0.5) == STOP
    fresh = RungScheduler("log_loss", 9, 3, (1, 3), [])
    assert step(fresh, add(fresh, 7), 1, 0.5) == CONTINUE


def test_a_resumed_trial_is_not_judged_again_at_rungs_it_passed(tmp_path):
    resumed = record(tmp_path, 5, "running", [0.9, 0.9])
    others = [record(tmp_path, n, "done", [0.1] * 9) for n in range(3)]
    scheduler = RungScheduler("log_loss", 9, 3, (1, 3), [*others, resumed])
    trial = add(scheduler, 5)
    assert step(scheduler, trial, 2, 0.9) == CONTINUE  # its last epoch, reported again; rung 1 is behind it
    assert step(scheduler, trial, 3, 0.9) == STOP


def test_a_resumed_trial_is_judged_at_a_rung_that_the_interruption_kept_from_judging_it(tmp_path):
    others = [record(tmp_path, n, "done", [0.1] * 9) for n in range(3)]
    scheduler = RungScheduler("log_loss", 9, 3, (1, 3), [*others, record(tmp_path, 5, "running", [0.9])])
    assert step(scheduler, add(scheduler, 5), 1, 0.9) == STOP


def test_a_trial_that_failed_before_its_first_epoch_is_let_through_to_its_end(scheduler):
    trial = add(scheduler, 0)
    assert scheduler.on_trial_result(None, trial, {"failed": "bad", "done": True}) == CONTINUE


@pytest.mark.parametrize("metric", ["log_loss", "auc"])
def test_without_levels_nothing_is_stopped_before_its_end(tmp_path, metric):
    before = [record(tmp_path, n, "done", [0.5] * 9) for n in range(3)]
    scheduler = RungScheduler(metric, 9, 3, (), before)
    for number in range(3, 9):  # better and worse than all before it
        trial = add(scheduler, number)
        decisions = [step(scheduler, trial, epoch, 0.5 + (-1) ** number * number / 20) for epoch in range(1, 9)]
        assert decisions == [CONTINUE] * 8
        assert step(scheduler, trial, 9, 0.5, finished=True) == STOP
    assert not scheduler.stopped


def test_a_trial_that_goes_on_in_another_process_has_its_places_at_the_rungs_once(scheduler):
    first = add(scheduler, 0)
    assert step(scheduler, first, 1, 0.5) == CONTINUE and step(scheduler, first, 2, 0.4) == CONTINUE
    again = SimpleNamespace(trial_id="another", config={"number": 0})
    scheduler.on_trial_add(None, again)
    assert step(scheduler, again, 2, 0.4) == CONTINUE
    assert step(scheduler, add(scheduler, 1), 1, 0.45) == CONTINUE  # better than 0.5 at the same epoch, not than 0.4 a second time
