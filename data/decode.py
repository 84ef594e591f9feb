"""Image bytes -> uint8 pixels, with every limit that keeps a damaged or hostile file from doing harm."""

import io
import warnings

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "TIFF")
MIN_SIDE = 32  # px; below it there is no tissue to see
MAX_PIXELS = 50_000_000  # a BreakHis image has 322,000


def decode(content: bytes, size: int) -> np.ndarray:
    """Decode and resize to (size, size, 3) uint8 RGB; the aspect ratio is not kept, so that no tissue is cut off.

    Raises ValueError with the reason: not an image of the formats above, absurd dimensions, truncated.
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
        image.load()
        if image.mode != "RGB":  # else it would copy every pixel
            image = image.convert("RGB")
    except Exception as error:
        raise ValueError(f"truncated or damaged image ({error})") from error
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)  # Pillow's bilinear is antialiased
    return np.asarray(image)
