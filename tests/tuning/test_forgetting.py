"""Tune's own loop on simulated nodes: what it keeps of trials that have ended."""

import gc
import logging
from weakref import WeakSet

import numpy as np
from rich.console import Console

from bench.nodes import Cluster, study
from study.records import read_trials
from tuning.progress import ProgressCallback

AT_ONCE = 4


def test_nothing_keeps_a_trial_that_has_ended(tmp_path, monkeypatch, caplog, request):
    """Neither Tune nor a callback of ours, whether the trial rested, ended or lost its node. When Ray is renewed, this says what is new."""
    caplog.set_level(logging.CRITICAL, "ray.tune")  # what it keeps of an error holds the trial
    begun, kept, known = [], WeakSet(), []

    class Watch(ProgressCallback):
        def on_trial_start(self, iteration, trials, trial, **info):
            super().on_trial_start(iteration, trials, trial, **info)
            gc.collect()
            begun.append(trial.trial_id)
            kept.add(trial)
            known.append((len(kept), len(trials)))

    monkeypatch.setattr("tuning.study.ProgressCallback", Watch)
    cluster = Cluster(2 * AT_ONCE, 1, np.random.default_rng(0))
    gc.freeze()  # collections pass over what stands already: all libraries, the longest part of each
    request.addfinalizer(gc.unfreeze)
    study(12, cluster, AT_ONCE, tmp_path, Console(quiet=True))
    assert len(read_trials(tmp_path / "s")) == 12 and len(begun) > 16 and cluster.lost
    assert max(trials for trials, _ in known) <= 2 * AT_ONCE  # those that train, and those that ended since the last one was forgotten
    assert max(listed for _, listed in known) <= 2 * AT_ONCE
