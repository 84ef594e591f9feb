"""Outer tables: recorded without a look at the unseen patients, the same however often a recording is ended, judged by hand."""

import json
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from bench import outer
from bench.outer import Features, draw, record
from bench.outer_rules import greedy, mean_of_best, predictions, print_each, random_mean, rules, simplest, stacking
from bench.outer_table import Judge, OuterTable, Part, load, over, score, weighted_auc
from bench.search import SAMPLERS, SCHEDULERS, Pool, Random, replay, simulate, unit_cube
from data.errors import InputError
from mmnet.metrics import METRICS, evaluate
from tests.mmnet.tiny import feature_dataset, tiny_config

BASE = tiny_config({"data.magnifications": (200,), "model.frozen": True, "optim.epochs": 2, "optim.patience": None, "data.folds": 2})
QUIET = Console(quiet=True)


@pytest.fixture
def recording(tmp_path, monkeypatch):
    """(arguments of a recording of the base and two configurations, two outer parts)."""
    dataset = feature_dataset(24).select_magnifications((200,))
    monkeypatch.setattr(outer, "features", lambda arguments, weights, size: Features(f"{weights}@{size}", BASE, dataset))
    return Namespace(weights=["a", "b"], sizes=[32], outer=2, partitions=1, configurations=2, given=[], share="1/1", out=tmp_path / "table")


def contents(folder):
    return {path.relative_to(folder).as_posix(): dict(np.load(path)) for path in sorted(folder.rglob("*.npz"))}


def alike(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one if name != "seconds")


def test_a_recording_that_was_ended_goes_on_as_if_it_had_not_been(recording, monkeypatch):
    record(recording, QUIET)
    whole, original = contents(recording.out), outer.one
    calls = []

    def ended(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(arguments)
        original(*arguments)

    parts = Namespace(**vars(recording) | {"out": recording.out.with_name("parts")})
    monkeypatch.setattr(outer, "one", ended)
    with pytest.raises(KeyboardInterrupt):
        record(parts, QUIET)
    monkeypatch.setattr(outer, "one", original)
    for share in ("1/2", "2/2"):
        record(Namespace(**vars(parts) | {"share": share}), QUIET)
    again = contents(parts.out)
    assert again.keys() == whole.keys() and all(alike(again[name], whole[name]) for name in whole)


def test_no_unseen_patient_is_trained_on_and_each_is_unseen_once(recording):
    record(recording, QUIET)
    table = load(recording.out)
    parts = list(table.parts.values())
    assert all(not set(part.patient) & set(part.unseen_patient) for part in parts)
    assert sorted(name for part in parts for name in set(part.unseen_patient)) == sorted(set(parts[0].patient) | set(parts[0].unseen_patient))
    part = parts[0]
    assert part.oof.shape == (3, 2, len(part.label)) and part.unseen.shape == (3, 2, len(part.unseen_label))
    assert set(part.regressions) == {f"{name}@32 {penalty:g}" for name in "ab" for penalty in outer.PENALTIES}
    assert all(set(config) > {"features", "optim.lr"} for config in table.configs[1:]) and set(table.configs[0]) == {"features"}
    with pytest.raises(InputError, match="recorded with other settings"):
        record(Namespace(**vars(recording) | {"outer": 3}), QUIET)


def test_a_configuration_that_diverges_somewhere_is_left_out_of_the_table(recording):
    record(recording, QUIET)
    path = recording.out / "p0o1" / "0001.npz"
    saved = dict(np.load(path))
    np.savez(path, **saved | {"oof": saved["oof"][:1], "unseen": saved["unseen"][:1]})
    assert len(load(recording.out).configs) == 2


def test_a_configuration_is_the_same_whichever_were_drawn_before():
    every = [Features(name, BASE, None) for name in "abc"]
    drawn = [draw(every, number) for number in range(30)]
    assert drawn[7] == draw(every, 7) != draw(every, 8) and {features.name for features, _ in drawn} == set("abc")
    assert drawn[0] == (every[0], {})


@pytest.mark.parametrize("name", ["log_loss", "brier", "auc", "balanced_accuracy", "refinement", "patient_log_loss"])
def test_scores_are_the_metrics_of_the_product(name):
    rng = np.random.default_rng(0)
    label, patient = rng.integers(0, 2, 60), np.arange(60) // 5
    patient = patient + 100 * label  # a patient has one class
    probability = rng.random((3, 2, 60)) * 0.8 + 0.1 * label
    found = score(name, probability, label, patient, patient % 3)
    expected = [[evaluate(of, label, patient)[name] for of in row] for row in probability]
    sign = 1 if METRICS[name] == "min" else -1
    shift = 1 if name == "balanced_accuracy" else 0  # its error is followed
    np.testing.assert_allclose(found, shift + sign * np.array(expected), atol=1e-5)


def test_a_slope_fitted_on_the_other_folds_costs_no_less_than_one_fitted_on_all():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 90)
    probability = 1 / (1 + np.exp(-3 * (label - 0.5 + rng.normal(size=90))))
    alone = [score(name, probability, label, label, np.arange(90) % 5) for name in ("log_loss", "cross_refinement", "refinement")]
    assert alone[0] > alone[1] > alone[2]


