import pytest

from data.errors import InputError
from tuning.settings import StudySettings, parse_duration, rungs


@pytest.mark.parametrize(
    ("epochs", "levels"), [(27, (1, 3, 9)), (9, (1, 3)), (1, ()), (2, (1,)), (81, (3, 9, 27)), (100, (3, 9, 27, 81)), (50, (1, 3, 9, 27))]
)
def test_rungs_start_at_one_epoch_or_a_27th_and_grow_by_eta(epochs, levels):
    assert rungs(epochs, 3) == levels


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
        ("cpus_per_trial", 0),
        ("gpus_per_trial", -1),
        ("concurrency", 0),
    ],
)
def test_settings_out_of_range_name_their_flag(field, value):
    with pytest.raises(InputError, match="--" + field.replace("_", "-")):
        StudySettings(**{"name": "study", "trials": 1} | {field: value})


def test_how_many_trials_is_the_spaces_decision_and_has_no_default_here():
    with pytest.raises(TypeError, match="trials"):
        StudySettings(name="study")
