"""The ablation as a plan: base, one mechanism the other way round at a time, the next seed."""

import pytest

from mmnet.config import Config, ConfigError, field_paths, get_value
from search_spaces.ablation import MECHANISMS, SEEDS, space
from tests.search_spaces.sampling import random_study

NAMES = [mechanism.name for mechanism in MECHANISMS]
NEED_TWO = {"hierarchical attention", "magnification fusion", "importance weights", "masked magnifications"}
OFF_BY_DEFAULT = {"channel attention", "attention pooling", "mixup", "masked magnifications"}


def planned(base, count):
    """The configurations of trials 0 to count - 1, through Optuna as a study asks for them."""
    ablation, study = space(base), random_study()
    configs = []
    for number in range(count):
        study.enqueue_trial(ablation.point(number, base))
        configs.append(base.with_values(ablation.sample(study.ask(), base)))
    return configs


def changed(config, base):
    """{path: value} of everything but the seed that differs from the base."""
    return {path: get_value(config, path) for path in field_paths() if path != "seed" and get_value(config, path) != get_value(base, path)}


def of(name, base):
    return next(mechanism for mechanism in space(base).mechanisms if mechanism.name == name)


def test_each_seed_has_the_base_first_and_then_one_mechanism_turned_at_a_time():
    base = Config(seed=7)
    mechanisms = space(base).mechanisms
    block = 1 + len(mechanisms)
    configs = planned(base, 2 * block + 1)
    assert [config.seed for config in configs] == [7] * block + [8] * block + [9]
    for repeat in (0, 1):
        first, *turned = configs[repeat * block : (repeat + 1) * block]
        assert changed(first, base) == {}
        for mechanism, config in zip(mechanisms, turned, strict=True):
            assert changed(config, base) == (mechanism.on if mechanism.name in OFF_BY_DEFAULT else mechanism.off)


def test_by_default_every_mechanism_is_tried_and_three_seeds_of_each():
    ablation = space(Config())
    assert [mechanism.name for mechanism in ablation.mechanisms] == NAMES
    assert ablation.trials == SEEDS * (1 + len(NAMES)) == 30


@pytest.mark.parametrize("name", NAMES)
def test_what_is_off_in_the_base_is_switched_on_and_what_is_on_there_off(name):
    default = next(mechanism for mechanism in MECHANISMS if mechanism.name == name)
    number = 1 + NAMES.index(name)
    for here, other in ((default.on, default.off), (default.off, default.on)):
        base = Config().with_values(here)
        assert changed(planned(base, number + 1)[number], base) == other


def test_fusion_turns_both_branches_at_once():
    number = 1 + NAMES.index("magnification fusion")
    branches = {"model.cross_attention": False, "model.concatenation": False}
    assert changed(planned(Config(), number + 1)[number], Config()) == branches


def test_fusion_of_which_the_base_has_one_branch_is_on_as_it_is():
    base = Config().with_values({"model.cross_attention": False})
    assert of("magnification fusion", base).on == {"model.cross_attention": False, "model.concatenation": True}
    number = 1 + NAMES.index("magnification fusion")
    assert changed(planned(base, number + 1)[number], base) == {"model.concatenation": False}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention pooling", {"model.pool": "gate"}),
        ("hierarchical attention", {"model.hierarchy": "bidirectional"}),
        ("mixup", {"augment.mixup": 0.4}),
        ("balancing", {"sampling.balance": "patient"}),
    ],
)
def test_the_on_side_is_what_the_base_has(name, value):
    mechanism = of(name, Config().with_values(value))
    assert mechanism.on == value and mechanism.off == next(m.off for m in MECHANISMS if m.name == name)


@pytest.mark.parametrize(("magnifications", "left_out"), [((200,), NEED_TWO), ((40, 400), set())])
def test_what_needs_two_magnifications_is_left_out_of_a_study_with_one(magnifications, left_out):
    base = Config().with_values({"data.magnifications": magnifications})
    ablation = space(base)
    assert [mechanism.name for mechanism in ablation.mechanisms] == [name for name in NAMES if name not in left_out]
    assert ablation.trials == SEEDS * (10 - len(left_out))
    assert {path for mechanism in ablation.mechanisms for path in mechanism.on} | {"seed"} == {d.path for d in ablation.dimensions}
    ablation.check(base)


def test_every_trial_is_planned_also_those_beyond_the_default():
    base = Config()
    ablation = space(base)
    parameters = {dimension.path for dimension in ablation.dimensions}
    assert all(ablation.point(number, base).keys() == parameters for number in range(3 * ablation.trials))


def test_a_base_without_room_for_further_seeds_is_refused():
    base = Config(seed=2**31 - 1)
    with pytest.raises(ConfigError, match="space ablation, seed"):
        space(base).check(base)
