"""The trial inside a worker, driven as Ray drives it, without Ray."""

import errno
import gc
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from data.splits import make_splits
from mmnet.crossval import CrossValidation, TrainingError
from study.mirror import Mirror, TakenOver
from study.records import read_trial
from tests.mmnet.tiny import tiny_config
from tuning.trainable import MMNetTrainable, failure_reason, trial_name
from tuning.trial_place import TrialPlace

PARAMS = {"optim.lr": 1e-3}


def asked(number=0, params=PARAMS, since=0, until=3, take=1):
    return {"number": number, "params": params, "since": since, "until": until, "take": take}


def set_up(dataset, folder, params=PARAMS, number=0, since=0, until=3, take=1):
    """A worker that was told what to train, of a study in this folder."""
    splits = make_splits(dataset.table, folds=2, test_fraction=0.0, grouping="patient", seed=0)
    trainable = MMNetTrainable.__new__(MMNetTrainable)
    base = tiny_config({"sampling.views_per_slide": 1})
    shared = {"dataset": dataset, "splits": splits, "base": base, "place": TrialPlace(folder), "threads": 1}
    trainable.setup(asked(number, params, since, until, take), **shared)
    return trainable


@pytest.fixture
def worker(synthetic_dataset, tmp_path):
    return partial(set_up, synthetic_dataset, tmp_path)


@pytest.fixture(scope="module")
def unbroken(synthetic_dataset, tmp_path_factory):
    """The metrics of each epoch of a trial that nothing interrupts."""
    trainable = set_up(synthetic_dataset, tmp_path_factory.mktemp("unbroken"))
    return [trainable.step()["metrics"] for _ in range(3)]


def test_a_trial_reports_every_epoch_and_ends_done(worker, tmp_path):
    trainable = worker()
    results = [trainable.step() for _ in range(3)]
    assert [r["epoch"] for r in results] == [1, 2, 3] and [r["done"] for r in results] == [False, False, True]
    record = read_trial(tmp_path / "trials" / trial_name(0))
    assert record.status == "done" and record.params == PARAMS and len(record.epochs) == 3 and record.score == results[-1]["score"]
    assert (record.folder / "weights" / "fold_2.safetensors").exists() and not (record.folder / "checkpoint.pt").exists()


def test_what_a_rung_stops_leaves_its_predictions(worker, tmp_path):
    trainable = worker()
    trainable.step()
    trainable.cleanup()
    assert np.load(tmp_path / "trials" / "0000" / "predictions.npz")["oof"].shape[0] == 1


def test_an_interrupted_trial_goes_on_where_it_was_and_says_its_last_epoch_again(worker, unbroken):
    first = worker()
    first.step()
    first.cleanup()
    again = worker()
    assert [again.step()["metrics"] for _ in range(3)] == unbroken


def trials_in_memory():
    return sum(type(found) is CrossValidation for found in gc.get_objects())


def test_a_worker_gives_memory_back_when_its_trial_is_gone(worker, monkeypatch):
    trainable = worker()
    gc.collect()
    before, left = trials_in_memory(), []
    trainable.step()
    assert trials_in_memory() == before + 1
    monkeypatch.setattr("tuning.trainable.give_back", lambda: left.append(trials_in_memory() - before))
    trainable.reset_config(asked(number=1))
    assert left == [0]


def test_a_worker_takes_up_the_next_configuration(worker, tmp_path):
    trainable = worker()
    trainable.step()
    assert trainable.reset_config(asked(1, {"optim.lr": 1e-2}))
    assert trainable.step()["epoch"] == 1
    assert json.loads((tmp_path / "trials" / "0001" / "config.json").read_text())["config"]["optim"]["lr"] == 1e-2


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"loss.gamma": 99.0}, "ConfigError: configuration loss.gamma"),
        ({"model.heads": 3}, "ConfigError: configuration model.heads = 3: expected a divisor"),
    ],
)
def test_a_bad_combination_fails_its_trial_with_the_reason(worker, tmp_path, params, reason):
    result = worker(params).step()
    assert result["done"] and result["failed"].startswith(reason)
    record = read_trial(tmp_path / "trials" / "0000")
    assert record.status == "failed" and record.reason == result["failed"] and (record.folder / "error.txt").exists()


def test_a_loss_that_is_no_number_fails_its_trial(worker, tmp_path, monkeypatch):
    monkeypatch.setattr("mmnet.crossval.focal_loss", lambda logit, *_, **__: logit.mean() * float("nan"))
    result = worker().step()
    assert "loss is nan in epoch 1" in result["failed"]
    assert read_trial(tmp_path / "trials" / "0000").status == "failed"


