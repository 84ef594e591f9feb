"""What Optuna is told, without Ray."""

import dataclasses
import json

import optuna
import pytest
from optuna.trial import TrialState

from mmnet.config import Config
from search_spaces import get_space
from search_spaces.space import Space
from study.records import TrialRecord
from tuning.database import StudyDatabase
from tuning.promotion import Ladder
from tuning.searcher import LOST_RETRIES, StudySearcher, all_trials, new_study, rebuild

BASE = Config()


@pytest.fixture
def study():
    return new_study("log_loss")


def made(study, space, records=(), stopped=(), base=BASE, levels=(), trials=10**6, database=None, sampler="tpe"):
    """A searcher; without `levels` every trial runs to its end, or the scheduler stops it."""
    ladder = Ladder(levels, 9, 3, minimize=base.metric == "log_loss")
    return StudySearcher(study, space, base, list(records), ladder, trials, stopped, database, sampler)


@pytest.fixture
def searcher(study):
    return made(study, get_space("smoke", Config()), stopped={"stopped-by-a-rung"})


def result(epoch, score, **more):
    return {"epoch": epoch, "score": score, "finished": False} | more


def record(tmp_path, number, status, scores, reason="", **params):
    params = {"optim.lr": 1e-3, "dropout.classifier": 0.5} | {path.replace("__", "."): value for path, value in params.items()}
    epochs = [
        {"epoch": e, "score": s, "best_epoch": e, "seconds": 1.0, "fold_epochs": e, "finished": status == "done" and e == len(scores)}
        for e, s in enumerate(scores, start=1)
    ]
    return TrialRecord(tmp_path / f"{number:04d}", number, params, {}, status, reason, epochs, 1.0, 1.0)


def restarted(records, space, base=BASE, levels=(), **more):
    """A searcher as a resumed study makes it."""
    study = rebuild(space, base, records, resting=bool(levels))
    return made(study, space, records, base=base, levels=levels, **more), study


def test_a_stopped_trial_is_told_pruned_with_its_intermediate_values(study, searcher):
    searcher.suggest("stopped-by-a-rung")
    searcher.on_trial_result("stopped-by-a-rung", result(1, 0.7))
    searcher.on_trial_result("stopped-by-a-rung", result(2, 0.6))
    searcher.on_trial_complete("stopped-by-a-rung", result(3, 0.65))
    (trial,) = study.trials
    assert trial.state == TrialState.PRUNED
    assert trial.intermediate_values == {1: 0.7, 2: 0.6, 3: 0.65}


def test_a_finished_trial_is_told_complete_with_its_score(study, searcher):
    searcher.suggest("a")
    searcher.on_trial_complete("a", result(4, 0.5, finished=True))
    assert study.trials[0].state == TrialState.COMPLETE and study.trials[0].value == 0.5


def test_a_failed_trial_is_told_fail_with_its_reason(study, searcher):
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"failed": "TrainingError: loss is nan", "finished": False})
    for attempt in range(LOST_RETRIES + 1):
        assert searcher.suggest(f"b{attempt}")["number"] == 1 and not searcher.given_up(1)
        searcher.on_trial_complete(f"b{attempt}", None, error=True)
    assert searcher.given_up(1) and searcher.suggest("c")["number"] == 2
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING]
    assert [t.user_attrs.get("reason") for t in study.trials] == ["TrainingError: loss is nan", "worker lost", None]


def test_a_trial_whose_process_was_lost_is_the_next_one_given_out_with_what_it_was_told(searcher):
    told = searcher.suggest("a")
    searcher.suggest("b")
    searcher.on_trial_result("a", result(1, 0.7))
    searcher.on_trial_complete("a", None, error=True)
    assert not searcher.exhausted and searcher.suggest("a again") == told | {"take": 3}
    assert searcher.suggest("c")["number"] == 2


def test_a_trial_that_gets_on_between_its_losses_is_never_given_up(study, searcher):
    searcher.suggest("0")
    for epoch in range(1, 3 * LOST_RETRIES):
        searcher.on_trial_result(str(epoch - 1), result(epoch, 0.7))
        searcher.on_trial_result(str(epoch - 1), result(epoch, 0.7))  # said again: written, but not heard of, before the loss
        searcher.on_trial_complete(str(epoch - 1), None, error=True)
        assert searcher.suggest(str(epoch))["number"] == 0 and not searcher.given_up(0)
    assert study.trials[0].state == TrialState.RUNNING and len(study.trials[0].intermediate_values) == 3 * LOST_RETRIES - 1


