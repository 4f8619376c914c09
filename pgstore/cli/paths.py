"""Paths of Volumes, NetworkFileSystems and buckets on a command line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from pgstore.fs.paths import join, split

STANDARD: Final = "-"
"""As a local path: what comes in by standard input, or goes out by standard output."""
_MAGIC: Final = re.compile(r"[*?\[]")
_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t", '"': r"\"", "\\": r"\\"}


def shown(path: str) -> str:
    """
    *path* in one line that does nothing to a terminal, and from which it can be had back.

    What cannot be printed, or would be taken for quoted, is quoted as git does it: `"two\\nlines"`; `"\\377"` for a byte that is
    not UTF-8.
    """
    if path.isprintable() and not path.startswith('"'):
        return path
    return f'"{"".join(map(_escaped, path))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return character if character.isprintable() else "".join(f"\\{byte:03o}" for byte in os.fsencode(character))


def has_wildcard(path: str) -> bool:
    return _MAGIC.search(path) is not None


def plain_beginning(pattern: str) -> str:
    """The directory from which on *pattern* has wildcards: `logs` of `logs/*/a.txt`."""
    names = join(split(pattern)).split("/")
    plain = next((at for at, name in enumerate(names) if has_wildcard(name)), len(names))
    return "/".join(names[:plain])


def remote_name(path: str) -> str:
    """The last name of *path*; of the root none."""
    return join(split(path)[-1:])


def remote_target(remote: str, local: str) -> str:
    """
    Where *local* is put: as *remote*, or, if that ends in a slash, into it under its own name.

    Of `.` and `..` it is what is in them.
    """
    name = Path(local).name
    return remote if not remote.endswith("/") or name in ("", "..") else remote + name


def local_target(local: str, name: str) -> str:
    """Where something of this *name* is fetched to: as *local*, or, if that is a directory or ends in a slash, into it."""
    is_directory = local.endswith("/") or os.path.isdir(local)
    return os.path.join(local, name) if is_directory and name else local
