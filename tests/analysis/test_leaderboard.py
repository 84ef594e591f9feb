"""The ranking: best first, what failed last, every trial there."""

import csv

import pytest

from analysis.leaderboard import COLUMNS, best_trial, leaderboard_rows, rank, write_leaderboard
from study.records import read_trials
from tests.analysis.studies import record

REQUIRED = (
    "trial",
    "status",
    "epoch",
    "fold_epochs",
    "seconds",
    "auc",
    "balanced_accuracy",
    "log_loss",
    "patient_auc",
    "patient_balanced_accuracy",
)
RECORDS = [
    record(0, [0.6, 0.5]),
    record(1, [0.1], "failed"),
    record(2, [0.4], "stopped"),
    record(3, [], "running"),
    record(4, [0.5, 0.7]),
    record(5, [None], "done"),
    record(6, [0.3, 0.45]),
]


@pytest.mark.parametrize(("metric", "order"), [("log_loss", [6, 2, 0, 4, 1, 3, 5]), ("auc", [0, 4, 2, 6, 1, 3, 5])])
def test_the_order_is_by_score_then_number_and_what_has_none_or_failed_is_last(metric, order):
    upside_down = RECORDS[::-1]
    assert [r.number for r in rank(upside_down, metric)] == order
    assert best_trial(upside_down, metric).number == order[0]


def test_there_is_no_best_among_trials_without_a_score():
    assert best_trial([record(0, []), record(1, [0.1], "failed"), record(2, [None])], "log_loss") is None
    assert best_trial([], "log_loss") is None


def test_rows_are_of_the_best_epoch_and_parameters_stand_last():
    rows = [record(0, [0.5, 0.6], params={"optim.lr": 0.1}), record(1, [0.4], params={"model.pool_scales": [], "optim.lr": 0.2})]
    columns, (first, second) = leaderboard_rows(rows, "log_loss")
    assert columns == [*COLUMNS, "optim.lr", "model.pool_scales"]
    assert (first["trial"], first["optim.lr"], first["model.pool_scales"]) == ("0001", 0.2, "none")
    assert (second["epoch"], second["best_epoch"], second["log_loss"], second["model.pool_scales"]) == (2, 1, 0.5, "")


def test_a_real_study_has_every_trial_that_started_with_the_required_columns_before_the_parameters(trained_study, tmp_path):
    records = read_trials(trained_study)
    write_leaderboard(tmp_path / "leaderboard.csv", records, "log_loss")
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames[-2:] == ["optim.lr", "model.pool"]
    assert set(REQUIRED) <= set(reader.fieldnames[:-2])
    assert [(row["trial"], row["status"]) for row in rows[:1] + rows[-2:]] == [("0001", "done"), ("0003", "failed"), ("0004", "failed")]
    assert len(rows) == 5 and all(rows[0][name] for name in REQUIRED)
    best = records[1].best
    assert float(rows[0]["log_loss"]) == best["metrics"]["log_loss"] and float(rows[0]["patient_auc"]) == best["metrics"]["patient_auc"]
    assert (rows[0]["epoch"], rows[0]["fold_epochs"], rows[0]["model.pool"]) == ("3", "6", "softmax")
    assert (rows[-1]["epoch"], rows[-1]["log_loss"], rows[-1]["reason"]) == ("0", "", "out of memory")
