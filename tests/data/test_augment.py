"""Augmentation: stays an image, does nothing at strength 0, and does what its formula says at any other."""

import pytest
import torch
from torch.nn import functional as F

from data.augment import (
    CELLS,
    STAINS,
    adjust_color,
    adjust_stain,
    bend,
    dihedral,
    draw,
    draw_bends,
    draw_boxes,
    draw_cuts,
    draw_stains,
    draw_symmetries,
    fill,
    mixup,
    nothing,
    soften,
    to_float,
    warp,
)

SIDE = 12
NOTHING = {"flip": False, "turn": False, "crop": 1.0, "rotation": 0.0, "color": 0.0, "hue": 0.0, "stain": 0.0, "blur": 0.0, "elastic": 0.0, "erase": 0.0}
EACH = {
    "flip": NOTHING | {"flip": True},
    "turn": NOTHING | {"turn": True},
    "crop": NOTHING | {"crop": 0.3},
    "rotation": NOTHING | {"rotation": 180.0},
    "color": NOTHING | {"color": 0.9},
    "hue": NOTHING | {"hue": 0.5},
    "stain": NOTHING | {"stain": 0.9},
    "blur": NOTHING | {"blur": 1.0},
    "elastic": NOTHING | {"elastic": 1.0},
    "erase": NOTHING | {"erase": 1.0},
    "all": {"flip": True, "turn": True, "crop": 0.5, "rotation": 30.0, "color": 0.2, "hue": 0.05, "stain": 0.2, "blur": 0.3, "elastic": 0.2, "erase": 0.5},
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def augmented(pixels, settings, seed=0):
    return draw(len(pixels), seeded(seed), **settings)(pixels)


def crop(images, generator, *, smallest, degrees=0.0):
    return warp(images, draw_cuts(torch.zeros(len(images), dtype=torch.int64), generator, smallest=smallest, degrees=degrees))


def color(images, generator, *, strength):
    return adjust_color(images, draw(len(images), generator, **NOTHING | {"color": strength}).steps[0][1])


def stain(images, generator, *, strength):
    return adjust_stain(images, draw_stains(len(images), generator, strength=strength))


def erase(images, generator, *, probability):
    return fill(images, draw_boxes(len(images), generator, probability=probability))


@pytest.fixture
def pixels():
    """64 noise images (B, H, W, 3) uint8, one all black and one all white."""
    batch = torch.randint(0, 256, (64, SIDE, SIDE, 3), dtype=torch.uint8, generator=seeded(99))
    batch[0], batch[1] = 0, 255
    return batch


@pytest.fixture
def images(pixels):
    """The same, (B, 3, H, W) in [0, 1]."""
    return to_float(pixels)


def test_to_float_moves_channels_and_scales():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 4, 5, 3)
    out = to_float(pixels)
    assert out.shape == (2, 3, 4, 5) and out.dtype == torch.float32
    torch.testing.assert_close(out[1, :, 2, 3], torch.tensor([0.0, 0.2, 1.0]))


@pytest.mark.parametrize("name", EACH)
def test_bytes_become_values_between_0_and_1_in_channel_order(pixels, name):
    out = augmented(pixels, EACH[name])
    assert out.shape == (64, 3, SIDE, SIDE) and out.dtype == torch.float32
    assert out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("name", EACH)
def test_the_same_seed_gives_the_same_images_and_another_seed_others(pixels, name):
    out = augmented(pixels, EACH[name], 1)
    assert torch.equal(out, augmented(pixels, EACH[name], 1))
    assert not torch.equal(out, augmented(pixels, EACH[name], 2))


@pytest.mark.parametrize("name", EACH)
def test_every_image_is_augmented_differently_and_the_batch_itself_is_left_alone(pixels, name):
    same = pixels[5:6].expand(16, -1, -1, -1).clone()
    out = augmented(same, EACH[name])
    assert len({tuple(image.flatten().tolist()) for image in out}) >= 4
    assert torch.equal(same, pixels[5:6].expand(16, -1, -1, -1))


