"""The decoded image cache: every image is read and decoded once per data set and size, whatever runs afterwards.

`<cache>/images/<stamp>-<size>px/` holds images.npy (memory-mapped by every process), table.npz and meta.json. It is
built beside its final name and renamed, so that a half-built cache is never seen. The stamp is cheap (names, sizes,
times); the fingerprint comes from the contents and is what a study records.
"""

import hashlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from data.dataset import Dataset
from data.decode import decode
from data.errors import DataError, InputError, shortlist
from data.sources import Item, Row, Source, open_source
from data.table import PatientTable, build_table

FORMAT = 1  # of the cache; a change makes old caches invisible
Progress = Callable[[int, int], None]  # (images done, images in all)


def cache_root() -> Path:
    """$MMNET_CACHE, else $XDG_CACHE_HOME/mmnet-tune, else ~/.cache/mmnet-tune."""
    if own := os.environ.get("MMNET_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmnet-tune"


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that appears under its final name whole or not at all; the loser of a race keeps the winner's."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"cache {target.parent}: cannot write there: {error.strerror}; set MMNET_CACHE to a writable folder") from error
    try:
        yield building
        try:
            building.rename(target)
        except OSError:
            if not target.exists():
                raise
    except OSError as error:
        raise InputError(f"cache {target}: {error.strerror or error}; free some space or set MMNET_CACHE to another folder") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def require_space(folder: Path, needed: int) -> None:
    """Raises InputError when the disk of `folder` cannot take `needed` bytes."""
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(
            f"disk of {existing}: {free / 2**20:.0f} MiB free, {needed / 2**20:.0f} MiB needed; "
            "free some space or set MMNET_CACHE to another folder"
        )


def load_dataset(
    path: str | Path, image_size: int, on_bad_file: str = "error", progress: Progress | None = None, *, labelled: bool = True
) -> Dataset:
    """Scan, check and decode a data set, or open what an earlier run decoded.

    `on_bad_file`: "error" raises DataError naming every bad file with its reason; "skip" leaves those files out.
    `labelled` False: a manifest needs no labels, see `ManifestSource`.
    """
    source = open_source(path, labelled=labelled)
    key = hashlib.sha256(f"{FORMAT} {source.stamp()} {image_size} {on_bad_file}".encode()).hexdigest()[:16]
    folder = cache_root() / "images" / f"{key}-{image_size}px"
    if not (folder / "meta.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # a folder without it was damaged from outside
        with atomic_folder(folder) as building:
            _build(source, image_size, on_bad_file, building, progress)
    try:
        meta = json.loads((folder / "meta.json").read_text())
        with np.load(folder / "table.npz") as arrays:
            table = PatientTable(**arrays)
        images = np.load(folder / "images.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"cache {folder}: damaged ({error}); remove that folder, it will be built again") from error
    return Dataset(table, images, meta["fingerprint"], source.name, meta["synthetic"], skipped=meta["skipped"])


def _build(source: Source, size: int, on_bad_file: str, folder: Path, progress: Progress | None) -> None:
    rows, problems = source.rows()
    if problems and on_bad_file == "error":
        _raise_problems(source.name, problems)  # names are wrong already: do not spend minutes on decoding
    table = build_table(list(rows.values()))  # contradictions between names, likewise
    require_space(folder, 2 * len(rows) * size * size * 3 + 2**20)  # twice: leaving files out makes a second copy
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=(len(rows), size, size, 3))
    slots = {path: slot for slot, path in enumerate(table.path.tolist())}
    digests: dict[str, str] = {}
    for done, (path, outcome) in enumerate(_decoded(source, set(rows), images, slots, size), start=1):
        (problems if isinstance(outcome, ValueError) else digests)[path] = str(outcome)
        if progress:
            progress(done, len(rows))
    problems |= {path: "file is listed but missing" for path in rows if path not in digests and path not in problems}
    digests, shared = _without_duplicates(rows, digests)
    problems |= shared
    if problems and (on_bad_file == "error" or not digests):
        _raise_problems(source.name, problems)

    if len(digests) < len(rows):
        table = build_table([rows[path] for path in digests])
        kept = np.lib.format.open_memmap(folder / "kept.npy", mode="w+", dtype=np.uint8, shape=(len(table), size, size, 3))
        for row, path in enumerate(table.path.tolist()):
            kept[row] = images[slots[path]]
        kept.flush()
        (folder / "kept.npy").replace(folder / "images.npy")
    images.flush()
    np.savez(folder / "table.npz", **asdict(table))
    contents = sorted(
        f"{digests[path]} {magnification} {patient} {case} {label}"
        for path, magnification, patient, case, _, label in (rows[path] for path in digests)
    )
    meta = {
        "fingerprint": hashlib.sha256("\n".join(contents).encode()).hexdigest()[:16],
        "synthetic": source.synthetic,
        "skipped": problems,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _decoded(
    source: Source, paths: set[str], images: np.ndarray, slots: dict[str, int], size: int
) -> Iterator[tuple[str, str | ValueError]]:
    """Decode on all cores, a bounded number of files ahead; yields (path, digest of its bytes or what is wrong)."""

    def work(item: Item) -> tuple[str, str | ValueError]:
        path, load = item
        try:
            content = load()
            images[slots[path]] = decode(content, size)
            return path, hashlib.blake2b(content, digest_size=16).hexdigest()
        except ValueError as error:
            return path, error
        except OSError as error:
            return path, ValueError(f"cannot be read: {error.strerror or error}")

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:  # Pillow releases the interpreter lock while it decodes and resizes
        items = iter(source.items(paths))
        ahead = [pool.submit(work, item) for item in islice(items, 8 * workers)]
        while ahead:
            yield ahead.pop(0).result()
            ahead.extend(pool.submit(work, item) for item in islice(items, 1))


def _without_duplicates(rows: dict[str, Row], digests: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Drop second copies within a patient and magnification (nested releases hold them); report those across cases."""
    copies: dict[str, list[str]] = {}
    for path in sorted(digests):
        copies.setdefault(digests[path], []).append(path)
    problems: dict[str, str] = {}
    kept: dict[str, str] = {}
    for digest, paths in copies.items():
        for path in paths:
            stranger = next((other for other in paths if rows[other][3] != rows[path][3]), None)
            if stranger:  # nobody knows whose image it is
                problems[path] = f"exact duplicate of {stranger}, which belongs to another case"
        if paths[0] not in problems:  # one a patient and magnification; within one case copies leak nothing
            kept |= {path: digest for path in {rows[path][1:3]: path for path in reversed(paths)}.values()}
    return kept, problems


def _raise_problems(name: str, problems: dict[str, str]) -> None:
    listed = shortlist([f"{path} ({reason})" for path, reason in sorted(problems.items())])
    raise DataError(
        f"data {name}: {len(problems)} bad file(s): {listed}; repair or remove them, or leave them out with --set data.on_bad_file=skip"
    )
