"""Errors that a user can act on: each names the thing, the value got, what was expected and what to do."""

import errno

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}  # what only who owns the disk can mend


class InputError(ValueError):
    """Bad input of any kind. Entry points print its message as one line and exit with status 2."""


class DataError(InputError):
    """A data set that cannot be used as it is."""


class LeakageError(InputError):
    """Patients that stand on both sides of a split. Never a warning."""


class StorageError(InputError):
    """Results cannot be written, or what all trials need cannot be read: nothing that is there is lost, but going on makes no sense."""

    @classmethod
    def of(cls, path: object, reason: object) -> "StorageError":
        """What is said of a file that cannot be written."""
        return cls(f"cannot write {path}: {reason}; free some space or make it writable, then --resume")


def shortlist(things: list[str], limit: int = 5) -> str:
    """`a, b, c and 7 more`: the offenders of an error, bounded."""
    shown = ", ".join(things[:limit])
    return shown if len(things) <= limit else f"{shown} and {len(things) - limit} more"
