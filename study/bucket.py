"""A place in an object store, `s3://bucket/prefix` or `gs://bucket/prefix`: whole files under names, through pyarrow.

An object appears whole or not at all, and whoever reads after a write sees it: S3, Google Cloud Storage and what speaks
their protocols hold both. Credentials come from where the cloud's own tools look (environment, `~/.aws`, the machine's
role), never from the URL; the endpoint of another S3 server from `AWS_ENDPOINT_URL` or from the URL's query, as pyarrow
reads it: `?endpoint_override=HOST:PORT&scheme=http`. Retries are those of the cloud's library.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

from data.errors import InputError, StorageError

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

# options of pyarrow that a URL gets unless it has them; a small object is then one request instead of three, and Google's
# library gives up after a minute instead of fifteen
OPTIONS = {"s3": {"allow_delayed_open": "true"}, "gs": {"retry_limit_seconds": "60"}}
PART = 2**26  # bytes of an object in memory at once while it is read
CREDENTIALS = {"access_key", "secret_key", "session_token"}
REMEDIES = (  # (what the store's message says, lower case; what to do)
    (("no_such_bucket", "bucket does not exist", "no such bucket"), "make the bucket first, or correct its name"),
    (
        ("access_denied", "access denied", "invalid_access_key", "signature", "credential", "permission", "forbidden", "unauthorized"),
        "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, GOOGLE_APPLICATION_CREDENTIALS, or the machine's role)",
    ),
    (("no space left", "disk quota"), "free some space on this machine"),
    (
        ("network_connection", "curlcode", "connect", "timeout", "timed out", "unavailable", "slow_down"),
        "check the network and the endpoint (AWS_ENDPOINT_URL, or ?endpoint_override=HOST:PORT&scheme=http in the URL)",
    ),
)


def is_url(place: str | Path) -> bool:
    """Whether a place is meant as one in an object store; a folder's name holds no `://`."""
    return "://" in str(place)


