"""A space as plain data: conditions, the way to the sampler and back, and every mistake named before anything starts."""

import optuna
import pytest

from mmnet.config import Config, ConfigError
from search_spaces.space import Dimension, Space, union
from tests.search_spaces.sampling import asked, random_study

LR = Dimension("optim.lr", "scientific", "why", low=1e-5, high=1e-2, log=True)
SCHEDULE = Dimension("optim.schedule", "scientific", "why", choices=("plateau", "cosine"))
WARMUP = Dimension("optim.warmup", "nuisance", "why", low=0.0, high=0.2, when=("optim.schedule", ("cosine",)))
SCALES = Dimension("model.pool_scales", "scientific", "why", choices=((1,), (2, 4), (1, 3, 5)))
EPOCHS = Dimension("optim.epochs", "nuisance", "why", low=2, high=64, log=True)
HELD = Dimension("optim.patience", "fixed", "why", value=7)
SPACE = Space("tried", (LR, SCHEDULE, WARMUP, SCALES, EPOCHS, HELD))


def fixed(**values) -> optuna.trial.FixedTrial:
    return optuna.trial.FixedTrial({name.replace("__", "."): value for name, value in values.items()})


def test_a_sample_holds_what_was_searched_in_the_types_of_the_configuration():
    trial = fixed(optim__lr=1e-3, optim__schedule="cosine", optim__warmup=0.1, model__pool_scales="1,3,5", optim__epochs=5)
    assert SPACE.sample(trial, Config()) == {
        "optim.lr": 1e-3,
        "optim.schedule": "cosine",
        "optim.warmup": 0.1,
        "model.pool_scales": (1, 3, 5),
        "optim.epochs": 5,
    }


def test_a_condition_is_seen_against_the_value_drawn_not_the_default():
    trial = fixed(optim__lr=1e-3, optim__schedule="plateau", model__pool_scales="1", optim__epochs=5)
    sampled = SPACE.sample(trial, Config().with_values({"optim.schedule": "cosine"}))
    assert "optim.warmup" not in sampled and sampled["model.pool_scales"] == (1,)


@pytest.mark.parametrize(("schedule", "present"), [("cosine", True), ("constant", False)])
def test_a_condition_on_a_field_that_is_not_searched_is_seen_against_the_base(schedule, present):
    space = Space("tried", (WARMUP,))
    sampled = space.sample(fixed(optim__warmup=0.1), Config().with_values({"optim.schedule": schedule}))
    assert ("optim.warmup" in sampled) is present


def test_a_log_range_is_drawn_evenly_over_magnitudes_and_an_integer_range_as_integers():
    drawn = [SPACE.sample(trial, Config()) for trial in asked(random_study(), 300)]
    for dimension in (LR, EPOCHS):
        below = sum(values[dimension.path] < dimension.low**0.5 * dimension.high**0.5 for values in drawn)
        assert 110 < below < 190
    assert {type(values["optim.epochs"]) for values in drawn} == {int}


def test_encoding_gives_the_samplers_form_and_leaves_out_what_lies_outside():
    config = Config().with_values({"optim.lr": 1e-3, "optim.schedule": "constant", "model.pool_scales": (1, 3, 5), "optim.epochs": 99})
    assert SPACE.encode(config) == {"optim.lr": 1e-3, "model.pool_scales": "1,3,5"}


def test_encoding_follows_conditions():
    config = Config().with_values({"optim.schedule": "cosine", "optim.warmup": 0.1})
    assert SPACE.encode(config)["optim.warmup"] == 0.1
    assert "optim.warmup" not in SPACE.encode(config.with_values({"optim.schedule": "plateau"}))


def test_an_encoded_configuration_is_what_the_sampler_tries_first():
    config = Config().with_values(
        {"optim.lr": 3e-4, "optim.schedule": "cosine", "optim.warmup": 0.05, "model.pool_scales": (2, 4), "optim.epochs": 9}
    )
    study = random_study()
    study.enqueue_trial(SPACE.encode(config))
    assert Config().with_values(SPACE.sample(study.ask(), Config())) == config


