"""Keys and paths: which keys are paths of files, and which paths can be keys.

A key is any text of up to 1024 bytes; a path is a row of names with a slash between two. Below a prefix, the key is the prefix and
the path. Keys that are no paths cannot be shown in a tree: they have an empty name, `.` or `..`, a NUL, or a name too long for a
directory of Linux.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from pgstore import errors

KEY_BYTES_MAX: Final = 1024  # S3 and GCS; Azure allows as many characters
NAME_BYTES_MAX: Final = 255  # NAME_MAX of Linux
_NOT_NAMES: Final = frozenset(("", ".", ".."))


def is_name(name: str) -> bool:
    """Whether a directory can have an entry of this name. It has no slash."""
    if name in _NOT_NAMES or "\0" in name:
        return False
    return len(name) * 4 <= NAME_BYTES_MAX or len(os.fsencode(name)) <= NAME_BYTES_MAX


def is_path(rest: str) -> bool:
    """Whether what follows the prefix in a key is the path of a file."""
    return all(map(is_name, rest.split("/")))


def is_key(key: str) -> bool:
    """Whether an object can have this key."""
    try:
        return len(key.encode()) <= KEY_BYTES_MAX
    except UnicodeEncodeError:  # of a path with bytes that are not UTF-8
        return False


def check_new(key: str, path: str) -> None:
    """Raise the error that says why no file can be at *path*, whose key is *key*."""
    if not is_path(path):
        number = (
            errno.EINVAL if any(name in _NOT_NAMES or "\0" in name for name in path.split("/")) else errno.ENAMETOOLONG
        )
        what = (
            "contains a name that none can have"
            if number == errno.EINVAL
            else f"contains a name above {NAME_BYTES_MAX} bytes"
        )
        raise errors.FileFailed(f"path {path!r} {what}", path, errno=number)
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise errors.FileFailed(
            f"path {path!r} is not valid UTF-8, as keys of buckets must be", path, errno=errno.EILSEQ
        ) from None
    if length > KEY_BYTES_MAX:
        raise errors.FileFailed(
            f"path {path!r} makes a key of {length} bytes with its prefix, at most {KEY_BYTES_MAX} are allowed",
            path,
            errno=errno.ENAMETOOLONG,
        )


def parent_of(path: str) -> str:
    """The directory of what is at *path*; of the root: the root."""
    return path.rpartition("/")[0]


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


def join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def ancestors(path: str) -> list[str]:
    """The directories on the way to *path* without the root, the nearest first."""
    found = []
    while path := parent_of(path):
        found.append(path)
    return found
