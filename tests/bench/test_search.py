"""`python -m bench search` on a table made here."""

import json
import sys

import numpy as np
import pytest

from bench import search
from bench.recorded import load


@pytest.fixture
def curves(tmp_path):
    """20 configurations of 9 epochs on 12 views; the larger x, the better, in the replicate as well."""
    generator = np.random.default_rng(0)
    label = np.repeat([0, 1], 6)
    x = generator.random(20)
    sure = 0.5 + 0.4 * x[:, None] * (1 + np.arange(9)) / 9
    oof = np.where(label == 1, sure[:, :, None], 1 - sure[:, :, None])
    np.savez(
        tmp_path / "curves.npz",
        oof=oof.astype(np.float16),
        oof_replicate=oof[:, -1].astype(np.float16),
        config=[json.dumps({"x": value}) for value in x],
        fold=np.tile([0, 1, 2], 4),
        label=label,
    )
    return tmp_path / "curves.npz"


def test_a_half_has_half_of_the_configurations_and_the_same_ones_for_a_seed(curves):
    whole = load(curves)
    half = search.half(whole, 0)
    assert len(half.points) == 10 and half.folds == 3
    assert (half.scores == search.half(whole, 0).scores).all()
    assert half.percentile([half.scores[:, -1].argmin()]) == 0


def test_a_goal_is_reached_at_the_first_look_whose_mean_is_good_enough():
    found = np.full((2, len(search.looks())), 20.0)
    found[:, 3:] = [[14.0], [10.0]]
    assert search.row("any", 1, found).endswith("540, -, -")


def test_every_method_asked_for_gives_a_line_for_each_number_of_workers(curves, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["search", "--curves", str(curves), "--repeats", "2", "--methods", "full", "promotion", "--workers", "1", "4"])
    search.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2::2]] == [["full", "1"], ["full", "4"], ["promotion", "1"], ["promotion", "4"]]
    assert [line.split()[:5] for line in lines[3::2]] == [["mean", "of", "its", "best", "3"]] * 4


def test_a_missing_library_is_told_with_its_remedy_and_the_other_methods_go_on(curves, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dehb", None)
    monkeypatch.delitem(sys.modules, "bench.peer_dehb", raising=False)
    monkeypatch.setattr(sys, "argv", ["search", "--curves", str(curves), "--repeats", "2", "--methods", "DEHB", "full", "--workers", "1"])
    search.main()
    left_out, full, _ = capsys.readouterr().out.splitlines()[2:]
    assert "dehb is not installed" in left_out and "requirements-bench.txt" in left_out
    assert full.startswith("full")
