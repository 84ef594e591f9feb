"""What a trial leaves on disk: it reads back, it is whole or absent, and a restart does not write it twice."""

import errno
import json
import math
import platform
import resource
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.errors import InputError
from mmnet.config import Config
from mmnet.crossval import CrossValidation
from study import records
from study.records import (
    StorageError,
    TrialWriter,
    peak_memory,
    read_trial,
    read_trials,
    record_failure,
    sweep,
    whole_file,
    write_json,
    write_status,
)
from tests.mmnet.tiny import CPU, deal, feature_dataset, tiny_config

CONFIG = tiny_config({"model.frozen": True, "optim.epochs": 4, "optim.patience": None, "metric": "auc"})
DATASET = feature_dataset()


def new_trial() -> CrossValidation:
    return CrossValidation(CONFIG, DATASET, deal(DATASET), CPU)


def start(folder, params=None) -> tuple[TrialWriter, CrossValidation]:
    """A trial as a process begins or resumes it."""
    writer, trial = TrialWriter(folder, 7, params or {}, CONFIG), new_trial()
    writer.load(trial)
    return writer, trial


def go(folder, epochs: int, params=None) -> tuple[TrialWriter, CrossValidation]:
    writer, trial = start(folder, params)
    for _ in range(epochs):
        next(trial)
        writer.report(trial)
    return writer, trial


def epochs_on_record(folder) -> list[int]:
    return [json.loads(line)["epoch"] for line in (folder / "epochs.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, trial) of a finished trial. Read only."""
    folder = tmp_path_factory.mktemp("study") / "trials" / "0007"
    writer, trial = go(folder, 4, {"optim.lr": 0.01, "model.pool_scales": (1, 3)})
    writer.status("done", "")
    return folder, trial


# reading back --------------------------------------------------------------------------------------------------------


def test_a_record_reads_back_as_it_was_written(finished):
    folder, trial = finished
    record, last = read_trial(folder), trial.history[-1]
    assert (record.name, record.number, record.status, record.reason) == ("0007", 7, "done", "")
    assert record.params == {"optim.lr": 0.01, "model.pool_scales": [1, 3]}
    assert Config().with_values(record.config) == CONFIG
    assert (record.score, record.fold_epochs) == (last.score, 8)
    assert record.best == record.epochs[last.best_epoch - 1]
    assert record.seconds == sum(report.seconds for report in trial.history)
    assert 0 < record.peak_mib <= peak_memory() and record.node == platform.node()
    for line, report in zip(record.epochs, trial.history, strict=True):
        for name in ("epoch", "metrics", "fold_metrics", "train_loss", "lr", "seconds", "score", "best_epoch", "finished", "fold_epochs"):
            assert line[name] == getattr(report, name)


def test_predictions_read_back_as_they_were_judged(finished):
    folder, trial = finished
    with np.load(folder / "predictions.npz") as saved:
        np.testing.assert_array_equal(saved["oof"], np.stack([report.probability for report in trial.history]))
        np.testing.assert_array_equal(saved["importance"], trial.history[trial.history[-1].best_epoch - 1].importance)
        assert saved["best_epoch"] == trial.history[-1].best_epoch
        for name in ("slide", "patient", "subtype", "label", "fold", "rows"):
            np.testing.assert_array_equal(saved[name], getattr(trial.out_of_fold, name))


def test_a_finished_trial_leaves_weights_of_each_fold_and_nothing_to_go_on_from(finished):
    folder, _ = finished
    assert sorted(path.name for path in (folder / "weights").iterdir()) == ["fold_1.safetensors", "fold_2.safetensors", "network.json"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "epochs.jsonl", "predictions.npz", "status.json", "weights"]


def test_trials_are_read_in_order_and_one_that_never_started_is_passed_over(tmp_path):
    for number in (2, 0, 1):
        TrialWriter(tmp_path / "trials" / f"{number:04d}", number, {}, CONFIG)
    (tmp_path / "trials" / "0003").mkdir()
    assert [(record.number, record.status) for record in read_trials(tmp_path)] == [(0, "running"), (1, "running"), (2, "running")]
    assert read_trials(tmp_path / "nowhere") == []


def test_a_trial_before_its_first_epoch_has_no_score(tmp_path):
    start(tmp_path)
    record = read_trial(tmp_path)
    assert (record.epochs, record.ranked, record.fold_epochs, record.seconds) == ([], False, 0, 0)
    assert math.isnan(record.score)


def test_a_trial_that_failed_or_whose_score_is_no_number_is_not_ranked(finished):
    record = read_trial(finished[0])
    assert record.ranked
    for other in (replace(record, status="failed"), replace(record, epochs=[record.epochs[0] | {"score": None}])):
        assert not other.ranked and math.isnan(other.score)


def test_no_number_is_written_as_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": [math.nan, 1.5], "b": (math.inf, {"c": np.float64("nan")}), "d": None})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [None, 1.5], "b": [None, {"c": None}], "d": None}


def test_an_epoch_without_a_score_reads_back_as_none(tmp_path):
    writer, trial = start(tmp_path)
    next(trial)
    report = trial.history[0]
    report.metrics["auc"] = report.fold_metrics[0]["auc"] = math.nan
    trial.history[0] = replace(report, score=math.nan)
    writer.report(trial)
    line = read_trial(tmp_path).epochs[0]
    assert line["metrics"]["auc"] is None and line["fold_metrics"][0]["auc"] is None and line["score"] is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", b""),
        ("config.json", b'{"number": 1}'),
        ("config.json", b"[]"),
        ("config.json", b"\xff\x00"),
        ("status.json", b'{"status": "done"}'),
        ("status.json", b"[]"),
        ("status.json", b"null"),
        ("status.json", b'{"status": "done", "reason": "", "peak_mib": 1.0}'),  # without an epoch
        ("epochs.jsonl", b'{"epoch": 1, "sec\n'),
        ("epochs.jsonl", b"{}\n"),
        ("epochs.jsonl", b'{"epoch": 1, "best_epoch": 2, "score": 0.5, "seconds": 1.0, "metrics": {}}\n'),
        ("epochs.jsonl", b"3\n"),
        ("epochs.jsonl", b"\x80abc"),
    ],
)
def test_a_damaged_record_is_an_input_error_that_names_it(tmp_path, name, content):
    TrialWriter(tmp_path, 7, {}, CONFIG)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="damaged or incomplete") as error:
        read_trial(tmp_path)
    assert str(tmp_path) in str(error.value)


