"""Tables for papers: every trial, best first."""

import csv

from analysis import performance_table
from analysis.export import latex_leaderboard, write_export
from tests.analysis.studies import record


def test_leaderboard_and_performance_appear_as_csv_and_latex(study, monkeypatch):
    monkeypatch.setattr(performance_table, "RESAMPLES", 20)
    files = write_export(study)
    assert [path.name for path in files] == ["leaderboard.csv", "leaderboard.tex", "performance.csv", "performance.tex"]
    with files[0].open() as file:
        names = [row["trial"] for row in csv.DictReader(file)]
    assert names[0] == "0001" and sorted(names) == ["0000", "0001", "0002", "0003", "0004"]
    latex = files[1].read_text()
    assert [line.partition(" &")[0] for line in latex.splitlines() if line[:4].isdecimal()] == names
    for written in (latex, files[3].read_text()):
        assert r"\toprule" in written and "SYNTHETIC DATA" in written
    assert "sensitivity" in files[2].read_text()


def test_trials_without_a_score_stand_last_with_dashes():
    columns, rows, caption = latex_leaderboard([record(0, [], "failed"), record(1, [0.5], metric="brier")], "brier", False)
    assert columns[:4] == ["trial", "status", "epochs", "brier"]
    assert rows[0][:4] == ["0001", "done", "1", "0.500"] and set(rows[1][3:]) == {"–"}
    assert "All 2 configurations by brier" in caption and "SYNTHETIC" not in caption