@pytest.mark.parametrize("name", EACH)
def test_a_batch_done_in_parts_is_the_batch_done_at_once(pixels, name):
    plan = draw(len(pixels), seeded(), **EACH[name])
    parts = [slice(0, 1), slice(1, 9), slice(9, 64)]
    torch.testing.assert_close(torch.cat([plan.part(part)(pixels[part]) for part in parts]), plan(pixels))


def test_nothing_asked_is_nothing_done_and_nothing_drawn(pixels, images):
    generator = seeded()
    before = generator.get_state()
    assert torch.equal(draw(len(pixels), generator, **NOTHING)(pixels), images)
    assert torch.equal(nothing(len(pixels))(pixels), images)
    assert torch.equal(generator.get_state(), before)


def test_every_step_at_strength_zero_changes_nothing(images):
    generator = seeded()
    darkest = 1 / 255 + 1e-5  # optical density starts at the darkest 8-bit step
    torch.testing.assert_close(crop(images, generator, smallest=1.0), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(adjust_color(images, torch.tensor([1.0, 1, 1, 0]).expand(64, 4)), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(stain(images, generator, strength=0.0), images, atol=darkest, rtol=0)
    torch.testing.assert_close(erase(images, generator, probability=0.0), images, atol=0, rtol=0)


def symmetries(image, flip, turn):
    """Every flip of every turn of one image, each once."""
    turned = [image.rot90(quarter, (-2, -1)) for quarter in (range(4) if turn else (0,))]
    flipped = [view.flip(axes) for view in turned for axes in ([], [-1], [-2], [-1, -2])] if flip else turned
    return {tuple(view.flatten().tolist()) for view in flipped}


@pytest.mark.parametrize(("flip", "turn", "many"), [(True, False, 4), (False, True, 4), (True, True, 8)])
def test_flips_and_turns_are_the_symmetries_of_the_square_and_all_occur(pixels, images, flip, turn, many):
    allowed = symmetries(images[5], flip, turn)
    assert len(allowed) == many
    out = augmented(pixels[5].expand(200, -1, -1, -1), NOTHING | {"flip": flip, "turn": turn})
    assert {tuple(view.flatten().tolist()) for view in out} == allowed


def test_flips_and_turns_stay_within_their_image(pixels):
    symmetry = draw_symmetries(len(pixels), seeded(), flip=True, turn=True)
    out = dihedral(pixels, symmetry)
    assert torch.equal(out.flatten(1).sort().values, pixels.flatten(1).sort().values)


def test_a_symmetry_sampled_is_the_symmetry_copied(pixels, images):
    symmetry = torch.arange(64) % 8
    cuts = draw_cuts(symmetry, seeded(), smallest=1.0, degrees=0.0)
    torch.testing.assert_close(warp(images, cuts), to_float(dihedral(pixels, symmetry)), atol=1e-5, rtol=0)


def test_warp_samples_as_the_affine_grid_of_torch_does(images):
    cuts = torch.randn(64, 2, 3, generator=seeded(5))
    grid = F.affine_grid(cuts, [64, 3, SIDE, SIDE], align_corners=False)
    expected = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    torch.testing.assert_close(warp(images, cuts), expected, atol=1e-4, rtol=0)


def test_warp_takes_images_that_are_not_square():
    images = torch.rand(8, 3, 6, 10, generator=seeded(1))
    torch.testing.assert_close(crop(images, seeded(), smallest=1.0), images, atol=1e-5, rtol=0)


def test_a_rotation_turns_by_up_to_its_degrees_either_way_and_keeps_scale():
    cuts = draw_cuts(torch.zeros(500, dtype=torch.int64), seeded(), smallest=1.0, degrees=20.0)
    angle = torch.atan2(cuts[:, 1, 0], cuts[:, 0, 0]).rad2deg()
    assert -20 <= angle.min() < -19 and 19 < angle.max() <= 20
    torch.testing.assert_close(cuts[:, :, :2] @ cuts[:, :, :2].mT, torch.eye(2).expand(500, -1, -1))


@pytest.mark.parametrize(("smallest", "degrees"), [(0.5, 0.0), (0.3, 180.0), (0.6, 30.0)])
def test_a_cut_that_fits_into_the_image_stays_inside_and_no_other_is_moved_off_its_middle(smallest, degrees):
    symmetry = torch.arange(400) % 8
    cuts = draw_cuts(symmetry, seeded(), smallest=smallest, degrees=degrees)
    corners = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]])
    reach = (cuts[:, :, :2] @ corners).abs().amax((1, 2))
    place = (cuts[:, :, :2] @ corners + cuts[:, :, 2:]).abs().amax((1, 2))
    fits = reach <= 1
    assert fits.any() and place[fits].max() <= 1 + 1e-5 and place[fits].max() > 0.99
    tilted = cuts[:, :, :2].abs().sum(2).amax(1)
    assert (cuts[tilted > 1][:, :, 2] == 0).all()


