"""The spaces that ship: each is valid on the defaults and the presets, and so is whatever is drawn from it."""

import pytest

from data.errors import InputError
from mmnet.config import Config, get_value, load_config
from search_spaces import get_space, space_names
from tests.search_spaces.sampling import asked, random_study
from tests.test_imports import ROOT

NAMES = space_names()
PRESETS = {path.stem: load_config(path) for path in (ROOT / "configs").glob("*.yaml")}
BASES = {"defaults": Config(), "frozen": Config().with_values({"model.frozen": True})} | PRESETS


def draw(name, base, count, seed=0):
    space = get_space(name, base)
    return [space.sample(trial, base) for trial in asked(random_study(seed), count)]


def test_the_spaces_are_those_of_the_folder_by_name():
    assert set(NAMES) >= {"ablation", "focal", "dropout", "fusion", "optim", "full", "smoke"} and "space" not in NAMES
    assert all(get_space(name, Config()).name == name for name in NAMES)


@pytest.mark.parametrize("name", ["everything", "space", "", "../focal"])
def test_an_unknown_space_is_an_error_that_lists_them(name):
    with pytest.raises(InputError, match="expected one of ablation, dropout, focal"):
        get_space(name, Config())


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", NAMES)
def test_every_space_fits_the_defaults_and_every_preset(name, base):
    get_space(name, BASES[base]).check(BASES[base])


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_drawn_is_a_configuration_that_holds_it(name, base):
    base = BASES[base]
    for values in draw(name, base, 100):
        config = base.with_values(values)
        assert {path: get_value(config, path) for path in values} == values


@pytest.mark.parametrize("name", NAMES)
def test_what_was_drawn_can_be_enqueued_again(name):
    space, study = get_space(name, Config()), random_study(seed=1)
    for values in draw(name, Config(), 20):
        study.enqueue_trial(space.encode(Config().with_values(values)))
        assert space.sample(study.ask(), Config()) == values


@pytest.mark.parametrize("name", NAMES)
def test_every_searched_dimension_is_drawn_with_all_its_choices_or_over_its_range(name):
    drawn = draw(name, Config(), 200)
    for dimension in get_space(name, Config()).searched():
        values = {values[dimension.path] for values in drawn if dimension.path in values}
        assert values == set(dimension.choices) if dimension.choices else dimension.low <= min(values) < max(values) <= dimension.high


def test_full_searches_everything_that_the_others_do():
    paths = {dimension.path for dimension in get_space("full", Config()).searched()}
    for name in set(NAMES) - {"ablation"}:  # which is no search
        assert {dimension.path for dimension in get_space(name, Config()).searched()} <= paths


def test_the_ablation_and_full_are_made_around_their_base_and_other_searches_are_the_same_around_any():
    one = Config().with_values({"data.magnifications": (200,)})
    around = {"ablation", "full"}
    assert all(get_space(name, one) != get_space(name, Config()) for name in around)
    assert all(get_space(name, one) == get_space(name, Config()) for name in set(NAMES) - around)


def searched(values):
    return {dimension.path for dimension in get_space("full", Config().with_values(values)).searched()}


def test_full_leaves_out_what_has_nothing_to_act_on():
    between = {"model.hierarchy", "model.importance", "augment.masking"}
    assert searched({}) - searched({"data.magnifications": (200,)}) == between
    frozen = {"model.frozen": True}
    assert searched(frozen) - searched(frozen | {"model.pooled": True}) == {"model.pool"}


@pytest.mark.parametrize(
    ("values", "present"),
    [
        ({}, True),
        ({"model.weights": None}, True),
        ({"model.weights": "resnet18.safetensors", "model.backbone": "resnet18"}, False),
        ({"model.frozen": True}, False),
        ({"model.backbone": "tiny", "model.weights": None}, False),
        ({"model.backbone": "timm:uni"}, False),
    ],
)
def test_a_backbone_is_chosen_where_several_can_be_had_by_name_and_are_trained(values, present):
    assert ("model.backbone" in searched(values)) is present


@pytest.mark.parametrize(
    ("values", "sizes"),
    [({}, (None, 96, 128, 160, 192)), ({"data.image_size": 128}, (None, 96)), ({"data.image_size": 96}, ()), ({"model.frozen": True}, ())],
)
def test_images_are_only_shrunk_and_only_for_a_trained_backbone(values, sizes):
    base = Config().with_values(values)
    assert get_space("full", base).choices("model.input_size") == sizes


def test_a_search_is_given_its_first_trial_and_an_ablation_every_one():
    base = Config()
    for name in NAMES:
        space = get_space(name, base)
        assert space.point(0, base) == space.encode(base)
        assert [space.point(number, base) is None for number in (1, 2, 99)] == [name != "ablation"] * 3


def test_in_full_what_a_choice_switches_off_is_absent():
    for base in (BASES["defaults"], BASES["frozen"]):
        for values in draw("full", base, 100):
            assert ("loss.gamma" in values) == ("loss.alpha" in values) == (values["loss.name"] == "focal")
            assert ("optim.warmup" in values) == (values["optim.schedule"] == "cosine")
            for name in ("crop", "color", "stain", "erase", "rotation"):
                assert (f"augment.{name}" in values) == (not base.model.frozen)
            assert ("augment.feature_noise" in values) == base.model.frozen
