"""Where image bytes come from: a folder of any nesting, an archive of it, or a CSV manifest.

A source lists candidate images and reads each. An archive is unpacked first, into a folder that goes when its images are decoded:
only plain files that may be images, none that leads out of the archive, and no more than the bounds below.
"""

import gzip
import hashlib
import os
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from data.cache import require_space
from data.errors import DISK, DataError, InputError, shortlist
from data.grammar import GRAMMAR, parse
from data.table import Row, same_name

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
OTHER_IMAGES = (".bmp", ".gif", ".webp", ".jfif", ".jpe", ".jp2", ".svs", ".ndpi", ".mrxs", ".dcm", ".npy")  # named, and not read
MANIFEST_SUFFIXES = (".csv", ".tsv")
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
# RuntimeError: an encrypted zip; the last two: names and fields of a zip's directory that make no sense
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, IndexError)
MAX_FILE_BYTES = 256 * 2**20
MAX_MEMBERS = 1_000_000
MAX_TOTAL_BYTES = 64 * 2**30  # of an archive, unpacked; BreakHis has 4 GB
MAX_NAME_BYTES = 2**20  # of a tar's member: its name, or its attributes, which tarfile holds in memory
SYNTHETIC_MARKER = "SYNTHETIC.json"

Member = tuple[str, int, bool, Callable[..., object]]  # name, bytes when unpacked, whether a plain file, what unpacks it below `path`


def is_image(path: str) -> bool:
    """Whether a path below the root may be an image of the data set: nothing that an editor or a Mac's archiver left beside them."""
    return path.lower().endswith(IMAGE_SUFFIXES) and not any(_is_litter(part) for part in path.split("/"))


def _is_litter(name: str) -> bool:
    return name == "__MACOSX" or name.startswith(".") and name not in (".", "..")


def digest(parts: list[str]) -> str:
    """A short name of these texts in their order."""
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:24]


def breakhis_row(path: str) -> Row:
    """The table row that a path's file name spells. Raises ValueError when it breaks the grammar."""
    name = parse(same_name(path.rsplit("/", 1)[-1]))
    return path, name.magnification, name.slide, name.patient, name.subtype, name.kind


class FolderSource:
    """A BreakHis tree, however deep its releases nest it. Links are followed, and each thing is read once."""

    def __init__(self, root: Path):
        self.root = root
        self.name = str(root)
        self.synthetic = any((folder / SYNTHETIC_MARKER).exists() for folder in [root, *root.resolve().parents[:5]])  # also of a subfolder
        self.notes: list[str] = []
        self.covariates: dict[str, dict[str, str]] = {}
        self.refused: dict[str, str] = {}  # {path: reason}, of an archive: what was not unpacked
        self._files: list[tuple[str, int, int, int]] = []
        self._seen: set[tuple[int, int, str]] = set()
        self._unread: list[str] = []
        folders = [""]
        try:
            while folders:
                folders += self._look_into(folders.pop())
        except OSError as error:
            raise DataError(f"data folder {root}: cannot read {error.filename}: {error.strerror}; make it readable or remove it") from error
        self._files.sort()
        if self._unread:
            self.notes.append(
                f"{len(self._unread)} files below it are not read ({shortlist(sorted(self._unread))}): expected {', '.join(IMAGE_SUFFIXES)}"
            )

    def _look_into(self, folder: str) -> list[str]:
        """Note the images of one folder; returns the folders in it, last first."""
        inner = []
        for name in sorted(os.listdir(self.root / folder)):
            path = folder + name
            place = os.path.join(self.root, path)
            if name == SYNTHETIC_MARKER:
                self.synthetic = True
            if _is_litter(name):
                continue
            try:
                about = os.stat(place)
            except OSError:  # a link to nothing, or to itself: a bad file when it is read
                about = os.lstat(place)
            is_folder = stat.S_ISDIR(about.st_mode)
            # an image under another name is kept: it may be another person's, which its pixels will tell
            thing = about.st_dev, about.st_ino, "" if is_folder else name
            if not is_folder and not is_image(name):
                if stat.S_ISLNK(about.st_mode) or name.lower().endswith((*OTHER_IMAGES, *ARCHIVE_SUFFIXES)):
                    self._unread.append(path)
                continue
            if thing in self._seen:
                continue
            self._seen.add(thing)
            if is_folder:
                inner.append(f"{path}/")
            else:
                self._files.append((path, about.st_size, about.st_mtime_ns, about.st_ctime_ns))
        return inner[::-1]

    def stamp(self) -> str:
        """Changes whenever a file is added, removed or written; costs one directory walk."""
        return digest(["\t".join(map(str, file)) for file in self._files])

    def rows(self) -> tuple[dict[str, Row], dict[str, str]]:
        """({path: row}, {path: reason why it cannot be used, such as a name that breaks the grammar})."""
        rows, problems = {}, dict(self.refused)
        for path, *_ in self._files:
            try:
                rows[path] = breakhis_row(path)
            except ValueError as error:
                problems[path] = str(error)
        if not rows and not problems:
            raise DataError(f"data {self.name}: no image found below it; expected BreakHis ({GRAMMAR}); pass --data DIR")
        if not rows and not self.refused:
            raise DataError(
                f"data {self.name}: not a BreakHis tree: none of {len(problems)} images follows {GRAMMAR} "
                f"(found {shortlist(sorted(problems), 2)}); for an own data set pass a CSV manifest as --data FILE.csv"
            )
        return rows, problems

    def read(self, path: str) -> bytes:
        return _read_file(self.root / path)


