"""Following a study by its records alone, without waiting: each look is one call."""

import io
import json

import pytest
from rich.console import Console

from analysis.watch import SILENT, Records, ended, planned, view, watch
from data.errors import InputError
from study.records import write_status
from tests.analysis.studies import record

ABOUT = {
    "verb": "tune",
    "settings": {"trials": 3},
    "ended": None,
    "config": {"metric": "log_loss", "optim": {"epochs": 4}},
    "data": {"synthetic": True},
}


def set_about(study, **more):
    about = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(about | more))


def shown(study, wait, terminal=False):
    out = io.StringIO()
    watch(study, Console(file=out, width=200, force_terminal=terminal), wait)
    return out.getvalue()


def test_it_ends_when_every_trial_ended_and_tells_each_once(study):
    set_about(study, settings={"trials": 5}, ended=None)
    write_status(study / "trials" / "0002", "running", "")
    looks = []

    def wait(seconds):
        looks.append(seconds)
        if len(looks) == 2:
            write_status(study / "trials" / "0002", "stopped", "below the best")

    text = shown(study, wait)
    assert len(looks) == 2
    assert [text.count(f"trial {n:04d} ") for n in (0, 2, 3, 4)] == [1, 1, 1, 1] and "below the best" in text
    assert "5/5 trials: 0 running, 1 stopped early, 2 done, 2 failed" in text and "ended: every trial ended; best: log_loss" in text


def test_it_ends_when_the_run_says_so(study):
    set_about(study, settings={"trials": 50}, ended=None)

    def wait(_):
        set_about(study, ended={"at": "now", "reason": "time budget used up"})

    assert "ended: time budget used up" in shown(study, wait)


def test_ctrl_c_leaves(study):
    set_about(study, settings={"trials": 50}, ended=None)

    def wait(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shown(study, wait)


def test_a_terminal_sees_the_view_and_then_the_end(study):
    set_about(study, settings={"trials": 5}, ended=None)
    text = shown(study, lambda _: pytest.fail("nothing to wait for"), terminal=True)
    lines = [text.index(f"trial {number} failed after epoch") for number in ("0003", "0004")]  # of the view: the rest names the best only
    assert sorted(lines) == lines and lines[-1] < text.index("ended: every trial ended")


def test_a_folder_that_is_no_study_is_an_error_at_once(tmp_path):
    with pytest.raises(InputError, match="no readable study.json"):
        shown(tmp_path, lambda _: None)


def test_only_what_changed_is_read_again(study):
    records = Records(study)
    first = records.read()
    for folder in (study / "trials").glob("000[0-4]"):  # config.json never changes, so whoever sees this has read again
        (folder / "config.json").write_text((folder / "config.json").read_text().replace("optim.lr", "seen"))
    assert records.read() == first and len(first) == 5
    write_status(study / "trials" / "0002", "done", "")
    assert ["seen" in record.params for record in records.read()] == [False, False, True, False, False]


def test_a_record_in_the_middle_of_being_written_is_taken_as_it_was(study):
    records = Records(study)
    before = records.read()
    (study / "trials" / "0000" / "config.json").unlink()
    write_status(study / "trials" / "0000", "failed", "later")
    assert records.read() == before


def test_how_many_trials_a_study_is_to_have():
    assert planned(ABOUT) == 3
    assert planned({"verb": "main", "settings": {"nested": 4, "single_magnifications": []}}) == 4
    assert planned({"verb": "main", "settings": {"nested": None, "repeats": 6}}) == 6
    assert planned({"verb": "main", "settings": {"nested": None, "single_magnifications": [40, 100]}}) == 3
    assert planned({"verb": "main", "settings": {"nested": None, "members": {"a": {}, "b": {}}, "single_magnifications": []}}) == 2
    assert planned({"verb": "main"}) == 1


def test_a_study_of_an_earlier_version_that_was_cut_short_is_not_waited_for():
    about = {key: value for key, value in ABOUT.items() if key != "ended"}
    assert ended(about, [record(0, [0.5])]).startswith("1 of 3 trials ended; an earlier version")
    assert ended(ABOUT, [record(0, [0.5])]) == "" and ended(ABOUT, [record(n, [0.5]) for n in range(3)]) == "every trial ended"


def test_the_view_shows_the_running_the_latest_and_the_best_and_says_when_nothing_comes_any_more():
    records = [record(0, [0.5, 0.4], params={"optim.lr": 0.001}), record(1, [0.9], "stopped"), record(2, [0.7], "running")]
    out = io.StringIO()
    console = Console(file=out, width=120)
    console.print(view("s", ABOUT, records, silent=SILENT + 60))
    text = out.getvalue()
    assert "study s — SYNTHETIC DATA  2/3 trials: 1 running, 1 stopped early, 1 done, 0 failed" in text
    assert "0002     1/4    0.7000  0.7000" in text and "trial 0001 stopped after epoch 1: log_loss 0.9000 (epoch 1)" in text
    assert "best: log_loss 0.4000, trial 0000: optim.lr=0.001" in text and "no record for 6 minutes" in text
    console.print(view("s", ABOUT, records, silent=SILENT - 60))
    console.print(view("s", ABOUT, [], silent=1e9))
    assert out.getvalue().count("no record for") == 1
