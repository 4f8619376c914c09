"""Uploads: local files become new inodes, which are written as the files are read, and get their names with the commit.

The files of a folder are read in batches, and written by COPY.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Final
from urllib.parse import quote

from pgstore import errors
from pgstore.client.session import Session
from pgstore.core import clock
from pgstore.core.operation import Call, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.commit.change_set import check_version
from pgstore.fs.content import blobs
from pgstore.fs.content.blobs import INLINE_BYTES_MAX, UNIQUE_VIOLATION
from pgstore.fs.model import UNCOMMITTED, Contents, StoreGone
from pgstore.fs.notifications import TELL, notice_head, own_origin
from pgstore.fs.paths import Names, join
from pgstore.fs.transfer.local import Folder, FolderFile, Source
from pgstore.fs.transfer.progress import Progress
from pgstore.fs.tree.build import Builder, is_directory
from pgstore.fs.tree.new_rows import reserve_inodes
from pgstore.fs.tree.resolve import Tree, check_file

_ATTEMPTS: Final = 4  # when connections break
# From the first attempt to the last. `pgstore.volume_put`, as `live_put`, finds an earlier attempt by its rows, which collection
# leaves alone for ten minutes, even if the file was replaced at once.
_REPEAT_SECONDS: Final = 300.0


def put_small_file(
    session: Session,
    store_id: int,
    source: Source,
    names: Names,
    progress: Progress,
    mode: int | None,
    *,
    in_place: bool,
) -> Op[int | None]:
    """
    Commit a small *source* as the path *names*, in one round trip and outside any transaction.

    Returns the number of bytes. None: nothing was done, because it takes more than that; `put_file` can do it, or says what is
    wrong.

    Args:
        source: one that can restart.
        in_place: to a NetworkFileSystem, not to a Volume.
    """
    data: bytes = yield Call(partial(source.read, INLINE_BYTES_MAX + 1))
    if len(data) <= INLINE_BYTES_MAX:
        (ino,) = yield from reserve_inodes(session, store_id, 1)
        now_ns = time.time_ns()
        mtime_ns = now_ns if source.mtime_ns is None else source.mtime_ns
        mode = source.mode if mode is None else mode
        key, head = notice_head(store_id)
        told: tuple[object, ...] = (key, f"{head}v", f" @{own_origin()}")
        if in_place:
            told = (key, head, f"/{quote(names[-1], safe='')} @{own_origin()}")
        statement = LIVE_PUT if in_place else VOLUME_PUT
        put = yield from _small_put(
            statement, (store_id, ino, names[:-1], names[-1], mode, mtime_ns, now_ns, data), told
        )
        if put is None:
            raise StoreGone
        if put:
            progress.bytes(len(data))
            progress.files(1)
            return len(data)
    yield Call(source.restart)
    return None


# The locks, and what makes a repeated call safe: see sql/schema.sql.
VOLUME_PUT = Statement(
    "SELECT pgstore.volume_put($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    "int8 int8 bytea[] bytea int4 int8 int8 bytea bool int4 text text",
)
# $12: the name.
_NOTICE: Final = (
    "coalesce(concat($11, 'i', r.directory, ',' || r.replaced::text, ' n') || r.directory::text || $12, $11 || 'iany')"
)
LIVE_PUT = Statement(
    f"""
    SELECT r.is_put, CASE WHEN r.is_put THEN {TELL.format(key="$10", notice=_NOTICE)} END
      FROM pgstore.live_put($1, $2, $3, $4, $5, $6, $7, $8, $9) r
    """,
    "int8 int8 bytea[] bytea int4 int8 int8 bytea bool int4 text text",
)


def _small_put(statement: Statement, values: tuple[object, ...], told: tuple[object, ...]) -> Op[bool | None]:
    """Call `pgstore.volume_put` or `pgstore.live_put`, again if its answer is lost with the connection."""
    give_up = clock.monotonic() + _REPEAT_SECONDS
    repeated = False
    for attempts_left in range(_ATTEMPTS - 1, -1, -1):
        try:
            ((put, *_),) = yield Query(statement, *values, repeated, *told)
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
    Write *source* to the path *names*, making the directories on the way. Returns the number of bytes.

    Args:
        mode: permission bits; None: those of *source*.
        force: replace a file that exists.
        if_version: only if what is there has not changed since this version; 0: only if nothing is there.
    """
    walk = yield from tree.target(names)
    check_file(walk)
    if walk.node is not None:
        if walk.node.is_directory:
            raise is_directory(names)
        if not force:
            raise errors.FileExists(f"{join(names)!r} exists; pass force=True to replace it", join(names))
    if if_version is not None:  # now and not only at the commit: it saves the upload
        # What this transaction has changed itself is no change by another.
        changed_at = None if walk.node is None else 0 if walk.version == UNCOMMITTED else walk.version
        check_version(walk.names, changed_at, if_version)
        if tree.changes.version is not None and if_version >= tree.changes.version:
            if_version = None  # the lock is ours: nobody commits before us what could be later
    builder = Builder(tree)
    parent = yield from builder.directory(walk.names[:-1], walk)
    stored = yield from blobs.write(tree.store_id, source.read, source.size_hint, progress.bytes)
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
    """Write the files of *folder* below the path *names*; *force*: replace files that exist."""
    builder = Builder(tree, inodes_at_once=100)
    target = yield from tree.target(names)
    if target.node is not None and not target.node.is_directory:
        raise errors.NotADirectory(f"{join(names)!r} is not a directory", join(names))
    while batch := (yield Call(folder.batch)):
        yield from _put_batch(builder, folder, names, batch, progress, force)
        if tree.changes.full:
            yield from tree.changes.flush()
            builder.forget_directories()


def _put_batch(
    builder: Builder, folder: Folder, base: Names, batch: list[FolderFile], progress: Progress, force: bool
) -> Op[None]:
    tree = builder.tree
    yield from builder.reserve(len(batch))
    for relative, files in _by_directory(batch):
        parent = yield from builder.directory((*base, *relative))
        if force:
            yield from builder.check_not_directories(parent, [file.name for file in files])
        else:
            for name in (yield from builder.names_in(parent, [file.name for file in files])):
                path = join((*parent.path, name))
                raise errors.FileExists(f"{path!r} exists; pass force=True to replace it", path)
        for file in files:
            data, mode, mtime_ns = file.data, file.mode, file.mtime_ns
            if data is not None:
                stored = Contents(len(data), None, data or None)
                progress.bytes(len(data))
            else:
                source = yield Call(partial(folder.source, file))
                try:
                    stored = yield from blobs.write(tree.store_id, source.read, source.size_hint, progress.bytes)
                    mode, mtime_ns = source.mode, source.mtime_ns
                finally:
                    source.close()
            builder.file(parent, file.name, mode, mtime_ns, stored, exclusive=not force, was_free=not force)
    yield from builder.send()
    progress.files(len(batch))


def _by_directory(batch: list[FolderFile]) -> Iterable[tuple[Names, list[FolderFile]]]:
    groups: dict[Names, list[FolderFile]] = {}
    for file in batch:
        groups.setdefault(file.directory, []).append(file)
    return groups.items()
