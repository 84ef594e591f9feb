"""Views: evaluation shows every image and never changes; training draws afresh, in the shares that were promised."""

import numpy as np
import pytest

from data.views import MISSING, ViewIndex, balanced_counts, hide
from tests.data.trees import table_of

# slide 0: 3 images at 40X, 1 at 100X; slide 1: only 100X, 2 images; slide 2: 2 at each
COUNTS = {"B_A-14-1001": {40: 3, 100: 1}, "B_F-14-1002": {100: 2}, "M_DC-14-1003": {40: 2, 100: 2}}
TABLE = table_of(
    *(f"SOB_{slide}-{m}-{n:03d}.png" for slide, has in COUNTS.items() for m, count in has.items() for n in range(1, count + 1))
)
INDEX = ViewIndex(TABLE, (40, 100))
EVERYONE = np.arange(3)


def train(seed, balance="none", per_slide=None, slides=EVERYONE):
    return INDEX.training(slides, balance=balance, per_slide=per_slide, rng=np.random.default_rng(seed))


def test_a_view_shows_one_slide_with_each_magnification_in_its_place():
    for views in (INDEX.evaluation(EVERYONE), train(0)):
        for column, magnification in enumerate((40, 100)):
            present = views.mask[:, column]
            rows = views.rows[present, column]
            assert (TABLE.magnification[rows] == magnification).all()
            assert (TABLE.slide[rows] == INDEX.slides[views.slide[present]]).all()


def test_labels_belong_to_the_slides():
    assert INDEX.slides.tolist() == ["SOB_B_A_14-1001", "SOB_B_F_14-1002", "SOB_M_DC_14-1003"]
    assert INDEX.label.tolist() == [0, 0, 1]


def test_evaluation_shows_every_image_in_as_few_views_as_possible():
    views = INDEX.evaluation(EVERYONE)
    assert np.bincount(views.slide).tolist() == [3, 2, 2]
    assert set(views.rows[views.mask].tolist()) == set(range(len(TABLE)))


def test_evaluation_covers_every_image_of_a_whole_data_set(synthetic_dataset):
    table = synthetic_dataset.table
    index = ViewIndex(table, (40, 100, 200, 400))
    views = index.evaluation(np.arange(len(index.slides)))
    assert sorted(views.rows.ravel().tolist()) == list(range(len(table)))


def test_evaluation_is_the_same_each_time_and_for_any_company():
    alone, together = INDEX.evaluation(np.array([2])), INDEX.evaluation(EVERYONE)
    np.testing.assert_array_equal(INDEX.evaluation(EVERYONE).rows, together.rows)
    np.testing.assert_array_equal(alone.rows, together.rows[together.slide == 2])


def test_a_magnification_that_a_slide_lacks_is_missing_and_masked():
    for views in (INDEX.evaluation(EVERYONE), train(0)):
        lacking = views.slide == 1
        assert (views.rows[lacking, 0] == MISSING).all()
        np.testing.assert_array_equal(views.mask, ~(lacking[:, None] & [True, False]))


def test_training_repeats_by_seed_and_differs_by_the_state_of_the_generator():
    np.testing.assert_array_equal(train(5).rows, train(5).rows)
    rng = np.random.default_rng(5)
    epochs = [INDEX.training(EVERYONE, balance="none", per_slide=8, rng=rng).rows.tolist() for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]


def test_training_mixes_the_slides():
    assert train(0).slide.tolist() != sorted(train(0).slide.tolist())


def test_training_sees_only_the_slides_it_is_given():
    assert set(train(0, slides=np.array([0, 2])).slide.tolist()) == {0, 2}


def test_images_are_drawn_without_replacement_until_all_were_shown():
    for seed in range(10):
        rows = train(seed, per_slide=6).rows[:, 0]
        assert sorted(np.unique(rows[rows != MISSING], return_counts=True)[1].tolist()) == [2, 2, 2, 3, 3]
        rows = train(seed, per_slide=2).rows
        assert np.unique(rows[rows[:, 0] != MISSING, 0], return_counts=True)[1].tolist() == [1, 1, 1, 1]


def test_pairs_of_magnifications_are_drawn_afresh():
    pairs = {tuple(row) for seed in range(30) for row in train(seed, slides=np.array([2])).rows.tolist()}
    assert len(pairs) == 4  # 2 images x 2 images


@pytest.mark.parametrize(("per_slide", "counts"), [(None, [3, 2, 2]), (1, [1, 1, 1]), (4, [4, 4, 4])])
def test_a_slide_gives_as_many_views_as_asked_or_as_it_has_images(per_slide, counts):
    assert np.bincount(train(0, per_slide=per_slide).slide).tolist() == counts


@pytest.mark.parametrize(
    ("balance", "counts"),
    [("none", [9, 1, 2]), ("class", [6, 2, 4]), ("patient", [4, 4, 4]), ("class_patient", [6, 3, 3])],
)
def test_balance_keeps_the_total_and_deals_the_promised_shares(balance, counts):
    natural, label, patient = np.array([9, 1, 2]), np.array([0, 1, 1]), np.array([0, 1, 2])
    assert balanced_counts(natural, label, patient, balance, np.random.default_rng(0)).tolist() == counts


