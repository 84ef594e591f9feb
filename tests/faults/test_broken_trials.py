"""Trials that break in the middle of a search: each ends with its reason, is nowhere the best, and the others do not notice."""

import os
import signal

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from rich.console import Console

from data.splits import make_splits
from search_spaces.space import Dimension, Space
from study.records import read_trials
from tests.mmnet.tiny import tiny_config
from tuning import study as study_module
from tuning.cluster import joining
from tuning.settings import StudySettings
from tuning.study import run_study
from tuning.trainable import MMNetTrainable

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
FAULTS = {  # of a trial's second epoch, by its number -> what its record says
    1: "TrainingError: loss is nan in epoch 2, fold 1, 2: lower optim.lr or optim.clip",
    2: "out of memory: lower optim.batch_size, data.image_size or model.width (CUDA out of memory. Tried to allocate 20 GiB)",
    3: "out of memory: lower optim.batch_size, data.image_size or model.width (MemoryError)",
    4: "worker lost 6 times without finishing an epoch: ",
}
WIDE = Space("wide", (Dimension("loss.gamma", "scientific", "for this test", low=1.0, high=3.0),))


def breaking() -> type[MMNetTrainable]:
    """Made in a function, so that it travels to the workers as it is."""

    class Breaking(MMNetTrainable):
        def _open(self) -> None:
            super()._open()
            number, trial = self._place[1], self._trial
            assert trial is not None

            def fault(*arguments: object) -> None:
                if len(trial.history) != 1:
                    return
                if number == 1:
                    for network in trial.networks:
                        next(network.parameters()).data.fill_(float("nan"))
                elif number == 2:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
                elif number == 3:
                    raise MemoryError
                elif number == 4:
                    os.kill(os.getpid(), signal.SIGKILL)

            trained = trial._train
            trial._train = lambda *arguments: (fault(), trained(*arguments))[1]  # type: ignore[method-assign]

    return Breaking


def test_a_trial_that_breaks_in_its_second_epoch_has_its_reason_and_the_study_goes_on(synthetic_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "MMNetTrainable", breaking())
    splits = make_splits(synthetic_dataset.table, folds=2, test_fraction=0.0, grouping="patient", seed=0)
    settings = StudySettings(name="s", output=tmp_path, trials=6, concurrency=1)
    with joining(None) as connected:
        outcome = run_study(settings, WIDE, tiny_config(), (), synthetic_dataset, splits, Console(quiet=True), connected)
    records = read_trials(tmp_path / "s")
    assert outcome.complete and [record.status for record in records] == ["done", *["failed"] * 4, "done"]
    for number, reason in FAULTS.items():
        assert records[number].reason.startswith(reason) and len(records[number].epochs) == 1 and not records[number].ranked
    told = optuna.load_study(storage=f"sqlite:///{tmp_path / 's' / 'optuna.db'}", study_name="s").trials
    assert [trial.state for trial in told] == [TrialState.COMPLETE, *[TrialState.FAIL] * 4, TrialState.COMPLETE]
    assert all(list(record.folder.glob("events.out.tfevents.*")) for record in records)
    assert np.isfinite([record.score for record in records if record.ranked]).all()
