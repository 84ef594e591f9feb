"""The predictions that judge a study, at three levels: image, view, patient.

A view's probability is what the network said. An image's is the mean over the views that show it, a patient's the mean
over its views. All arrays of a level have one entry a unit.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from analysis.leaderboard import standing_trial
from data.errors import InputError
from data.views import MISSING
from mmnet.metrics import patient_mean
from study.folder import read_study
from study.members import member_names
from study.records import TrialRecord, read_trials

LEVELS = ("image", "view", "patient")
COLUMNS = ("label", "slide", "patient", "subtype", "fold", "rows")
AGREEMENT = 0.02  # mean difference between probabilities on record and computed again, from precision and device alone


class ManyClasses(Exception):
    """Predictions of more than two classes."""


class Level(NamedTuple):
    """Predictions of N units of one level."""

    probability: np.ndarray  # (N,) of malignant
    label: np.ndarray  # (N,)
    slide: np.ndarray  # (N,) str; of a patient the first one
    patient: np.ndarray  # (N,) str
    fold: np.ndarray  # (N,) int, from 0
    magnification: np.ndarray  # (N,) of an image, 0 at other levels

    def select(self, rows: np.ndarray) -> "Level":
        return Level(*(column[rows] for column in self))

    def drawn(self, rows: np.ndarray, draw: np.ndarray) -> "Level":
        """A resample, see `bootstrap.resamples`: a patient drawn twice is two patients, whose slides are two slides each."""
        slide = np.unique(self.slide, return_inverse=True)[1]
        return self.select(rows)._replace(patient=draw, slide=draw * (slide.max() + 1) + slide[rows])


@dataclass(frozen=True)
class Predictions:
    """V views, each predicted by a network that never saw its patient."""

    probability: np.ndarray  # (V,)
    label: np.ndarray  # (V,)
    slide: np.ndarray  # (V,) str
    patient: np.ndarray  # (V,) str
    subtype: np.ndarray  # (V,) str
    fold: np.ndarray  # (V,) int, from 0
    rows: np.ndarray  # (V, M) of the development table
    magnifications: tuple[int, ...]

    def level(self, name: str) -> Level:
        """image, view or patient."""
        assert name in LEVELS
        if name == "view":
            return self._level(self.probability, np.arange(len(self.label)), np.zeros_like(self.label))
        if name == "patient":
            mean, first = patient_mean(self.probability, self.label, self.patient)
            return self._level(mean, first, np.zeros_like(first))
        view, column = np.nonzero(self.rows != MISSING)
        mean, first = patient_mean(self.probability[view], self.label[view], self.rows[view, column])
        return self._level(mean, view[first], np.array(self.magnifications)[column[first]])

    def _level(self, probability: np.ndarray, view: np.ndarray, magnification: np.ndarray) -> Level:
        return Level(probability, self.label[view], self.slide[view], self.patient[view], self.fold[view], magnification)


def chosen_trial(study: Path) -> TrialRecord:
    """The trial that stands for a study, see `standing_trial`; of a mean its first member. Raises InputError without one."""
    found = standing_trial(read_study(study), read_trials(study))
    if found is None:
        raise InputError(f"study {study}: no trial has a score yet; let it run, or --resume it")
    return found


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """An .npz of a trial: `oof` (E, V) or `probability` (V,), and the columns of its V views. Raises InputError when it is absent or damaged."""
    try:
        with np.load(path) as saved:
            arrays = {name: saved[name] for name in saved.files}
        for name in ("oof", "probability"):
            if name in arrays and arrays[name].ndim == (3 if name == "oof" else 2):  # (E, V, K) or (V, K)
                if arrays[name].shape[-1] > 2:
                    raise ManyClasses
                arrays[name] = arrays[name][..., 1]
        if "case" in arrays:  # earlier versions called a patient case, and a slide patient
            arrays["slide"], arrays["patient"] = arrays["patient"], arrays.pop("case")
        probability = arrays["oof"] if "oof" in arrays else arrays["probability"][None]
        lengths = {len(arrays[name]) for name in COLUMNS if name in arrays}
        if (
            lengths != {probability.shape[1]}
            or not np.isfinite(probability).all()
            or arrays.get("best_epoch", 1) not in range(1, len(probability) + 1)
        ):
            raise ValueError(f"{probability.shape} probabilities, not all finite or not those of {sorted(lengths)} views")
        return arrays
    except ManyClasses:
        raise InputError(f"predictions {path}: of more than two classes, whose tables and intervals this version does not make") from None
    except Exception as error:  # a damaged archive raises something else for every byte that is wrong
        raise InputError(f"predictions {path}: absent or damaged ({error}); let the trial finish by --resume, or train again") from error


def trial_predictions(record: TrialRecord, epoch: int | None = None) -> Predictions:
    """Out-of-fold predictions of a trial after an epoch (from 1; None: its best)."""
    saved = read_arrays(record.folder / "predictions.npz")
    columns = {name: saved[name] for name in COLUMNS}
    probability = saved["oof"][(int(saved["best_epoch"]) if epoch is None else epoch) - 1].astype(np.float64)
    return Predictions(probability, **columns, magnifications=tuple(record.config["data"]["magnifications"]))


def require_agreement(study: Path, trial: TrialRecord, again: np.ndarray, on_record: np.ndarray) -> None:
    """Raises InputError when the networks in models/ do not give the probabilities (N,) on record of a trial."""
    apart = float(np.mean(np.abs(again - on_record)))
    if not apart < AGREEMENT:
        raise InputError(
            f"models {study / 'models'}: their probabilities differ by {apart:.3f} in the mean from those on record of trial {trial.name}, "
            f"expected below {AGREEMENT}; train again with main.py"
        )


def member_predictions(study: Path) -> dict[str, Predictions]:
    """{member: its out-of-fold predictions at its best epoch} of a study of several. Raises InputError while one is not trained."""
    names, records = member_names(read_study(study)), read_trials(study)
    if len(records) < len(names):
        raise InputError(f"study {study}: {len(records)} of its {len(names)} members have begun; let it run, or --resume it")
    return {name: trial_predictions(record) for name, record in zip(names, records, strict=True)}


def mean_of(members: dict[str, Predictions]) -> Predictions:
    """The mean of the members' probabilities, view by view. Raises InputError where two were not judged on the same views."""
    first, one = next(iter(members.items()))
    for name, other in members.items():
        if not all(np.array_equal(getattr(one, column), getattr(other, column)) for column in ("rows", "slide", "fold", "label")):
            raise InputError(
                f"members {first} and {name}: judged on other views or folds ({len(one.label)} and {len(other.label)} views), so they have "
                "no mean; train them together by main.py --config FOLDER"
            )
    return replace(one, probability=np.mean([member.probability for member in members.values()], axis=0))


def study_predictions(study: Path) -> Predictions:
    """Of the trial that stands for a study, of the mean of its members, or of all outer folds of a nested one (a fold is an outer fold then)."""
    about = read_study(study)
    if member_names(about):
        return mean_of(member_predictions(study))
    if not about.get("nested"):
        return trial_predictions(chosen_trial(study))
    parts = [read_arrays(record.folder / "held_out.npz") for record in read_trials(study)]
    columns = {
        name: np.concatenate([part[name] for part in parts]) for name in ("probability", *COLUMNS) if name != "fold"
    }
    fold = np.repeat(np.arange(len(parts)), [len(part["label"]) for part in parts])
    return Predictions(**columns, fold=fold, magnifications=tuple(about["config"]["data"]["magnifications"]))
