"""The choice is paid for: what was chosen on some patients is scored on others."""

import numpy as np
import pytest

from analysis.bias_corrected import (
    FEW_PATIENTS,
    Candidates,
    best_epochs,
    choices,
    choose_best,
    corrected,
    corrected_interval,
    left_out_scores,
    out_of_bag_scores,
)
from analysis.bootstrap import draw_patients, strata_of
from analysis.patient_scores import BLOCK

PATIENT = np.repeat(np.arange(40), 3)
LABEL = (PATIENT < 20).astype(int)
STRATA = strata_of(LABEL, PATIENT)


def candidates(probability: np.ndarray, trial: np.ndarray | None = None) -> Candidates:
    return Candidates(probability, np.arange(len(probability)) if trial is None else trial, LABEL, PATIENT)


def null(count: int, seed: int) -> Candidates:
    """Configurations that know nothing, with errors shared by the views of a patient."""
    rng = np.random.default_rng(seed)
    return candidates(1 / (1 + np.exp(-rng.normal(0, 1, (count, 40))[:, PATIENT] - rng.normal(0, 0.5, (count, 120)))))


def run(pool: Candidates, metric: str = "auc", seed: int = 0):
    rule = {"best": choose_best("max" if metric == "auc" else "min")}
    return corrected(metric, pool, STRATA, rule, ("auc", "log_loss"), rng=np.random.default_rng(seed), count=300)["best"]


def test_each_trial_stands_at_its_best_epoch_and_no_number_never_wins():
    scores = np.array([[0.5], [0.3], [np.nan], [0.4], [0.2]])
    trial = np.array([0, 0, 0, 1, 1])
    best, place = best_epochs(scores, trial, "min")
    assert best[:, 0].tolist() == [0.3, 0.2] and place[:, 0].tolist() == [1, 4]
    best, place = best_epochs(scores, trial, "max")
    assert best[:, 0].tolist() == [0.5, 0.4] and place[:, 0].tolist() == [0, 3]


def test_the_choice_follows_the_patients_that_count():
    good_on_first = np.where((PATIENT % 2 == 0), LABEL * 0.8 + 0.1, 0.5)
    good_on_second = np.where((PATIENT % 2 == 1), LABEL * 0.8 + 0.1, 0.5)
    even = (np.arange(40) % 2 == 0).astype(float)
    chosen = choices(
        "log_loss", candidates(np.stack([good_on_first, good_on_second])), np.stack([even, 1 - even]), {"b": choose_best("min")}
    )
    assert chosen["b"].tolist() == [0, 1]


def test_the_choice_is_the_same_from_more_epochs_and_resamples_than_are_held_at_once():
    """A trial of `BLOCK` + 20 epochs begins in one block and ends in the next."""
    epochs = BLOCK + 20
    probability = np.tile(np.where(LABEL == 1, 0.6, 0.4), (epochs + 20, 1))
    probability[BLOCK + 5] = np.where(LABEL == 1, 0.9, 0.1)
    trial = np.r_[np.zeros(20, dtype=int), np.ones(epochs, dtype=int)]
    chosen = choices("log_loss", candidates(probability, trial), np.ones((BLOCK + 3, 40)), {"b": choose_best("min")})
    assert chosen["b"].tolist() == [BLOCK + 5] * (BLOCK + 3)


def test_a_patient_is_scored_only_by_choices_that_left_it_out():
    # resample 0 leaves out patient 0 and chose candidate 0, resample 1 leaves out patient 39 and chose candidate 1
    probability = np.stack([np.full(120, 0.8), np.full(120, 0.3)])
    weights = np.ones((2, 40))
    weights[0, 0] = weights[1, 39] = 0
    scores = left_out_scores("log_loss", candidates(probability), np.array([0, 1]), weights)
    benign, malignant = scores.total[:, 0]  # classes in order 0, 1
    assert malignant[0] == pytest.approx(-3 * np.log(0.8)) and benign[39] == pytest.approx(-3 * np.log(0.7))
    assert np.isnan(malignant[1])  # never left out


