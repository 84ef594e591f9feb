"""Tiny BreakHis trees to load or to break: noise images with valid names."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from data.sources import breakhis_row
from data.table import PatientTable, build_table

NAMES = (
    "SOB_B_A-14-1001-40-001.png",
    "SOB_B_F-14-1002-40-001.png",
    "SOB_M_DC-14-1003-40-001.png",
    "SOB_M_LC-14-1004-40-001.png",
)


def write_png(path: Path, seed: int, side: int = 32) -> Path:
    """A noise image; the same seed gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_tree(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    """One image a name directly below `root`, every one different."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        write_png(root / name, seed)
    return root


def table_of(*names: str) -> PatientTable:
    """The table of images with these names, without files."""
    return build_table([breakhis_row(name) for name in names])


def slides(*slides: str) -> list[str]:
    """One 40X file name of each slide, given as `B_A-14-1001` (class, subtype, year, slide id)."""
    return [f"SOB_{slide}-40-001.png" for slide in slides]


def forged_png(width: int, height: int) -> bytes:
    """A few bytes that claim to be a PNG of that size, with correct checksums."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 16)) + chunk(b"IEND", b"")