def test_a_union_takes_each_dimension_once_from_the_first_space():
    other = Dimension("optim.lr", "nuisance", "other", low=1e-4, high=1e-3)
    whole = union("both", Space("a", (LR, SCHEDULE)), Space("b", (other, WARMUP)), extra=(HELD,))
    assert whole == Space("both", (LR, SCHEDULE, WARMUP, HELD))


@pytest.mark.parametrize(
    ("dimension", "message"),
    [
        (Dimension("optim.lr", "scientific", "why", low=1e-3, high=1e-3), "expected low < high"),
        (Dimension("optim.lr", "scientific", "why", low=1e-2, high=1e-3), "expected low < high"),
        (Dimension("optim.lr", "scientific", "why"), "expected low < high"),
        (Dimension("optim.lr", "scientific", "why", low=1e-3), "expected low < high"),
        (Dimension("optim.weight_decay", "scientific", "why", low=0.0, high=0.1, log=True), "low > 0 on a log scale"),
        (Dimension("optim.learning_rate", "scientific", "why", low=0.1, high=0.2), "unknown configuration key"),
        (Dimension("dropout.path", "scientific", "why", low=0.0, high=0.99), "0 to 0.95"),
        (Dimension("dropout.path", "scientific", "why", low=-0.1, high=0.5), "0 to 0.95"),
        (Dimension("optim.schedule", "scientific", "why", choices=("plateau", "linear")), "one of plateau, cosine, constant"),
        (Dimension("optim.lr", "scientific", "", low=1e-4, high=1e-3), "with a reason"),
        (Dimension("optim.lr", "interesting", "why", low=1e-4, high=1e-3), "scientific, nuisance, fixed"),
        (Dimension("optim.patience", "fixed", "why", value=8), "held at 8, but the base configuration says 7"),
        (
            Dimension("optim.warmup", "nuisance", "why", low=0.0, high=0.2, when=("optim.sched", ("cosine",))),
            "unknown configuration key 'optim.sched'",
        ),
        (
            Dimension("optim.warmup", "nuisance", "why", low=0.0, high=0.2, when=("optim.schedule", ("linear",))),
            "one of plateau, cosine, constant",
        ),
        (
            Dimension("optim.warmup", "nuisance", "why", low=0.0, high=0.2, when=("optim.schedule", ("cosine", "linear"))),
            "one of plateau, cosine, constant",
        ),
        (Dimension("optim.warmup", "nuisance", "why", low=0.0, high=0.2, when=("optim.schedule", ())), "expected a tuple of values"),
        (Dimension("optim.warmup", "nuisance", "why", low=0.0, high=0.2, when=("optim.schedule", "cosine")), "expected a tuple of values"),
        (Dimension("optim.warmup", "nuisance", "why", low=0.0, high=0.2, when=("optim.warmup", (0.1,))), "to stand earlier"),
        (Dimension("optim.lr", "scientific", "why", low=0.1, high=0.2, choices=(0.1, 0.2)), "expected one of the two"),
        (Dimension("optim.schedule", "scientific", "why", choices=("plateau", "cosine"), log=True), "expected one of the two"),
        (Dimension("optim.schedule", "scientific", "why", choices=("plateau", "plateau")), "each once"),
        (Dimension("optim.schedule", "scientific", "why", choices=("plateau",)), "at least two"),
        (Dimension("optim.patience", "nuisance", "why", low=2.0, high=20.0), "expected a whole number"),
        (Dimension("dropout.path", "scientific", "why", low=0, high=1), "expected 0.0 to 1.0"),
        (Dimension("data.folds", "nuisance", "why", low=3, high=5), "decided once for a study"),
        (Dimension("metric", "nuisance", "why", choices=("auc", "log_loss")), "decided once for a study"),
        (Dimension("model.frozen", "scientific", "why", choices=(True, False)), "decided once for a study"),
        (Dimension("model.heads", "nuisance", "why", choices=(4, 3)), "divisor of model.width = 128"),
    ],
)
def test_a_mistake_is_an_error_that_names_space_and_dimension(dimension, message):
    with pytest.raises(ConfigError) as error:
        Space("tried", (EPOCHS, dimension)).check(Config())
    assert f"space tried, {dimension.path}: " in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Dimension("optim.schedule", "scientific", "why", choices=("plateau", "constant")), "plateau | constant"),
        (Dimension("optim.schedule", "fixed", "why", value="plateau"), "= plateau"),
    ],
)
def test_a_condition_that_no_trial_can_meet_is_an_error(other, expected):
    with pytest.raises(ConfigError, match="optim.warmup.*is never true") as error:
        Space("tried", (other, WARMUP)).check(Config())
    assert expected in str(error.value)


