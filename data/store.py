"""The decoded image cache: every image is read and decoded once per data set, size and fit, whatever runs afterwards.

`<cache>/images/<stamp>-<size>px/` holds images.npy (memory-mapped by every process), table.npz, files.npz (path and digest of each) and
meta.json. It is built beside its final name by one process at a time and renamed, so that a half-built cache is never seen. The stamp is
cheap (names, sizes, times); the fingerprint comes from the contents and names, and is what a study records.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cache import atomic_folder, cache_root, only_process, require_space
from data.dataset import Dataset, same_data
from data.decode import DARK, FLOATS, Deep, decode, full_scale
from data.errors import DataError, InputError, shortlist
from data.sources import ArchiveSource, FolderSource, ManifestSource, digest, open_source
from data.table import BREAKHIS, COLUMNS, UNKNOWN, PatientTable, Row, build_table

FORMAT = 5  # of the cache; a change makes old caches invisible
KEPT = "covariate "  # how the columns of a manifest begin that are kept as they stand
CLIPPED = 0.5  # of all values of a data set black or white: something went wrong before it came here
Progress = Callable[[int, int], None]  # (images done, images in all)


def load_dataset(
    path: str | Path,
    image_size: int,
    on_bad_file: str = "error",
    progress: Progress | None = None,
    *,
    fit: str = "squash",
    labelled: bool = True,
    mixed: bool = False,
) -> Dataset:
    """Scan, check and decode a data set, or open what an earlier run decoded.

    `on_bad_file`: "error" raises DataError naming every bad file with its reason; "skip" leaves those files out.
    `fit`: of what is not square, see `decode`. `labelled` False: a manifest needs no labels. `mixed`: see `build_table`. Which classes
    are trained on, `data.labels` says.
    """
    source = open_source(path, labelled=labelled)
    key = hashlib.sha256(f"{FORMAT} {source.stamp()} {image_size} {fit} {on_bad_file} {mixed}".encode()).hexdigest()[:16]
    folder = cache_root() / "images" / f"{key}-{image_size}px"
    if not (folder / "meta.json").exists():
        with only_process(folder):
            if not (folder / "meta.json").exists():  # nor did another process build it meanwhile
                shutil.rmtree(folder, ignore_errors=True)  # a folder without it was damaged from outside
                for left in folder.parent.glob(f".{folder.name}-*"):  # by a build that was killed
                    shutil.rmtree(left, ignore_errors=True)
                with atomic_folder(folder) as building, tempfile.TemporaryDirectory(dir=building) as scratch:
                    tree = source.unpack(Path(scratch)) if isinstance(source, ArchiveSource) else source
                    _build(tree, image_size, fit, on_bad_file, mixed, building, progress)
    try:
        meta = json.loads((folder / "meta.json").read_text())
        with np.load(folder / "table.npz") as arrays:
            kept = {name.removeprefix(KEPT): arrays[name] for name in arrays.files if name.startswith(KEPT)}
            table = PatientTable(**{name: arrays[name] for name in COLUMNS}, classes=tuple(arrays["classes"].tolist()), covariates=kept)  # type: ignore[misc]
        images = np.load(folder / "images.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"cache {folder}: damaged ({error}); remove that folder, it will be built again") from error
    notes = (*source.notes, *meta["notes"])
    return Dataset(table, images, meta["fingerprint"], source.name, meta["synthetic"], skipped=meta["skipped"], notes=notes)


def changed_files(now: str, before: str) -> list[str]:
    """What became of each file between two fingerprints of a data set; empty where the cache does not hold both (any more)."""
    first, second = _digests(before), _digests(now)
    if not first or not second:
        return []
    found = [f"{path} is gone" for path in first if path not in second] + [f"{path} is new" for path in second if path not in first]
    return found + [f"{path} is another image" for path in first if path in second and first[path] != second[path]]


def _digests(fingerprint: str) -> dict[str, str]:
    """{path: digest} of the files of a data set in the cache."""
    for file in (cache_root() / "images").glob("*/meta.json"):
        with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # a damaged cache has nothing to say
            if same_data(json.loads(file.read_text())["fingerprint"], fingerprint):
                with np.load(file.with_name("files.npz")) as arrays:
                    return dict(zip(arrays["path"].tolist(), arrays["digest"].tolist(), strict=True))
    return {}


class Decoded(NamedTuple):
    """Of one image."""

    digest: str  # of the file's bytes
    pixels: str  # digest of the whole image's pixels
    clipped: float  # share of its values that are 0 or 255
    brightest: int


def _build(
    source: FolderSource | ManifestSource, size: int, fit: str, on_bad_file: str, mixed: bool, folder: Path, progress: Progress | None
) -> None:
    rows, problems = source.rows()
    if problems and on_bad_file == "error":
        _raise_problems(source.name, problems)  # names are wrong already: do not spend minutes on decoding
    table = build_table(list(rows.values()), mixed)  # contradictions between names, likewise
    slots = {path: slot for slot, path in enumerate(table.path.tolist())}
    shape = (len(slots), size, size, 3)
    require_space(folder, int(np.prod(shape)) + 2**20)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    outcomes: dict[str, Decoded | Deep | ValueError] = {}
    for path, outcome in _decoded(source, rows, images, slots, fit, {}):
        outcomes[path] = outcome
        if progress:
            progress(len(outcomes), len(rows))
    deep = {path: outcome for path, outcome in outcomes.items() if isinstance(outcome, Deep)}
    try:
        full, notes = _scales(deep.values())
    except ValueError as error:
        raise DataError(f"data {source.name}: {error}; scale the images to 8 or 16 bits") from error
    outcomes |= _decoded(source, deep, images, slots, fit, full)
    problems |= {path: str(outcome) for path, outcome in outcomes.items() if isinstance(outcome, ValueError)}
    found = {path: outcome for path, outcome in outcomes.items() if isinstance(outcome, Decoded)}
    if found and (clipped := float(np.mean([image.clipped for image in found.values()]))) > CLIPPED:
        notes.append(f"{clipped:.0%} of all values are black or white: the images may have lost their range before they came here")
    if dark := [path for path, image in found.items() if image.brightest < DARK]:
        notes.append(
            f"{len(dark)} of {len(found)} images have no value above {DARK} of 255 ({shortlist(sorted(dark))}): were they saved with another range?"
        )
    digests, shared, told = _without_duplicates(rows, found, isinstance(source, FolderSource))
    notes += told
    problems |= shared
    if problems and (on_bad_file == "error" or not digests):
        _raise_problems(source.name, problems)

    if len(digests) < len(rows):
        table = build_table([rows[path] for path in digests], mixed)
        require_space(folder, len(table) * images[0].nbytes)
        kept = np.lib.format.open_memmap(folder / "kept.npy", mode="w+", dtype=np.uint8, shape=(len(table), size, size, 3))
        for row, path in enumerate(table.path.tolist()):
            kept[row] = images[slots[path]]
        kept.flush()
        (folder / "kept.npy").replace(folder / "images.npy")
    images.flush()
    columns = {name: getattr(table, name) for name in COLUMNS} | {"classes": np.array(table.classes, dtype=str)}
    others = {f"{KEPT}{name}": np.array([values[path] for path in table.path.tolist()]) for name, values in source.covariates.items()}
    np.savez(folder / "table.npz", **(columns | others))  # type: ignore[arg-type]
    np.savez(folder / "files.npz", path=table.path, digest=np.array([digests[path] for path in table.path.tolist()]))
    meta = {"fingerprint": _fingerprint(table, digests), "synthetic": source.synthetic, "skipped": problems, "notes": notes}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _scales(deep: Iterable[Deep]) -> tuple[dict[str, float], list[str]]:
    """({kind: its white} of a data set's images of more than 8 bits, the same in words)."""
    found: dict[str, list[float]] = {}
    for image in deep:
        found.setdefault(image.kind, []).append(image.largest)
    full = {kind: full_scale(kind, max(values)) for kind, values in found.items()}
    notes = []
    for kind, white in full.items():
        words = "floating-point" if kind == FLOATS else "16- or 32-bit"
        low = sum(value < white / 8 for value in found[kind])
        others = f"; {low} of {len(found[kind])} hold less than an eighth of it: were they saved with another range?" if low else ""
        notes.append(f"{words} images hold values up to {max(found[kind]):g}: 0 to {white:g} became 0 to 255{others}")
    return full, notes


def _fingerprint(table: PatientTable, digests: Mapping[str, str]) -> str:
    """What `same_data` compares. `digests`: of the files' bytes, by path. Folders do not count: an archive or a manifest has others."""
    kinds = np.array([*(str(BREAKHIS.index(name)) if name in BREAKHIS else name for name in table.classes), str(UNKNOWN)])[table.label]
    columns = (table.path, table.magnification, table.slide, table.patient, table.subtype, kinds)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    contents = sorted(
        f"{digests[path]} {magnification} {slide} {patient} {label}" for path, magnification, slide, patient, _, label in rows
    )
    names = [f"{digests[path]} {path.rpartition('/')[2]} {subtype}" for path, *_, subtype, _ in rows]
    return f"{digest(contents)[:16]}-{digest(names)[:8]}"


def _decoded(
    source: FolderSource | ManifestSource,
    paths: Iterable[str],
    images: np.ndarray,
    slots: Mapping[str, int],
    fit: str,
    full: dict[str, float],
) -> Iterator[tuple[str, Decoded | Deep | ValueError]]:
    """Decode into `images` on all cores, a bounded number of files ahead; yields (path, what it is or what is wrong)."""

    def work(path: str) -> tuple[str, Decoded | Deep | ValueError]:
        try:
            content = source.read(path)
            pixels, whole = decode(content, images.shape[1], fit, full)
            images[slots[path]] = pixels
            return path, Decoded(_short(content), _short(whole), float(np.mean((pixels == 0) | (pixels == 255))), int(pixels.max()))
        except (ValueError, Deep) as error:
            return path, error
        except OSError as error:
            return path, ValueError(f"cannot be read: {error.strerror or error}")

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:  # Pillow releases the interpreter lock while it decodes and resizes
        waiting = iter(sorted(paths))
        ahead = deque(pool.submit(work, path) for path in islice(waiting, 8 * workers))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(pool.submit(work, path) for path in islice(waiting, 1))


def _short(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _without_duplicates(rows: dict[str, Row], found: dict[str, Decoded], tree: bool) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """({path: digest} of one of equal images a slide and magnification, {path: why it cannot be used}, what was dropped, in words).

    Nested releases hold copies, which are dropped. An image of another person, or in a tree another image under the same name (an
    original and its normalised copy), is named: nobody knows whose it is, or which one is meant.
    """
    copies: dict[str, list[str]] = {}
    for path in sorted(found):
        copies.setdefault(found[path].pixels, []).append(path)
    problems: dict[str, str] = {}
    kept: dict[str, str] = {}
    for paths in copies.values():
        patients = {rows[path][3]: path for path in reversed(paths)}
        if len(patients) > 1:
            for path in paths:
                stranger = next(other for patient, other in patients.items() if patient != rows[path][3])
                problems[path] = f"exact duplicate of {stranger}, which belongs to another patient"
        else:  # within one patient copies leak nothing
            kept |= {path: found[path].digest for path in {rows[path][1:3]: path for path in reversed(paths)}.values()}
    copies_of = [path for path in found if path not in kept and path not in problems]
    notes = (
        [f"{len(copies_of)} exact copies within a slide and magnification are left out ({shortlist(sorted(copies_of))})"]
        if copies_of
        else []
    )
    magnified = [paths[0] for paths in copies.values() if len({rows[path][1] for path in paths if path in kept}) > 1]
    if magnified:
        notes.append(
            f"{len(magnified)} images stand under two magnifications with equal pixels ({shortlist(magnified)}): one of them is wrong"
        )
    first: dict[tuple[str, int, str], str] = {}
    for path in sorted(kept) if tree else ():
        other = first.setdefault((*rows[path][2:0:-1], path.rpartition("/")[2].rpartition(".")[0]), path)  # type: ignore[arg-type]
        if other != path:
            problems[path] = f"another image than {other}, which has its name; keep one of the two trees"
    return {path: digest for path, digest in kept.items() if path not in problems}, problems, notes


def _raise_problems(name: str, problems: dict[str, str]) -> None:
    listed = shortlist([f"{path} ({reason})" for path, reason in sorted(problems.items())])
    raise DataError(
        f"data {name}: {len(problems)} bad file(s): {listed}; repair or remove them, or leave them out with --set data.on_bad_file=skip"
    )
