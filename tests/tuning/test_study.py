"""A study in this process, on a real Ray, with trials that cannot work."""

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

from data.errors import InputError
from data.splits import make_splits
from search_spaces.space import Dimension, Space
from study.records import read_trials
from tests.mmnet.tiny import tiny_config
from tuning import study as study_module
from tuning.cluster import joining
from tuning.settings import StudySettings
from tuning.study import Outcome, run_study

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


def heads(*choices: int) -> Space:
    """Three heads do not divide a width of 8: a combination that only shows in the trial."""
    return Space("heads", (Dimension("model.heads", "scientific", "for this test", choices=choices),))


@pytest.fixture
def study(synthetic_dataset, tmp_path):
    def run(space, trials, enough=None):
        splits = make_splits(synthetic_dataset.table, folds=2, test_fraction=0.0, grouping="patient", seed=0)
        settings = StudySettings(name="s", output=tmp_path, trials=trials, concurrency=1)
        with joining(None) as connected:
            return run_study(settings, space, tiny_config(), (1,), synthetic_dataset, splits, Console(quiet=True), connected, enough)

    return run


def test_failed_trials_are_recorded_with_their_reason_and_the_study_goes_on(study, tmp_path):
    assert study(heads(2, 3), trials=6).complete
    records = read_trials(tmp_path / "s")
    failed = [record for record in records if record.status == "failed"]
    assert len(records) == 6 and failed and len(failed) < 6
    assert all("model.heads = 3: expected a divisor" in record.reason for record in failed)
    told = optuna.load_study(storage=f"sqlite:///{tmp_path / 's' / 'optuna.db'}", study_name="s").trials
    assert [t.number for t in told if t.state == TrialState.FAIL] == [record.number for record in failed]
    assert all(record.reason == told[record.number].user_attrs["reason"] for record in failed)


def test_a_study_whose_first_trials_all_fail_ends_with_the_reason(study):
    with pytest.raises(InputError, match=r"the first 5 trials all failed, the last with: ConfigError: configuration model.heads"):
        study(heads(3), trials=20)


def test_a_study_that_has_found_enough_ends_with_the_reason(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "ASK_EVERY", 2)
    asked = []

    def enough(records):
        asked.append([record.status for record in records])
        return "" if len(asked) == 1 else "nothing more to gain"

    assert study(heads(2, 4), trials=20, enough=enough) == Outcome(complete=False, reason="nothing more to gain")
    assert len(asked) == 2 and "running" not in asked[0][:2]
    assert [record.status for record in read_trials(tmp_path / "s")].count("done") == 1  # three rested, then the best went on
