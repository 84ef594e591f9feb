"""What holds for whatever comes: drawn by hypothesis, the same draws at every run."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from data.dataset import Dataset
from data.errors import DataError
from data.grammar import MAGNIFICATIONS, ImageName, file_name, parse
from data.labels import choose_classes
from data.splits import Splits, check_splits, make_splits
from data.table import build_table
from mmnet.config import Config, ConfigError, field_paths, get_value, load_config, save_config
from mmnet.network import Head
from tests.mmnet.tiny import SWITCHES, randomise, tiny_config
from tuning.promotion import promotion
from tuning.settings import rungs

few = settings(deadline=None, derandomize=True, database=None, max_examples=30)

# file names ----------------------------------------------------------------------------------------------------------

kinds = st.sampled_from([("B", subtype) for subtype in ("A", "F", "PT", "TA")] + [("M", subtype) for subtype in ("DC", "LC", "MC", "PC")])
numbers, blocks = st.integers(0, 10**9), st.text("ABCDG", max_size=3)


@few
@given(kinds, st.integers(0, 99), numbers, blocks, st.sampled_from((40, 100, 200, 400)), st.integers(0, 10**6))
def test_a_file_name_is_read_as_it_was_written(kind, year, patient, block, magnification, sequence):
    slide = f"SOB_{kind[0]}_{kind[1]}_{year:02d}-{patient}{block}"
    name = f"SOB_{kind[0]}_{kind[1]}-{year:02d}-{patient}{block}-{magnification}-{sequence:03d}.png"
    assert parse(name) == ImageName(slide, str(patient), kind[1], {"B": "benign", "M": "malignant"}[kind[0]], magnification)
    assert file_name(slide, magnification, sequence) == name


@few
@given(kinds, numbers, blocks, st.integers(0, 40), st.characters(categories=("Lu", "Nd")) | st.characters())
def test_a_name_with_any_other_letter_in_it_is_read_in_full_or_refused(kind, patient, block, place, letter):
    name = f"SOB_{kind[0]}_{kind[1]}-14-{patient}{block}-40-001.png"
    changed = name[:place] + letter + name[place + 1 :]
    try:
        read = parse(changed)
    except ValueError:
        return
    head, _, sequence = changed[: -len(".png")].rpartition("-")
    assert changed.isascii() and file_name(read.slide, read.magnification, int(sequence)).startswith(head)


# splits --------------------------------------------------------------------------------------------------------------

cohorts = st.lists(st.tuples(st.booleans(), st.integers(1, 3)), min_size=16, max_size=40)  # (malignant, slide folders) of each patient


def table_of_cohort(cohort, order):
    rows = [
        (f"{patient}-{slide}.png", 40, f"s{patient:02d}{'ABC'[slide]}", f"p{patient:02d}", "", "malignant" if malignant else "benign")
        for patient, (malignant, slides) in enumerate(cohort)
        for slide in range(slides)
    ]
    table = build_table([rows[place] for place in np.random.default_rng(order).permutation(len(rows))])
    return choose_classes(Dataset(table, None, "", "cohort")).table  # two classes, also where all are of one


def too_few(cohort, folds, test_fraction, grouping):
    """Whether a class may lack a group for a fold or the test, of which it has its share to within one group."""
    groups = [malignant for malignant, slides in cohort for _ in range(slides if grouping == "slide" else 1)]
    sealed = max(round(test_fraction * len(groups)), 2) / len(groups) if test_fraction else 0.0
    have = [groups.count(label) for label in (False, True)]
    return any(count - count * sealed < folds or (test_fraction and count * sealed < 1) for count in have)


@few
@given(cohorts, st.integers(2, 6), st.sampled_from((0.0, 0.1, 0.2, 0.5)), st.sampled_from(("patient", "slide")), st.integers(0, 2**31 - 1))
def test_splits_divide_no_group_and_hold_both_classes_everywhere_or_are_refused(cohort, folds, test_fraction, grouping, seed):
    table = table_of_cohort(cohort, 0)
    try:
        splits = make_splits(table, folds=folds, test_fraction=test_fraction, grouping=grouping, seed=seed)
    except DataError:
        assert too_few(cohort, folds, test_fraction, grouping)
        return
    check_splits(splits, table)
    group_of, label_of = table.groups(grouping), table.of_slides("label")
    parts = [*splits.folds, *([splits.test] if test_fraction else [])]
    assert len(splits.folds) == folds and sorted(name for part in parts for name in part) == table.slides().tolist()
    groups = [{group_of[name] for name in part} for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert all({label_of[name] for name in part} == {0, 1} for part in parts)
    assert make_splits(table_of_cohort(cohort, 1), folds=folds, test_fraction=test_fraction, grouping=grouping, seed=seed) == splits
    assert Splits.from_json(splits.to_json()) == splits


# configuration -------------------------------------------------------------------------------------------------------

values = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**31 - 1),
        "metric": st.sampled_from(("log_loss", "auc")),
        "data.magnifications": st.sets(st.sampled_from(MAGNIFICATIONS), min_size=1).map(lambda chosen: tuple(sorted(chosen))),
        "data.test_fraction": st.floats(0, 0.89),
        "data.splits": st.none()
        | st.text(st.characters(categories=("L", "N", "P", "Z")), min_size=1).filter(lambda text: text.lower() != "none"),
        "model.frozen": st.booleans(),
        "model.pool_scales": st.lists(st.sampled_from((1, 2, 4, 64)), min_size=1, max_size=3).map(tuple),
        "model.weights": st.none() | st.just("a file: [with] #signs.pth"),
        "loss.gamma": st.floats(0, 10),
        "optim.lr": st.floats(1e-300, 1),
        "optim.patience": st.none() | st.integers(1, 10_000),
    },
)


@few
@given(values)
def test_a_configuration_survives_yaml_and_is_set_in_any_order(tmp_path_factory, chosen):
    config = Config().with_values(chosen)
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    save_config(config, path, "a comment")
    assert load_config(Path(path)) == config == Config().with_values(dict(reversed(chosen.items())))
    assert {name: get_value(config, name) for name in chosen} == chosen
    assert Config().with_values(config.to_dict()) == config


@few
@given(st.sampled_from(field_paths()), st.integers(0, 20), st.characters(codec="ascii"))
def test_a_key_with_any_other_letter_in_it_is_an_error(path, place, letter):
    changed = path[:place] + letter + path[place + 1 :]
    assume(changed not in field_paths() and changed not in {item.name for item in dataclasses.fields(Config)})
    with pytest.raises(ConfigError, match="unknown configuration key|expected a section"):
        Config().with_values({changed: 1})


# rungs and who is promoted -------------------------------------------------------------------------------------------


@few
@given(st.integers(1, 10_000), st.integers(2, 10))
def test_rungs_ascend_eta_apart_below_the_full_length(epochs, eta):
    levels = rungs(epochs, eta)
    assert all(after == eta * before for before, after in zip(levels, levels[1:], strict=False))
    assert all(1 <= level < epochs for level in levels)
    assert (levels == ()) == (epochs == 1) and (not levels or levels[-1] * eta >= epochs)


scores = st.dictionaries(st.sampled_from([f"t{n}" for n in range(30)]), st.integers(0, 9), max_size=30)  # ties are frequent


@few
@given(scores, st.integers(2, 5), st.sets(st.sampled_from([f"t{n}" for n in range(30)]), max_size=5))
def test_a_rung_promotes_its_best_one_in_eta_and_nobody_who_is_away(rung: Mapping[str, float], eta, away):
    climbed: dict[str, float] = {}
    while step := promotion({1: rung, eta: climbed}, (1, eta, eta**3), eta, away | climbed.keys()):
        assert step.epoch == eta  # who has climbed is away, so nobody goes further
        climbed[step.trial] = 0.0
    best = sorted(rung, key=lambda trial: (rung[trial], trial))[: len(rung) // eta]
    assert len(climbed) <= len(rung) // eta and not away & climbed.keys()
    assert set(climbed) == set(best) - away


@few
@given(scores, st.integers(2, 5))
def test_who_is_promoted_is_so_with_a_better_score_too_and_whoever_joins_with_a_worse(rung, eta):
    step = promotion({1: rung}, (1, eta), eta)
    assume(step is not None)
    assert step is not None
    assert promotion({1: rung | {step.trial: rung[step.trial] - 1}}, (1, eta), eta) == step
    assert promotion({1: rung | {"worse": 99}}, (1, eta), eta) == step


# masks ---------------------------------------------------------------------------------------------------------------

masks = st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=1, max_size=4)


@few
@given(
    masks, st.fixed_dictionaries({}, optional={path: st.sampled_from(choices) for path, choices in SWITCHES.items()}), st.integers(0, 99)
)
def test_what_a_hidden_magnification_shows_never_changes_the_output(mask, switches, seed):
    config = tiny_config(switches)
    head = randomise(Head(6, 4, 1, config.model, config.dropout), seed).eval()
    shown = torch.tensor(mask)
    draw = torch.Generator().manual_seed(seed)
    maps = torch.randn(len(mask), 4, 6, 2, 3, generator=draw)
    other = torch.where(shown[:, :, None, None, None], maps, 100 * torch.randn(maps.shape, generator=draw))
    with torch.inference_mode():
        one, two = head(maps, shown), head(other, shown)
    torch.testing.assert_close(one.logit, two.logit, rtol=0, atol=0)
    torch.testing.assert_close(one.importance, two.importance, rtol=0, atol=0)
    assert (one.importance[~shown] == 0).all() and torch.isfinite(one.logit).all()
