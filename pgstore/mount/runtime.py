"""The mounts of this user that are in use now, as files in a directory that nobody else may enter.

A mount without FUSE has a record, which is its lock too. A daemon has a socket, by which it is asked for its mounts. What is left
by a process that is gone is known by its number and the time of its start, for numbers are given again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any, Final

from pgstore import errors

SOCKET_SUFFIX: Final = ".sock"
RECORD_SUFFIX: Final = ".json"


def directory() -> Path:
    """
    The directory, which is made: in `$XDG_RUNTIME_DIR`, else `/run/user/UID`, else `/tmp`.

    Not where TMPDIR says: all programs of the user must find it.

    Raises:
        FileUnreadable: it belongs to somebody else, or others may enter it.
    """
    uid = os.getuid()
    for base in (os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{uid}"):
        if base and os.path.isabs(base) and _is_ours(base):
            return _made(Path(base, "pgstore"))
    return _made(Path("/tmp", f"pgstore-{uid}"))


def _is_ours(path: str) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and os.access(path, os.W_OK | os.X_OK)


def _made(path: Path) -> Path:
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise errors.FileUnreadable(
            f"{str(path)!r}, where pgstore notes what is mounted, must be a directory of this user that nobody else may "
            "enter: remove it",
            str(path),
        )
    return path


def started(pid: int) -> int | None:
    """When the process *pid* was started, in ticks since the machine was; None: there is none, or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


class Record:
    """The record of a mount without FUSE at *path*, an absolute one without symbolic links. It is there at most once."""

    def __init__(self, path: str, about: dict[str, Any] | None = None) -> None:
        self._mounted_at = path
        self._about = about or {}
        self._path = directory() / (hashlib.blake2b(os.fsencode(path), digest_size=12).hexdigest() + RECORD_SUFFIX)

    def found(self) -> dict[str, Any] | None:
        """What the record says that is there, perhaps of another process; None: there is none."""
        return _read(self._path)

    def in_use(self) -> errors.FileFailed:
        found = self.found()
        holder = "" if found is None else f", of process {found['pid']}"
        return errors.FileFailed(
            f"{self._mounted_at!r} is a mount already{holder}", self._mounted_at, errno=errno.EBUSY
        )

    def write(self) -> None:
        """
        Raises:
            FileFailed: another mount has the path (EBUSY).
        """
        pid = os.getpid()
        about = {**self._about, "path": self._mounted_at, "pid": pid, "started": started(pid), "since": time.time()}
        temporary = self._path.with_suffix(f".{pid}-{threading.get_ident()}")
        temporary.write_text(json.dumps(about))
        try:
            os.link(temporary, self._path)  # complete, or not at all
        except FileExistsError:
            raise self.in_use() from None
        finally:
            temporary.unlink()

    def remove(self) -> None:
        self._path.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """What a record says; None: it is gone, or damaged."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "pid" in found else None


def is_alive(record: dict[str, Any]) -> bool:
    """Whether the process of a record is still there."""
    found = started(record["pid"])
    return found is not None and found == record.get("started")


def records() -> list[dict[str, Any]]:
    """What the records of mounts without FUSE say whose processes are alive."""
    found = [_read(path) for path in sorted(directory().glob(f"*{RECORD_SUFFIX}"))]
    return [record for record in found if record is not None and is_alive(record)]
