"""Decoding: any accepted image becomes RGB of one size; anything else gives its reason."""

import io
import struct
import zlib
from itertools import product

import numpy as np
import pytest
from PIL import Image

from data.decode import FLOATS, INTEGERS, Deep, decode, full_scale
from tests.data.trees import forged_png


def encoded(image, form="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def test_pixels_of_the_right_size_are_kept_as_they_are():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels)), 40)[0], pixels)


def halves(width, height):
    """Black on the left, ochre on the right."""
    half = np.zeros((height, width, 3), dtype=np.uint8)
    half[:, width // 2 :] = (200, 100, 50)
    return encoded(Image.fromarray(half))


def test_an_image_that_is_not_square_is_squashed_whole():
    out, _ = decode(halves(70, 46), 32)
    assert out.shape == (32, 32, 3) and out.dtype == np.uint8
    assert (out[:, :14] == 0).all() and (out[:, 18:] == (200, 100, 50)).all()


def test_or_its_central_square_is_cut_out_or_it_is_framed_in_white():
    thirds = np.repeat(np.array([[10, 120, 240]], dtype=np.uint8), 40, 0).repeat(40, 1)  # 40 x 120
    content = encoded(Image.fromarray(thirds))
    assert (decode(content, 40, "crop")[0] == 120).all()
    padded, _ = decode(content, 120, "pad")
    assert (padded[:39] == 255).all() and (padded[81:] == 255).all() and (padded[45:75, 5:35] == 10).all()


@pytest.mark.parametrize(
    ("mode", "form"), [*product(["L", "RGBA", "LA", "P", "1"], ["PNG", "TIFF"]), ("L", "JPEG"), ("RGB", "JPEG"), ("CMYK", "JPEG")]
)
def test_every_color_mode_of_every_format_becomes_rgb(mode, form):
    gray = Image.fromarray(np.repeat(np.array([[0], [255]], dtype=np.uint8), 16, 0).repeat(32, 1)).convert(mode)
    out, _ = decode(encoded(gray, form), 32)
    assert abs(out[:15].astype(int)).max() < 6 and out[17:].min() > 249


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_lies_on_white(mode):
    image = Image.fromarray(np.full((32, 32), 90, dtype=np.uint8)).convert("RGBA")
    alpha = np.repeat(np.array([[0], [255]], dtype=np.uint8), 16, 0).repeat(32, 1)
    image.putalpha(Image.fromarray(alpha))
    out, _ = decode(encoded(image.convert(mode) if mode != "P" else image.quantize(4)), 32)
    assert (out[:16] == 255).all() and abs(out[16:].astype(int) - 90).max() < 3


def test_a_camera_that_was_turned_is_turned_back():
    exif = Image.Exif()
    exif[0x0112] = 6  # the right of the picture is its lower edge
    buffer = io.BytesIO()
    Image.open(io.BytesIO(halves(64, 64))).save(buffer, "JPEG", exif=exif, quality=95)
    out, _ = decode(buffer.getvalue(), 64)
    assert out[:28].mean() < 10 and out[36:, :, 0].mean() > 190


@pytest.mark.parametrize(("form", "kind"), [("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32), ("TIFF", np.float32)])
@pytest.mark.parametrize("white", [255, 4095, 65535])
def test_more_than_8_bits_are_brought_to_8_by_the_white_of_the_data_set(form, kind, white):
    if kind == np.float32 and white == 4095:
        white = 1
    gray = np.linspace(0, 255, 32).round()[:, None].repeat(32, 1)
    content = encoded(Image.fromarray((gray * (white / 255)).astype(kind)), form)
    with pytest.raises(Deep) as found:
        decode(content, 32)
    full = {found.value.kind: full_scale(found.value.kind, found.value.largest)}
    assert list(full.values()) == [white]
    assert abs(decode(content, 32, full=full)[0][..., 0] - gray).max() <= 1


def test_the_white_of_a_data_set_is_the_first_that_holds_its_largest_value():
    assert [full_scale(INTEGERS, value) for value in (200, 255, 256, 1024, 4096, 20000, 70000, 2**25)] == [
        2**bits - 1 for bits in (8, 8, 10, 12, 14, 16, 24, 32)
    ]
    assert [full_scale(FLOATS, value) for value in (0.4, 1.0, 1.02, 2, 260, 700)] == [1.0, 1.0, 1.0, 255, 255, 65535]
    with pytest.raises(ValueError, match="values up to 1e[+]06: expected floats of at most 65535"):
        full_scale(FLOATS, 1e6)


@pytest.mark.parametrize(
    ("value", "reason"), [(-1.0, "floats from -1 to 0.5"), (np.nan, "floats from nan to nan"), (np.inf, "floats from")]
)
def test_values_that_no_picture_has_are_refused(value, reason):
    pixels = np.full((32, 32), 0.5, dtype=np.float32)
    pixels[3, 4] = value
    with pytest.raises(ValueError, match=reason):
        decode(encoded(Image.fromarray(pixels), "TIFF"), 32)


def test_a_file_of_several_images_is_refused():
    pages, buffer = [Image.effect_noise((40, 40), 50), Image.effect_noise((40, 40), 50)], io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match="2 images in one file: expected one"):
        decode(buffer.getvalue(), 32)


def test_two_images_are_equal_when_all_their_pixels_are_whatever_the_file():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    other = noise.copy()
    other.putpixel((0, 0), (1, 2, 3))
    first, second, third = (decode(content, 32)[1] for content in (encoded(noise), encoded(noise, "TIFF"), encoded(other)))
    assert first == second != third


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a readable image, expected PNG, JPEG, TIFF"),
        (b"just text", "not a readable image"),
        (encoded(Image.new("RGB", (40, 40)), "GIF"), "not a readable image"),
        (encoded(Image.effect_noise((40, 40), 50))[:-600], "truncated or damaged"),
        (forged_png(40, 40), "truncated or damaged"),
        (encoded(Image.new("RGB", (40, 40), (200, 0, 9))), "one value everywhere (200, 0, 9): there is nothing to see"),
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


def png16(values):
    """Bytes of a PNG of 16 bits a channel, (H, W, 2 to 4), which Pillow cannot write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = values.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colour_of_16_bits_is_read_and_refused_where_it_is_of_12_in_16(channels):
    eight = np.random.default_rng(0).integers(0, 256, (32, 32, channels))
    if channels in (2, 4):
        eight[:, :, -1], eight[:16] = 255, 255
    shown = eight[:, :, :3] if channels > 2 else eight[:, :, :1].repeat(3, 2)
    assert np.abs(decode(png16(eight * 257), 32)[0].astype(int) - shown).max() <= 1
    twelve = eight * 16
    if channels in (2, 4):
        twelve[:, :, -1] = 65535
    with pytest.raises(ValueError, match="16 bits a channel in colour, of which no value is above 4096: save it with 8 bits"):
        decode(png16(twelve), 32)


def tiff(values, *, tags):
    """Bytes of an uncompressed TIFF, (H, W) or (H, W, 3), with further tags."""
    height, width, *channels = values.shape
    entries = {256: width, 257: height, 259: 1, 273: 8, 277: channels[0] if channels else 1, 278: height, 279: values.nbytes, **tags}
    body = struct.pack("<2sHI", b"II", 42, 8 + values.nbytes) + values.tobytes() + struct.pack("<H", len(entries))
    return (
        body
        + b"".join(struct.pack("<HHII", tag, 4 if value > 65535 else 3, 1, value) for tag, value in sorted(entries.items()))
        + b"\0" * 4
    )


def planar_tiff(values):
    """Bytes of an uncompressed TIFF of 16 bits, (H, W, 3), that holds one channel after the other."""
    height, width, channels = values.shape
    plane = values[:, :, 0].nbytes
    after = 8 + values.nbytes
    more = struct.pack("<9I", *([8, 8 + plane, 8 + 2 * plane] + [plane] * 3 + [0] * 3))[:24] + struct.pack("<3H", 16, 16, 16)
    entries = [
        (256, 3, 1, width),
        (257, 3, 1, height),
        (258, 3, 3, after + 24),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 3, after),
        (277, 3, 1, channels),
        (278, 3, 1, height),
        (279, 4, 3, after + 12),
        (284, 3, 1, 2),
    ]
    body = struct.pack("<2sHI", b"II", 42, after + 30) + values.transpose(2, 0, 1).tobytes() + more
    return body + struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4


def test_a_tiff_whose_zero_is_white_is_turned_round_with_any_number_of_bits():
    gray = np.random.default_rng(1).integers(0, 2**16, (32, 32)).astype("<u2")
    full = {INTEGERS: 65535.0}
    dark, light = (decode(tiff(gray, tags={258: 16, 262: zero}), 32, full=full)[0].astype(int) for zero in (1, 0))
    assert abs(dark + light - 255).max() == 0


def test_a_tiff_that_would_be_read_wrong_is_refused():
    signed = np.random.default_rng(1).integers(0, 100, (32, 32)).astype("i1")
    with pytest.raises(ValueError, match="a TIFF of signed bytes: expected values from 0 on"):
        decode(tiff(signed, tags={258: 8, 262: 1, 339: 2}), 32)


def test_a_tiff_of_16_bits_with_each_channel_by_itself_is_refused():
    colour = np.random.default_rng(1).integers(0, 2**16, (32, 32, 3)).astype("<u2")
    with pytest.raises(ValueError, match="a TIFF of 16 bits a channel, each channel by itself"):
        decode(planar_tiff(colour), 32)
