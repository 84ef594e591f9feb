"""Machines that vanish with what runs on them, in simulated time: Tune's own loop and failure handling, our searcher and records."""

import numpy as np
import pytest
from rich.console import Console

from bench.nodes import Cluster, faults, study
from study.records import read_trials


@pytest.mark.slow
def test_no_trial_is_lost_given_up_or_has_other_numbers_when_a_node_dies_every_minute(tmp_path):
    cluster = Cluster(8, 1, np.random.default_rng(0))  # a node takes an eighth of all that trains; a quarter, and six losses in a row are no miracle
    study(24, cluster, 8, tmp_path, Console(quiet=True))
    assert cluster.lost > 5 and 0 < cluster.unreported < cluster.lost
    assert faults(read_trials(tmp_path / "s"), 24, tmp_path / "s" / "optuna.db") == []
