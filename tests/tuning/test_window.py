"""What TPE sees, against what it would see of the whole study."""

import numpy as np
import optuna
import pytest
from optuna.samplers._tpe.sampler import _split_trials
from optuna.trial import TrialState, create_trial

from tuning.searcher import all_trials, new_study
from tuning.window import BEST, LATEST, SPREAD

SPACE = {"x": optuna.distributions.FloatDistribution(0.0, 1.0)}


def filled(count, metric="log_loss", seed=0, complete=0.1):
    """A study asked once after every trial, as a search does, of complete, pruned, failed and running trials."""
    study, rng = new_study(metric), np.random.default_rng(seed)
    for _ in range(count):
        kind = rng.random()
        value, steps = float(rng.random()), int(rng.integers(1, 4))
        state = (
            TrialState.COMPLETE
            if kind < complete
            else TrialState.FAIL
            if kind > 0.95
            else TrialState.RUNNING
            if kind > 0.93
            else TrialState.PRUNED
        )
        study.add_trial(
            create_trial(
                state=state,
                value=value if state == TrialState.COMPLETE else None,
                params={"x": value},
                distributions=SPACE,
                intermediate_values={} if state == TrialState.FAIL else dict.fromkeys(range(1, steps + 1), value),
            )
        )
        study.get_trials(deepcopy=False)
    return study


def test_a_study_up_to_the_window_is_seen_whole():
    study = filled(BEST + LATEST + SPREAD)
    assert study.get_trials(deepcopy=False) == all_trials(study)


@pytest.mark.parametrize("metric", ["log_loss", "auc"])
@pytest.mark.parametrize("complete", [0.02, 0.5])
def test_the_best_that_tpe_draws_from_are_those_of_the_whole_study(metric, complete):
    study = filled(900, metric, complete=complete)
    seen = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
    whole = [trial for trial in all_trials(study) if trial.state != TrialState.FAIL]
    assert len(seen) < len(whole) and _split_trials(study, seen, BEST)[0] == _split_trials(study, whole, BEST)[0]


def test_the_latest_and_the_running_are_seen():
    study = filled(900)
    seen, whole = study.get_trials(deepcopy=False), all_trials(study)
    assert seen[-LATEST:] == whole[-LATEST:]
    assert {t.number for t in whole if t.state == TrialState.RUNNING} <= {t.number for t in seen}
    assert len(seen) <= BEST + LATEST + SPREAD + sum(t.state == TrialState.RUNNING for t in whole)


def test_the_others_are_seen_from_the_first_to_the_last_evenly():
    seen = [trial.number for trial in filled(900).get_trials(deepcopy=False)]
    assert seen == sorted(set(seen)) and seen[0] == 0 and max(np.diff(seen)) <= np.ceil((900 - LATEST) / SPREAD)


def test_a_trial_that_ends_behind_the_window_is_seen_among_the_best():
    study = filled(900)
    late = next(trial for trial in all_trials(study) if trial.state == TrialState.RUNNING)
    study.tell(late.number, 1e-9)
    study.add_trial(create_trial(value=0.5, params={"x": 0.5}, distributions=SPACE))
    assert late.number in {trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}


def test_trials_share_what_their_parameters_are_drawn_from_unless_it_differs():
    study = new_study("log_loss")
    for high in (1.0, 1.0, 2.0):
        study.ask().suggest_float("x", 0.0, high)
    first, second, other = (trial.distributions["x"] for trial in all_trials(study))
    assert first is second and other.high == 2.0