def test_a_patient_that_was_drawn_twice_counts_twice():
    probability, label = np.array([0.1, 0.6, 0.4, 0.9]), np.array([0, 0, 1, 1])
    assert weighted_auc(probability, label, np.ones(4)) == 0.75
    assert weighted_auc(probability, label, np.array([2, 1, 1, 1])) == pytest.approx(5 / 6)


def test_slides_are_means_of_their_views():
    means, label = over(np.array([[0.2, 0.4, 0.9]]), np.array(["b", "b", "a"]), np.array([1, 1, 0]))
    assert means.tolist() == [[0.9, pytest.approx(0.3)]] and label.tolist() == [0, 1]


@pytest.fixture
def table():
    """40 configurations of 9 epochs on 40 views of 20 patients; the larger x, the better, on both sides. The base is the worst."""
    rng = np.random.default_rng(0)
    x = np.concatenate([[0.0], rng.random(39)])
    label, patient = np.tile([0, 0, 1, 1], 5).repeat(2), np.arange(20).repeat(2)
    right = 0.5 + 0.4 * x[:, None] * (1 + np.arange(9)) / 9
    probability = np.where(label == 1, right[:, :, None], 1 - right[:, :, None])
    configs = [{"x": float(value), "model.width": 64, "kind": "ab"[row % 2]} for row, value in enumerate(x)]
    halves = [patient % 2 == half for half in (0, 1)]
    parts = {
        (0, number): Part(
            configs, probability[..., ~here], probability[..., here], label[~here], patient[~here], patient[~here] % 5,
            label[here], patient[here].astype(str), patient[here], {"a@32 0.001": (probability[5, 8, ~here], probability[5, 8, here])},
        )
        for number, here in enumerate(halves, start=1)
    }  # fmt: skip
    return OuterTable(parts)


def test_what_is_followed_finds_the_best_and_a_random_one_is_the_mean_of_all(table):
    judge, best = Judge(table, resamples=50), mean_of_best("log_loss", 1)
    found = predictions(table, best, len(table.configs), 2)
    expected = max(config["x"] for config in table.configs)
    assert judge.values(found, "images", "log_loss") == pytest.approx(-np.log(0.5 + 0.4 * expected), abs=1e-6)
    one = judge.values(predictions(table, random_mean(1), 40, 200), "images", "log_loss")
    assert one == pytest.approx(np.mean([-np.log(0.5 + 0.4 * config["x"]) for config in table.configs[1:]]), abs=0.02)
    apart, low, high = judge.difference(found, found, "images", "auc")
    assert apart == low == high == 0
    assert judge.values(found, "slides", "auc") == 1 and judge.values(found, "patients", "balanced_accuracy") == pytest.approx(1)


def test_every_rule_gives_a_probability_of_every_unseen_view(table):
    for every in rules(table).values():
        for name, rule in every.items():
            found = predictions(table, rule, 12, 2)
            assert found.shape == (2, 1, 40) and ((found >= 0) & (found <= 1)).all(), name


def test_greedy_and_stacking_end_with_the_best_where_it_is_the_best_of_all_views(table):
    part = table.parts[0, 1]
    rows, rng = np.arange(40), np.random.default_rng(0)
    expected = mean_of_best("log_loss", 1)(part, rows, rng)
    np.testing.assert_allclose(greedy("log_loss")(part, rows, rng), expected)
    np.testing.assert_allclose(stacking("log_loss")(part, rows, rng), expected, atol=0.02)


def test_the_simplest_is_of_those_that_the_patients_cannot_tell_from_the_best(table):
    part = table.parts[0, 1]
    best = int(part.scores["log_loss"].min(1).argmin())
    configs = [config | {"model.width": 256 if row == best else 64} for row, config in enumerate(part.configs)]
    found = simplest("log_loss")(replace(part, configs=configs), np.arange(40), np.random.default_rng(0))
    assert (found == part.unseen[best, 8]).all()  # every patient says that it is the best


