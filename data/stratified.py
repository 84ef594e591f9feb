"""Which groups go where, class by class: the draws of scikit-learn's StratifiedShuffleSplit and StratifiedKFold.

The same seed has always given the same partition, and still does: tests hold every draw against scikit-learn itself, whose import
takes longer than all else before a search starts Ray.
"""

import numpy as np


def draw_sealed(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """(N,) bool: `count` of the groups with these labels (N,), in the class ratio to within one group, at random.

    Everything is drawn as there: what is left open first, then of what remains all.
    """
    generator = np.random.RandomState(seed)
    classes, counts = np.unique(labels, return_counts=True)
    left = _share_out(counts, len(labels) - count, generator)
    taken = _share_out(counts - left, count, generator)
    sealed = np.zeros(len(labels), dtype=bool)
    for label, first, number in zip(classes, left, taken, strict=True):
        members = generator.permutation(np.flatnonzero(labels == label))
        sealed[members[first : first + number]] = True
    return sealed


def deal_folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(N,) the fold, from 0, of each of the groups with these labels (N,): each class dealt out evenly, at random.

    The classes are dealt one after the other, so that folds also differ by at most one group in all.
    """
    generator = np.random.RandomState(seed)
    dealt = np.empty(len(labels), dtype=int)
    classes, first_seen, counts = np.unique(labels, return_index=True, return_counts=True)
    begin = 0
    for place in np.argsort(first_seen):
        cards = np.sort(np.arange(begin, begin + counts[place]) % folds)
        generator.shuffle(cards)
        dealt[labels == classes[place]] = cards
        begin += counts[place]
    return dealt


def _share_out(counts: np.ndarray, draws: int, generator: np.random.RandomState) -> np.ndarray:
    """(C,) how many of `draws` go to each class of `counts` (C,) members: in proportion, by the largest remainders, ties at random."""
    exact = counts / counts.sum() * draws
    shares = np.floor(exact)
    remainders, missing = exact - shares, int(draws - shares.sum())
    for remainder in np.unique(remainders)[::-1]:
        if missing <= 0:
            break
        tied = np.flatnonzero(remainders == remainder)
        more = generator.choice(tied, size=min(len(tied), missing), replace=False)
        shares[more] += 1
        missing -= len(more)
    return shares.astype(int)
