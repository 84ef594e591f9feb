"""The Pareto front of a study: what is compared, what is written, what the page says."""

import csv
import json

import numpy as np
import pytest
from rich.console import Console

from analysis.front import print_front, study_front, write_front
from analysis.material import Material
from analysis.report import report_page
from analysis.sections.front import pareto
from data.errors import InputError
from study.folder import read_study
from study.records import read_trials
from tests.analysis.studies import CONFIG, record
from tests.analysis.test_plots import assert_shows_something
from tests.analysis.trust_record import NOT_READY

ABOUT = {"config": CONFIG.to_dict(), "settings": {"front": ["fold_epochs", "auc"]}, "data": {"synthetic": False}}


def with_auc(number, scores, auc, status="done"):
    made = record(number, scores, status)
    for line in made.epochs:
        line["metrics"] = line["metrics"] | {"auc": auc}
    return made


# log loss, fold-epochs (2 an epoch), AUC: 0 is the best, 1 the cheapest, 2 has the best AUC, 3 is beaten by 0, 4 was stopped
RECORDS = [
    with_auc(0, [0.6, 0.3], 0.9),
    with_auc(1, [0.5], 0.8),
    with_auc(2, [0.6, 0.5, 0.4], 0.95),
    with_auc(3, [0.6, 0.4], 0.9),
    with_auc(4, [0.2], 0.99, "stopped"),
]


def test_only_full_length_trials_are_compared_the_best_of_the_first_objective_first():
    front = study_front(ABOUT, RECORDS)
    assert front.objectives == ("log_loss", "fold_epochs", "auc") and front.others == 1
    assert front.trials == ["0000", "0003", "0002", "0001"] and front.best.tolist() == [True, False, True, True]
    np.testing.assert_allclose(front.values[0], [0.3, 4, 0.9])


def test_a_study_without_a_full_length_trial_has_an_empty_front():
    front = study_front(ABOUT, RECORDS[4:])
    assert front.trials == [] and front.values.shape == (0, 3)
    assert "0 are beaten by no other" in pareto(Material(ABOUT, RECORDS[4:], {}, None)).body


def test_the_front_is_printed_a_line_a_trial(capsys):
    print_front(study_front(ABOUT, RECORDS), Console(width=100))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "front of log_loss, fold_epochs, auc: 3 of 4 full-length trials"
    assert lines[1] == "  trial 0000: log_loss 0.3000, fold_epochs 4, auc 0.9000" and len(lines) == 4


def with_front(study, *others):
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | {"settings": {"front": others}}))


def unjudged(study):
    """What a report shows of a study, but for what it computes of predictions."""
    return Material(read_study(study), read_trials(study), NOT_READY, None)


def test_a_study_with_several_objectives_leaves_a_table_a_figure_and_a_section(study):
    with_front(study, "seconds", "parameters")
    front = write_front(study)
    with (study / "results" / "pareto.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["trial", "on_front", "log_loss", "seconds", "parameters"]
    assert [row["trial"] for row in rows] == front.trials and set(front.trials) == {"0000", "0001"}
    assert [row["on_front"] for row in rows] == [str(int(best)) for best in front.best]
    assert [[float(row[name]) for name in front.objectives] for row in rows] == front.values.tolist()
    assert all(float(row["parameters"]) > 0 and float(row["seconds"]) > 0 for row in rows)
    assert_shows_something(study / "plots" / "pareto.png")
    assert (study / "plots" / "pareto.pdf").read_bytes().startswith(b"%PDF")
    assert 'id="pareto"' in report_page(unjudged(study))


def test_a_study_with_one_objective_has_no_front(study):
    with_front(study)
    with pytest.raises(InputError, match="has one objective; start a search with several by --metric log_loss,seconds"):
        write_front(study)
    assert 'id="pareto"' not in report_page(unjudged(study))
