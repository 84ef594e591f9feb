"""Trials in this process: what their lines say, and that stopping them changes no number."""

import io
import re
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from data.errors import InputError
from data.splits import Splits
from mmnet.batches import Batches
from study import training
from study.records import read_trials
from study.training import PlannedTrial, train_all
from tests.mmnet.tiny import CPU, deal, feature_dataset, tiny_config

EPOCHS = 4
CONFIG = tiny_config({"model.frozen": True, "optim.epochs": EPOCHS, "optim.patience": None})
DATASET = feature_dataset(patients=12)
DEALT = deal(DATASET, 3)
SPLITS = Splits(DEALT.folds[:2], (), "patient", "dealt")  # 8 of the 12 patients of DATASET


@pytest.fixture(autouse=True)
def own_signals():
    """Training takes over SIGTERM of the process, which is the test run's here."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def planned(number: int = 0, title: str = "training", config=CONFIG) -> PlannedTrial:
    return PlannedTrial(number, {}, config, DATASET, SPLITS, title)


def lines_of(study, *trials: PlannedTrial) -> list[str]:
    """Train, and what was printed."""
    out = io.StringIO()
    train_all(study, list(trials), CPU, Console(file=out, width=80))
    return [line for line in out.getvalue().splitlines() if line]


def numbers(study) -> tuple[list, dict[str, list]]:
    """All that a trial left but the time it took."""
    (record,) = read_trials(study)
    with np.load(record.folder / "predictions.npz") as saved:
        predictions = {name: saved[name].tolist() for name in saved.files}
    return [{key: value for key, value in line.items() if key != "seconds"} for line in record.epochs], predictions


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(study, lines) of one that was never stopped. Read only."""
    study = tmp_path_factory.mktemp("whole")
    before = signal.getsignal(signal.SIGTERM)
    lines = lines_of(study, planned(title="outer fold 1 of 3"))
    signal.signal(signal.SIGTERM, before)
    return study, lines


@pytest.fixture
def in_epoch(monkeypatch):
    """Do something with the batches of an epoch (from 0) of a study's trial, from the second one on."""
    training = Batches.training

    def install(study, epoch, action):
        seen = []

        def with_action(self, *given):
            batch = training(self, *given)
            if len(read_trials(study)[0].epochs) == epoch:
                seen.append(batch)
                if len(seen) > 1:
                    return action(*batch)
            return batch

        monkeypatch.setattr(Batches, "training", with_action)

    yield install


def interrupt(*_):
    raise KeyboardInterrupt


def terminate(*batch):
    signal.raise_signal(signal.SIGTERM)
    return batch


def no_number(inputs, mask, target):
    return inputs * torch.nan, mask, target


# lines ---------------------------------------------------------------------------------------------------------------


def test_each_epoch_is_a_line_with_the_folds_the_best_and_the_time_left(whole):
    study, lines = whole
    (record,) = read_trials(study)
    assert len(lines) == EPOCHS
    for line, epoch in zip(lines, record.epochs, strict=True):
        folds = " ".join(f"{fold['log_loss']:.3f}" for fold in epoch["fold_metrics"])
        start = (
            f"outer fold 1 of 3: epoch {epoch['epoch']}/{EPOCHS}, log_loss {epoch['metrics']['log_loss']:.4f} (folds {folds}), "
            f"best {epoch['score']:.4f} at epoch {epoch['best_epoch']}, {epoch['seconds']:.1f} s, "
        )
        assert line.startswith(start)
        assert re.fullmatch(r"at most \d+:[0-5]\d left" if epoch["epoch"] < EPOCHS else "finished", line.removeprefix(start))


def test_the_time_left_is_that_of_the_epochs_so_far_in_minutes_and_seconds(tmp_path, monkeypatch):
    clock = iter([100.0, 100.1, 159.7, 100 + 3 * 3599.6, 20_000.0])  # when training begins, and after each epoch
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    lines = lines_of(tmp_path, planned())
    assert [line.rpartition(", ")[2] for line in lines] == ["at most 0:00 left", "at most 1:00 left", "at most 60:00 left", "finished"]


def test_a_run_that_lost_patience_says_that_it_is_finished(tmp_path):
    config = tiny_config({"model.frozen": True, "optim.epochs": 9, "optim.patience": 1, "optim.lr": 1e-12, "metric": "balanced_accuracy"})
    lines = lines_of(tmp_path, planned(config=config))
    assert len(lines) == 2 and "at most" in lines[0] and lines[1].endswith("finished")


# what is trained -----------------------------------------------------------------------------------------------------


def test_a_trial_sees_the_patients_of_its_folds_and_no_others(whole):
    (record,) = read_trials(whole[0])
    with np.load(record.folder / "predictions.npz") as saved:
        assert set(saved["slide"].tolist()) == set(SPLITS.development()) < set(DATASET.table.slides().tolist())
        patient_of = DATASET.table.of_slides("patient")
        assert saved["patient"].tolist() == [patient_of[slide] for slide in saved["slide"].tolist()]


def test_a_trial_that_is_done_is_not_trained_again(tmp_path, whole):
    study = tmp_path / "study"
    shutil.copytree(whole[0], study)
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in study.rglob("*") if path.is_file()}
    lines = lines_of(study, planned(), planned(1, "another"))
    assert len(lines) == EPOCHS and all(line.startswith("another: ") for line in lines)
    assert [(record.number, record.status) for record in read_trials(study)] == [(0, "done"), (1, "done")]
    assert len(files) > 5 and {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files} == files


# stopping ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stop", "epoch"), [(interrupt, 0), (interrupt, 1), (interrupt, 3), (terminate, 1)])
def test_a_trial_that_ctrl_c_or_sigterm_stopped_goes_on_with_the_numbers_of_one_never_stopped(tmp_path, whole, in_epoch, stop, epoch):
    in_epoch(tmp_path, epoch, stop)
    with pytest.raises(KeyboardInterrupt):
        lines_of(tmp_path, planned())
    (record,) = read_trials(tmp_path)
    assert (record.status, len(record.epochs)) == ("running", epoch)
    in_epoch(tmp_path, None, stop)
    lines = lines_of(tmp_path, planned())
    assert (f"epoch 1/{EPOCHS}" in lines[0]) == (epoch == 0)  # else it went on from a checkpoint
    assert numbers(tmp_path) == numbers(whole[0])
    assert [record.status for record in read_trials(tmp_path)] == ["done"]
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_a_trial_that_cannot_be_trained_is_an_error_on_record_and_tried_again(tmp_path, whole, in_epoch):
    in_epoch(tmp_path, 1, no_number)
    with pytest.raises(InputError, match="^training failed: loss is nan in epoch 2, fold 1, 2: lower optim.lr"):
        lines_of(tmp_path, planned())
    (record,) = read_trials(tmp_path)
    assert record.status == "failed" and record.reason.startswith("loss is nan in epoch 2") and len(record.epochs) == 1
    in_epoch(tmp_path, None, no_number)
    lines_of(tmp_path, planned())
    assert numbers(tmp_path) == numbers(whole[0])