def test_epochs_that_are_said_again_are_no_progress(searcher):
    searcher.suggest("0")
    searcher.on_trial_result("0", result(1, 0.7))
    for attempt in range(LOST_RETRIES + 1):
        searcher.on_trial_complete(str(attempt), None, error=True)
        if attempt < LOST_RETRIES:
            searcher.suggest(str(attempt + 1))
            searcher.on_trial_result(str(attempt + 1), result(1, 0.7))
    assert searcher.given_up(0)


def test_an_interrupted_trial_stays_running_and_is_taken_up_again(tmp_path, study, searcher):
    searcher.suggest("a")
    searcher.on_trial_complete("a", result(2, 0.6))
    assert study.trials[0].state == TrialState.RUNNING
    again, rebuilt = restarted([record(tmp_path, 0, "running", [0.7, 0.6])], get_space("smoke", BASE))
    assert again.suggest("b") == {"number": 0, "params": {"optim.lr": 1e-3, "dropout.classifier": 0.5}, "since": 0, "until": 9, "take": 1}
    again.on_trial_result("b", result(2, 0.6))  # its last epoch is said again
    again.on_trial_complete("b", result(3, 0.5, finished=True))
    (trial,) = rebuilt.trials
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, {1: 0.7, 2: 0.6, 3: 0.5})


def test_a_rebuilt_study_has_the_states_values_and_reasons_of_the_records(tmp_path):
    records = [
        record(tmp_path, 0, "done", [0.6, 0.5]),
        record(tmp_path, 1, "stopped", [0.9]),
        record(tmp_path, 2, "failed", [0.8], "no memory"),
        record(tmp_path, 4, "running", [0.7]),
        record(tmp_path, 5, "stopped", [None], "worst"),
    ]
    study = rebuild(get_space("smoke", BASE), BASE, records, resting=False)
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING, TrialState.FAIL]
    assert [t.state for t in study.trials] == states
    assert [t.value for t in study.trials] == [0.5, 0.9, None, None, None, None]
    assert [t.intermediate_values for t in study.trials] == [{1: 0.6, 2: 0.5}, {1: 0.9}, {1: 0.8}, {}, {1: 0.7}, {}]
    assert [t.user_attrs.get("reason") for t in study.trials] == [None, None, "no memory", "never started", None, "worst"]


@pytest.mark.parametrize("name", ["full", "smoke", "ablation"])
def test_a_rebuilt_study_is_the_one_that_was_lost(tmp_path, name):
    space, study = get_space(name, BASE), new_study("log_loss")
    searcher = made(study, space, stopped={"1"})
    records = []
    for number in range(14):
        params = json.loads(json.dumps(searcher.suggest(str(number))["params"]))
        scores = [1 / (number + epoch) for epoch in (1, 2)]
        searcher.on_trial_result(str(number), result(1, scores[0]))
        searcher.on_trial_complete(str(number), result(2, scores[1], finished=number % 3 != 1))
        records.append(
            record(tmp_path, number, "running" if number % 3 == 1 and number != 1 else "stopped" if number == 1 else "done", scores)
        )
        records[-1] = dataclasses.replace(records[-1], params=params)

    def essence(trial):
        return trial.number, trial.state, trial.params, trial.distributions, trial.values, trial.intermediate_values, trial.user_attrs

    rebuilt = rebuild(space, BASE, records, resting=False)
    assert [essence(trial) for trial in all_trials(rebuilt)] == [essence(trial) for trial in all_trials(study)]


def test_the_base_configuration_is_tried_first(searcher):
    assert searcher.suggest("a")["params"] == {"optim.lr": 1e-4, "dropout.classifier": 0.75}


