"""A directory that was filled without FUSE, by a process that ended without emptying it."""

from __future__ import annotations

import logging
import os
from typing import Any, Final

from pgstore.mount import recovery, runtime

_LOG: Final = logging.getLogger("pgstore")


def clean(path: str) -> None:
    """
    Empty *path*, an absolute one without symbolic links, if such a process has left it; what is there is kept elsewhere.

    Raises:
        FileFailed: the process is still there, and so is its mount (EBUSY).
    """
    record = runtime.Record(path)
    found = record.found()
    if found is None:
        return
    if runtime.is_alive(found):
        raise record.in_use()
    if os.path.isdir(path):
        if not found.get("read_only"):
            _keep(path, found)
        recovery.empty(path)
    record.remove()


def _keep(path: str, found: dict[str, Any]) -> None:
    """Keep all that is there: nobody knows what of it has changed."""
    names = os.listdir(os.fsencode(path))
    if names:
        about = recovery.about_mount(found, f"process {found['pid']} ended without unmounting")
        kept = recovery.keep_files(os.fsencode(path), names, about)
        _LOG.warning("%s was left behind by process %s; what was in it is kept in %s", path, found["pid"], kept.path)
