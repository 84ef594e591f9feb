"""Image bytes -> uint8 RGB pixels, with every limit that keeps a damaged or hostile file from doing harm.

Nothing becomes black or white without a word: transparency lies on white, an EXIF rotation is applied, and what has more than 8 bits
a channel is scaled by one rule for a whole data set (`full_scale`), which `data.store` tells.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "TIFF")
MIN_SIDE = 32  # px; below it there is no tissue to see
MAX_PIXELS = 50_000_000  # a BreakHis image has 322,000
DARK = 64  # a slide is lit from behind: glass is bright
WHITE = 255  # glass without tissue
INTEGERS, FLOATS = "integers", "floats"  # what has more than 8 bits a channel
FULL = {INTEGERS: tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16, 24, 32)), FLOATS: (1.0, 2**8 - 1, 2**16 - 1)}
ABOVE = {INTEGERS: 1.0, FLOATS: 1.5}  # how far beyond its white a value may lie: resampling overshoots
NEARLY_ALL = 0.999  # of an image's values decide its range: a hot pixel does not
TAGS = {"bits": 258, "photometric": 262, "planar": 284, "sample format": 339}  # of a TIFF


class Deep(Exception):
    """An image of more than 8 bits a channel, which only the largest value of its data set tells how to scale; here its own largest."""

    def __init__(self, kind: str, largest: float):
        super().__init__(kind, largest)
        self.kind, self.largest = kind, largest


def full_scale(kind: str, largest: float) -> float:
    """The value that is white, of a data set whose images of this kind hold `largest`: the first of `FULL` that is no smaller.

    A camera writes 12 bits in 16: its white is 4095, and scaled by 65535 it would be dark grey. Raises ValueError beyond them.
    """
    for full in FULL[kind]:
        if largest <= full * ABOVE[kind]:
            return full
    raise ValueError(f"values up to {largest:g}: expected {kind} of at most {FULL[kind][-1]:g}")


def decode(content: bytes, size: int, fit: str = "squash", full: dict[str, float] | None = None) -> tuple[np.ndarray, bytes]:
    """((size, size, 3) uint8 RGB, what equals only for equal pixels of the whole image).

    `fit`: squash both sides to `size`; crop to the central square; or pad to a square with white. `full`: {kind: white}, see `full_scale`;
    where it lacks what the image needs, Deep is raised. Raises ValueError with the reason: not an image of the formats above,
    absurd dimensions, truncated, one value everywhere.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below
            image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(f"too large: expected at most {MAX_PIXELS // 10**6} megapixels ({error})") from error
    except Exception as error:  # Pillow raises many kinds on hostile bytes
        raise ValueError(f"not a readable image, expected {', '.join(FORMATS)}") from error
    width, height = image.size
    if min(width, height) < MIN_SIDE or width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} px: expected at least {MIN_SIDE} px a side and at most {MAX_PIXELS // 10**6} megapixels")
    try:
        frames = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:
        raise ValueError(f"truncated or damaged image ({error})") from error
    if frames > 1:
        raise ValueError(f"{frames} images in one file: expected one; save the one that is meant by itself")
    deep = _deep_colour(image, content)
    image = _rgb(image, full or {})
    lowest, highest = zip(*(band.getextrema() for band in image.split()), strict=True)
    if lowest == highest:
        raise ValueError(f"one value everywhere ({', '.join(map(str, lowest))}): there is nothing to see")
    if deep and max(highest) < DARK:
        raise ValueError(f"16 bits a channel in colour, of which no value is above {(max(highest) + 1) << 8}: save it with 8 bits")
    if fit == "squash":
        fitted = image.resize((size, size), Image.Resampling.BILINEAR)  # Pillow's bilinear is antialiased
    elif fit == "crop":
        fitted = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    else:
        fitted = ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color=(WHITE,) * 3)
    return np.asarray(fitted), f"{image.size}".encode() + image.tobytes()


def _rgb(image: Image.Image, full: dict[str, float]) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values, clear = np.asarray(image), image.info.get("transparency")
        inverted = image.format == "TIFF" and _tag(image, "photometric") == 0  # Pillow turns only 8 bits round
        image = _eight_bits(values, FLOATS if image.mode == "F" else INTEGERS, full, inverted)
        if isinstance(clear, int):
            image = Image.fromarray(np.where(values == clear, WHITE, np.asarray(image)).astype(np.uint8))
    if image.has_transparency_data:
        on_glass = Image.new("RGBA", image.size, (WHITE,) * 4)
        image = Image.alpha_composite(on_glass, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")  # else it would copy every pixel


def _eight_bits(values: np.ndarray, kind: str, full: dict[str, float], inverted: bool) -> Image.Image:
    """(H, W) scaled by the white of its data set. Raises Deep, ValueError."""
    values = values.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError(f"{kind} from {values.min():g} to {values.max():g}: expected an image of finite values from 0 on")
    if kind not in full:
        raise Deep(kind, float(np.quantile(values, NEARLY_ALL, method="higher")))
    scaled = np.minimum(values * (255 / full[kind]), 255).round().astype(np.uint8)
    return Image.fromarray(255 - scaled if inverted else scaled)


def _deep_colour(image: Image.Image, content: bytes) -> bool:
    """Whether it has 16 bits a channel in colour, of which Pillow keeps the high bytes. Raises ValueError where it reads them wrong."""
    if image.format == "PNG":
        return content[24] == 16 and image.mode in ("RGB", "RGBA", "LA")  # the depth in its header
    if image.format != "TIFF":
        return False
    bits = _tag(image, "bits") or 1
    if bits == 8 and _tag(image, "sample format") == 2:
        raise ValueError("a TIFF of signed bytes: expected values from 0 on; save it with 8 bits without a sign")
    deep = bits > 8 and image.mode != "F" and not image.mode.startswith("I")
    if deep and _tag(image, "planar") == 2:
        raise ValueError(f"a TIFF of {bits} bits a channel, each channel by itself: expected 8 bits; save it with 8 bits")
    return deep


def _tag(image: Image.Image, name: str) -> int | None:
    """The first value of a TIFF's tag."""
    value = image.tag_v2.get(TAGS[name])  # type: ignore[attr-defined]
    return value[0] if isinstance(value, tuple) else value
