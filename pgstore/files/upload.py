"""Uploads: local files become new inodes, written as they are read, and get their names with the commit.

Files of a folder are taken in batches: read in one go, written by COPY.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.client.session import Session
from pgstore.core import clock
from pgstore.core.operation import Call, Op, Query
from pgstore.core.statement import Statement
from pgstore.files import contents
from pgstore.files.build import Builder, is_directory
from pgstore.files.changes import check_version
from pgstore.files.contents import INLINE_BYTES_MAX, UNIQUE_VIOLATION, Contents, StoreGone
from pgstore.files.local import Folder, Found, Source
from pgstore.files.paths import Names, join
from pgstore.files.progress import Progress
from pgstore.files.rows import reserve_inodes
from pgstore.files.tree import Tree, check_file

VOLUME_PUT = Statement(
    "SELECT pgstore.volume_put($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    "int8 int8 bytea[] bytea int4 int8 int8 bytea bool",
)
_ATTEMPTS: Final = 4  # over connections that break
# From the first of them to the last: well within the ten minutes for which collection leaves alone what was replaced.
_REPEAT_SECONDS: Final = 300.0


def put_at_once(
    session: Session, store_id: int, source: Source, names: Names, progress: Progress, mode: int | None
) -> Op[int | None]:
    """
    Commit a small *source* to a Volume as the path *names*, in one round trip and outside any transaction.

    Returns the number of bytes; None, with nothing done, where that is no simple matter: `put_file` does it, and says what is
    wrong. *source* must be one that can restart.
    """
    data: bytes = yield Call(partial(source.read, INLINE_BYTES_MAX + 1))
    if len(data) <= INLINE_BYTES_MAX:
        (ino,) = yield from reserve_inodes(session, store_id, 1)
        now_ns = time.time_ns()
        mtime_ns = now_ns if source.mtime_ns is None else source.mtime_ns
        mode = source.mode if mode is None else mode
        put = yield from _volume_put(store_id, ino, names[:-1], names[-1], mode, mtime_ns, now_ns, data)
        if put is None:
            raise StoreGone
        if put:
            progress.bytes(len(data))
            progress.files(1)
            return len(data)
    yield Call(source.restart)
    return None


def _volume_put(*values: object) -> Op[bool | None]:
    """Call `VOLUME_PUT`; again, where the answer is lost with the connection."""
    give_up = clock.monotonic() + _REPEAT_SECONDS
    repeated = False
    for attempts_left in range(_ATTEMPTS - 1, -1, -1):
        try:
            ((put,),) = yield Query(VOLUME_PUT, *values, repeated)
        except errors.OutcomeUnknown:
            if not attempts_left or clock.monotonic() > give_up:
                raise
            repeated = True
        except (errors.SerializationConflict, errors.StatementFailed) as exc:
            if isinstance(exc, errors.StatementFailed) and exc.sqlstate != UNIQUE_VIOLATION:
                raise
            if not repeated:
                return False  # others came between
            if not attempts_left:
                raise
        else:
            return put  # type: ignore[no-any-return]
    raise AssertionError("unreachable")


def put_file(
    tree: Tree,
    source: Source,
    names: Names,
    progress: Progress,
    *,
    mode: int | None = None,
    force: bool = True,
    if_version: int | None = None,
) -> Op[int]:
    """
    Write *source* to the path *names*, making directories on the way. Returns the number of bytes.

    Args:
        mode: its permission bits; None: those of *source*.
        force: over a file that is there.
        if_version: only if what is there has not changed since; 0: if there is nothing.
    """
    walk = yield from tree.place(names)
    check_file(walk)
    if walk.node is not None:
        if walk.node.is_directory:
            raise is_directory(names)
        if not force:
            raise errors.FileExists(f"{join(names)!r} exists; pass force=True to replace it", join(names))
    if if_version is not None:  # at once, before the upload, where the commit would
        check_version(walk.names, None if walk.node is None else walk.version, if_version)
    builder = Builder(tree)
    parent = yield from builder.directory(walk.names[:-1], walk)
    stored = yield from contents.write(tree.store_id, source.read, source.size_hint, progress.bytes)
    yield from builder.reserve(1)
    builder.file(
        parent,
        walk.names[-1],
        source.mode if mode is None else mode,
        source.mtime_ns,
        stored,
        exclusive=not force,
        was_free=walk.node is None,
        if_version=if_version,
    )
    yield from builder.send()
    progress.files(1)
    return stored.size_bytes


def put_directory(tree: Tree, folder: Folder, names: Names, progress: Progress, *, force: bool = True) -> Op[None]:
    """Write the files of *folder* below the path *names*; *force*: over files that are there."""
    builder = Builder(tree, inodes_at_once=100)
    target = yield from tree.place(names)
    if target.node is not None and not target.node.is_directory:
        raise errors.NotADirectory(f"{join(names)!r} is not a directory", join(names))
    while batch := (yield Call(folder.batch)):
        yield from _put_batch(builder, folder, names, batch, progress, force)
        if tree.changes.full:
            yield from tree.changes.flush()
            builder.forget_directories()


def _put_batch(
    builder: Builder, folder: Folder, base: Names, batch: list[Found], progress: Progress, force: bool
) -> Op[None]:
    tree = builder.tree
    yield from builder.reserve(len(batch))
    for relative, files in _by_directory(batch):
        parent = yield from builder.directory((*base, *relative))
        if force:
            yield from builder.check_not_directories(parent, [found.name for found in files])
        else:
            for name in (yield from builder.names_in(parent, [found.name for found in files])):
                path = join((*parent.path, name))
                raise errors.FileExists(f"{path!r} exists; pass force=True to replace it", path)
        for found in files:
            data, mode, mtime_ns = found.data, found.mode, found.mtime_ns
            if data is not None:
                stored = Contents(len(data), None, data or None)
                progress.bytes(len(data))
            else:
                source = yield Call(partial(folder.source, found))
                try:
                    stored = yield from contents.write(tree.store_id, source.read, source.size_hint, progress.bytes)
                    mode, mtime_ns = source.mode, source.mtime_ns
                finally:
                    source.close()
            builder.file(parent, found.name, mode, mtime_ns, stored, exclusive=not force, was_free=not force)
    yield from builder.send()
    progress.files(len(batch))


def _by_directory(batch: list[Found]) -> Iterable[tuple[Names, list[Found]]]:
    groups: dict[Names, list[Found]] = {}
    for found in batch:
        groups.setdefault(found.directory, []).append(found)
    return groups.items()
