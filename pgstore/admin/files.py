"""Volumes, NetworkFileSystems and buckets: what their commands do beyond one call of a method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgstore import errors
from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.file_store import FileStore
from pgstore.fs import history
from pgstore.fs.paths import join, split
from pgstore.types import FileEntryType
from pgstore.volume import Volume


@dataclass(frozen=True)
class Usage:
    """What is in a directory, with all below it."""

    path: str
    files: int
    """Names of all but directories."""
    size_bytes: int
    """As the files are long: holes, and bytes that copies share, count each time."""


def usage(files: Any, path: str) -> list[Usage]:
    """What is in each directory in *path*, by name, and at last in all of it. *files* is a store or a bucket."""
    base = join(split(path))
    start = len(base) + 1 if base else 0
    counts: dict[str, list[int]] = {}
    total = [0, 0]
    for entry in files.iterdir(path, recursive=True):
        name, below, _ = entry.path[start:].partition("/")
        is_directory = entry.type is FileEntryType.DIRECTORY
        count = counts.setdefault(name, [0, 0]) if below or is_directory else [0, 0]
        if not is_directory:
            for each in (count, total):
                each[0] += 1
                each[1] += entry.size
    inside = [Usage(f"{base}/{name}" if base else name, *counts[name]) for name in sorted(counts)]
    return [*inside, Usage(base or "/", *total)]


@dataclass(frozen=True)
class FileStoreInfo:
    """What a Volume or NetworkFileSystem is."""

    name: str | None
    environment: str
    id: str
    created_at: datetime
    created_by: str | None
    storage: str
    """Where the bytes of large files live: `rows` or `large_object`."""
    chunk_size_bytes: int
    """That are stored together."""
    versions_kept: int | None
    """How many of the newest stay readable; None, as of the next one: a NetworkFileSystem has none."""
    version: int | None
    """The newest; 0: nothing has been committed yet."""


FILE_SYSTEM = Statement(
    "SELECT f.chunk_size_bytes, f.versions_kept, f.head FROM pgstore.file_system f WHERE f.store_id = $1",
    "int8",
    read_only=True,
)


def info(store: FileStore) -> FileStoreInfo:
    """What *store* is. Nothing is counted."""

    def find() -> Op[FileStoreInfo]:
        record = yield from store._described()
        rows = yield Query(FILE_SYSTEM, record.id)
        if not rows:
            yield from store._check_exists(record.id)
        chunk_size_bytes, *versions = rows[0]
        return FileStoreInfo(
            record.name,
            record.environment,
            store.object_id,
            record.created_at,
            record.created_by,
            record.options.get("storage", "rows"),
            chunk_size_bytes,
            *(versions if isinstance(store, Volume) else (None, None)),
        )

    found: FileStoreInfo = store._runner.run(find())
    return found


@dataclass(frozen=True)
class SizedVersion:
    """A version of a Volume that can still be read."""

    version: int
    committed_at: datetime
    files: int | None = None
    """Names of all but directories; None, as of the next one: it was not asked for, or the version has gone meanwhile."""
    size_bytes: int | None = None
    """As the files are long."""


def versions(volume: Volume, *, limit: int | None = None, sizes: bool = False) -> list[SizedVersion]:
    """
    The versions that can still be read, newest first, at most *limit*.

    Args:
        sizes: walk through the names of each.
    """
    found = []
    for each in volume.versions(limit=limit):
        size = (
            volume._runner.run(history.size(volume._runner.run(volume._resolve_id()), each.version)) if sizes else None
        )
        found.append(SizedVersion(each.version, each.committed_at.astimezone(), *(size or ())))
    return found


@contextlib.contextmanager
def _together(store: FileStore) -> Iterator[None]:
    with store._runner.transaction():
        yield


def remove(store: FileStore, paths: Sequence[str], *, recursive: bool, allow_missing: bool = False) -> None:
    """Remove all of *paths*, in one commit. Raises `FileMissing`, unless *allow_missing*."""
    with _together(store):
        for path in paths:
            with contextlib.suppress(*(errors.FileMissing,) if allow_missing else ()):
                store.remove_file(path, recursive=recursive)


def move(store: FileStore, paths: Sequence[str], target: str) -> None:
    """
    Move all of *paths* in one commit: into *target* if that is a directory or ends in a slash, else the one to this name.

    Raises:
        NotADirectory: there are several, and *target* is no directory.
    """
    with _together(store):
        into = target.endswith("/")
        with contextlib.suppress(errors.FileMissing):
            into = into or store.stat(target).type is FileEntryType.DIRECTORY
        if len(paths) > 1 and not into:
            raise errors.NotADirectory(f"{target!r} is not a directory, into which several could be moved", target)
        for path in paths:
            store.move(path, f"{target}/{join(split(path)[-1:])}" if into else target)
