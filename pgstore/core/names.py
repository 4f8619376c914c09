"""Names of stores and environments: limits, and the errors that explain them."""

from __future__ import annotations

import re
from typing import Final

from pgstore.errors import InvalidError

# What `store.kind` says, and what users call it.
KIND_NAMES: Final = {"dict": "Dict", "queue": "Queue", "volume": "Volume", "nfs": "NetworkFileSystem", "app": "App"}
NAME_CHARS_MAX = 64
UNSTORABLE = re.compile("[\0\ud800-\udfff]")  # what text in PostgreSQL cannot have
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_name(name: object, what: str) -> str:
    """Return *name* if it can name a *what* ("Dict", "environment"); raises `InvalidError`, before any I/O."""
    if not isinstance(name, str):
        raise InvalidError(f"{what} name must be a str, not {type(name).__name__}: {name!r}")
    if _NAME.fullmatch(name):
        return name
    if not name:
        raise InvalidError(f"{what} name is empty; give 1 to {NAME_CHARS_MAX} characters of A-Z a-z 0-9 . _ -")
    if len(name) > NAME_CHARS_MAX:
        raise InvalidError(f"{what} name {name!r} has {len(name)} characters, at most {NAME_CHARS_MAX} are allowed")
    bad = sorted(set(re.findall(r"[^A-Za-z0-9._-]", name)))
    raise InvalidError(f"{what} name {name!r} contains {', '.join(map(repr, bad))}; only A-Z a-z 0-9 . _ - are allowed")
