"""Plain values that users receive."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class StoreInfo:
    """What every store has, and what does not change."""

    name: str | None
    """None: ephemeral."""
    created_at: datetime
    created_by: str | None
    """The database role that created it."""


@dataclass(frozen=True)
class DictInfo(StoreInfo):
    """What `Dict.info` returns."""


@dataclass(frozen=True)
class QueueInfo(StoreInfo):
    """What `Queue.info` returns."""


@dataclass(frozen=True)
class VolumeInfo(StoreInfo):
    """What `Volume.info` returns."""


@dataclass(frozen=True)
class NetworkFileSystemInfo(StoreInfo):
    """What `NetworkFileSystem.info` returns."""


@dataclass(frozen=True)
class SecretInfo(StoreInfo):
    """What `Secret.info` returns."""

    last_used_at: datetime | None
    """By a function, to the minute; None: never."""


@dataclass(frozen=True)
class VolumeVersion:
    """A commit of a Volume that can still be read."""

    version: int
    """Counts up from 1."""
    committed_at: datetime


class FileEntryType(enum.IntEnum):
    """What a `FileEntry` is. The first six are Modal's numbers, which has no others."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHARACTER_DEVICE = 6
    BLOCK_DEVICE = 7


@dataclass(frozen=True)
class FileEntry:
    """A file, directory or link of a Volume or NetworkFileSystem."""

    path: str
    """From the root, without a leading slash: `data/a.txt`."""
    type: FileEntryType
    mtime: int
    """Of the contents, in seconds since 1970."""
    size: int
    """In bytes; 0 for directories."""


@dataclass(frozen=True)
class FileStat:
    """All attributes of a file, directory or link."""

    path: str
    """From the root, without a leading slash; symbolic links on the way have been followed."""
    type: FileEntryType
    size: int
    """In bytes, holes included; of a symbolic link: of its target's path."""
    mode: int
    """Permission bits, without the type."""
    uid: int
    gid: int
    mtime_ns: int
    """Of the contents, in nanoseconds since 1970."""
    ctime_ns: int
    """Of the last change of contents, attributes or number of names, in nanoseconds since 1970."""
    link_count: int
    """How many names lead to it; 1 for directories."""
    ino: int
    """The same for all names of one file; never used again."""
    version: int | None
    """
    Of the Volume, in which it or a name on the way changed last; see `put_file(if_version=)`. 0 in a NetworkFileSystem.

    None: the transaction under way has changed it, and its commit will give the version a number, which nobody knows before, unless
    somebody has asked for it (`Volume.next_version`).
    """
    atime_ns: int
    """Of the last access, as programs have set it on a mounted store, else `mtime_ns`: reading does not change it."""
    device: int
    """Of a device node: which device, as `os.stat_result.st_rdev`; else 0."""

    @property
    def mtime(self) -> int:
        """`mtime_ns` in whole seconds."""
        return self.mtime_ns // 1_000_000_000
