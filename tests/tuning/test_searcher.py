"""What Optuna's storage is told, without Ray."""

import optuna
import pytest
from optuna.trial import TrialState

from data.errors import InputError
from mmnet.config import Config
from mmnet.records import TrialRecord
from search_spaces import get_space
from search_spaces.space import Space
from tuning.searcher import StudySearcher, open_study, reconcile

BASE = Config()


@pytest.fixture
def study(tmp_path):
    return open_study(str(tmp_path / "optuna.db"), "s", "log_loss")


@pytest.fixture
def searcher(study):
    return StudySearcher(study, get_space("smoke", Config()), Config(), [], {"stopped-by-a-rung"})


def result(epoch, score, **more):
    return {"epoch": epoch, "score": score, "finished": False} | more


def record(tmp_path, number, status, scores, reason=""):
    epochs = [{"epoch": e, "score": s, "best_epoch": e, "seconds": 1.0, "fold_epochs": e} for e, s in enumerate(scores, start=1)]
    return TrialRecord(
        tmp_path / f"{number:04d}", number, {"optim.lr": 1e-3, "dropout.classifier": 0.5}, {}, status, reason, epochs, 1.0, 1.0
    )


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
    searcher.suggest("b")
    searcher.on_trial_complete("b", None, error=True)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.FAIL]
    assert [t.user_attrs["reason"] for t in study.trials] == ["TrainingError: loss is nan", "worker lost"]


def test_an_interrupted_trial_stays_running_and_is_taken_up_again(tmp_path, study, searcher):
    first = searcher.suggest("a")
    searcher.on_trial_complete("a", result(2, 0.6))
    assert study.trials[0].state == TrialState.RUNNING
    unfinished = reconcile(study, [record(tmp_path, 0, "running", [0.7, 0.6])])
    again = StudySearcher(study, get_space("smoke", Config()), Config(), unfinished, set())
    assert again.suggest("b")["number"] == first["number"]
    again.on_trial_complete("b", result(3, 0.5, finished=True))
    assert len(study.trials) == 1 and study.trials[0].state == TrialState.COMPLETE


def test_reconcile_leaves_no_trial_running_that_nobody_will_finish(tmp_path, study, searcher):
    for name in "abcd":
        searcher.suggest(name)
    records = [record(tmp_path, 0, "done", [0.5]), record(tmp_path, 1, "stopped", [0.9]), record(tmp_path, 2, "failed", [], "no memory")]
    assert reconcile(study, records) == []
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert study.trials[2].user_attrs["reason"] == "no memory" and study.trials[3].user_attrs["reason"] == "never started"


def test_the_base_configuration_is_tried_first(searcher):
    assert searcher.suggest("a")["params"] == {"optim.lr": 1e-4, "dropout.classifier": 0.75}


def test_the_same_seed_suggests_the_same_sequence(tmp_path):
    def sequence(name, seed):
        searcher = StudySearcher(open_study(str(tmp_path / name), "s", "auc"), get_space("full", Config()), Config(seed=seed), [], set())
        drawn = []
        for number in range(14):  # past the ten random trials that TPE begins with
            drawn.append(searcher.suggest(str(number))["params"])
            searcher.on_trial_complete(str(number), result(1, number % 5 / 5, finished=True))
        return drawn

    assert sequence("a", 1) == sequence("b", 1) != sequence("c", 2)


def test_a_damaged_database_is_one_clear_error(tmp_path):
    (tmp_path / "optuna.db").write_text("not a database" * 100)
    with pytest.raises(InputError, match="not a study that Optuna can open"):
        open_study(str(tmp_path / "optuna.db"), "s", "log_loss")


def test_nan_scores_are_not_reported(study, searcher):
    searcher.suggest("a")
    searcher.on_trial_result("a", result(1, float("nan")))
    assert study.trials[0].intermediate_values == {}
    assert isinstance(study, optuna.Study)


def test_a_restart_goes_on_with_the_sequence_of_an_unbroken_study(tmp_path):
    def sequence(name, restart):
        drawn = []
        for number in range(4):
            if number == 0 or restart:
                searcher = StudySearcher(open_study(str(tmp_path / name), "s", "auc"), get_space("smoke", Config()), Config(), [], set())
            drawn.append(searcher.suggest(str(number))["params"])
            searcher.on_trial_complete(str(number), result(1, 0.5, finished=True))
        return drawn

    assert sequence("a", restart=False) == sequence("b", restart=True)


