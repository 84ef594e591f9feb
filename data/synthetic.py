"""A synthetic BreakHis: real layout and file names, invented tissue, and a known truth to test against.

Each patient has one *evidence* a magnification, z = knowledge · (±1 by class) + noise ~ N(0, 1), shown in its images as the
density of nuclei. A single magnification can therefore rank patients with AUC Φ(√2 · knowledge) at best, all of them
together with Φ(√(2 Σ knowledge²)): whoever fuses well gets what was planted (`best_auc`). Stain, brightness and
texture differ by patient and know nothing.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from data.augment import STAINS
from data.cache import atomic_folder, cache_root
from data.errors import DataError
from data.grammar import BENIGN, MAGNIFICATIONS, SUBTYPES, file_name
from data.sources import SYNTHETIC_MARKER

KNOWLEDGE = {40: 0.9, 100: 0.9, 200: 0.9, 400: 0.9}
NUCLEUS_RADIUS = {40: 0.02, 100: 0.026, 200: 0.036, 400: 0.05}  # of the image's side
NUCLEI = {40: 80.0, 100: 50.0, 200: 30.0, 400: 16.0}  # expected number at evidence 0


def best_auc(knowledge: Mapping[int, float]) -> float:
    """AUC over patients of the ideal observer of these magnifications."""
    return 0.5 * (1 + math.erf(math.sqrt(sum(k * k for k in knowledge.values()))))


def generate(
    root: Path, *, patients: int, images: int, size: int, seed: int, knowledge: Mapping[int, float] = KNOWLEDGE, malignant: float = 0.6
) -> Path:
    """Write a synthetic BreakHis below `root`: `images` PNGs of size px a magnification and slide folder.

    Every fifth patient has two slide folders. The truth (evidence of each patient) is in SYNTHETIC.json, which also marks the
    data set as synthetic for every later output. Raises DataError for knowledge of an unknown magnification.
    """
    unknown = sorted(set(knowledge) - set(MAGNIFICATIONS))
    if unknown or patients < 4:
        raise DataError(
            f"synthetic data: {patients} patients with knowledge of {sorted(knowledge)}; expected at least 4 patients and 40, 100, 200, 400"
        )
    if (root / "BreaKHis_v1").exists():
        raise DataError(f"synthetic data: {root / 'BreaKHis_v1'} exists already; name another folder or remove it")
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(patients) < round(malignant * patients))
    noise = _class_noise(labels, len(knowledge), rng)
    truth: dict[str, dict] = {}
    for number, label in enumerate(labels.tolist()):
        patient = str(10001 + number)
        evidence = {m: k * (1 if label else -1) + float(noise[number, i]) for i, (m, k) in enumerate(knowledge.items())}
        truth[patient] = {"label": int(label), "evidence": evidence}
        look = _Look(rng)
        subtypes = [code for code in SUBTYPES if (code in BENIGN) != label]
        subtype = subtypes[int(rng.integers(len(subtypes)))]
        for block in ("AB", "CD") if number % 5 == 4 else ("",):
            slide = f"SOB_{'M' if label else 'B'}_{subtype}_14-{patient}{block}"
            for magnification, z in evidence.items():
                kind = "malignant" if label else "benign"
                folder = root / f"BreaKHis_v1/histology_slides/breast/{kind}/SOB/{SUBTYPES[subtype]}/{slide}/{magnification}X"
                folder.mkdir(parents=True)
                for sequence in range(1, images + 1):
                    pixels = look.draw(z, magnification, size, rng)
                    Image.fromarray(pixels).save(folder / file_name(slide, magnification, sequence), compress_level=1)
    marker = {"synthetic": True, "seed": seed, "knowledge": dict(knowledge), "best_auc": best_auc(knowledge), "patients": truth}
    (root / SYNTHETIC_MARKER).write_text(json.dumps(marker, indent=1))
    return root


def _class_noise(labels: np.ndarray, columns: int, rng: np.random.Generator) -> np.ndarray:
    """(patients, columns) ~ N(0, 1), exactly centred and scaled within each class: what is planted holds in every sample."""
    noise = rng.normal(size=(len(labels), columns))
    for value in (False, True):
        part = noise[labels == value]
        noise[labels == value] = (part - part.mean(0)) / part.std(0)
    return noise


class _Look:
    """What one patient looks like whatever its class: stain vectors and amounts, background texture."""

    def __init__(self, rng: np.random.Generator):
        stains = np.array(STAINS[:2]) * rng.uniform(0.85, 1.15, (2, 3))
        self.stains = stains / np.linalg.norm(stains, axis=1, keepdims=True)  # (2, 3)
        self.amounts = rng.uniform(0.75, 1.25, 2)
        self.coarseness = int(rng.integers(3, 9))

    def draw(self, evidence: float, magnification: int, size: int, rng: np.random.Generator) -> np.ndarray:
        """(size, size, 3) uint8: eosin background with hematoxylin nuclei, their number growing with the evidence."""
        count = 1 + rng.poisson(NUCLEI[magnification] * math.exp(0.45 * evidence))
        radius = NUCLEUS_RADIUS[magnification] * rng.uniform(0.8, 1.2, count)
        centre = rng.random((2, count))
        axis = (np.arange(size) + 0.5) / size
        bumps = np.exp(-0.5 * ((axis[:, None] - centre[:, None]) / radius) ** 2)  # (2, size, count)
        hematoxylin = np.minimum(bumps[0] @ bumps[1].T, 1.2)  # (size, size)
        coarse = rng.uniform(0.3, 0.7, (self.coarseness, self.coarseness)).astype(np.float32)
        eosin = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))
        density = np.stack([hematoxylin * self.amounts[0], eosin * self.amounts[1]], -1) @ self.stains  # (size, size, 3)
        noisy = 255 * np.exp(-density) + rng.normal(0, 4, (size, size, 3))
        return np.clip(noisy, 0, 255).astype(np.uint8)


def default_synthetic() -> Path:
    """The embedded default data set, generated once into the cache: 40 patients, 4 magnifications, 48 px."""
    target = cache_root() / "synthetic" / "patients40-images6-48px-seed0"
    if not target.exists():
        with atomic_folder(target) as building:
            generate(building, patients=40, images=6, size=48, seed=0)
    return target
