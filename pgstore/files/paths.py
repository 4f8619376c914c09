"""Paths of a file system: from the root, divided by slashes, made of names that are bytes as in POSIX."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import PurePath
from typing import Final, TypeAlias

from pgstore import errors

NAME_BYTES_MAX: Final = 255  # NAME_MAX of Linux; a CHECK of the database too
Names: TypeAlias = tuple[bytes, ...]
_NOT_NAMES: Final = frozenset((b"", b".", b".."))


def split(path: object) -> Names:
    """
    The names that *path* leads through; none: the root.

    A leading slash may be left out; `.` and repeated slashes mean nothing. `..` is refused: what it means on a real file system
    depends on symbolic links.
    """
    if not isinstance(path, (str, PurePath)):
        raise errors.InvalidError(f"a path must be a str, not {type(path).__name__}: {path!r}")
    text = path.as_posix() if isinstance(path, PurePath) else path
    if "\0" in text:
        raise errors.InvalidError(f"path {text!r} contains a NUL")
    try:
        names = tuple(name for name in os.fsencode(text).split(b"/") if name not in (b"", b"."))
    except UnicodeEncodeError:
        raise errors.InvalidError(f"path {text!r} contains a surrogate that stands for no byte") from None
    for name in names:
        if name == b"..":
            raise errors.InvalidError(f"path {text!r} contains '..'")
        if len(name) > NAME_BYTES_MAX:
            raise errors.InvalidError(
                f"path {text!r} contains a name of {len(name)} bytes, at most {NAME_BYTES_MAX} are allowed"
            )
    return names


def split_file(path: object) -> Names:
    """`split` for the path of a file to write, which must have a name and not end in a slash."""
    names = split(path)
    if not names or str(path).endswith("/"):
        raise errors.InvalidError(f"path {str(path)!r} names a directory; give the path of the file")
    return names


def is_possible(name: bytes) -> bool:
    """
    Whether an entry of a directory can have this name. The database says the same (`pgstore.entry_name`).

    Names that were read are looked at all the same before they become paths: a `..`, or a slash, leads somewhere else.
    """
    return name not in _NOT_NAMES and b"/" not in name and b"\0" not in name


def check_names(names: Iterable[bytes]) -> None:
    """Raise `UnsafeEntry` if one of *names*, the path of an entry that was read, is impossible."""
    names = tuple(names)
    if not all(map(is_possible, names)):
        raise errors.UnsafeEntry(f"{unsafe(names)}; `pgstore check --repair` gives it another name")


def unsafe(names: Names) -> str:
    """What is wrong with a path through *names*, one of which is impossible."""
    at = next(at for at, name in enumerate(names) if not is_possible(name))
    return f"an entry of directory {join(names[:at]) or '/'!r} has the impossible name {os.fsdecode(names[at])!r}"


def join(names: Iterable[bytes]) -> str:
    """The path through *names*, without a leading slash; bytes that are not UTF-8 become surrogates, as in `os.fsdecode`."""
    return os.fsdecode(b"/".join(names))
