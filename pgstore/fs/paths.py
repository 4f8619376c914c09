"""Paths of a file system: names divided by slashes, from the root. Names are bytes, as in POSIX."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import PurePath
from typing import Final, TypeAlias

from pgstore import errors
from pgstore.types import FileEntry

NAME_BYTES_MAX: Final = 255  # NAME_MAX of Linux; a CHECK of the database too
Names: TypeAlias = tuple[bytes, ...]
_NOT_NAMES: Final = frozenset((b"", b".", b".."))


class DirectoryNames(tuple[bytes, ...]):
    """The names of a path that ends in a slash, which by POSIX must lead to a directory."""

    __slots__ = ()


def split(path: object) -> Names:
    """
    The names of *path*; none for the root. They are `DirectoryNames` if it ends in a slash.

    A leading slash may be left out; `.` and repeated slashes mean nothing. `..` is refused, for where it leads depends on symbolic
    links.
    """
    if not isinstance(path, (str, PurePath)):
        instead = "; pass its `path`" if isinstance(path, FileEntry) else ""
        raise errors.InvalidError(f"a path must be a str, not {type(path).__name__}: {path!r}{instead}")
    text = path.as_posix() if isinstance(path, PurePath) else path
    if "\0" in text:
        raise errors.InvalidError(f"path {text!r} contains a NUL")
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        raise errors.InvalidError(f"path {text!r} contains a surrogate that stands for no byte") from None
    names = tuple(name for name in encoded.split(b"/") if name not in (b"", b"."))
    for name in names:
        if name == b"..":
            raise errors.InvalidError(f"path {text!r} contains '..'")
        if len(name) > NAME_BYTES_MAX:
            raise errors.InvalidError(
                f"path {text!r} contains a name of {len(name)} bytes, at most {NAME_BYTES_MAX} are allowed"
            )
    return DirectoryNames(names) if needs_directory(encoded) else names


def needs_directory(path: bytes) -> bool:
    """Whether what *path* leads to must be a directory."""
    return path.endswith(b"/")


def split_file(path: object) -> Names:
    """`split` for the path of a file to write, which must have a name and not end in a slash."""
    names = split(path)
    if not names or isinstance(names, DirectoryNames):
        raise errors.InvalidError(f"path {str(path)!r} names a directory; give the path of the file")
    return names


def is_possible(name: bytes) -> bool:
    """
    Whether an entry of a directory can have this name. A domain of the database says the same (`pgstore.entry_name`).

    Names that were read are checked nevertheless before they become paths: a damaged one, `..` or with a slash, leads elsewhere.
    """
    return name not in _NOT_NAMES and b"/" not in name and b"\0" not in name


def are_possible(names: Collection[bytes]) -> bool:
    """Whether all of *names* are possible, in a fraction of the time that checking each takes."""
    together = b"".join(names)
    return b"/" not in together and b"\0" not in together and _NOT_NAMES.isdisjoint(names)


def refuse(names: Names) -> None:
    """Raise an error about the last of *names*, an impossible name that was read."""
    raise errors.UnsafeEntry(f"{unsafe(names)}; `pgstore check --repair` gives it another name")


def unsafe(names: Names) -> str:
    """What an error says about a path whose last name is impossible."""
    return f"an entry of directory {join(names[:-1]) or '/'!r} has the impossible name {os.fsdecode(names[-1])!r}"


def join(names: Iterable[bytes]) -> str:
    """The path of *names*, without a leading slash. Bytes that are not UTF-8 become surrogates, as in `os.fsdecode`."""
    return os.fsdecode(b"/".join(names))
