"""Selecting from a data set: what is left out can no longer be read."""

import numpy as np
import pytest

from data.dataset import Dataset
from data.errors import DataError
from tests.data.trees import table_of

NAMES = ("SOB_B_A-14-1001-40-001.png", "SOB_B_A-14-1001-100-001.png", "SOB_M_DC-14-1002-40-001.png")


@pytest.fixture
def dataset():
    """Three images; every pixel and feature of row r is r."""
    number = np.arange(3)
    images = np.broadcast_to(number[:, None, None, None], (3, 2, 2, 3)).astype(np.uint8)
    return Dataset(table_of(*NAMES), images, "print", "name", features=number.astype(np.float16)[:, None, None, None])


@pytest.mark.parametrize("rows", [[2, 0], [2, 1, 0], [1]], ids=str)
def test_rows_keep_their_pixels_and_features(dataset, rows):
    kept = dataset.select_rows(np.array(rows))
    assert kept.table.path.tolist() == [dataset.table.path[row] for row in rows]
    assert np.asarray(kept.images)[:, 0, 0, 0].tolist() == rows and np.asarray(kept.features).ravel().tolist() == rows
    assert kept.images.shape == (len(rows), 2, 2, 3) and kept.images.nbytes == 12 * len(rows) and kept.images.dtype == np.uint8


def test_a_selection_of_a_selection_reads_the_rows_that_are_left_and_copies_none(dataset):
    kept = dataset.select_rows(np.array([2, 0, 1])).select_rows(np.array([False, True, True]))
    assert kept.images[:][:, 0, 0, 0].tolist() == [0, 1] and kept.images[1][0, 0, 0] == 1
    assert kept.images.array is dataset.images


def test_a_mask_selects_as_its_indices_do(dataset):
    assert np.asarray(dataset.select_rows(np.array([False, True, True])).images)[:, 0, 0, 0].tolist() == [1, 2]


def test_selecting_everything_copies_nothing(dataset):
    assert dataset.select_rows(np.ones(3, dtype=bool)) is dataset


def test_slides_left_out_are_gone(dataset):
    kept = dataset.select_slides(("SOB_M_DC_14-1002",))
    assert kept.table.slides().tolist() == ["SOB_M_DC_14-1002"] and len(kept.images) == 1


def test_magnifications_left_out_are_gone(dataset):
    assert dataset.select_magnifications((40,)).table.magnification.tolist() == [40, 40]


def test_an_absent_magnification_is_an_error_that_says_which_there_are(dataset):
    with pytest.raises(DataError, match="200, 400: the data set name has no such image; it has 40,100: pass --magnifications 40,100"):
        dataset.select_magnifications((40, 200, 400))
