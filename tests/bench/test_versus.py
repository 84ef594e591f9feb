"""Ours against plain Ray: what is done is not run again, replicates are paired, and differences are those of ours from Ray's."""

import numpy as np
import pytest

from bench.versus import FRESH, OURS, RAY, digest, fresh, judge_mean, judged, mean_interval, once, ours_took, report, run_both
from data.errors import InputError
from mmnet.config import Config
from study.records import TrialRecord


def found(ours, one, ray):
    """A search whose recommendations are told apart by their learning rates."""
    took = {"trials": 9, "full": 2, "fold_epochs": 90, "training_seconds": 60.0, "wall_seconds": 70.0}
    several, single, ray = [{"params": {"optim.lr": lr}, "score": 0.4, "epochs": 27} for lr in (ours, one, ray)]
    return {OURS: took | {"recommended": single, "several": [several, single]}, RAY: took | {"recommended": ray, "several": [ray, ray]}}


def trial(tmp_path, number, status, scores):
    lines = [
        {"epoch": epoch, "score": min(scores[:epoch]), "best_epoch": 1 + int(np.argmin(scores[:epoch])), "fold_epochs": 5 * epoch}
        for epoch in range(1, len(scores) + 1)
    ]
    return TrialRecord(tmp_path / f"{number:04d}", number, {"optim.lr": 0.1**number}, {}, status, "", lines, 2.0 * len(scores), 1.0)


def test_what_is_done_is_not_made_again(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"value": 3}

    path = tmp_path / "deep" / "found.json"
    assert once(path, make) == once(path, make) == {"value": 3}
    assert len(made) == 1


def test_replicates_are_the_same_for_all_and_not_the_seeds_of_a_search():
    base = Config().with_values({"seed": 3})
    one, other = fresh(base, {"loss.gamma": 1.0}, 2), fresh(Config(), {}, 2)
    assert (one.seed, one.data.split_seed) == (other.seed, other.data.split_seed) == (FRESH + 2, FRESH + 2)
    assert one.loss.gamma == 1.0
    assert digest(one) != digest(other) and digest(one) == digest(fresh(Config(), {"loss.gamma": 1.0}, 2))


def test_replicates_stand_by_seed_method_and_replicate():
    def judge(members, number):
        return [np.mean([params.get("optim.lr", 0.0) for params in members]), number, len(members)]

    base, values = judged([found(1, 2, 3), found(4, 5, 6)], judge, count=4)
    assert values.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(values[:, :, 0, 0], [[1.5, 2, 3, 3], [4.5, 5, 6, 6]])
    np.testing.assert_array_equal(values[0, :, 0, 2], [2, 1, 1, 2])
    np.testing.assert_array_equal(values[1, 2, :, 1], range(4))
    np.testing.assert_array_equal(base[:, 1], range(4))


def test_interval_of_a_mean_by_student():
    """Differences 1, 2, 3: mean 2, standard error 1/√3, t(0.975, 2) = 4.303."""
    middle, low, high = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert middle == 2 and high - 2 == pytest.approx(4.3027 / np.sqrt(3), rel=1e-4) and 2 - low == pytest.approx(high - 2)
    assert np.isnan(mean_interval(np.array([1.0]))[1])


def test_table_shows_each_seed_and_the_mean_difference():
    values = np.zeros((2, 4, 2, 3))
    values[:, 0, :, 0] = [[0.40, 0.42], [0.50, 0.50]]  # ours
    values[:, 2, :, 0] = [[0.41, 0.45], [0.52, 0.52]]  # Ray's
    lines = report([found(1, 2, 3), found(4, 5, 6)], np.full((2, 3), 0.6), values)
    first = next(line for line in lines if line.startswith("| 0 |"))
    assert "9 (2) / 9 (2) | 90 / 90 | 90 / 90 | 0.400 / 0.400 | 0.410 / 0.430 | -0.020 ± 0.010" in first
    assert any(line.startswith("ours - plain Ray") and "log_loss -0.020" in line for line in lines)
    assert any(line.startswith("ours - base") and "log_loss -0.145" in line for line in lines)


def test_our_search_is_read_from_its_records(tmp_path):
    records = [trial(tmp_path, 0, "done", [0.5, 0.45]), trial(tmp_path, 1, "stopped", [0.4])]
    took = ours_took(records, "log_loss", {"ready": True, "recommended": {"trial": "0000"}, "mean": {"trials": ["0001", "0000"]}})
    assert (took["trials"], took["full"], took["fold_epochs"], took["training_seconds"]) == (2, 1, 15, 6.0)
    assert took["recommended"]["score"] == 0.45 and [one["score"] for one in took["several"]] == [0.4, 0.45]
    unjudged = ours_took(records, "log_loss", {"ready": False})
    assert unjudged["recommended"]["score"] == 0.4 and unjudged["several"] == [unjudged["recommended"]]
    with pytest.raises(InputError, match="none of 0 trials has a score"):
        ours_took([], "log_loss", {"ready": False})


def test_several_are_judged_by_their_mean_prediction_on_the_same_views():
    one = {"probability": [0.2, 0.6], "label": [0, 1], "patient": ["a", "b"], "row": [3, 4]}
    other = one | {"probability": [0.4, 0.8]}
    assert judge_mean([one, other])[0] == pytest.approx(-np.log(0.7))
    with pytest.raises(AssertionError):
        judge_mean([one, one | {"row": [4, 3]}])


def test_a_search_that_fails_ends_the_other_and_names_its_log(tmp_path):
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    with pytest.raises(InputError, match="b.log: exit status 3"):
        run_both([["-c", "import signal; signal.pause()"], ["-c", "raise SystemExit(3)"]], logs, limit=60)