class ManifestSource:
    """An own data set: a table with path, patient, label, and optionally slide, magnification and subtype; see `data.manifest`.

    `labelled` False, for patients to be predicted: the label may be absent or unknown.
    """

    def __init__(self, manifest: Path, labelled: bool = True):
        from data.manifest import read_manifest  # with pandas, which nothing else needs

        self.root = manifest.parent
        self.name = str(manifest)
        self.synthetic = (self.root / SYNTHETIC_MARKER).exists()
        self._rows, self.covariates, self.notes = read_manifest(manifest, labelled)

    def stamp(self) -> str:
        parts = []
        for path, row in sorted(self._rows.items()):
            try:
                about = self._place(path).stat()
                others = [values[path] for values in self.covariates.values()]
                parts.append(f"{row}\t{others}\t{about.st_size}\t{about.st_mtime_ns}\t{about.st_ctime_ns}")
            except (OSError, ValueError):  # ValueError: no path can be that
                parts.append(f"{row}\tmissing")
        return digest(parts)

    def rows(self) -> tuple[dict[str, Row], dict[str, str]]:
        return dict(self._rows), {}

    def read(self, path: str) -> bytes:
        return _read_file(self._place(path))

    def _place(self, path: str) -> Path:
        """Where a path of the manifest leads: in the form of Unicode that the disk has, and also where it was written on Windows."""
        forms = [path, same_name(path), unicodedata.normalize("NFD", path)]
        forms += [form.replace("\\", "/") for form in forms]
        return next((place for form in forms if (place := self.root / form).exists()), self.root / path)


class ArchiveSource:
    """A .tar, .tar.gz or .zip of a BreakHis tree, which is read once it is unpacked."""

    def __init__(self, archive: Path):
        self.archive = archive
        self.name = str(archive)
        self.notes: list[str] = []
        self.covariates: dict[str, dict[str, str]] = {}

    def stamp(self) -> str:
        about = self.archive.stat()
        return digest([self.archive.name, *map(str, (about.st_size, about.st_mtime_ns, about.st_ctime_ns))])

    def unpack(self, folder: Path) -> FolderSource:
        """Its tree, below an empty folder. Raises DataError: damaged, or beyond the bounds above; InputError: the disk is too small."""
        refused: dict[str, str] = {}
        synthetic, name = False, ""
        try:
            for name, size, plain, extract in self._members():
                synthetic |= name.rpartition("/")[2] == SYNTHETIC_MARKER
                if not is_image(name):
                    continue
                if reason := _refusal(name, size, plain):
                    refused[name] = reason
                else:
                    require_space(folder, size)
                    extract(path=folder)
        except InputError:
            raise
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            what = getattr(error, "strerror", None) or error  # without the path below `folder`
            place = f" (at {name})" if name else ""
            raise DataError(
                f"archive {self.archive}: damaged or not an archive: {what}{place}; download it again, or unpack it yourself and pass its folder"
            ) from error
        tree = FolderSource(folder)
        tree.name, tree.synthetic, tree.refused = self.name, synthetic, refused
        return tree

    def _members(self) -> Iterator[Member]:
        """Raises DataError beyond the bounds, before the member that passes them is unpacked."""
        total = 0
        members = _zip_members if self.archive.name.lower().endswith(".zip") else _tar_members
        for count, member in enumerate(members(self.archive), start=1):
            total += member[1]
            if count > MAX_MEMBERS or total > MAX_TOTAL_BYTES:
                raise DataError(
                    f"archive {self.archive}: more than {MAX_MEMBERS} members or {MAX_TOTAL_BYTES} bytes, unpacked (at {member[0]}); "
                    "expected a BreakHis archive: unpack a larger one yourself and pass its folder"
                )
            yield member


