"""Extended attributes of local files: those named user.*, as far as the file system there has any."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Final

PREFIX: Final = b"user."
_HAS_THEM: Final = hasattr(os, "listxattr")  # Linux; elsewhere Python has no calls for them


def read(path: bytes) -> dict[bytes, bytes]:
    """What the file, not a link to it, has."""
    if not _HAS_THEM:
        return {}
    found: dict[bytes, bytes] = {}
    with contextlib.suppress(OSError):  # the file system has none, or the file is gone
        for name in map(os.fsencode, os.listxattr(path, follow_symlinks=False)):
            if name.startswith(PREFIX):
                found[name] = os.getxattr(path, name, follow_symlinks=False)
    return found


def write(path: bytes, wanted: Mapping[bytes, bytes]) -> None:
    """Let the file have what is *wanted*, and no others; where it cannot have one, it has not."""
    there = read(path)
    if not _HAS_THEM or there == wanted:
        return
    for name in there.keys() - wanted.keys():
        with contextlib.suppress(OSError):
            os.removexattr(path, name, follow_symlinks=False)
    for name, value in wanted.items():
        if name.startswith(PREFIX) and there.get(name) != value:
            with contextlib.suppress(OSError):
                os.setxattr(path, name, value, follow_symlinks=False)
