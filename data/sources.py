"""Where image bytes come from: a folder of any nesting, an archive of it, or a CSV manifest.

A source lists candidate images and yields a loader for each. Archives are read in place and never extracted; what
`tarfile`'s data filter would refuse to extract (links, devices, paths that lead out) is refused here too, in a .zip as in
a .tar, and what an archive may unpack to is bounded before it is unpacked.
"""

import gzip
import hashlib
import io
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from data.errors import DataError, shortlist
from data.grammar import GRAMMAR, parse
from data.table import Row, same_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MANIFEST_SUFFIXES = (".csv", ".tsv")
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
# RuntimeError: an encrypted zip; the last two: names and fields of a zip's directory that make no sense
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, IndexError)
MAX_FILE_BYTES = 256 * 2**20
MAX_MEMBERS = 1_000_000
MAX_TOTAL_BYTES = 64 * 2**30  # of an archive, unpacked; BreakHis has 4 GB
HEADER_BYTES = 4096  # of a tar, for each member: its name, its attributes, padding
SLACK_BYTES = 2**20  # of a tar, once
SYNTHETIC_MARKER = "SYNTHETIC.json"

Loader = Callable[[], bytes]
Item = tuple[str, Loader]


def is_image(path: str) -> bool:
    """Whether a path below the root may be an image of the data set: nothing that an editor or a Mac's archiver left beside them."""
    return path.lower().endswith(IMAGE_SUFFIXES) and not any(_is_litter(part) for part in path.split("/"))


def _is_litter(name: str) -> bool:
    return name == "__MACOSX" or name.startswith(".") and name not in (".", "..")


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:24]


def breakhis_row(path: str) -> Row:
    """The table row that a path's file name spells. Raises ValueError when it breaks the grammar."""
    name = parse(same_name(path.rsplit("/", 1)[-1]))
    return path, name.magnification, name.patient, name.case, name.subtype, name.label


class FolderSource:
    """A BreakHis tree, however deep its releases nest it."""

    def __init__(self, root: Path):
        self.root = root
        self.name = str(root)
        self.synthetic = any((folder / SYNTHETIC_MARKER).exists() for folder in [root, *root.resolve().parents[:5]])  # also of a subfolder
        self.notes: list[str] = []
        self._files: list[tuple[str, int, int]] = []
        self._seen: set[tuple[int, int]] = set()
        folders = [(str(root), "")]
        try:
            while folders:
                folders += self._look_into(*folders.pop())
        except OSError as error:
            raise DataError(f"data folder {root}: cannot read {error.filename}: {error.strerror}; make it readable or remove it") from error
        self._files.sort()

    def _look_into(self, folder: str, prefix: str) -> list[tuple[str, str]]:
        """Note the images of one folder; returns the folders in it, last first. Links are followed, and each thing is read once."""
        inner: list[tuple[str, str]] = []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name == SYNTHETIC_MARKER:
                    self.synthetic = True
                elif _is_litter(entry.name):
                    continue
                elif self._is_folder(entry):
                    if self._is_new(entry.stat()):
                        inner.insert(0, (entry.path, f"{prefix}{entry.name}/"))
                elif is_image(entry.name):
                    try:
                        about = entry.stat()
                    except OSError:  # a link to nothing, or to itself: a bad file when it is read
                        about = entry.stat(follow_symlinks=False)
                    if self._is_new(about):
                        self._files.append((prefix + entry.name, about.st_size, about.st_mtime_ns))
        return inner

    @staticmethod
    def _is_folder(entry: os.DirEntry[str]) -> bool:
        try:
            return entry.is_dir()
        except OSError:  # a link to itself
            return False

    def _is_new(self, about: os.stat_result) -> bool:
        """Whether no other path led to this before."""
        thing = about.st_dev, about.st_ino
        known = thing in self._seen
        self._seen.add(thing)
        return not known

    def stamp(self) -> str:
        """Changes whenever a file is added, removed or written; costs one directory walk."""
        return _digest([f"{path}\t{size}\t{mtime}" for path, size, mtime in self._files])

    def rows(self) -> tuple[dict[str, Row], dict[str, str]]:
        """({path: row}, {path: reason why it breaks the grammar})."""
        return _parse_names([path for path, _, _ in self._files], self.name, {})

    def items(self, paths: set[str]) -> Iterator[Item]:
        for path in sorted(paths):
            yield path, partial(_read_file, self.root / path)


