"""What a study takes over from an earlier one."""

import json

import pytest
from optuna.trial import TrialState

from data.errors import InputError
from data.splits import Splits
from mmnet.config import Config
from search_spaces import get_space
from study.records import write_json
from tests.tuning.test_searcher import made, result
from tuning.searcher import all_trials, new_study
from tuning.warm_start import LEARNED, POINTS, earlier_trials, read_earlier, warm_space

BASE, SPACE = Config(), get_space("smoke", Config())
SPLITS = Splits((("a",), ("b",)), (), "patient", "generated")


@pytest.fixture
def earlier(tmp_path):
    """A study of trials with these (lr, status, scores)."""

    def make(*trials, metric="log_loss"):
        folder = tmp_path / "old"
        about = {"format": 2, "verb": "tune", "name": "old", "data": {"path": "", "fingerprint": "f", "synthetic": True}}
        write_json(folder / "study.json", about | {"config": BASE.to_dict() | {"metric": metric}, "splits": SPLITS.to_json()})
        for number, (lr, status, scores) in enumerate(trials):
            place = folder / "trials" / f"{number:04d}"
            config = BASE.with_values({"optim.lr": lr}).to_dict()
            write_json(place / "config.json", {"number": number, "params": {"optim.lr": lr}, "config": config})
            write_json(place / "status.json", {"status": status, "reason": "", "peak_mib": 1.0})
            lines = [
                {"epoch": e, "score": s, "best_epoch": e, "seconds": 1.0, "fold_epochs": e, "finished": status == "done" and e == len(scores)}
                | {"metrics": {}, "fold_metrics": []}
                for e, s in enumerate(scores, start=1)
            ]
            (place / "epochs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    return make


TRIALS = ((1e-3, "done", [0.6, 0.5]), (2e-3, "stopped", [0.2]), (3e-3, "failed", []), (4e-3, "done", [0.6, 0.4]), (5e-3, "stopped", [0.7]))


def test_the_best_are_tried_after_the_base_full_length_ones_first(earlier):
    taken = read_earlier(earlier(*TRIALS), SPACE, BASE, "f", SPLITS)
    searcher = made(new_study("log_loss"), warm_space(SPACE, taken))
    asked = [searcher.suggest(str(n))["params"]["optim.lr"] for n in range(4)]
    assert asked == [BASE.optim.lr, 4e-3, 1e-3, 2e-3] and len(taken["points"]) == POINTS


def test_on_the_same_folds_the_sampler_sees_the_earlier_trials_and_the_study_does_not_hold_them(earlier):
    taken = json.loads(json.dumps(read_earlier(earlier(*TRIALS), SPACE, BASE, "f", SPLITS)))
    study = new_study("log_loss", earlier_trials(SPACE, taken))
    searcher = made(study, SPACE)
    searcher.suggest("a")
    searcher.on_trial_complete("a", result(9, 0.5, finished=True))
    seen = study.get_trials(deepcopy=False)  # as Optuna's samplers ask
    assert [(t.number, t.state) for t in seen] == [
        (-4, TrialState.COMPLETE), (-3, TrialState.COMPLETE), (-2, TrialState.PRUNED), (-1, TrialState.PRUNED), (0, TrialState.COMPLETE)
    ]  # fmt: skip
    assert seen[0].params["optim.lr"] == 4e-3 and seen[0].value == 0.4 and seen[2].intermediate_values == {1: 0.2}
    assert [t.number for t in all_trials(study)] == [0]


@pytest.mark.parametrize(("fingerprint", "splits"), [("other", SPLITS), ("f", Splits((("b",), ("a",)), (), "patient", "generated"))])
def test_scores_on_other_patients_are_not_compared(earlier, fingerprint, splits):
    taken = read_earlier(earlier(*TRIALS), SPACE, BASE, fingerprint, splits)
    assert not taken["trials"] and len(taken["points"]) == POINTS


@pytest.mark.parametrize("count", [3 * LEARNED, 2 * LEARNED - 1])
def test_of_a_long_study_the_sampler_sees_a_bounded_number_with_the_best(earlier, count):
    many = [((number + 1) / 1e4, "done", [1 - number / 400]) for number in range(count)]
    taken = read_earlier(earlier(*many), SPACE, BASE, "f", SPLITS)
    assert LEARNED - POINTS <= len(taken["trials"]) <= LEARNED + POINTS
    assert min(trial["score"] for trial in taken["trials"]) == 1 - (count - 1) / 400


def test_neither_the_base_nor_an_equal_configuration_is_tried_a_second_time(earlier):
    scores = ((1e-3, 0.3), (BASE.optim.lr, 0.4), (1e-3, 0.5), (2e-3, 0.6))
    taken = read_earlier(earlier(*((lr, "done", [score]) for lr, score in scores)), SPACE, BASE, "f", SPLITS)
    assert [point["optim.lr"] for point in taken["points"]] == [1e-3, 2e-3]


def test_an_earlier_study_of_another_metric_is_refused(earlier):
    with pytest.raises(InputError, match=r"judged by auc, expected log_loss; pass --metric auc"):
        read_earlier(earlier(*TRIALS, metric="auc"), SPACE, BASE, "f", SPLITS)


def test_a_study_without_a_score_is_refused(earlier):
    with pytest.raises(InputError, match="none of its 1 trials has a score"):
        read_earlier(earlier((1e-3, "failed", [])), SPACE, BASE, "f", SPLITS)
