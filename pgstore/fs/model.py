"""What all of the engine talks about: inodes and what names lead to, the kinds of files, the versions of rows.

A file is an inode (a row of `inode`) and the names that lead to it (rows of `dirent`). In a Volume both have the versions
[version_from, version_to) in which they are valid; in a NetworkFileSystem there is one state, and all rows are live.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

ROOT: Final = 1  # inode of the root directory of every file system
LIVE: Final = 9223372036854775807  # version_to of rows that the newest version has
NEWEST: Final = LIVE - 1  # as the version to read: rows that end later than it are live
UNCOMMITTED: Final = (
    LIVE  # as the version of a change: that which the transaction under way makes, whichever that will be
)

# What an inode is: its `kind`, and that of the names that lead to it.
FILE: Final = "f"
DIRECTORY: Final = "d"
SYMLINK: Final = "l"
FIFO: Final = "p"
SOCKET: Final = "s"
CHARACTER_DEVICE: Final = "c"
BLOCK_DEVICE: Final = "b"

OWNER_MAX: Final = 2**32 - 2  # of numbers of users and groups; one more is POSIX' -1, "as it was"

# Columns of an inode: what a copy takes over; and what a row for a new version does, beside its ctime.
COPIED_COLUMNS: Final = "kind, mode, uid, gid, size_bytes, blob_id, link_target, inline_data, xattrs, device"
STATE_COLUMNS: Final = f"{COPIED_COLUMNS}, link_count, mtime_ns, atime_ns, parent"

DIRECTORY_MODE: Final = 0o755  # permission bits of directories that nobody has chosen

# Where the bytes of large files are: `file_system.storage`.
IN_ROWS: Final = "r"
IN_LARGE_OBJECTS: Final = "l"


class StoreGone(Exception):
    """The file system does not exist any more."""


class Entry(NamedTuple):
    """What a name leads to, as listings have it."""

    ino: int
    kind: str
    size_bytes: int
    mtime_ns: int


class Contents(NamedTuple):
    """Where the bytes of a file are: at most one of the two; neither: it is empty."""

    size_bytes: int
    blob_id: int | None
    inline_data: bytes | None


class Node(NamedTuple):
    """An inode. The last three only where its contents were asked for, `stored_bytes` only as `tree.node_rows` reads it."""

    ino: int
    kind: str
    version: int  # since which it is so
    mode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    uid: int
    gid: int
    link_count: int
    link_target: bytes | None
    xattrs: Mapping[str, str] | None  # as in the database: see `fs.tree.xattrs`
    set_atime_ns: int | None  # None: nobody has set one
    device: int | None  # of device nodes
    stored_bytes: int | None = None  # what the chunks of a file take; None: it is not known
    inline_data: bytes | None = None
    blob_id: int | None = None
    chunk_size: int | None = None

    @property
    def is_directory(self) -> bool:
        return self.kind == DIRECTORY

    @property
    def atime_ns(self) -> int:
        """When it was last read, as programs have set it: reading does not."""
        return self.mtime_ns if self.set_atime_ns is None else self.set_atime_ns

    @property
    def contents(self) -> Contents:
        return Contents(self.size_bytes, self.blob_id, self.inline_data)

    def changed(self, attributes: Mapping[str, Any]) -> Node:
        """The same with *attributes* of a change set."""
        new = dict(attributes)
        if "xattrs" in new:
            both = {**(self.xattrs or {}), **new["xattrs"]}
            new["xattrs"] = {name: value for name, value in both.items() if value is not None}
        return self._replace(**new)
