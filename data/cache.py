"""The cache folder of this machine: where it is, how a part of it is filled by one process at a time and seen whole or not at all."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import InputError


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
        raise _cannot_write(target.parent, error) from error
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


@contextmanager
def only_process(target: Path) -> Iterator[None]:
    """Wait until no other process builds `target`, whose parent is made. The lock dies with its process, however that ends."""
    locks = cache_root() / "locks"
    try:
        for folder in (target.parent, locks):
            folder.mkdir(parents=True, exist_ok=True)
        file = (locks / target.name).open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise _cannot_write(target.parent, error) from error
    with file:
        yield


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