def drawn(tmp_path, name, seed, metric, restart_after=()):
    """16 suggestions, past the ten random trials that TPE begins with, each told before the next is asked for."""
    base = Config(seed=seed, metric=metric)
    space = get_space(name, base)
    searcher, _ = restarted([], space, base)
    records, asked = [], []
    for number in range(16):
        if number in restart_after:
            searcher, _ = restarted(records, space, base)
        asked.append(searcher.suggest(str(number))["params"])
        searcher.on_trial_complete(str(number), result(1, number % 5 / 5, finished=True))
        records.append(record(tmp_path, number, "done", [number % 5 / 5]))
        records[-1] = dataclasses.replace(records[-1], params=json.loads(json.dumps(asked[-1])))
    return asked


def test_the_same_seed_suggests_the_same_sequence(tmp_path):
    assert drawn(tmp_path, "full", 1, "auc") == drawn(tmp_path, "full", 1, "auc") != drawn(tmp_path, "full", 2, "auc")


@pytest.mark.parametrize("name", ["full", "ablation"])
def test_a_restart_goes_on_with_the_sequence_of_an_unbroken_study(tmp_path, name):
    assert drawn(tmp_path, name, 0, "auc", restart_after=(1, 5, 12, 15)) == drawn(tmp_path, name, 0, "auc")


def test_scores_that_are_no_number_are_not_reported(study, searcher):
    searcher.suggest("a")
    searcher.on_trial_result("a", result(1, float("nan")))
    assert study.trials[0].intermediate_values == {}


def test_changes_are_written_when_it_is_time_and_at_the_end(tmp_path, monkeypatch):
    database, study = StudyDatabase(tmp_path / "optuna.db", "s", "log_loss"), new_study("log_loss")
    searcher = made(study, get_space("smoke", BASE), database=database)

    def held():
        return [trial.state for trial in optuna.load_study(storage=f"sqlite:///{tmp_path / 'optuna.db'}", study_name="s").trials]

    monkeypatch.setattr("tuning.searcher.SAVE_EVERY", float("inf"))
    searcher.suggest("a")
    searcher.save_changes()  # not yet
    assert held() == []
    searcher.save_changes(now=True)
    assert held() == [TrialState.RUNNING]
    searcher.on_trial_complete("a", result(1, 0.5, finished=True))
    monkeypatch.setattr("tuning.searcher.SAVE_EVERY", 0)
    searcher.save_changes()
    assert held() == [TrialState.COMPLETE]


# planned trials ------------------------------------------------------------------------------------------------------


class Planned(Space):
    """Trial n gets the n-th learning rate; the sampler decides the rest."""

    def point(self, number, base):
        return {"optim.lr": (number + 1) / 1000}


@pytest.fixture
def plan():
    return Planned("planned", get_space("smoke", BASE).dimensions)


def test_each_trial_gets_its_point_of_the_plan():
    space = get_space("ablation", BASE)
    searcher, _ = restarted([], space)
    asked = [searcher.suggest(str(number)) for number in range(12)]  # all 10 of one seed, 2 of the next
    assert [trial["number"] for trial in asked] == list(range(12))
    for number, trial in enumerate(asked):
        decoded = space.encode(BASE.with_values(trial["params"]))
        assert decoded == space.point(number, BASE)
    assert [trial["params"]["seed"] for trial in asked] == [0] * 10 + [1] * 2


def test_a_plan_goes_on_after_a_restart(tmp_path, plan):
    before = [record(tmp_path, number, "done", [0.5], optim__lr=(number + 1) / 1000) for number in range(3)]
    for count in range(4):
        searcher, _ = restarted(before[:count], plan)
        assert searcher.suggest("next")["params"]["optim.lr"] == (count + 1) / 1000


def test_a_place_in_the_plan_whose_trial_never_started_is_filled(tmp_path, plan):
    before = [record(tmp_path, 0, "done", [0.5], optim__lr=0.001), record(tmp_path, 2, "running", [0.5], optim__lr=0.003)]
    again, _ = restarted(before, plan)
    assert again.suggest("up-again")["number"] == 2
    asked = [again.suggest(f"new-{number}") for number in range(2)]
    assert [(trial["number"], trial["params"]["optim.lr"]) for trial in asked] == [(3, 0.002), (4, 0.004)]
    # and once more: the place that was filled late is taken now
    before += [record(tmp_path, 3, "done", [0.5], optim__lr=0.002)]
    once_more, _ = restarted(before, plan)
    asked = [once_more.suggest(name) for name in "ab"]
    assert [(trial["number"], trial["params"]["optim.lr"]) for trial in asked] == [(2, 0.003), (4, 0.004)]


