"""Decoding: any accepted image becomes RGB of one size; anything else gives its reason."""

import io
from itertools import product

import numpy as np
import pytest
from PIL import Image

from data.decode import decode
from tests.data.trees import forged_png


def encoded(image, form="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def test_pixels_of_the_right_size_are_kept_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels)), 40), pixels)


def test_a_large_image_is_squeezed_whole():
    half = np.zeros((46, 70, 3), dtype=np.uint8)
    half[:, 35:] = (200, 100, 50)
    out = decode(encoded(Image.fromarray(half)), 32)
    assert out.shape == (32, 32, 3) and out.dtype == np.uint8
    assert (out[:, :14] == 0).all() and (out[:, 18:] == (200, 100, 50)).all()


@pytest.mark.parametrize(("mode", "form"), [*product(["L", "RGBA", "P"], ["PNG", "TIFF"]), ("L", "JPEG"), ("RGB", "JPEG")])
def test_every_color_mode_of_every_format_becomes_rgb(mode, form):
    gray = Image.new("L", (32, 32), 120).convert(mode)
    assert (decode(encoded(gray, form), 32) == 120).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a readable image, expected PNG, JPEG, TIFF"),
        (b"just text", "not a readable image"),
        (encoded(Image.new("RGB", (40, 40)), "GIF"), "not a readable image"),
        (encoded(Image.effect_noise((40, 40), 50))[:-600], "truncated or damaged"),
        (forged_png(40, 40), "truncated or damaged"),
        (encoded(Image.new("RGB", (1, 1))), "1x1 px: expected at least 32"),
        (encoded(Image.new("RGB", (31, 400))), "31x400 px: expected at least 32"),
        (forged_png(8000, 8000), "8000x8000 px: expected at least 32 px a side and at most 50 megapixels"),
        (forged_png(20000, 20000), "too large: expected at most 50 megapixels (Image size (400000000 pixels)"),
    ],
)
def test_what_is_no_image_gives_its_reason(content, reason):
    with pytest.raises(ValueError) as caught:
        decode(content, 32)
    assert reason in str(caught.value)