@dataclass(frozen=True)
class Bucket:
    """A prefix in a bucket. Connects when it is first used."""

    url: str
    _parts: tuple[str, str, str] = field(init=False, repr=False, compare=False)  # scheme, bucket/prefix, query

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in OPTIONS or not parts.netloc:
            raise InputError(f"--output {self.url}: expected a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
        if parts.password is not None or CREDENTIALS & dict(parse_qsl(parts.query)).keys():
            place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            raise InputError(f"--output {place}: its URL holds credentials, which would be printed; put them into the environment")
        object.__setattr__(self, "_parts", (parts.scheme, f"{parts.netloc}{parts.path}".rstrip("/"), parts.query))

    def __str__(self) -> str:
        """For people: without the query."""
        return f"{self._parts[0]}://{self._parts[1]}"

    def below(self, name: str) -> Bucket:
        """The place `name` below this one."""
        scheme, path, query = self._parts
        return Bucket(f"{scheme}://{path}/{name}{f'?{query}' if query else ''}")

    @property
    def parent(self) -> str:
        """The URL of the place above."""
        scheme, path, query = self._parts
        return f"{scheme}://{path.rpartition('/')[0]}{f'?{query}' if query else ''}"

    def files(self, below: str = "") -> dict[str, tuple[int, int]]:
        """{name: (bytes, seconds since 1970 when it was written)} of all objects, or of those in the folder `below`.

        Raises StorageError also when the bucket does not exist; a prefix without objects is empty.
        """
        from pyarrow.fs import FileSelector

        with self._doing("read"):
            place = f"{self._root}/{below}".rstrip("/")
            listed = self._filesystem.get_file_info(FileSelector(place, recursive=True, allow_not_found=True))
            if not listed:
                self._require_bucket()
            start = len(self._root) + 1
            return {info.path[start:]: _stamp(info) for info in listed if info.is_file}

    def heads(self, file: str) -> dict[str, tuple[int, int]]:
        """As `files`, of the object `file` in each folder directly below."""
        names = [f"{folder}/{file}" for folder in self._folders()]
        with self._doing("read"):
            found = self._filesystem.get_file_info([f"{self._root}/{name}" for name in names])
            return {name: _stamp(info) for name, info in zip(names, found, strict=True) if info.is_file}

    def _folders(self) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        if self._parts[0] == "gs":  # pyarrow lists folders there only where an object stands for them
            return sorted({name.partition("/")[0] for name in self.files() if "/" in name})
        with self._doing("read"):
            listed = self._filesystem.get_file_info(FileSelector(self._root, allow_not_found=True))
            if not listed:
                self._require_bucket()
            return sorted(file.base_name for file in listed if file.type == FileType.Directory)

    def get(self, name: str, path: Path) -> bool:
        """Copy an object to a file, whole or not at all; False where it is not there (any more)."""
        building = path.with_name(f".{os.getpid()}.{path.name}")
        with self._doing(f"read {name} of"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._filesystem.open_input_file(f"{self._root}/{name}") as there, building.open("wb") as here:
                    while part := there.read(PART):
                        here.write(part)
            except FileNotFoundError:
                return False
            building.replace(path)
            return True

    def read(self, name: str) -> tuple[str, float] | None:
        """(text of a small object, seconds since it was written); None where it is not there."""
        with self._doing(f"read {name} of"), suppress(FileNotFoundError):
            (info,) = self._filesystem.get_file_info([f"{self._root}/{name}"])
            with self._filesystem.open_input_file(f"{self._root}/{name}") as there:
                return there.read().decode(), time.time() - _stamp(info)[1]
        return None

    def put(self, path: Path, name: str) -> None:
        """Copy a file to an object; one of that name is replaced."""
        self.write(path.read_bytes(), name)

    def write(self, content: bytes, name: str) -> None:
        """Make an object; one of that name is replaced.

        In a thread, where Ctrl-C does not come: a stream that is left between opening and writing puts half an object there.
        """

        def write() -> None:
            stream = self._filesystem.open_output_stream(f"{self._root}/{name}")
            stream.write(content)
            stream.close()  # by hand: pyarrow's `copy_files` leaves it to the destructor, which hides that it failed

        with self._doing(f"write {name} to"), ThreadPoolExecutor(1, "storing") as thread:
            thread.submit(write).result()

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with self._doing(f"remove {name} from"), suppress(FileNotFoundError):
            self._filesystem.delete_file(f"{self._root}/{name}")

    @cached_property
    def _connected(self) -> tuple[FileSystem, str]:
        from pyarrow.fs import FileSystem

        scheme, path, query = self._parts
        options = OPTIONS[scheme] | dict(parse_qsl(query))
        return FileSystem.from_uri(f"{scheme}://{path}?{urlencode(options)}")

    @property
    def _filesystem(self) -> FileSystem:
        return self._connected[0]

    @property
    def _root(self) -> str:
        return self._connected[1].rstrip("/")

    def _require_bucket(self) -> None:
        """A listing gives nothing for a bucket that does not exist either."""
        from pyarrow.fs import FileType

        bucket = self._root.partition("/")[0]
        try:
            exists = self._filesystem.get_file_info(bucket).type != FileType.NotFound
        except OSError:  # whoever may list objects may not always ask for the bucket
            return
        if not exists:
            raise OSError(f"no such bucket: {bucket}")

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except (OSError, ValueError) as error:  # pyarrow's own kinds derive from these
            reason = " ".join(str(error).split("(Request ID")[0].split())[:300].rstrip(" .:;")
            remedy = next((text for words, text in REMEDIES if any(word in reason.lower() for word in words)), "check the URL")
            raise StorageError(f"--output {self.url}: cannot {what} it from {socket.gethostname()}: {reason}; {remedy}") from error


def _stamp(info: FileInfo) -> tuple[int, int]:
    return info.size, int(info.mtime_ns // 10**9)