def test_where_the_image_is_sampled_anyway_flips_and_turns_are_part_of_it(pixels):
    plan = draw(len(pixels), seeded(), **NOTHING | {"flip": True, "turn": True, "rotation": 10.0})
    assert not plan.symmetry.any() and [step for step, _ in plan.steps] == [warp]
    determinant = torch.linalg.det(plan.steps[0][1][:, :, :2])
    assert (determinant < 0).any() and (determinant > 0).any()  # mirrored and not


def test_crop_magnifies_by_1_to_the_smallest_side_and_stays_inside():
    ramp = torch.linspace(0, 1, SIDE).expand(200, 3, SIDE, SIDE)
    out = crop(ramp, seeded(), smallest=0.5)
    middle = slice(SIDE // 2 - 1, SIDE // 2 + 1)
    slope = out[:, 0, 0, middle].diff().flatten() * (SIDE - 1)
    assert slope.min() > 0.5 - 1e-4 and slope.max() < 1 + 1e-4
    assert slope.min() < 0.55 and slope.max() > 0.95
    assert (out[..., 1:] - out[..., :-1]).min() >= -1e-5  # nothing mirrored: the cut never leaves the image


def test_crop_keeps_the_shape_of_things():
    both = torch.linspace(0, 1, SIDE)[None, :].expand(SIDE, SIDE)
    ramps = torch.stack([both, both.T, both]).expand(50, -1, -1, -1)
    out = crop(ramps, seeded(), smallest=0.5)
    middle = slice(SIDE // 2 - 1, SIDE // 2 + 1)
    torch.testing.assert_close(out[:, 0, 5, middle].diff(), out[:, 1, middle, 5].diff(), atol=1e-5, rtol=0)


def test_color_changes_brightness_within_its_strength():
    gray = torch.full((200, 3, 4, 4), 0.4)  # neither contrast nor saturation can change it
    factor = color(gray, seeded(), strength=0.2).mean((1, 2, 3)) / 0.4
    assert 0.8 <= factor.min() < 0.83 and 1.17 < factor.max() <= 1.2


def test_color_changes_contrast_about_the_mean_of_the_image():
    halves = torch.tensor([0.4, 0.6]).expand(200, 3, 4, 2)  # gray: saturation cannot change it
    out = color(halves, seeded(), strength=0.2)
    brightness = out.mean((1, 2, 3)) / 0.5
    contrast = (out[:, 0, 0, 1] - out[:, 0, 0, 0]) / 0.2 / brightness
    assert 0.8 - 1e-4 <= contrast.min() < 0.83 and 1.17 < contrast.max() <= 1.2 + 1e-4
    assert abs(torch.corrcoef(torch.stack([contrast, brightness]))[0, 1]) < 0.3  # each is drawn by itself


def test_color_changes_saturation_but_not_the_mean_of_the_channels():
    pixel = torch.tensor([0.6, 0.4, 0.5]).view(1, 3, 1, 1).expand(200, 3, 4, 4)
    out = color(pixel, seeded(), strength=0.2)
    brightness = out.mean((1, 2, 3)) / 0.5
    saturation = (out[:, 0, 0, 0] - out[:, 1, 0, 0]) / 0.2 / brightness  # = contrast · saturation
    assert 0.8**2 - 1e-4 <= saturation.min() < 0.75 and 1.3 < saturation.max() <= 1.2**2 + 1e-4
    torch.testing.assert_close(out[:, 2, 0, 0], 0.5 * brightness)  # the channel at the mean stays there


def test_stain_scales_and_shifts_the_amount_of_each_stain():
    stains = torch.tensor(STAINS)
    stains = stains / stains.norm(dim=1, keepdim=True)
    amounts = torch.tensor([0.5, 0.4, 0.3])
    images = torch.exp(-(amounts @ stains)).view(1, 3, 1, 1).repeat(300, 1, 2, 2)
    images[:, :, 1, 1] = torch.exp(-(2 * amounts @ stains))
    density = -stain(images, seeded(), strength=0.3).log()
    found = density.permute(0, 2, 3, 1) @ torch.linalg.inv(stains)  # (B, 2, 2, 3) amounts
    factor = (found[:, 1, 1] - found[:, 0, 0]) / amounts
    extra = found[:, 0, 0] - factor * amounts
    assert factor.min() > 0.7 - 1e-3 and factor.max() < 1.3 + 1e-3 and factor.std(0).min() > 0.1
    assert extra.abs().max() < 0.03 + 1e-3 and extra.std(0).min() > 0.01


def test_erase_fills_one_rectangle_with_the_mean_color(images):
    batch = images[2:]
    changed = erase(batch, seeded(), probability=1.0) != batch
    filled = torch.where(changed, batch.mean((2, 3), keepdim=True), batch)
    assert torch.equal(erase(batch, seeded(), probability=1.0), filled)
    rows, columns = changed.any(1).any(2), changed.any(1).any(1)  # (B, H), (B, W)
    assert torch.equal(changed, (rows[:, :, None] & columns[:, None, :])[:, None].expand_as(changed))
    assert ((rows.sum(1) - columns.sum(1)).abs() > 1).any()  # no square, which pixels round by 1
    for side in (rows, columns):
        assert side.any(1).all() and (side.sum(1) <= 0.4 * SIDE + 1).all()
        edges = side.int().diff(dim=1, prepend=torch.zeros(len(side), 1), append=torch.zeros(len(side), 1))
        assert (edges.abs().sum(1) == 2).all()  # contiguous


def test_erase_hits_its_share_of_the_images():
    noise = torch.rand(400, 3, SIDE, SIDE, generator=seeded(3))
    hit = (erase(noise, seeded(), probability=0.25) != noise).any(3).any(2).any(1)
    assert 0.18 < hit.float().mean() < 0.32


def one_hot(views, magnifications):
    """(V, M, V) inputs in which view v is the unit vector v, so that a blend shows who was blended how much."""
    return torch.eye(views)[:, None].repeat(1, magnifications, 1)


def test_mixup_blends_inputs_and_targets_by_the_same_lambda():
    views = 64
    target = torch.rand(views, 2, generator=seeded(1))
    inputs, mask = one_hot(views, 2), torch.ones(views, 2, dtype=torch.bool)
    mixed, mask, blended = mixup(inputs, mask, target, alpha=0.8, generator=seeded())
    torch.testing.assert_close(mixed[:, 0], mixed[:, 1])  # one λ and one partner a view
    torch.testing.assert_close(mixed.sum(2), torch.ones(views, 2))
    assert (mixed[:, 0].count_nonzero(1) <= 2).all() and (mixed[:, 0].count_nonzero(1) == 2).sum() > views // 2
    torch.testing.assert_close(blended, mixed[:, 0] @ target)
    assert mask.all() and blended.min() >= 0 and blended.max() <= 1


@pytest.mark.parametrize("alpha", [0.4, 2.0])
def test_mixup_draws_lambda_from_the_beta_distribution(alpha):
    views = 500
    mixed, _, _ = mixup(one_hot(views, 1), torch.ones(views, 1, dtype=torch.bool), torch.zeros(views, 2), alpha=alpha, generator=seeded())
    share = mixed[:, 0].diagonal()
    assert abs(share.mean() - 0.5) < 0.05
    assert abs(share.var() - 1 / (4 * (2 * alpha + 1))) < 0.02


def test_mixup_keeps_only_magnifications_that_both_views_have():
    views = 60
    has = torch.tensor([[True, True, False], [False, True, True], [True, True, True]]).repeat(views // 3, 1)
    inputs = one_hot(views, 3) * has[:, :, None]
    mixed, mask, _ = mixup(inputs, has, torch.zeros(views, 2), alpha=1.0, generator=seeded())
    partner = torch.where(mixed[:, 1] * (1 - torch.eye(views)) > 0, 1, 0).argmax(1)  # the one they all have shows whom
    assert torch.equal(mask, has & has[partner])
    torch.testing.assert_close(mixed.sum(2), mask.float())  # a blend where both are, and zeros where not


def test_mixup_leaves_views_that_share_nothing_as_they_are():
    has = torch.tensor([[True, False], [False, True]])
    inputs, target = torch.rand(2, 2, 3, generator=seeded(1)) * has[:, :, None], torch.eye(2)
    for seed in range(10):
        mixed, mask, blended = mixup(inputs, has, target, alpha=1.0, generator=seeded(seed))
        torch.testing.assert_close(mixed, inputs)
        torch.testing.assert_close(blended, target)
        assert torch.equal(mask, has)


def test_mixup_repeats_by_seed_and_takes_images():
    inputs, mask = torch.rand(8, 2, 3, 4, 4, generator=seeded(1)), torch.ones(8, 2, dtype=torch.bool)
    target = torch.arange(8) / 8
    first, again, other = (mixup(inputs, mask, target, alpha=1.0, generator=seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[2], again[2]) and not torch.equal(first[0], other[0])
    assert first[0].shape == inputs.shape and first[0].min() >= 0 and first[0].max() <= 1


# blur, elastic deformation, hue ---------------------------------------------------------------------------------------


def test_a_blur_is_a_normalised_gaussian_of_its_sigma():
    image = torch.zeros(2, 1, 9, 9)
    image[:, 0, 4, 4] = 1.0
    out = soften(image, torch.tensor([[1.0], [0.0]]))
    kernel = torch.exp(-torch.tensor([4.0, 1, 0, 1, 4]) / 2)
    kernel /= kernel.sum()
    torch.testing.assert_close(out[0, 0, 2:7, 2:7], kernel[:, None] * kernel)
    torch.testing.assert_close(out[1], image[1])
    torch.testing.assert_close(soften(torch.full((1, 3, 9, 9), 0.3), torch.tensor([[2.0]])), torch.full((1, 3, 9, 9), 0.3))


def test_a_field_of_displacements_moves_what_is_there_by_so_many_pixels():
    image = torch.arange(40.0).expand(1, 1, 40, 40) / 40
    field = torch.zeros(1, 2, CELLS, CELLS)
    field[:, 0] = 2.0  # two pixels to the right
    torch.testing.assert_close(bend(image, field)[..., 5:30], image[..., 7:32], atol=1e-5, rtol=0)
    torch.testing.assert_close(bend(image, torch.zeros_like(field)), image)


def test_displacements_have_the_published_size_and_as_many_images_are_bent_as_asked():
    field = draw_bends(4000, seeded(), probability=0.25)
    bent = field.abs().amax((1, 2, 3)) > 0
    assert bent.float().mean() == pytest.approx(0.25, abs=0.03)
    assert field[bent].std() == pytest.approx(50 / 3**0.5 / (2 * 3.14159**0.5 * 5), rel=0.02)


def test_a_third_of_a_turn_of_the_hue_takes_red_to_green_and_grey_stays():
    images = torch.tensor([[0.6, 0.2, 0.2], [0.4, 0.4, 0.4]]).view(2, 3, 1, 1)
    out = adjust_color(images, torch.tensor([[1.0, 1, 1, 1 / 3]] * 2))
    torch.testing.assert_close(out.view(2, 3), torch.tensor([[0.2, 0.6, 0.2], [0.4, 0.4, 0.4]]))