# status --------------------------------------------------------------------------------------------------------------


def test_a_status_keeps_the_peak_memory_on_record(tmp_path):
    write_status(tmp_path, "running", "", 12.5)
    write_status(tmp_path, "stopped", "below the best")
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "status": "stopped",
        "reason": "below the best",
        "peak_mib": 12.5,
        "node": "",
    }


def test_a_record_names_the_machine_of_its_trial_also_when_the_driver_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "gpu2")
    writer, _ = go(tmp_path, 1)
    assert read_trial(tmp_path).node == "gpu2"
    monkeypatch.setattr(platform, "node", lambda: "head")
    record_failure(tmp_path, 7, {}, CONFIG, "worker lost")
    assert read_trial(tmp_path).node == "gpu2"
    (tmp_path / "status.json").write_text('{"status": "done", "reason": "", "peak_mib": 1.0}')  # of an earlier version
    assert read_trial(tmp_path).node == ""


def test_peak_memory_is_in_mebibytes():
    assert 50 < peak_memory() < 100_000  # torch alone takes 50


# restarts ------------------------------------------------------------------------------------------------------------


def test_the_record_of_a_restarted_trial_has_every_epoch_once(tmp_path):
    writer, trial = go(tmp_path, 2)
    writer.save(trial)
    go(tmp_path, 2)
    assert epochs_on_record(tmp_path) == [1, 2, 3, 4]
    assert read_trial(tmp_path).epochs[-1]["finished"]


def test_a_checkpoint_of_an_earlier_epoch_takes_the_record_back_to_it(tmp_path):
    writer, trial = go(tmp_path, 1)
    writer.save(trial)
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    for _ in range(2):
        next(trial)
        writer.report(trial)
    assert epochs_on_record(tmp_path) == [1, 2, 3]
    (tmp_path / "checkpoint.pt").write_bytes(checkpoint)
    _, restored = start(tmp_path)
    assert epochs_on_record(tmp_path) == [1] and len(restored.history) == 1


