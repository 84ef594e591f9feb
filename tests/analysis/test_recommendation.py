"""The simplest of what is within one standard error of the best."""

from dataclasses import replace

import numpy as np

from analysis.recommendation import choose_simplest, mechanisms_on, simplicity, within_one_error
from mmnet.config import Config
from tests.analysis.studies import record

ERROR = np.full((3, 3), 0.05)
ALL = np.ones(3, dtype=bool)


def test_mechanisms_are_counted():
    whole = {"model.channel_attention": True, "model.pool": "gate"}
    assert mechanisms_on(Config().to_dict()) == 4 and mechanisms_on(Config().with_values(whole).to_dict()) == 6
    off = {"model.channel_attention": False, "model.pool": "mean", "model.hierarchy": "none", "model.importance": False}
    assert mechanisms_on(Config().with_values(off).to_dict()) == 2
    assert mechanisms_on(Config().with_values(off | {"model.cross_attention": False, "model.concatenation": False}).to_dict()) == 0


def test_fewer_mechanisms_come_before_a_smaller_width_before_less_time():
    def of(values, seconds=1.0):
        return simplicity(replace(record(0, [0.5]), config=Config().with_values(values).to_dict(), seconds=seconds))

    assert of({}) < of({"model.width": None}, 1e-3)  # as wide as the maps have channels
    plain, narrow, base = of({"model.importance": False}, 9.0), of({"model.width": 64}, 9.0), of({})
    assert plain < narrow < base < of({}, 9.0) and of({}, 1.01) == base
    twice = replace(record(0, [0.5, 0.5]), config=Config().to_dict(), seconds=2.0)
    assert simplicity(twice) == base  # the time of a fold-epoch, of which it had twice as many


def test_within_one_error_of_the_best_that_may_be_chosen():
    score = np.array([[0.30], [0.34], [0.40]])
    assert within_one_error(score, ERROR, ALL)[:, 0].tolist() == [True, True, False]
    assert within_one_error(score, ERROR, np.array([False, True, True]))[:, 0].tolist() == [False, True, False]


def test_the_simplest_of_them_in_every_resample():
    score = np.array([[0.30, 0.30], [0.34, 0.36], [0.40, 0.34]])
    assert choose_simplest(score, ERROR, ALL, np.array([2, 1, 0])).tolist() == [1, 2]
    assert choose_simplest(score, np.zeros((3, 3)), ALL, np.array([2, 1, 0])).tolist() == [0, 0]
