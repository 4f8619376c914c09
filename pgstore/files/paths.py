"""Paths of a file system: from the root, divided by slashes, made of names that are bytes as in POSIX."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import PurePath
from typing import Final, TypeAlias

from pgstore import errors

NAME_BYTES_MAX: Final = 255  # NAME_MAX of Linux; a CHECK of the database too
Names: TypeAlias = tuple[bytes, ...]
_NOT_NAMES: Final = frozenset((b"", b".", b".."))


class DirectoryNames(tuple[bytes, ...]):
    """Names of a path that ends in a slash: what it leads to must be a directory, as POSIX has it."""

    __slots__ = ()


def split(path: object) -> Names:
    """
    The names that *path* leads through; none: the root. They are `DirectoryNames` where it ends in a slash.

    A leading slash may be left out; `.` and repeated slashes mean nothing. `..` is refused: what it means on a real file system
    depends on symbolic links.
    """
    if not isinstance(path, (str, PurePath)):
        raise errors.InvalidError(f"a path must be a str, not {type(path).__name__}: {path!r}")
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
    Whether an entry of a directory can have this name. The database says the same (`pgstore.entry_name`).

    Names that were read are looked at all the same before they become paths: a `..`, or a slash, leads somewhere else.
    """
    return name not in _NOT_NAMES and b"/" not in name and b"\0" not in name


def are_possible(names: Collection[bytes]) -> bool:
    """Whether all of *names* are, found out in a fraction of the time that a look at each takes."""
    together = b"".join(names)
    return b"/" not in together and b"\0" not in together and _NOT_NAMES.isdisjoint(names)


def refuse(names: Names) -> None:
    """Raise the error about the last one of *names*, an impossible name that was read."""
    raise errors.UnsafeEntry(f"{unsafe(names)}; `pgstore check --repair` gives it another name")


def unsafe(names: Names) -> str:
    """What is wrong with a path of which the last name is impossible."""
    return f"an entry of directory {join(names[:-1]) or '/'!r} has the impossible name {os.fsdecode(names[-1])!r}"


def join(names: Iterable[bytes]) -> str:
    """The path through *names*, without a leading slash; bytes that are not UTF-8 become surrogates, as in `os.fsdecode`."""
    return os.fsdecode(b"/".join(names))