def test_checkpoints_take_a_twentieth_of_the_time(tmp_path, monkeypatch):
    """By a clock on which an epoch takes 10 s and a checkpoint 1 s: 20 s pass from one to the next."""
    clock, save = [0.0], torch.save
    monkeypatch.setattr(records, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slow(*given):
        clock[0] += 1
        save(*given)

    monkeypatch.setattr(torch, "save", slow)
    config = CONFIG.with_values({"optim.epochs": 9})
    writer, trial = TrialWriter(tmp_path, 7, {}, config), CrossValidation(config, DATASET, deal(DATASET), CPU)
    saved = []
    for _ in range(6):
        next(trial)
        clock[0] += 10
        writer.report(trial)
        saved.append(len(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["history"]))
    assert saved == [1, 1, 3, 3, 5, 5]


def test_without_a_checkpoint_a_trial_starts_over(tmp_path):
    go(tmp_path, 2)
    (tmp_path / "checkpoint.pt").unlink()
    _, restored = start(tmp_path)
    assert epochs_on_record(tmp_path) == [] and restored.history == []


class Hostile:
    def __reduce__(self):
        return pytest.fail, ("a checkpoint was executed",)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:2000]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("text"),
        lambda path: torch.save({"networks": Hostile()}, path),
    ],
    ids=["half", "empty", "text", "code"],
)
def test_a_checkpoint_that_cannot_be_read_is_set_aside_and_the_trial_comes_to_the_same_numbers(tmp_path, finished, damage):
    go(tmp_path, 2)
    damage(tmp_path / "checkpoint.pt")
    writer, trial = start(tmp_path)
    assert not trial.history and epochs_on_record(tmp_path) == [] and (tmp_path / "checkpoint.damaged").exists()
    for _ in trial:
        writer.report(trial)
    assert trial.scores == finished[1].scores


@pytest.mark.parametrize("state", [{}, {"networks": [], "optimizers": []}, [1, 2], 3])
def test_a_checkpoint_of_another_network_is_an_error_and_stays(tmp_path, state):
    go(tmp_path, 1)
    torch.save(state, tmp_path / "checkpoint.pt")
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match="checkpoint .*checkpoint.pt: of another network .* remove it"):
        start(tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_holds_nothing_but_plain_values(tmp_path):
    writer, trial = go(tmp_path, 1)
    writer.save(trial)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True).keys() == trial.state_dict().keys()


# full disks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file")]
)
def test_a_file_that_cannot_be_filled_leaves_the_one_before_and_no_half(tmp_path, error):
    (tmp_path / "a.json").write_text("before")
    with pytest.raises(StorageError, match="cannot write .*a.json: .*free some space"), whole_file(tmp_path / "a.json") as building:
        building.write_text("half")
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "before"


def test_a_file_that_another_error_interrupts_does_not_get_its_name(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_file(tmp_path / "a.json") as building:
        building.write_text("half")
        raise KeyboardInterrupt
    assert not (tmp_path / "a.json").exists()


def test_a_full_disk_while_saving_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    writer, trial = go(tmp_path, 1)
    writer.save(trial)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        writer.save(trial)
    assert [path.name for path in tmp_path.iterdir() if "checkpoint" in path.name] == ["checkpoint.pt"]
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_line_that_a_lost_process_left_half_is_passed_over_and_written_again(tmp_path):
    writer, trial = go(tmp_path, 2)
    writer.save(trial)
    with (tmp_path / "epochs.jsonl").open("a") as file:
        file.write('{"epoch": 3, "metr')
    assert [line["epoch"] for line in read_trial(tmp_path).epochs] == [1, 2]
    go(tmp_path, 1)
    assert epochs_on_record(tmp_path) == [1, 2, 3]


def test_a_disk_that_fills_within_a_line_leaves_the_lines_before(tmp_path):
    writer, trial = go(tmp_path, 1)
    next(trial)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "epochs.jsonl").stat().st_size + 100, limits[1]))
    try:
        with pytest.raises(StorageError, match="epochs.jsonl"):
            writer.report(trial)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [line["epoch"] for line in read_trial(tmp_path).epochs] == [1]


def test_what_a_killed_process_was_building_goes_and_nothing_else(tmp_path):
    for name in (".28998.checkpoint.pt", ".7.taken", ".taken", "checkpoint.pt", ".lock"):
        (tmp_path / "trials" / "0007").mkdir(parents=True, exist_ok=True)
        (tmp_path / "trials" / "0007" / name).touch()
    sweep(tmp_path)
    assert sorted(path.name for path in (tmp_path / "trials" / "0007").iterdir()) == [".lock", ".taken", "checkpoint.pt"]