class ManifestSource:
    """An own data set: a table with path, patient, label, and optionally slide, magnification and subtype; see `data.manifest`.

    `labelled` False, for patients to be predicted: the label may be absent or unknown.
    """

    def __init__(self, manifest: Path, labelled: bool = True, positive: str | None = None):
        from data.manifest import read_manifest  # with pandas, which nothing else needs

        self.root = manifest.parent
        self.name = str(manifest)
        self.synthetic = (self.root / SYNTHETIC_MARKER).exists()
        self._rows, self.notes = read_manifest(manifest, labelled, positive)

    def stamp(self) -> str:
        parts = []
        for path, row in sorted(self._rows.items()):
            try:
                about = self._place(path).stat()
                parts.append(f"{row}\t{about.st_size}\t{about.st_mtime_ns}")
            except (OSError, ValueError):  # ValueError: no path can be that
                parts.append(f"{row}\tmissing")
        return _digest(parts)

    def rows(self) -> tuple[dict[str, Row], dict[str, str]]:
        return dict(self._rows), {}

    def items(self, paths: set[str]) -> Iterator[Item]:
        for path in sorted(paths):
            yield path, lambda path=path: _read_file(self._place(path))  # type: ignore[misc]

    def _place(self, path: str) -> Path:
        """Where a path of the manifest leads: in the form of Unicode that the disk has, and also where it was written on Windows."""
        forms = [path, same_name(path), unicodedata.normalize("NFD", path)]
        forms += [form.replace("\\", "/") for form in forms]
        return next((place for form in forms if (place := self.root / form).exists()), self.root / path)


class Member(NamedTuple):
    """What an archive says of one of its members, folders left out."""

    name: str
    size: int  # bytes, unpacked
    plain: bool  # a file, not a link and not a device
    read: Loader


class ArchiveSource:
    """A .tar, .tar.gz or .zip of a BreakHis tree, streamed once."""

    def __init__(self, archive: Path):
        self.archive = archive
        self.name = str(archive)
        self.synthetic = False
        self.notes: list[str] = []

    def stamp(self) -> str:
        about = self.archive.stat()
        return _digest([self.archive.name, str(about.st_size), str(about.st_mtime_ns)])

    def rows(self) -> tuple[dict[str, Row], dict[str, str]]:
        names, refused, total = [], {}, 0
        for count, member in enumerate(self._members()):
            total += member.size
            if count >= MAX_MEMBERS or total > MAX_TOTAL_BYTES:
                raise DataError(
                    f"archive {self.archive}: more than {MAX_MEMBERS} members or {MAX_TOTAL_BYTES} bytes, unpacked (at {member.name}); "
                    "expected a BreakHis archive: unpack a larger one yourself and pass its folder"
                )
            if member.name.rsplit("/", 1)[-1] == SYNTHETIC_MARKER:
                self.synthetic = True
            if is_image(member.name):
                if reason := _refusal(member):
                    refused[member.name] = reason
                else:
                    names.append(member.name)
        return _parse_names(names, self.name, refused)

    def items(self, paths: set[str]) -> Iterator[Item]:
        for member in self._members():
            if member.name in paths:
                try:
                    content = member.read()
                except DAMAGED as error:
                    raise DataError(f"archive {self.archive}: member {member.name} is damaged: {error}; download it again") from error
                yield member.name, partial(bytes, content)

    def _members(self) -> Iterator[Member]:
        try:
            with self.archive.open("rb") as file:
                yield from _zip_members(file) if self.archive.name.lower().endswith(".zip") else _tar_members(file)
        except DAMAGED as error:
            raise DataError(f"archive {self.archive}: damaged or not an archive: {error}; download it again") from error


