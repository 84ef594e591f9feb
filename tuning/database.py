"""optuna.db: the study for Optuna's dashboard and tools, written beside the search in batches.

Optuna's own storage commits every report by itself, 16 to 30 ms each. Nothing here is ever read back: the trial records are
what a study is rebuilt from, so a file that lags some seconds behind after a lost process is brought up to date by --resume.
"""

import datetime
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal

import optuna
from optuna.distributions import distribution_to_json
from optuna.trial import FrozenTrial

from data.errors import InputError
from mmnet.metrics import METRICS
from study.records import StorageError

# Optuna's tables; tests hold that Optuna makes the same ones and reads what is written here
_SCHEMA = Path(__file__).with_name("optuna_schema.sql")
_SCHEMA_VERSION, _MIGRATION = 12, "v3.2.0.a"
_TRIAL = """INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (trial_id) DO UPDATE SET state = excluded.state, datetime_complete = coalesce(datetime_complete, excluded.datetime_complete)"""
_PARAM = """INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)
    ON CONFLICT (trial_id, param_name) DO UPDATE SET param_value = excluded.param_value, distribution_json = excluded.distribution_json"""
_VALUE = """INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, 'FINITE')
    ON CONFLICT (trial_id, objective) DO UPDATE SET value = excluded.value"""
_REPORT = """INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type) VALUES (?, ?, ?, 'FINITE')
    ON CONFLICT (trial_id, step) DO UPDATE SET intermediate_value = excluded.intermediate_value"""
_ATTRIBUTE = """INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)
    ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json"""
_OF_TRIAL = ("trial_params", "trial_values", "trial_intermediate_values", "trial_user_attributes", "trial_system_attributes")


class StudyDatabase:
    """A study in a SQLite file; `write` brings trials in it to what they are now."""

    def __init__(self, path: Path, name: str, metric: str):
        """Open the file, or make it. Raises InputError when it is no study that Optuna can open, StorageError when the disk is full."""
        self._path = path
        self._written: set[int] = set()  # numbers whose parameters are in the file
        direction: Literal["minimize", "maximize"] = "minimize" if METRICS[metric] == "min" else "maximize"
        try:
            if path.exists():
                optuna.create_study(storage=f"sqlite:///{path}", study_name=name, direction=direction, load_if_exists=True)
            else:
                _make(path, name, direction)
            self._file = sqlite3.connect(path, timeout=60, check_same_thread=False)
            ((self._study,),) = self._file.execute("SELECT study_id FROM studies WHERE study_name = ?", (name,))
            self._ids = dict(self._file.execute("SELECT number, trial_id FROM trials WHERE study_id = ?", (self._study,)))
            ((self._last_id,),) = self._file.execute("SELECT coalesce(max(trial_id), 0) FROM trials")
        except Exception as error:  # sqlalchemy's, sqlite3's and optuna's own kinds
            if "disk is full" in str(error) or "readonly database" in str(error):
                raise self._error(error) from error
            raise InputError(
                f"{path}: not a study that Optuna can open ({str(error).splitlines()[0]}); move it away, it is made again from the trial records"
            ) from error

    def replace(self, trials: list[FrozenTrial]) -> None:
        """Make these, numbered from 0, all that the file holds: a trial that left no record may stand in it."""
        beyond = [(self._ids.pop(number),) for number in sorted(self._ids) if number >= len(trials)]
        try:
            with self._file:
                for table in (*_OF_TRIAL, "trials"):
                    self._file.executemany(f"DELETE FROM {table} WHERE trial_id = ?", beyond)
        except sqlite3.Error as error:
            raise self._error(error) from error
        self.write(trials)

    def write(self, trials: Iterable[FrozenTrial]) -> None:
        """All of these in one transaction. Raises StorageError when the disk is full."""
        rows: dict[str, list[tuple]] = {statement: [] for statement in (_TRIAL, _PARAM, _VALUE, _REPORT, _ATTRIBUTE)}
        new: set[int] = set()
        for trial in trials:
            if trial.number not in self._ids:
                self._last_id += 1
                self._ids[trial.number] = self._last_id
            key = self._ids[trial.number]
            rows[_TRIAL].append(
                (key, trial.number, self._study, trial.state.name, _utc(trial.datetime_start), _utc(trial.datetime_complete))
            )
            rows[_REPORT] += [(key, step, value) for step, value in trial.intermediate_values.items()]
            rows[_ATTRIBUTE] += [(key, name, json.dumps(value)) for name, value in trial.user_attrs.items()]
            rows[_VALUE] += [(key, value) for value in trial.values or ()]
            if trial.number not in self._written:
                new.add(trial.number)
                rows[_PARAM] += [
                    (key, name, distribution.to_internal_repr(trial.params[name]), distribution_to_json(distribution))
                    for name, distribution in trial.distributions.items()
                ]
        try:
            with self._file:
                for statement, values in rows.items():
                    self._file.executemany(statement, values)
        except sqlite3.Error as error:
            raise self._error(error) from error
        self._written |= new

    def close(self) -> None:
        self._file.close()

    def _error(self, error: Exception) -> StorageError:
        return StorageError.of(self._path, str(error).splitlines()[0])


def _make(path: Path, name: str, direction: str) -> None:
    """A new study's file as Optuna would make it, but for the half second that importing SQLAlchemy and Alembic takes."""
    with closing(sqlite3.connect(path)) as file, file:
        file.executescript(f"BEGIN;\n{_SCHEMA.read_text()}")
        file.execute("INSERT INTO version_info VALUES (1, ?, ?)", (_SCHEMA_VERSION, optuna.__version__))
        file.execute("INSERT INTO alembic_version VALUES (?)", (_MIGRATION,))
        file.execute("INSERT INTO studies VALUES (1, ?)", (name,))
        file.execute("INSERT INTO study_directions VALUES (1, ?, 1, 0)", (direction.upper(),))


def _utc(moment: datetime.datetime | None) -> str | None:
    """Local time as Optuna's storage keeps it."""
    return None if moment is None else moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