def test_a_trial_that_failed_keeps_its_place(tmp_path, plan):
    searcher, _ = restarted([], plan)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"failed": "ConfigError", "finished": False})
    assert searcher.suggest("b")["params"]["optim.lr"] == 0.002
    again, _ = restarted([record(tmp_path, 0, "failed", [], "ConfigError", optim__lr=0.001)], plan)
    assert again.suggest("b")["params"]["optim.lr"] == 0.002


def test_a_trial_taken_up_again_is_no_step_of_the_plan(tmp_path, plan):
    again, _ = restarted([record(tmp_path, 0, "running", [0.5], optim__lr=0.001)], plan)
    assert again.suggest("b")["number"] == 0
    assert again.suggest("c")["params"]["optim.lr"] == 0.002


def test_the_base_configuration_is_tried_although_trial_0_never_started(tmp_path):
    again, _ = restarted([record(tmp_path, 1, "done", [0.5])], get_space("smoke", BASE))
    asked = again.suggest("a")
    assert (asked["number"], asked["params"]) == (2, {"optim.lr": 1e-4, "dropout.classifier": 0.75})


# trials that rest and go on ------------------------------------------------------------------------------------------

LEVELS = (1, 3)
SMOKE = get_space("smoke", BASE)


def to(searcher, name, asked, score, until=None):
    """Train what was asked for up to its rung, or cut it off before."""
    last = until or asked["until"]
    for epoch in range(asked["since"] + 1, last):
        searcher.on_trial_result(name, result(epoch, score))
    searcher.on_trial_complete(name, result(last, score, finished=last == 9, rests=last == asked["until"] < 9))


def test_trials_rest_at_a_rung_and_the_best_goes_on_from_there(study):
    searcher = made(study, SMOKE, levels=LEVELS, trials=4)
    first = [searcher.suggest(name) for name in "abc"]
    assert [(asked["number"], asked["since"], asked["until"]) for asked in first] == [(0, 0, 1), (1, 0, 1), (2, 0, 1)]
    for name, asked, score in zip("abc", first, (0.5, 0.4, 0.6), strict=True):
        to(searcher, name, asked, score)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 3
    again = searcher.suggest("d")
    assert again == first[1] | {"since": 1, "until": 3, "take": 4}
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.RUNNING, TrialState.PRUNED]
    assert searcher.suggest("e")["number"] == 3  # nobody else is among the best third


def test_at_the_end_the_best_three_run_to_their_end(study):
    """Worked by hand: one in three of rung 1 goes on at once; when the fifth is at rung 1, three of every rung go on, the highest first."""
    searcher = made(study, SMOKE, levels=LEVELS, trials=5)
    scores, trained, name = {0: 0.5, 1: 0.4, 2: 0.6, 3: 0.3, 4: 0.7}, [], 0
    while not isinstance(asked := searcher.suggest(str(name)), str):
        to(searcher, str(name), asked, scores[asked["number"]])
        trained.append((asked["number"], asked["until"]))
        name += 1
    assert asked == searcher.FINISHED and searcher.exhausted
    assert trained == [(0, 1), (1, 1), (2, 1), (1, 3), (3, 1), (3, 3), (4, 1), (3, 9), (1, 9), (0, 3), (0, 9)]
    assert [(t.state, t.value) for t in study.trials] == [
        (TrialState.COMPLETE, 0.5), (TrialState.COMPLETE, 0.4), (TrialState.PRUNED, None), (TrialState.COMPLETE, 0.3), (TrialState.PRUNED, None)
    ]  # fmt: skip
    assert study.trials[2].intermediate_values == {1: 0.6}


def test_a_worker_waits_where_only_a_running_trial_can_decide_what_is_next(study):
    searcher = made(study, SMOKE, levels=LEVELS, trials=1)
    asked = searcher.suggest("a")
    assert searcher.suggest("b") is None and not searcher.exhausted
    to(searcher, "a", asked, 0.5)
    assert searcher.suggest("b")["until"] == 3