def _refusal(name: str, size: int, plain: bool) -> str:
    """Why a member is not unpacked, "" where it is."""
    path = PurePosixPath(name)
    if not plain:
        return "a link or a device, expected a plain file"
    if path.is_absolute() or ".." in path.parts:
        return "its path leads out of the archive"
    return f"{size} bytes: expected at most {MAX_FILE_BYTES}" if size > MAX_FILE_BYTES else ""


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            info.filename = info.filename.replace("\\", "/")  # made on Windows
            if not info.is_dir():
                kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where made on Windows
                yield info.filename, info.file_size, kind in (0, stat.S_IFREG), partial(_extract, archive, info)


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    """As many bytes as the member claims, whatever it holds."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack a block of any size at once, into memory
        raise zipfile.BadZipFile(f"compressed by method {info.compress_type}, expected deflate or none")
    archive.extract(info, path)


def _tar_members(path: Path) -> Iterator[Member]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        with tarfile.open(fileobj=gzip.open(file) if packed else file, mode="r|", tarinfo=_Header) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
            for member in archive:
                if not member.isdir():
                    plain = member.isreg() and not member.issparse()  # what a sparse one unpacks to may be more than it claims
                    yield member.name, member.size, plain, partial(archive.extract, member, set_attrs=False)
            assert archive.fileobj is not None
            if any(archive.fileobj.read(2**20)):  # up to the checksum at the end of a .gz
                raise tarfile.ReadError("data behind the mark of the end")


class _Header(tarfile.TarInfo):
    """tarfile takes a damaged header, and an end without its mark, for the end of the archive: images would be lost in silence."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf and not any(buf):  # a block of zeros is that mark
                raise
            raise tarfile.ReadError(str(error)) from error
        if header.type in b"KLXgx" and not 0 <= header.size <= MAX_NAME_BYTES:  # of a long name, or of attributes
            raise tarfile.ReadError(f"a name of {header.size} bytes, expected at most {MAX_NAME_BYTES}")
        return header


def _read_file(path: Path) -> bytes:
    """Raises ValueError where it is no plain file, because a pipe may never answer and a device never end, or of absurd size."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("not a plain file")
    if about.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{about.st_size} bytes: expected at most {MAX_FILE_BYTES}")
    return path.read_bytes()


Source = FolderSource | ManifestSource | ArchiveSource


def open_source(path: str | Path, *, labelled: bool = True) -> Source:
    """The source at a path: a folder, an archive (.tar.gz, .tgz, .tar, .zip) or a manifest (.csv), with or without labels.

    Raises DataError when nothing is there, or nothing of these kinds.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return FolderSource(path)
    if not path.exists():
        raise DataError(f"data {path}: no such folder or file; pass --data DIR (a BreakHis folder, archive or CSV manifest)")
    if path.name.lower().endswith(MANIFEST_SUFFIXES):
        return ManifestSource(path, labelled)
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return ArchiveSource(path)
    raise DataError(f"data {path}: expected a folder, an archive ({', '.join(ARCHIVE_SUFFIXES)}) or a .csv manifest")
