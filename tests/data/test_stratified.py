"""The draws are scikit-learn's, seed by seed: a study begun with them is split the same way now."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from data.stratified import deal_folds, draw_sealed

many = settings(deadline=None, derandomize=True, database=None, max_examples=200)
seeds = st.integers(0, 2**32 - 1)
# benign and malignant groups, in the order in which their names stand
labels = st.tuples(st.integers(2, 40), st.integers(2, 40), seeds).map(
    lambda drawn: np.random.default_rng(drawn[2]).permutation(np.repeat([0, 1], drawn[:2]))
)


@many
@given(labels, seeds, st.data())
def test_reference_stratified_shuffle_split(labels, seed, data):
    count = data.draw(st.integers(2, len(labels) - 2))
    [(_, expected)] = StratifiedShuffleSplit(1, test_size=count, random_state=seed).split(labels, labels)
    assert np.flatnonzero(draw_sealed(labels, count, seed)).tolist() == sorted(expected.tolist())


@many
@given(labels, seeds, st.data())
def test_reference_stratified_k_fold(labels, seed, data):
    folds = data.draw(st.integers(2, int(np.bincount(labels).min())))
    dealt = deal_folds(labels, folds, seed)
    for fold, (_, expected) in enumerate(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels)):
        assert np.flatnonzero(dealt == fold).tolist() == expected.tolist()
