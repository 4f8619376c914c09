"""Plain values that users receive."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class DictInfo:
    """Facts about a Dict that do not change."""

    name: str | None
    """None: ephemeral."""
    created_at: datetime
    created_by: str | None
    """The database role that created it."""


@dataclass(frozen=True)
class QueueInfo:
    """Facts about a Queue that do not change."""

    name: str | None
    created_at: datetime
    created_by: str | None


@dataclass(frozen=True)
class VolumeInfo:
    """Facts about a Volume that do not change."""

    name: str | None
    created_at: datetime
    created_by: str | None


@dataclass(frozen=True)
class VolumeVersion:
    """A commit of a Volume that can still be read."""

    version: int
    """Counts up from 1."""
    committed_at: datetime


class FileEntryType(enum.IntEnum):
    """What a `FileEntry` is. Modal's numbers."""

    UNSPECIFIED = 0
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5


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
