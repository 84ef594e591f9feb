import pytest

from data.errors import InputError
from tuning.settings import (
    AUTO,
    StudySettings,
    chosen_sampler,
    expected_epochs,
    gpu_share,
    parse_concurrency,
    parse_duration,
    parse_gpus,
    rungs,
)


@pytest.mark.parametrize(
    ("epochs", "eta", "levels"),
    [
        (27, 3, (1, 3, 9)),
        (9, 3, (1, 3)),
        (1, 3, ()),
        (2, 3, (1,)),
        (81, 3, (3, 9, 27)),
        (100, 3, (3, 9, 27, 81)),
        (50, 3, (1, 3, 9, 27)),
        (32, 2, (4, 8, 16)),
    ],
)
def test_rungs_start_at_one_epoch_or_the_length_by_the_cube_of_eta_and_grow_by_eta(epochs, eta, levels):
    assert rungs(epochs, eta) == levels


@pytest.mark.parametrize(
    ("trials", "epochs"),
    [
        (9, 9 * 1 + 3 * 2 + 3 * 6),  # by hand, rungs at 1 and 3 of 9 epochs: a third of 9 goes on, then not one but the three finalists
        (90, 90 * 1 + 30 * 2 + 10 * 6),
        (2, 2 * 9),
    ],
)
def test_so_many_epochs_are_expected_of_a_search(trials, epochs):
    assert expected_epochs(trials, (1, 3), 9, 3) == epochs


@pytest.mark.parametrize(
    ("sampler", "scheduler", "epochs", "warm", "chosen"),
    [
        ("auto", "promote", 27, False, "random"),
        ("auto", "promote", 27, True, "gp"),
        ("auto", "promote", 1, True, "tpe"),
        ("auto", "asha", 27, False, "tpe"),
        ("auto", "none", 27, True, "tpe"),
        ("gp", "asha", 27, False, "gp"),
        ("gp", "promote", 1, False, "tpe"),
        ("tpe", "promote", 27, True, "tpe"),
    ],
)
def test_chance_proposes_where_trials_rest_at_rungs_a_model_where_it_has_an_earlier_study(sampler, scheduler, epochs, warm, chosen):
    assert chosen_sampler(sampler, scheduler, epochs, warm=warm) == chosen


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400)])
def test_durations_are_read_in_their_unit(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "soon", "-5m", "5 weeks"])
def test_a_wrong_duration_is_an_error_with_an_example(text):
    with pytest.raises(InputError, match="90s, 30m or 2h"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trials", 0),
        ("time_budget", 0),
        ("cpus_per_trial", 0),
        ("gpus_per_trial", -1),
        ("gpus_per_trial", "all"),
        ("concurrency", 0),
        ("scheduler", "hyperband"),
        ("sampler", "grid"),
        ("max_failures", -1),
        ("max_cost", 0),
        ("disk_budget", -1),
        ("eta", 1),
    ],
)
def test_settings_out_of_range_name_their_flag(field, value):
    with pytest.raises(InputError, match=f"^--{field.replace('_', '-')} {value}: expected"):
        StudySettings(**{"name": "study", "trials": 1} | {field: value})


def test_settings_at_the_end_of_their_range_are_taken():
    StudySettings("study", 1, gpus_per_trial=0, concurrency=1, max_failures=0, disk_budget=0, eta=2)


@pytest.mark.parametrize(
    ("peak", "share"),
    [(90, 1), (200, 1), (45.1, 1), (45, 1 / 2), (31, 1 / 2), (30, 1 / 3), (0.1, 1 / 16)],
)
def test_as_many_trials_share_a_gpu_as_fit_into_nine_tenths_of_its_memory(peak, share):
    assert gpu_share(peak, 100) == share


def test_auto_is_understood_and_other_words_are_errors():
    assert parse_gpus("auto") == AUTO and parse_gpus("0.25") == 0.25
    assert parse_concurrency("auto") is None and parse_concurrency("3") == 3
    with pytest.raises(InputError, match="--gpus-per-trial all: expected a number such as 0.5, or auto"):
        parse_gpus("all")
    with pytest.raises(InputError, match="--concurrency 1.5: expected a whole number, or auto"):
        parse_concurrency("1.5")
    assert StudySettings(name="s", trials=1, gpus_per_trial=AUTO).gpus_per_trial == AUTO


def test_how_many_trials_is_the_spaces_decision_and_has_no_default_here():
    with pytest.raises(TypeError, match="trials"):
        StudySettings(name="study")
