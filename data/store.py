"""The decoded image cache: every image is read and decoded once per data set and size, whatever runs afterwards.

`<cache>/images/<stamp>-<size>px/` holds images.npy (memory-mapped by every process), table.npz and meta.json. It is
built beside its final name by one process at a time and renamed, so that a half-built cache is never seen; a build that
was killed is taken up where it stopped. The stamp is cheap (names, sizes, times); the fingerprint comes from the contents
and names, and is what a study records.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from data.dataset import Dataset, same_data
from data.decode import decode
from data.errors import DataError, InputError, shortlist
from data.sources import Item, Row, Source, open_source
from data.table import PatientTable, build_table

FORMAT = 2  # of the cache; a change makes old caches invisible
JOURNAL = "done.jsonl"  # of a build: [path, digest of the file, checksum of the pixels] of every row that is decoded
Progress = Callable[[int, int], None]  # (images done, images in all)


def cache_root() -> Path:
    """$MMNET_CACHE, else $XDG_CACHE_HOME/mmnet-tune, else ~/.cache/mmnet-tune."""
    if own := os.environ.get("MMNET_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmnet-tune"


@contextmanager
def atomic_folder(target: Path, *, resume: bool = False) -> Iterator[Path]:
    """A folder to fill that appears under its final name whole or not at all; the loser of a race keeps the winner's.

    With `resume` it is the one that an interrupted process left, and stays if this process is interrupted too; an error
    clears it away. Only the holder of a lock may ask for that: see `only_process`.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if resume:
            building = target.parent / f".{target.name}.building"
            building.mkdir(exist_ok=True)
        else:
            building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise _cannot_write(target.parent, error) from error
    interrupted = False
    try:
        yield building
        try:
            building.rename(target)
        except OSError:
            if not target.exists():
                raise
    except OSError as error:
        raise InputError(f"cache {target}: {error.strerror or error}; free some space or set MMNET_CACHE to another folder") from error
    except (KeyboardInterrupt, SystemExit):
        interrupted = True
        raise
    finally:
        if not (resume and interrupted):
            shutil.rmtree(building, ignore_errors=True)


@contextmanager
def only_process(target: Path) -> Iterator[None]:
    """Wait until no other process builds `target`. The lock dies with its process, however that ends; its file goes with the last one."""
    lock = target.parent / f".{target.name}.lock"
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = lock.open("w")
            fcntl.flock(file, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.stat(lock), os.fstat(file.fileno())):
                    break
            file.close()  # the one before took the file away, and whoever holds the present one holds the lock
    except OSError as error:
        raise _cannot_write(target.parent, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        file.close()


def _cannot_write(folder: Path, error: OSError) -> InputError:
    return InputError(f"cache {folder}: cannot write there: {error.strerror}; set MMNET_CACHE to a writable folder")


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
        with only_process(folder):
            if not (folder / "meta.json").exists():  # nor did another process build it meanwhile
                shutil.rmtree(folder, ignore_errors=True)  # a folder without it was damaged from outside
                with atomic_folder(folder, resume=True) as building:
                    _build(source, image_size, on_bad_file, building, progress)
    try:
        meta = json.loads((folder / "meta.json").read_text())
        with np.load(folder / "table.npz") as arrays:
            table = PatientTable(**arrays)
        images = np.load(folder / "images.npy", mmap_mode="r")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"cache {folder}: damaged ({error}); remove that folder, it will be built again") from error
    return Dataset(table, images, meta["fingerprint"], source.name, meta["synthetic"], skipped=meta["skipped"])


def changed_files(now: Dataset, fingerprint: str) -> list[str]:
    """What became of each file since the data set had that fingerprint; empty where the cache does not hold it (any more) at this size.

    `now`: with its pixels.
    """
    assert now.images is not None
    size = now.images.shape[1]
    for file in (cache_root() / "images").glob(f"*-{size}px/meta.json"):
        with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # a damaged cache has nothing to say
            if same_data(json.loads(file.read_text())["fingerprint"], fingerprint):
                with np.load(file.with_name("table.npz")) as arrays:
                    before = dict(zip(arrays["path"].tolist(), np.load(file.with_name("images.npy"), mmap_mode="r"), strict=True))
                return _differences(before, dict(zip(now.table.path.tolist(), now.images, strict=True)))
    return []