def test_two_slides_of_a_patient_share_what_one_patient_gets():
    natural, label, patient = np.array([4, 4, 4]), np.array([0, 1, 1]), np.array([0, 1, 1])
    assert balanced_counts(natural, label, patient, "patient", np.random.default_rng(0)).tolist() == [6, 3, 3]
    natural, label, patient = np.array([6, 6, 6, 6]), np.array([0, 1, 1, 1]), np.array([0, 1, 1, 2])
    assert balanced_counts(natural, label, patient, "class_patient", np.random.default_rng(0)).tolist() == [12, 3, 3, 6]


def test_the_share_of_a_patient_of_two_classes_is_one_in_each():
    label, patient = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 2])
    shares = balanced_counts(np.full(4, 12), label, patient, "class_patient", np.random.default_rng(0))
    assert shares.tolist() == [12, 12, 12, 12]


def test_fractions_of_a_view_are_rounded_at_random_without_bias():
    natural, label = np.array([1, 1, 1, 4]), np.array([0, 0, 0, 1])  # by class: 7/6 7/6 7/6 7/2
    draws = np.stack([balanced_counts(natural, label, np.arange(4), "class", np.random.default_rng(seed)) for seed in range(2000)])
    share = np.array([7 / 6, 7 / 6, 7 / 6, 7 / 2])
    assert (np.abs(draws - share) < 1).all()
    np.testing.assert_allclose(draws.mean(0), share, atol=0.05)


def test_training_follows_the_balance():
    views = train(0, balance="patient", per_slide=None)
    assert (np.abs(np.bincount(views.slide) - 7 / 3) < 1).all()
    views = train(0, balance="class_patient", per_slide=4)
    assert np.bincount(views.slide).tolist() == [3, 3, 6]


def test_a_slide_without_an_image_at_the_magnifications_is_left_out():
    index = ViewIndex(TABLE, (40,))
    assert index.slides.tolist() == ["SOB_B_A_14-1001", "SOB_M_DC_14-1003"]
    assert (index.label.tolist(), index.images.tolist()) == ([0, 1], [3, 2])
    drawn = index.training(np.arange(2), balance="none", per_slide=None, rng=np.random.default_rng(0))
    for views in (index.evaluation(np.arange(2)), drawn):
        assert views.mask.all() and (TABLE.magnification[views.rows] == 40).all()
        assert (TABLE.slide[views.rows[:, 0]] == index.slides[views.slide]).all()
    assert sorted(index.evaluation(np.arange(2)).rows[:, 0].tolist()) == np.flatnonzero(TABLE.magnification == 40).tolist()


# hiding magnifications -----------------------------------------------------------------------------------------------

# 4, 2 and 1 images, one of them row 0, and none at all
SHOWN = np.array([[3, 0, 5, 7], [MISSING, 2, MISSING, 9], [MISSING, MISSING, 4, MISSING], [MISSING] * 4])


def hidden(share, seed=0, repeats=20_000):
    """(repeats, 4, 4) bool: which images of SHOWN were hidden."""
    rows = hide(np.tile(SHOWN, (repeats, 1)), share, np.random.default_rng(seed)).reshape(repeats, 4, 4)
    return (rows != SHOWN) & (rows == MISSING)


@pytest.mark.parametrize("share", [0.2, 0.9, 1.0])
def test_hiding_never_takes_the_last_image_of_a_view(share):
    left = (SHOWN != MISSING).sum(1) - hidden(share).sum(2)
    assert (left[:, :3] >= 1).all() and (left[:, 2] == 1).all() and (left[:, 3] == 0).all()


def test_hiding_invents_and_moves_no_image():
    rows = np.tile(SHOWN, (1000, 1))
    after = hide(rows, 0.5, np.random.default_rng(0))
    assert ((after == rows) | (after == MISSING)).all()
    assert (rows == np.tile(SHOWN, (1000, 1))).all()  # and leaves its argument as it was


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_each_image_is_hidden_with_the_share_that_was_asked_for_but_for_the_one_that_stays(share):
    """Of n images, where all would go (share ** n), one stays: each is hidden with share - share ** n / n."""
    mean = hidden(share).mean(0)
    for view, n in ((0, 4), (1, 2)):
        np.testing.assert_allclose(mean[view][SHOWN[view] != MISSING], share - share**n / n, atol=0.015)


def test_which_image_stays_where_all_would_go_is_drawn():
    stays = ~hidden(1.0)[:, 0]
    assert (stays.sum(1) == 1).all()
    np.testing.assert_allclose(stays.mean(0), 1 / 4, atol=0.015)


def test_a_share_of_nothing_hides_nothing_and_the_seed_decides_the_rest():
    assert (hide(SHOWN, 0.0, np.random.default_rng(0)) == SHOWN).all()
    assert (hidden(0.5, seed=1) == hidden(0.5, seed=1)).all() and (hidden(0.5, seed=1) != hidden(0.5, seed=2)).any()
