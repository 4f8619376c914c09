"""Snapshots: what a local directory holds at one moment, as lstat(2) tells it.

A file that is unchanged has the size, times and inode that it had; nothing is read to find that out. The clock of a file system
ticks a few milliseconds at a time, so a file that was changed just before a snapshot may change again without showing it: such an
entry `is_fresh`, and its bytes decide.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from pgstore.fs.model import DIRECTORY, FIFO, FILE, SOCKET, SYMLINK
from pgstore.fs.transfer.local import explained
from pgstore.mount import local_xattrs

TICK_NS: Final = 100_000_000  # longer than any clock of a file system takes for a step
DIGEST_BYTES: Final = 16
READ_BYTES: Final = 1024 * 1024
_KINDS: Final = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFIFO: FIFO,
    stat.S_IFSOCK: SOCKET,
}


class Local(NamedTuple):
    """What a name in a local directory leads to."""

    kind: str
    device: int
    ino: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    """Permission bits, without the type."""
    uid: int
    gid: int
    target: bytes
    """Of a symbolic link."""
    xattrs: tuple[tuple[bytes, bytes], ...]
    """Names and values, in order."""
    is_fresh: bool

    @property
    def identity(self) -> tuple[str, int, int]:
        """The same for all names of one inode."""
        return self.kind, self.device, self.ino

    def is_unchanged(self, before: Local) -> bool:
        """Whether nothing has changed since *before*, as far as one can see without reading."""
        return not before.is_fresh and self[:-1] == before[:-1]


def scan(root: str, left_out: Callable[[bytes], object]) -> dict[bytes, Local]:
    """
    What is below *root*, by path from there; a directory comes before what is in it.

    Args:
        left_out: called with the path of what no store can hold, such as a device.
    """
    found: dict[bytes, Local] = {}
    fresh_ns = time.time_ns() - TICK_NS
    base = os.fsencode(root)
    todo = [b""]
    while todo:
        above = todo.pop()
        path = os.path.join(base, above)
        with explained(f"local folder {os.fsdecode(path)!r}", path), os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = above + entry.name
                try:
                    local = _local(entry, fresh_ns)
                except FileNotFoundError:  # removed a moment ago
                    continue
                if local is None:
                    left_out(name)
                    continue
                found[name] = local
                if local.kind == DIRECTORY:
                    todo.append(name + b"/")
    return found


def _local(entry: os.DirEntry[bytes], fresh_ns: int) -> Local | None:
    status = entry.stat(follow_symlinks=False)
    kind = _KINDS.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        return None
    return Local(
        kind,
        status.st_dev,
        status.st_ino,
        0 if kind == DIRECTORY else status.st_size,
        0 if kind == DIRECTORY else status.st_mtime_ns,  # those of a directory follow from what is in it
        0 if kind == DIRECTORY else status.st_ctime_ns,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        os.readlink(entry.path) if kind == SYMLINK else b"",
        tuple(sorted(local_xattrs.read(entry.path).items())) if kind in (FILE, DIRECTORY) else (),
        kind == FILE and max(status.st_mtime_ns, status.st_ctime_ns) >= fresh_ns,
    )


def digest_of(path: bytes) -> bytes:
    """A digest of the bytes of a local file, to tell whether they are the same."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with explained(f"local file {os.fsdecode(path)!r}", path), open(path, "rb", buffering=0) as file:
        while data := file.read(READ_BYTES):
            digest.update(data)
    return digest.digest()