# planned trials ------------------------------------------------------------------------------------------------------


class Planned(Space):
    """Trial n gets the n-th learning rate; the sampler decides the rest."""

    def point(self, number, base):
        return {"optim.lr": (number + 1) / 1000}


def restarted(path, space, base=BASE, unfinished=()):
    return StudySearcher(open_study(path, "s", "log_loss"), space, base, list(unfinished), set())


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "optuna.db")


@pytest.fixture
def plan():
    return Planned("planned", get_space("smoke", BASE).dimensions)


def test_each_trial_gets_its_point_of_the_plan(path):
    space = get_space("ablation", BASE)
    searcher = restarted(path, space)
    asked = [searcher.suggest(str(number)) for number in range(12)]  # all 10 of one seed, 2 of the next
    assert [trial["number"] for trial in asked] == list(range(12))
    for number, trial in enumerate(asked):
        decoded = space.encode(BASE.with_values(trial["params"]))
        assert decoded == space.point(number, BASE)
    assert [trial["params"]["seed"] for trial in asked] == [0] * 10 + [1] * 2


def test_a_plan_goes_on_after_a_restart(path, plan):
    for number in range(3):
        searcher = restarted(path, plan)
        assert searcher.suggest(str(number))["params"]["optim.lr"] == (number + 1) / 1000
        searcher.on_trial_complete(str(number), result(1, 0.5, finished=True))


@pytest.mark.parametrize("before", [0, 2])
def test_a_trial_that_a_lost_process_left_waiting_is_asked_for_first_and_not_doubled(path, plan, before):
    searcher = restarted(path, plan)
    for number in range(before):
        searcher.suggest(str(number))
    study = open_study(path, "s", "log_loss")
    study.enqueue_trial(plan.point(before, BASE), user_attrs={"planned": before})  # and the process was lost before it asked
    again = restarted(path, plan)
    asked = [again.suggest(f"new-{number}") for number in range(3)]
    assert [(trial["number"], trial["params"]["optim.lr"]) for trial in asked] == [(n, (n + 1) / 1000) for n in range(before, before + 3)]
    assert len(study.get_trials()) == before + 3 and TrialState.WAITING not in {trial.state for trial in study.get_trials()}


def test_what_a_sampler_draws_beside_the_plan_is_the_same_whether_or_not_a_trial_was_left_waiting(tmp_path, plan):
    def drawn(name, waiting):
        path = str(tmp_path / name)
        if waiting:
            open_study(path, "s", "log_loss").enqueue_trial(plan.point(0, BASE), user_attrs={"planned": 0})
        searcher = restarted(path, plan)
        return [searcher.suggest(str(number))["params"]["dropout.classifier"] for number in range(3)]

    assert drawn("a", False) == drawn("b", True)
    assert len(set(drawn("c", False))) == 3


def test_a_place_in_the_plan_whose_trial_never_started_is_filled(path, tmp_path, plan):
    first = restarted(path, plan)
    for number in range(3):
        first.suggest(str(number))
    study = open_study(path, "s", "log_loss")
    unfinished = reconcile(study, [record(tmp_path, 0, "done", [0.5]), record(tmp_path, 2, "running", [0.5])])
    again = restarted(path, plan, unfinished=unfinished)
    assert again.suggest("up-again")["number"] == 2
    asked = [again.suggest(f"new-{number}") for number in range(2)]
    assert [(trial["number"], trial["params"]["optim.lr"]) for trial in asked] == [(3, 0.002), (4, 0.004)]


def test_a_trial_that_failed_keeps_its_place(path, plan):
    searcher = restarted(path, plan)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"failed": "ConfigError", "finished": False})
    assert searcher.suggest("b")["params"]["optim.lr"] == 0.002


def test_a_trial_taken_up_again_is_no_step_of_the_plan(path, tmp_path, plan):
    restarted(path, plan).suggest("a")
    unfinished = reconcile(open_study(path, "s", "log_loss"), [record(tmp_path, 0, "running", [0.5])])
    again = restarted(path, plan, unfinished=unfinished)
    assert again.suggest("b")["number"] == 0
    assert again.suggest("c")["params"]["optim.lr"] == 0.002