def _refusal(member: Member) -> str:
    """Why a member is not read, "" where it is: `tarfile.data_filter`'s rules, and a bound on its size."""
    path = PurePosixPath(member.name)
    if not member.plain:
        return "a link or a device, expected a plain file"
    if path.is_absolute() or ".." in path.parts:
        return "its path leads out of the archive"
    return f"{member.size} bytes: expected at most {MAX_FILE_BYTES}" if member.size > MAX_FILE_BYTES else ""


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive was made on Windows
                yield Member(info.filename.replace("\\", "/"), info.file_size, kind in (0, stat.S_IFREG), partial(_read_zipped, archive, info))


def _read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """As many bytes as the member claims: `read` without a number unpacks up to 2 GiB before it looks at the claim."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack a block of any size at once
        raise zipfile.BadZipFile(f"compressed by method {info.compress_type}, expected deflate or none")
    with archive.open(info) as file:
        return file.read(info.file_size)


def _tar_members(file: IO[bytes]) -> Iterator[Member]:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    metered = _Metered(gzip.open(file) if packed else file)
    with tarfile.open(fileobj=metered, mode="r|", bufsize=2**16, tarinfo=_Header) as archive:  # a stream: each byte is unpacked once
        for member in archive:
            metered.allow(member.size if member.isfile() else 0)
            if not member.isdir():
                yield Member(member.name, member.size, member.isfile(), partial(_read_tarred, archive, member))


class _Header(tarfile.TarInfo):
    """tarfile takes a damaged header, and an end without its mark, for the end of the archive: images would be lost in silence."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not any(buf):  # a block of zeros is that mark
                raise
            raise tarfile.ReadError(str(error)) from error


class _Metered(io.RawIOBase):
    """A tar's bytes as tarfile asks for them. It unpacks a name of any length into memory; here names are bounded."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile):
        self._stream, self._left = stream, SLACK_BYTES

    def allow(self, size: int) -> None:
        """A member of this size is to come, and another header."""
        self._left += size + HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise tarfile.ReadError(f"more than {SLACK_BYTES} bytes that belong to no member")
        return content


def _read_tarred(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # only regular files are asked for
    return file.read()


def _read_file(path: Path) -> bytes:
    """Raises ValueError where it is no plain file, because a pipe may never answer and a device never end, or of absurd size."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a plain file")
    if about.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{about.st_size} bytes: expected at most {MAX_FILE_BYTES}")
    return path.read_bytes()


Source = FolderSource | ManifestSource | ArchiveSource


def open_source(path: str | Path, *, labelled: bool = True, positive: str | None = None) -> Source:
    """The source at a path: a folder, an archive (.tar.gz, .tgz, .tar, .zip) or a manifest (.csv), with or without labels.

    `positive`: of a manifest, see `read_manifest`.

    Raises DataError when nothing is there, or nothing of these kinds.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise DataError(f"data {path}: no such folder or file; pass --data DIR (a BreakHis folder, archive or CSV manifest)")
    if path.name.lower().endswith(MANIFEST_SUFFIXES):
        return ManifestSource(path, labelled, positive)
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return ArchiveSource(path)
    raise DataError(f"data {path}: expected a folder, an archive ({', '.join(ARCHIVE_SUFFIXES)}) or a .csv manifest")


def _parse_names(paths: list[str], source: str, refused: dict[str, str]) -> tuple[dict[str, Row], dict[str, str]]:
    rows, problems = {}, dict(refused)
    for path in paths:
        try:
            rows[path] = breakhis_row(path)
        except ValueError as error:
            problems[path] = str(error)
    if not paths and not refused:
        raise DataError(f"data {source}: no image found below it; expected BreakHis ({GRAMMAR}); pass --data DIR")
    if not rows and not refused:
        raise DataError(
            f"data {source}: not a BreakHis tree: none of {len(paths)} images follows {GRAMMAR} "
            f"(found {shortlist(sorted(paths), 2)}); for an own data set pass a CSV manifest as --data FILE.csv"
        )
    return rows, problems