def test_a_condition_on_a_range_holds_within_it():
    where = Dimension("optim.warmup", "nuisance", "why", low=0.0, high=0.2, when=("dropout.path", (0.7,)))
    with pytest.raises(ConfigError, match="is never true: expected a value of its dimension, 0 … 0.5"):
        Space("tried", (Dimension("dropout.path", "nuisance", "why", low=0.0, high=0.5), where)).check(Config())


def test_two_dimensions_that_are_valid_alone_and_clash_are_an_error_that_names_both():
    width = Dimension("model.width", "nuisance", "why", choices=(128, 36))
    heads = Dimension("model.heads", "nuisance", "why", choices=(4, 8))
    Space("tried", (width,)).check(Config())
    Space("tried", (heads,)).check(Config())
    with pytest.raises(ConfigError, match="model.width = 36 clashes with model.heads = 8: .*divisor of model.width = 36"):
        Space("tried", (width, heads)).check(Config())


@pytest.mark.parametrize(("path", "choices"), [("model.backbone", ("tiny", "resnet18")), ("model.input_size", (None, 96))])
def test_what_decides_frozen_features_does_not_vary(path, choices):
    space = Space("tried", (Dimension(path, "scientific", "why", choices=choices),))
    space.check(Config())
    with pytest.raises(ConfigError, match=f"{path}: is decided once for a study"):
        space.check(Config().with_values({"model.frozen": True}))


def test_a_space_with_fewer_choices_of_a_field_and_without_it_where_one_is_left():
    assert SPACE.choices("optim.schedule") == ("plateau", "cosine") and SPACE.choices("optim.lr") == SPACE.choices("loss.gamma") == ()
    scales = SPACE.with_choices("model.pool_scales", ((1,), (2, 4)))
    assert scales.choices("model.pool_scales") == ((1,), (2, 4)) and len(scales.dimensions) == len(SPACE.dimensions)
    assert all(
        SPACE.with_choices("model.pool_scales", left) == SPACE.with_choices("model.pool_scales", ()) for left in (((1,),), ((2, 4),))
    )
    assert "model.pool_scales" not in {dimension.path for dimension in SPACE.with_choices("model.pool_scales", ()).dimensions}


def test_a_dimension_that_stands_twice_is_an_error():
    with pytest.raises(ConfigError, match="optim.lr: stands twice"):
        Space("tried", (LR, LR)).check(Config())


def test_a_condition_on_a_dimension_that_is_asked_later_is_an_error():
    with pytest.raises(ConfigError, match="optim.warmup.*optim.schedule.*earlier"):
        Space("tried", (WARMUP, SCHEDULE)).check(Config())


def test_a_space_is_held_against_the_base_it_will_vary():
    heads = Space("tried", (Dimension("model.heads", "nuisance", "why", choices=(1, 2, 4)),))
    heads.check(Config())
    with pytest.raises(ConfigError, match="divisor of model.width = 6"):
        heads.check(Config().with_values({"model.width": 6, "model.heads": 3}))
