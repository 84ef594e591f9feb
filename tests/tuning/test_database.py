"""optuna.db as Optuna itself reads it."""

import re
import sqlite3

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from data.errors import InputError
from study.records import StorageError
from tuning.database import StudyDatabase
from tuning.searcher import all_trials, new_study

PARAMS = {"lr": 1e-3, "heads": 4, "loss": "focal", "attention": False}
DISTRIBUTIONS = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "heads": IntDistribution(1, 8),
    "loss": CategoricalDistribution(("cross_entropy", "focal")),
    "attention": CategoricalDistribution((True, False)),
}


def trial(state, reports=(), value=None, **attributes):
    values = dict(enumerate(reports, start=1))
    return create_trial(
        state=state, value=value, params=PARAMS, distributions=DISTRIBUTIONS, intermediate_values=values, user_attrs=attributes
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "optuna.db"


@pytest.fixture
def study():
    study = new_study("log_loss")
    study.add_trial(trial(TrialState.COMPLETE, [0.5, 0.4], 0.4, planned=0))
    study.add_trial(trial(TrialState.PRUNED, [0.7], 0.7))
    study.add_trial(trial(TrialState.FAIL, reason="no memory"))
    study.add_trial(trial(TrialState.RUNNING, [0.6]))
    return study


def stored(path):
    return optuna.load_study(storage=f"sqlite:///{path}", study_name="s")


def essence(trial):
    times = trial.datetime_start, trial.datetime_complete
    return trial.number, trial.state, trial.params, trial.distributions, trial.values, trial.intermediate_values, trial.user_attrs, times


def test_optuna_reads_what_was_written(path, study):
    StudyDatabase(path, "s", "log_loss").write(all_trials(study))
    assert [essence(t) for t in stored(path).trials] == [essence(t) for t in all_trials(study)]
    assert stored(path).direction == optuna.study.StudyDirection.MINIMIZE and stored(path).best_value == 0.4


@pytest.mark.parametrize(("metric", "direction"), [("log_loss", "minimize"), ("auc", "maximize")])
def test_a_new_file_is_the_one_that_optuna_makes(path, metric, direction):
    def content(path):
        file = sqlite3.connect(path)
        made = file.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        rows = {name: file.execute(f"SELECT * FROM {name}").fetchall() for kind, name, _ in made if kind == "table"}
        return {(kind, name, re.sub(r"\s", "", text or "")) for kind, name, text in made}, rows

    StudyDatabase(path, "s", metric).close()
    optuna.create_study(storage=f"sqlite:///{path.with_name('its.db')}", study_name="s", direction=direction)
    assert content(path) == content(path.with_name("its.db"))


def test_a_running_trial_is_brought_to_its_end(path, study):
    database = StudyDatabase(path, "s", "log_loss")
    database.write(all_trials(study))
    running = optuna.Trial(study, all_trials(study)[3]._trial_id)
    running.report(0.3, 2)
    study.tell(running, 0.3)
    database.write(all_trials(study)[3:])
    assert [essence(t) for t in stored(path).trials] == [essence(t) for t in all_trials(study)]


def test_a_file_that_lags_behind_or_runs_ahead_of_the_records_is_brought_to_them(path, study):
    ahead = [*all_trials(study)]
    database = StudyDatabase(path, "s", "log_loss")
    database.write(ahead)
    database.close()
    records = new_study("log_loss")
    for known in (trial(TrialState.COMPLETE, [0.5, 0.4], 0.4, planned=0), trial(TrialState.COMPLETE, [0.7, 0.2], 0.2)):
        records.add_trial(known)
    StudyDatabase(path, "s", "log_loss").replace(all_trials(records))
    told = stored(path).trials
    assert [essence(t)[:-1] for t in told] == [essence(t)[:-1] for t in all_trials(records)]
    assert told[0].datetime_start == ahead[0].datetime_start  # when it ran is known only here
    for table in ("trial_params", "trial_intermediate_values", "trial_user_attributes"):
        assert sqlite3.connect(path).execute(
            f"SELECT count(*) FROM {table} WHERE trial_id NOT IN (SELECT trial_id FROM trials)"
        ).fetchone() == (0,)


def test_a_write_that_fails_half_way_changes_nothing(path, study):
    database = StudyDatabase(path, "s", "log_loss")
    database.write(all_trials(study)[:1])
    before = [essence(t) for t in stored(path).trials]
    sqlite3.connect(path).execute(
        "CREATE TRIGGER full BEFORE INSERT ON trial_user_attributes BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
    )
    with pytest.raises(StorageError, match="database or disk is full; free some space"):
        database.write(all_trials(study)[1:])
    assert [essence(t) for t in stored(path).trials] == before


def test_a_damaged_file_is_one_clear_error(path):
    path.write_text("not a database" * 100)
    with pytest.raises(InputError, match="not a study that Optuna can open"):
        StudyDatabase(path, "s", "log_loss")