def _differences(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> list[str]:
    """Of {path: pixels}."""
    found = [f"{path} is gone" for path in before if path not in now] + [f"{path} is new" for path in now if path not in before]
    return found + [f"{path} is another image" for path in before if path in now and not np.array_equal(before[path], now[path])]


def _build(source: Source, size: int, on_bad_file: str, folder: Path, progress: Progress | None) -> None:
    rows, problems = source.rows()
    if problems and on_bad_file == "error":
        _raise_problems(source.name, problems)  # names are wrong already: do not spend minutes on decoding
    table = build_table(list(rows.values()))  # contradictions between names, likewise
    slots = {path: slot for slot, path in enumerate(table.path.tolist())}
    images, digests = _begun(folder, slots, size)
    with (folder / JOURNAL).open("a", buffering=1) as journal:
        remaining = set(rows) - set(digests)
        for done, (path, outcome) in enumerate(_decoded(source, remaining, images, slots, size), start=len(digests) + 1):
            if isinstance(outcome, ValueError):
                problems[path] = str(outcome)
            else:
                digests[path] = outcome[0]
                journal.write(json.dumps([path, *outcome]) + "\n")
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
    meta = {
        "fingerprint": _fingerprint(table, digests),
        "synthetic": source.synthetic,
        "skipped": problems,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
    (folder / JOURNAL).unlink()


def _fingerprint(table: PatientTable, digests: dict[str, str]) -> str:
    """What `same_data` compares. `digests`: of the files' bytes, by path. Folders do not count: an archive or a manifest has others."""
    columns = (table.path, table.magnification, table.patient, table.case, table.subtype, table.label)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    contents = sorted(f"{digests[path]} {magnification} {patient} {case} {label}" for path, magnification, patient, case, _, label in rows)
    names = [f"{digests[path]} {path.rpartition('/')[2]} {subtype}" for path, *_, subtype, _ in rows]
    return f"{_digest(contents)[:16]}-{_digest(names)[:8]}"


def _digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _begun(folder: Path, slots: dict[str, int], size: int) -> tuple[np.memmap, dict[str, str]]:
    """The pixels (N, S, S, 3) to be filled, and {path: digest} of the rows that an interrupted build has filled already.

    What the journal says counts only where the pixels are still those it speaks of, so nothing depends on which of the
    two reached the disk; pixels without a legible journal, or of another shape, are begun again.
    """
    file, shape = folder / "images.npy", (len(slots), size, size, 3)
    images = None
    with suppress(OSError, ValueError):
        found = np.lib.format.open_memmap(file, mode="r+")
        images = found if found.shape == shape and found.dtype == np.uint8 else None
    if images is None:
        (folder / JOURNAL).unlink(missing_ok=True)
        file.unlink(missing_ok=True)
    written = 0 if images is None else file.stat().st_blocks * 512  # the file is sparse
    require_space(folder, 2 * int(np.prod(shape)) + 2**20 - written)  # twice: leaving files out makes a second copy
    if images is None:
        return np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape), {}
    digests = {}
    lines = (folder / JOURNAL).read_text(errors="replace").splitlines() if (folder / JOURNAL).exists() else []
    for line in lines:
        with suppress(ValueError, TypeError, KeyError):  # the last line may be torn
            path, digest, checksum = json.loads(line)
            if zlib.crc32(images[slots[path]].data) == checksum:
                digests[path] = str(digest)
    return images, digests


def _decoded(
    source: Source, paths: set[str], images: np.ndarray, slots: dict[str, int], size: int
) -> Iterator[tuple[str, tuple[str, int] | ValueError]]:
    """Decode on all cores, a bounded number of files ahead; yields (path, (digest of its bytes, checksum of its pixels) or what is wrong)."""

    def work(item: Item) -> tuple[str, tuple[str, int] | ValueError]:
        path, load = item
        try:
            content = load()
            pixels = images[slots[path]] = decode(content, size)
            return path, (hashlib.blake2b(content, digest_size=16).hexdigest(), zlib.crc32(pixels.data))
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
