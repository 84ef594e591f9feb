"""Where image bytes come from: a folder of any nesting, an archive of it, or a CSV manifest.

A source lists candidate images and yields a loader for each. Archives are read in place and never extracted, so that
a member's name can do no harm; links and absurd sizes are refused.
"""

import csv
import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from data.errors import DataError, shortlist
from data.grammar import GRAMMAR, parse

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")
DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)  # RuntimeError: encrypted zip
MAX_FILE_BYTES = 256 * 2**20
MAX_MEMBERS = 1_000_000
SYNTHETIC_MARKER = "SYNTHETIC.json"
UNKNOWN = -1  # the label of a patient to be predicted

Row = tuple[str, int, str, str, str, int]  # path, magnification, patient, case, subtype, label
Loader = Callable[[], bytes]
Item = tuple[str, Loader]


def is_image(path: str) -> bool:
    name = path.rsplit("/", 1)[-1]
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:24]


def breakhis_row(path: str) -> Row:
    """The table row that a path's file name spells. Raises ValueError when it breaks the grammar."""
    name = parse(path.rsplit("/", 1)[-1])
    return path, name.magnification, name.patient, name.case, name.subtype, name.label


class FolderSource:
    """A BreakHis tree, however deep its releases nest it."""

    def __init__(self, root: Path):
        self.root = root
        self.name = str(root)
        self.synthetic = any((folder / SYNTHETIC_MARKER).exists() for folder in [root, *root.resolve().parents[:5]])  # also of a subfolder
        self._files: list[tuple[str, int, int]] = []
        try:
            self._walk(root, "")
        except OSError as error:
            raise DataError(f"data folder {root}: cannot read {error.filename}: {error.strerror}") from error
        self._files.sort()

    def _walk(self, folder: Path | str, prefix: str) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == SYNTHETIC_MARKER:
                    self.synthetic = True
                elif entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    self._walk(entry.path, f"{prefix}{entry.name}/")
                elif is_image(entry.name):
                    stat = entry.stat()
                    self._files.append((prefix + entry.name, stat.st_size, stat.st_mtime_ns))

    def stamp(self) -> str:
        """Changes whenever a file is added, removed or written; costs one directory walk."""
        return _digest([f"{path}\t{size}\t{mtime}" for path, size, mtime in self._files])

    def rows(self) -> tuple[dict[str, Row], dict[str, str]]:
        """({path: row}, {path: reason why it breaks the grammar})."""
        return _parse_names([path for path, _, _ in self._files], self.name)

    def items(self, paths: set[str]) -> Iterator[Item]:
        for path in sorted(paths):
            yield path, (self.root / path).read_bytes


class ManifestSource:
    """An own data set: a CSV with path, patient, label, magnification and optional case and subtype.

    `labelled` False, for patients to be predicted: the label may be absent or empty and is UNKNOWN then.
    """

    LABELS = {"0": 0, "1": 1, "benign": 0, "malignant": 1}

    def __init__(self, manifest: Path, labelled: bool = True):
        required = ("path", "patient", *(("label",) if labelled else ()), "magnification")
        optional = ("case", "subtype", *(() if labelled else ("label",)))
        self.labels = self.LABELS if labelled else self.LABELS | {"": UNKNOWN}
        self.root = manifest.parent
        self.name = str(manifest)
        self.synthetic = (self.root / SYNTHETIC_MARKER).exists()
        try:
            text = manifest.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"manifest {manifest}: cannot read it: {error}") from error
        reader = csv.DictReader(text.splitlines())
        columns = reader.fieldnames or []
        missing = [name for name in required if name not in columns]
        unknown = [name for name in columns if name not in required + optional]
        if missing or unknown:
            raise DataError(
                f"manifest {manifest}: missing columns {missing}, unknown columns {unknown}; "
                f"expected {','.join(required)} and optionally {','.join(optional)}"
            )
        self._rows: dict[str, Row] = {}
        for line, record in enumerate(reader, start=2):
            row = self._row(manifest, line, record)
            if row[0] in self._rows:
                raise DataError(f"manifest {manifest}, line {line}: path {row[0]!r} is listed twice")
            self._rows[row[0]] = row
        if not self._rows:
            raise DataError(f"manifest {manifest}: lists no image; expected one a line below the column names")

    def _row(self, manifest: Path, line: int, record: dict[str, str]) -> Row:
        value = {key: (text or "").strip() for key, text in record.items() if key is not None}
        magnification = value["magnification"].upper().removesuffix("X")
        if None in record or not value["path"] or not value["patient"]:
            raise DataError(f"manifest {manifest}, line {line}: expected one value for each column, got {record}")
        label = value.get("label", "").lower()
        if label not in self.labels:
            raise DataError(f"manifest {manifest}, line {line}: label {label!r}: expected 0, 1, benign or malignant")
        if not magnification.isdecimal() or int(magnification) == 0:
            raise DataError(f"manifest {manifest}, line {line}: magnification {value['magnification']!r}: expected a number such as 40")
        case = value.get("case") or value["patient"]
        return value["path"], int(magnification), value["patient"], case, value.get("subtype", ""), self.labels[label]

    def stamp(self) -> str:
        parts = []
        for path, row in sorted(self._rows.items()):
            try:
                stat = (self.root / path).stat()
                parts.append(f"{row}\t{stat.st_size}\t{stat.st_mtime_ns}")
            except OSError:
                parts.append(f"{row}\tmissing")
        return _digest(parts)

    def rows(self) -> tuple[dict[str, Row], dict[str, str]]:
        return dict(self._rows), {}

    def items(self, paths: set[str]) -> Iterator[Item]:
        for path in sorted(paths):
            yield path, (self.root / path).read_bytes