def test_a_failed_trial_is_never_promoted(study):
    searcher = made(study, SMOKE, levels=LEVELS, trials=2)
    asked = [searcher.suggest(name) for name in "ab"]
    searcher.on_trial_result("a", result(1, 0.1))
    searcher.on_trial_complete("a", {"failed": "no memory", "finished": False})
    to(searcher, "b", asked[1], 0.5)
    assert searcher.suggest("c")["number"] == 1


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_search_that_is_stopped_at_any_step_goes_on_as_if_it_had_not_been(tmp_path, cut, sampler):
    """Of the same 12 trials the same ones train to the same rungs in the same order, also where the last was cut off in the middle."""

    def search(restart_after):
        searcher, _ = restarted([], SMOKE, levels=LEVELS, trials=12, sampler=sampler)
        records, trained = {}, []
        for step in range(40):
            asked = searcher.suggest(str(step))
            if isinstance(asked, str):
                return trained, {number: record.params for number, record in records.items()}
            number, score = asked["number"], asked["number"] * 5 % 12 / 12
            if step == restart_after and cut and asked["until"] - asked["since"] > 1:
                to(searcher, str(step), asked, score, until=asked["until"] - 1)
                assert not searcher.exhausted
                before = record(tmp_path, number, "running", [score] * (asked["until"] - 1))
                before = dataclasses.replace(before, params=asked["params"])
                searcher, _ = restarted(
                    [*(r for n, r in records.items() if n != number), before], SMOKE, levels=LEVELS, trials=12, sampler=sampler
                )
                step_again = searcher.suggest(f"{step} again")
                assert step_again == asked | {"since": 0, "take": 1}  # its last epoch is said again
                to(searcher, f"{step} again", step_again, score)
            else:
                to(searcher, str(step), asked, score)
            records[number] = record(tmp_path, number, "done" if asked["until"] == 9 else "stopped", [score] * asked["until"])
            records[number] = dataclasses.replace(records[number], params=asked["params"])
            trained.append((number, asked["until"]))
            if step == restart_after and not cut:
                searcher, _ = restarted(list(records.values()), SMOKE, levels=LEVELS, trials=12, sampler=sampler)
        raise AssertionError("it has no end")

    whole = search(None)
    assert all(search(step) == whole for step in range(len(whole[0])))


def test_a_finished_search_is_extended_by_more_trials(tmp_path):
    before = [record(tmp_path, number, "stopped", [0.5 + number / 10]) for number in range(3)]
    before[0] = record(tmp_path, 0, "done", [0.5] * 9)
    searcher, _ = restarted(before, SMOKE, levels=LEVELS, trials=3)
    assert not searcher.exhausted  # 1 and 2 are among the best three
    searcher, _ = restarted([before[0]], SMOKE, levels=LEVELS, trials=1)
    assert searcher.exhausted
    searcher, _ = restarted([before[0]], SMOKE, levels=LEVELS, trials=2)
    assert searcher.suggest("a")["number"] == 1


def test_the_model_learns_from_all_rungs_where_to_look(study):
    """Small learning rates are better: of the trials after the first random ones most are smaller than a random one would be."""
    searcher = made(study, SMOKE, levels=LEVELS, trials=60, sampler="gp")
    name = 0
    while not isinstance(asked := searcher.suggest(str(name)), str):
        to(searcher, str(name), asked, asked["params"]["optim.lr"])
        name += 1
    late = [trial.params["optim.lr"] for trial in study.trials[20:]]
    assert sum(lr < 1e-3 for lr in late) > 0.7 * len(late)  # at random: half


def test_the_model_with_a_conditional_space_gives_whole_configurations(study):
    space = get_space("full", BASE)
    searcher = made(study, space, levels=LEVELS, trials=25, sampler="gp")
    name = 0
    while not isinstance(asked := searcher.suggest(str(name)), str):
        BASE.with_values(asked["params"])
        to(searcher, str(name), asked, asked["params"]["optim.lr"])
        name += 1
    gammas = [("loss.gamma" in trial.params, trial.params["loss.name"] == "focal") for trial in study.trials]
    assert len(gammas) == 25 and all(has == focal for has, focal in gammas)
