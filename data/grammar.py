"""BreakHis file names: `SOB_<B|M>_<subtype>-<year>-<slide id>-<magnification>-<sequence>.png`.

Spanhol et al., A Dataset for Breast Cancer Histopathological Image Classification, IEEE TBME 2016.
The slide id is a patient number and optional block letters: 22549AB, 22549CD and 22549G are blocks of patient 22549.
"""

import re
from typing import NamedTuple

MAGNIFICATIONS = (40, 100, 200, 400)
SUBTYPES = {
    "A": "adenosis",
    "F": "fibroadenoma",
    "PT": "phyllodes_tumor",
    "TA": "tubular_adenoma",
    "DC": "ductal_carcinoma",
    "LC": "lobular_carcinoma",
    "MC": "mucinous_carcinoma",
    "PC": "papillary_carcinoma",
}
BENIGN = ("A", "F", "PT", "TA")
GRAMMAR = "SOB_<B|M>_<subtype>-<year>-<slide id>-<40|100|200|400>-<sequence>.png"

_NAME = re.compile(
    r"SOB_(?P<cls>[BM])_(?P<subtype>[A-Z]+)-(?P<year>\d{2})-(?P<patient>\d+)(?P<block>[A-Z]*)"
    r"-(?P<magnification>\d+)-(?P<sequence>\d+)\.(?i:png|jpe?g|tiff?)",
    re.ASCII,
)


class ImageName(NamedTuple):
    slide: str  # the slide folder, e.g. SOB_B_A_14-22549AB
    patient: str  # the patient number, e.g. 22549
    subtype: str
    kind: str  # benign or malignant
    magnification: int


def parse(name: str) -> ImageName:
    """Read a BreakHis file name. Raises ValueError with the reason when it breaks the grammar."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"file name does not follow {GRAMMAR}")
    subtype, benign = match["subtype"], match["cls"] == "B"
    if subtype not in SUBTYPES:
        raise ValueError(f"unknown subtype {subtype!r}, expected one of {', '.join(SUBTYPES)}")
    if benign != (subtype in BENIGN):
        raise ValueError(f"subtype {subtype} does not belong to class {match['cls']}")
    magnification = int(match["magnification"])
    if magnification not in MAGNIFICATIONS:
        raise ValueError(f"magnification {magnification}, expected one of 40, 100, 200, 400")
    slide = f"SOB_{match['cls']}_{subtype}_{match['year']}-{match['patient']}{match['block']}"
    return ImageName(slide, match["patient"], subtype, "benign" if benign else "malignant", magnification)


def file_name(slide: str, magnification: int, sequence: int) -> str:
    """The inverse of `parse`: the file name of one image of a slide folder."""
    head, year = slide.rsplit("_", 1)
    return f"{head}-{year}-{magnification}-{sequence:03d}.png"