def test_a_full_disk_ends_the_study_not_the_trial(worker, monkeypatch):
    trainable = worker()

    def full(self, *arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    result = trainable.step()
    assert result["done"] and "No space left on device" in result["abort"] and "failed" not in result


def test_reasons_are_one_line_and_say_what_to_do_about_memory():
    assert failure_reason(torch.OutOfMemoryError("CUDA out of memory. Tried")).startswith("out of memory: lower optim.batch_size")
    assert failure_reason(TrainingError("loss is nan\nmore")) == "TrainingError: loss is nan"


def test_a_process_that_ray_sets_up_and_drops_leaves_a_trial_as_it_is(worker, tmp_path):
    trainable = worker()
    trainable.step()
    before = files(tmp_path / "trials")
    dropped = worker()
    dropped.cleanup()
    assert files(tmp_path / "trials") == before
    worker(number=1)
    assert not (tmp_path / "trials" / "0001").exists()


def test_a_trial_rests_at_its_rung_and_leaves_all_that_is_needed_to_go_on(worker, tmp_path):
    result = worker(until=1).step()
    record = read_trial(tmp_path / "trials" / "0000")
    assert result["done"] and result["rests"] and not result["finished"]
    assert record.status == "stopped" and record.reason.startswith("rests at epoch 1") and len(record.epochs) == 1
    assert (record.folder / "checkpoint.pt").exists() and np.load(record.folder / "predictions.npz")["oof"].shape[0] == 1


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_trial_that_goes_on_repeats_no_epoch_and_has_the_numbers_of_one_that_never_rested(worker, unbroken, tmp_path, elsewhere):
    first = worker(until=1)
    found = [first.step()]
    second = worker(since=1) if elsewhere else first
    if not elsewhere:
        (tmp_path / "trials" / "0000" / "checkpoint.pt").unlink()  # it is not read: the networks are still in memory
        second.reset_config(asked(since=1))
    found += [second.step(), second.step()]
    assert [result["metrics"] for result in found] == unbroken and [result["done"] for result in found] == [True, False, True]
    record = read_trial(tmp_path / "trials" / "0000")
    assert record.status == "done" and [line["metrics"] for line in record.epochs] == unbroken


def test_networks_in_memory_that_are_behind_the_record_are_not_gone_on_with(worker, tmp_path):
    stale = worker(until=1)
    stale.step()
    other = worker(since=1, until=2)
    other.step()
    stale.reset_config(asked(since=2))
    assert stale.step()["epoch"] == 3 and len(read_trial(tmp_path / "trials" / "0000").epochs) == 3


def test_a_trial_taken_up_at_its_rung_rests_there_without_another_epoch(worker, tmp_path):
    worker(until=1).step()  # and the driver was lost before it heard of it
    result = worker(until=1).step()
    assert result["epoch"] == 1 and result["rests"] and len(read_trial(tmp_path / "trials" / "0000").epochs) == 1


def test_a_resting_trial_whose_checkpoint_is_gone_begins_again(worker, tmp_path):
    first = worker(until=1).step()
    (tmp_path / "trials" / "0000" / "checkpoint.pt").unlink()
    again = worker(since=1)
    assert [again.step()["epoch"] for _ in range(3)] == [1, 2, 3]
    assert read_trial(tmp_path / "trials" / "0000").epochs[0]["metrics"] == first["metrics"]


@pytest.mark.parametrize("alone", [1, 2])
def test_a_worker_that_was_held_to_be_lost_and_comes_back_changes_nothing(worker, unbroken, tmp_path, alone):
    """In the middle, or with the epoch that ends the trial; while the other one trains, or when it is done."""
    folder, lost = tmp_path / "trials" / "0000", worker()
    for _ in range(alone):
        lost.step()
    Mirror(tmp_path).hand_out(folder, 2)
    other, done = worker(take=2), False
    while not done:
        done = other.step()["done"]
        left = files(folder)
        with pytest.raises(TakenOver, match="trial 0000 was given to another process"):
            lost.step()
        lost.cleanup()
        assert files(folder) == left
    record = read_trial(folder)
    assert record.status == "done" and [line["metrics"] for line in record.epochs] == unbroken
    left = files(folder)
    late = worker(take=1)  # it had the trial, and was cut off before its first step
    with pytest.raises(TakenOver):
        late.step()
    assert files(folder) == left


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