class ArchiveSource:
    """A .tar, .tar.gz or .zip of a BreakHis tree, streamed once."""

    def __init__(self, archive: Path):
        self.archive = archive
        self.name = str(archive)
        self.synthetic = False

    def stamp(self) -> str:
        stat = self.archive.stat()
        return _digest([self.archive.name, str(stat.st_size), str(stat.st_mtime_ns)])

    def rows(self) -> tuple[dict[str, Row], dict[str, str]]:
        names = []
        for count, (name, size, _) in enumerate(self._members()):
            if count >= MAX_MEMBERS:
                raise DataError(f"archive {self.archive}: more than {MAX_MEMBERS} members; expected a BreakHis archive")
            if name.rsplit("/", 1)[-1] == SYNTHETIC_MARKER:
                self.synthetic = True
            if is_image(name):
                if size > MAX_FILE_BYTES:
                    raise DataError(f"archive {self.archive}: member {name} claims {size} bytes; at most {MAX_FILE_BYTES} are accepted")
                names.append(name)
        return _parse_names(names, self.name)

    def items(self, paths: set[str]) -> Iterator[Item]:
        for name, _, read in self._members():
            if name in paths:
                try:
                    content = read()
                except DAMAGED as error:
                    raise DataError(f"archive {self.archive}: member {name} is damaged: {error}; download it again") from error
                yield name, partial(bytes, content)

    def _members(self) -> Iterator[tuple[str, int, Loader]]:
        try:
            if self.archive.name.lower().endswith(".zip"):
                with zipfile.ZipFile(self.archive) as packed:
                    for info in packed.infolist():
                        if not info.is_dir():
                            yield info.filename, info.file_size, partial(packed.read, info)
            else:
                with tarfile.open(self.archive, mode="r|*") as archive:  # a stream: each byte is unpacked once
                    for member in archive:
                        if member.isfile():
                            yield member.name, member.size, partial(_read_member, archive, member)
        except DAMAGED as error:
            raise DataError(f"archive {self.archive}: damaged or not an archive: {error}; download it again") from error


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # only regular files are asked for
    return file.read()


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
    if path.name.lower().endswith(".csv"):
        return ManifestSource(path, labelled)
    if path.name.lower().endswith(ARCHIVE_SUFFIXES):
        return ArchiveSource(path)
    raise DataError(f"data {path}: expected a folder, an archive ({', '.join(ARCHIVE_SUFFIXES)}) or a .csv manifest")


def _parse_names(paths: list[str], source: str) -> tuple[dict[str, Row], dict[str, str]]:
    rows, problems = {}, {}
    for path in paths:
        try:
            rows[path] = breakhis_row(path)
        except ValueError as error:
            problems[path] = str(error)
    if not paths:
        raise DataError(f"data {source}: no image found below it; expected BreakHis ({GRAMMAR})")
    if not rows:
        raise DataError(
            f"data {source}: not a BreakHis tree: none of {len(paths)} images follows {GRAMMAR} "
            f"(found {shortlist(sorted(paths), 2)}); for an own data set pass a CSV manifest as --data FILE.csv"
        )
    return rows, problems
