"""Trials in this process: what their lines say, and that stopping them changes no number."""

import io
import os
import re
import signal

import numpy as np
import pytest
from rich.console import Console

from data.errors import InputError
from data.splits import Splits
from mmnet import training
from mmnet.crossval import CrossValidation
from mmnet.records import read_trials
from mmnet.training import PlannedTrial, train_all
from tests.mmnet.tiny import CPU, deal, feature_dataset, tiny_config

EPOCHS = 4
CONFIG = tiny_config({"model.frozen": True, "optim.epochs": EPOCHS, "optim.patience": None})
DATASET = feature_dataset(cases=12)
DEALT = deal(DATASET, 3)
SPLITS = Splits(DEALT.folds[:2], (), "case", "dealt")  # 8 of the 12 patients of DATASET


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
    """A study that was never stopped. Read only."""
    study = tmp_path_factory.mktemp("whole")
    before = signal.getsignal(signal.SIGTERM)
    lines_of(study, planned())
    signal.signal(signal.SIGTERM, before)
    return study


@pytest.fixture
def before_fold(monkeypatch):
    """Call something of (epoch, fold), both from 0, before a fold trains for an epoch."""
    train = CrossValidation._train

    def install(action):
        def with_action(self, learner, folds, epoch):
            for fold in folds:
                action(epoch, fold)
            return train(self, learner, folds, epoch)

        monkeypatch.setattr(CrossValidation, "_train", with_action)

    return install


# lines ---------------------------------------------------------------------------------------------------------------


def test_each_epoch_is_a_line_with_the_folds_the_best_and_the_time_left(tmp_path):
    lines = lines_of(tmp_path, planned(title="outer fold 1 of 3"))
    (record,) = read_trials(tmp_path)
    assert len(lines) == EPOCHS
    for line, epoch in zip(lines, record.epochs, strict=True):
        folds = " ".join(f"{fold['log_loss']:.3f}" for fold in epoch["fold_metrics"])
        start = (
            f"outer fold 1 of 3: epoch {epoch['epoch']}/{EPOCHS}, log_loss {epoch['metrics']['log_loss']:.4f} (folds {folds}), "
            f"best {epoch['score']:.4f} at epoch {epoch['best_epoch']}, {epoch['seconds']:.1f} s, "
        )
        assert line.startswith(start)
        assert re.fullmatch(r"at most \d+:[0-5]\d left" if epoch["epoch"] < EPOCHS else "finished", line.removeprefix(start))


@pytest.mark.parametrize(("left", "shown"), [(0.4, "0:00"), (59.7, "1:00"), (61, "1:01"), (3599.6, "60:00")])
def test_the_time_left_is_in_minutes_and_seconds(whole, left, shown):
    trial = CrossValidation(CONFIG, DATASET.select_patients(SPLITS.development()), SPLITS, CPU)
    assert training._line("t", CONFIG, next(trial), left).endswith(f", at most {shown} left")


def test_a_run_that_lost_patience_says_that_it_is_finished(tmp_path):
    config = tiny_config({"model.frozen": True, "optim.epochs": 9, "optim.patience": 1, "optim.lr": 1e-12, "metric": "balanced_accuracy"})
    lines = lines_of(tmp_path, planned(config=config))
    assert len(lines) == 2 and "at most" in lines[0] and lines[1].endswith("finished")


# what is trained -----------------------------------------------------------------------------------------------------


def test_a_trial_sees_the_patients_of_its_folds_and_no_others(whole):
    (record,) = read_trials(whole)
    with np.load(record.folder / "predictions.npz") as saved:
        assert set(saved["patient"].tolist()) == set(SPLITS.development()) < set(DATASET.table.patients().tolist())


def test_a_trial_that_is_done_is_not_trained_again(tmp_path, monkeypatch):
    lines_of(tmp_path, planned())
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    built = []
    run = training.crossval.run
    monkeypatch.setattr(training.crossval, "run", lambda *given, **more: built.append(1) or run(*given, **more))
    lines = lines_of(tmp_path, planned(), planned(1, "another"))
    assert len(built) == 1 and len(lines) == EPOCHS and all(line.startswith("another: ") for line in lines)
    assert [(record.number, record.status) for record in read_trials(tmp_path)] == [(0, "done"), (1, "done")]
    assert {path: path.read_bytes() for path in files} == files


# stopping ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "fold"), [(0, 1), (1, 0), (2, 1), (3, 1)])
def test_an_interrupted_trial_goes_on_with_the_numbers_of_one_never_stopped(tmp_path, whole, before_fold, epoch, fold):
    def interrupt(now, of):
        if (now, of) == (epoch, fold):
            raise KeyboardInterrupt

    before_fold(interrupt)
    with pytest.raises(KeyboardInterrupt):
        lines_of(tmp_path, planned())
    assert [record.status for record in read_trials(tmp_path)] == ["running"]
    assert len(read_trials(tmp_path)[0].epochs) == epoch
    before_fold(lambda now, of: None)
    lines = lines_of(tmp_path, planned())
    assert epoch == 0 or f"epoch 1/{EPOCHS}" not in lines[0]  # it went on from a checkpoint
    assert numbers(tmp_path) == numbers(whole)
    assert [record.status for record in read_trials(tmp_path)] == ["done"]
    assert not list(tmp_path.rglob("checkpoint.pt"))


def test_sigterm_stops_like_ctrl_c(tmp_path, whole, before_fold):
    before_fold(lambda epoch, fold: os.kill(os.getpid(), signal.SIGTERM) if (epoch, fold) == (1, 1) else None)
    with pytest.raises(KeyboardInterrupt):
        lines_of(tmp_path, planned())
    before_fold(lambda epoch, fold: None)
    lines_of(tmp_path, planned())
    assert numbers(tmp_path) == numbers(whole)


def test_a_trial_that_cannot_be_trained_is_an_error_and_recorded_as_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(CrossValidation, "_train", lambda self, _, folds, epoch: [float("nan") if epoch == 1 else 0.5 for _ in folds])
    with pytest.raises(InputError, match="^training failed: loss is nan in epoch 2, fold 1, 2: lower optim.lr"):
        lines_of(tmp_path, planned())
    (record,) = read_trials(tmp_path)
    assert record.status == "failed" and record.reason.startswith("loss is nan in epoch 2") and len(record.epochs) == 1


def test_a_failed_trial_is_tried_again(tmp_path, whole, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(CrossValidation, "_train", lambda self, _, folds, epoch: [float("nan") for _ in folds])
        with pytest.raises(InputError):
            lines_of(tmp_path, planned())
    lines_of(tmp_path, planned())
    assert numbers(tmp_path) == numbers(whole)