def test_a_pair_of_patients_is_scored_only_by_choices_that_left_both_out():
    pool = null(2, 3)
    weights, chosen = draw_patients(STRATA, 100, np.random.default_rng(0)), np.arange(100) % 2
    won = []
    for malignant in range(20):
        for benign in range(20, 40):
            out = (weights[:, malignant] == 0) & (weights[:, benign] == 0)
            upper, lower = (pool.probability[chosen[out]][:, PATIENT == patient] for patient in (malignant, benign))
            won.append(np.mean(upper[:, :, None] > lower[:, None, :]))
    scores = left_out_scores("auc", pool, chosen, weights).scores(np.ones((1, 40)))
    assert scores[0, 0] == pytest.approx(np.mean(won))


def test_one_candidate_has_nothing_to_correct():
    pool = null(1, 5)
    for found in run(pool).values():
        assert found.value == pytest.approx(found.naive) and found.optimism == pytest.approx(0)


def test_the_best_of_many_that_know_nothing_is_worth_nothing():
    found = [run(null(50, seed))["auc"] for seed in range(12)]
    assert np.mean([f.naive for f in found]) > 0.6
    assert np.mean([f.value for f in found]) == pytest.approx(0.5, abs=0.03)
    assert sum(f.low <= 0.5 <= f.high for f in found) >= 10
    # the standard error of such an AUC is sqrt((20 + 20 + 1) / (12 x 20 x 20)) = 0.092: wider intervals would say less than they could
    assert np.mean([f.high - f.low for f in found]) == pytest.approx(4 * 0.092, rel=0.15)


def test_a_clear_winner_keeps_its_score():
    pool = null(20, 0)
    rng = np.random.default_rng(1)
    pool.probability[7] = 1 / (1 + np.exp(-(2 * LABEL - 1) * 1.5 - rng.normal(0, 1, 40)[PATIENT]))
    found = run(pool)["auc"]
    assert found.value == pytest.approx(found.naive, abs=0.005) and found.low < found.value < found.high


def test_the_best_epoch_is_paid_for_as_well():
    pool = null(30, 3)
    as_epochs = run(pool._replace(trial=np.zeros(30, dtype=int)))["auc"]
    assert as_epochs.optimism > 0.05 and as_epochs == run(pool)["auc"]


def test_the_seed_decides_the_numbers():
    pool = null(10, 0)
    assert run(pool, "log_loss") == run(pool, "log_loss") != run(pool, "log_loss", seed=1)


def test_out_of_bag_scores_are_those_of_the_patients_left_out():
    probability = np.stack([np.full(120, 0.8), np.full(120, 0.3)])
    weights = np.ones((3, 40))
    weights[0, [0, 39]] = weights[1, [1, 38]] = 0  # one malignant, one benign patient; resample 2 leaves out none
    found = out_of_bag_scores("log_loss", candidates(probability), np.array([0, 0, 1]), weights)
    assert found[:2] == pytest.approx(-(np.log(0.8) + np.log(0.2)) / 2) and np.isnan(found[2])


def one_choice(smaller: int):
    """(interval of an AUC, percentiles of its out-of-bag scores) of 40 patients, `smaller` of them malignant."""
    label = (PATIENT < smaller).astype(int)
    pool, strata, rng = null(5, 0)._replace(label=label), strata_of(label, PATIENT), np.random.default_rng(0)
    weights, spread = draw_patients(strata, 300, rng), draw_patients(strata, 300, rng)
    chosen = choices("auc", pool, weights, {"b": choose_best("max")})["b"]
    percentiles = np.quantile(out_of_bag_scores("auc", pool, chosen, weights), [0.025, 0.975])
    return corrected_interval("auc", pool, chosen, weights, strata, spread), percentiles


def test_with_few_patients_the_interval_is_the_spread_of_out_of_bag_scores_which_is_wider():
    (few, spread_of_few), (enough, spread_of_enough) = one_choice(FEW_PATIENTS - 1), one_choice(FEW_PATIENTS)
    assert few[1:] == pytest.approx(spread_of_few)
    low, high = spread_of_enough
    assert low < enough.low < enough.value < enough.high < high