def test_curves_in_one_file_are_judged_by_their_replicate(tmp_path):
    label = np.array([0, 1, 0, 1])
    oof = np.full((2, 3, 4), 0.5)
    np.savez(
        tmp_path / "curves.npz", oof=oof, oof_replicate=np.array([[0.5] * 4, [0.1, 0.9, 0.1, 0.9]]), config=['{"lr": 1}', '{"lr": 2}'],
        fold=np.array([0, 0, 1, 1]), label=label, slide=np.array(["M-14-1AB", "B-14-2", "B-14-3", "M-14-1CD"]),
    )  # fmt: skip
    table = load(tmp_path / "curves.npz")
    assert Judge(table, resamples=2).names.tolist() == ["1", "2", "3"]
    assert table.parts[0, 1].unseen[1, 2].tolist() == pytest.approx([0.1, 0.9, 0.1, 0.9])


class Scripted:
    """A scheduler that does what it is told."""

    def __init__(self, steps):
        self.steps, self.seen = list(steps), []

    def next(self, free):
        return self.steps.pop(0) if self.steps else None

    def report(self, row, epoch):
        self.seen.append((row, epoch))


def test_an_epoch_is_known_when_it_is_paid_for_by_all_folds_and_a_trial_that_goes_on_pays_what_is_new():
    steps = [(0, 2), (3, 3), (0, 4)]
    assert simulate(Scripted(steps), 1, [9, 10, 25, 35], 5) == [{}, {0: 2}, {0: 2, 3: 3}, {0: 4, 3: 3}]
    together = Scripted([(0, 4), (1, 1), (2, 2)])
    simulate(together, 2, [8], 1)
    assert together.seen == [(1, 1), (2, 2), (0, 4)]


def test_a_configuration_is_handed_out_once_and_the_nearest_free_one_stands_in(table):
    pool = Pool(table.parts[0, 1], "log_loss", np.arange(3))
    assert sorted(pool.take(pool.points[1]) for _ in range(3)) == [0, 1, 2] and pool.take(pool.points[1]) is None


@pytest.mark.parametrize("name", ["stopping 3, from 1", "promotion 3, from 1"])
def test_the_best_is_found_for_less_than_full_trials(table, name):
    pool = Pool(table.parts[0, 1], "log_loss", np.arange(40))
    scheduler = SCHEDULERS[name](pool, Random(pool, 0))
    trained = simulate(scheduler, 1, [9 * 40], 1)[0]
    end = [row for row, epochs in trained.items() if epochs == 9]
    assert int(pool.scores[:, 8].argmin()) in end and len(end) < 20
    assert sum(trained.values()) <= 9 * 40 and set(scheduler.rungs[9]) <= set(scheduler.rungs[3]) <= set(scheduler.rungs[1])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_proposes_until_all_are_used_and_models_learn(table, name):
    found = replay(table, "log_loss", name, "full", 2, [450, 1800], 2)
    judge = Judge(table, resamples=2)
    few, all_but_a_quarter = (judge.values(found[budget, 1], "images", "log_loss") for budget in (450, 1800))
    assert all_but_a_quarter <= few and found[450, 3].shape == (2, 1, 40)


def test_a_field_over_two_decades_is_logarithmic_few_values_are_choices_and_what_is_absent_stands_low():
    rate = [10 ** -(place / 4) for place in range(17)]
    configs = [{"loss": ("focal", "entropy")[place % 2], "lr": value, "same": 3} for place, value in enumerate(rate)]
    configs = [config | ({"gamma": 1 + place / 8} if config["loss"] == "focal" else {}) for place, config in enumerate(configs)]
    points, choices = unit_cube(json.loads(json.dumps(configs)))
    assert choices == (2, 0, 0) and points[:, 1] == pytest.approx(1 - np.arange(17) / 16)
    assert points[:2, 0].tolist() == [1, 0] and (points[1::2, 2] == 0).all() and points[16, 2] == 1 and points[0, 2] == 0


def test_a_uniform_range_that_reaches_nearly_down_to_zero_stays_linear():
    uniform, log = np.linspace(0.002, 0.9, 21), np.geomspace(1e-5, 1e-2, 21)
    points, _ = unit_cube([{"dropout": float(a), "lr": float(b)} for a, b in zip(uniform, log, strict=True)])
    assert points[10] == pytest.approx([0.5, 0.5])


def test_given_configurations_stand_beside_the_base(recording, capsys):
    record(Namespace(**vars(recording) | {"given": ["loss.name=cross_entropy,optim.lr=0.001"]}), QUIET)
    table = load(recording.out)
    assert table.configs == [{"features": "a@32"}, {"features": "a@32", "loss.name": "cross_entropy", "optim.lr": 0.001}]
    print_each(table, Judge(table, resamples=5))
    first, second = capsys.readouterr().out.splitlines()
    assert "+0.000 (+0.000 +0.000)" in first and "cross_entropy" in second
