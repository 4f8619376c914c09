"""The bytes of files of a NetworkFileSystem: written in place, seen by everybody at once.

The work is done by functions in the database: a write is one statement, one round trip and, outside a transaction, one commit that
does not wait for the disk, unless it is *durable*; `sync` waits. A write of up to `CALL_BYTES` is atomic: a reader of the same
range sees all of it or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pgstore import errors
from pgstore.client.notifications import in_transaction
from pgstore.core.operation import Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.content.blobs import BATCH_BYTES, FILE_BYTES_MAX, INLINE_BYTES_MAX, Bytes, filled, read_file, stale
from pgstore.fs.model import LIVE
from pgstore.fs.notifications import TELL, note_inodes

CALL_BYTES: Final = 1024 * 1024  # more than that is written in several calls
_ATTEMPTS: Final = 20  # when writers have come between


def read_at(store_id: int, ino: int, offset: int, length: int) -> Op[tuple[int, list[bytes]]]:
    """
    The file's size, and its bytes from *offset*: at most *length*, fewer only at its end.

    Up to `BATCH_BYTES` are of one state of the file. More are read in several statements; the size is that of the last one.
    """
    pieces: list[bytes] = []
    end = offset + length
    while True:
        stop = min(end, offset + BATCH_BYTES)
        size, present = yield from read_file(store_id, ino, offset, stop)
        pieces += filled(present, offset, max(offset, min(stop, size)))
        offset = stop
        if offset >= min(end, size):
            return size, pieces


def write_at(
    store_id: int, ino: int, offset: int, data: Bytes, *, durable: bool = False, is_small: bool = False
) -> Op[int]:
    """
    Write *data* at *offset*, after a hole where that is beyond the end. Returns the size of the file.

    Args:
        is_small: the file has at most `INLINE_BYTES_MAX`, and perhaps always had: then there may be a quicker way.
    """
    size = 0
    _check_end(offset + len(data))
    if is_small and data and offset + len(data) <= INLINE_BYTES_MAX:
        inside, notice = yield from note_inodes(store_id, [ino])
        if not inside:
            for row in (yield Query(WRITE_INLINE, store_id, ino, offset, data, not durable, *notice)):
                return row[0]  # type: ignore[no-any-return]
    if len(data) <= CALL_BYTES:
        return (yield from _write(store_id, ino, offset, data, durable))
    done = 0
    while done < len(data):
        # A call ends where a chunk ends: the next call would have to write a chunk that is not full once more.
        length = CALL_BYTES - (offset + done) % CALL_BYTES
        size = yield from _write(store_id, ino, offset + done, data[done : done + length], durable)
        done += length
    return size


def write_several(store_id: int, ino: int, pieces: Sequence[tuple[int, Bytes]], *, durable: bool = False) -> Op[int]:
    """Write *pieces*, each of up to `CALL_BYTES` at its offset, in one round trip, all or none. Returns the size of the file."""
    inside, notice = yield from note_inodes(store_id, [ino])
    _check_end(max(offset + len(data) for offset, data in pieces))
    relaxed = not (inside or durable)
    for attempt in range(_ATTEMPTS):
        try:
            # A transaction of several calls has the inode for itself (see above); the last call tells of it.
            results = yield Many(
                [
                    *(Query(WRITE, store_id, ino, *piece, True, relaxed, None, None) for piece in pieces[:-1]),
                    Query(WRITE, store_id, ino, *pieces[-1], True, relaxed, *notice),
                ]
            )
        except errors.SerializationConflict:
            if inside or attempt == _ATTEMPTS - 1:
                raise
        else:
            ((size, _),) = results[-1]
            if size is None:
                raise stale(ino)
            return size  # type: ignore[no-any-return]
    raise AssertionError("unreachable")


def append(store_id: int, ino: int, data: Bytes, *, durable: bool = False) -> Op[int]:
    """Write *data* at the end that the file has by then. Returns the size of the file, which is where *data* ends."""
    size = 0
    for start in range(0, len(data), CALL_BYTES):
        size = yield from _write(store_id, ino, None, data[start : start + CALL_BYTES], durable)
    return size


# Locks are taken in one order, the inode, its blob, its chunks from first to last, so that writers do not wait for each other in a
# circle. Writers of different chunks work at the same time; appends, and what changes where the bytes are, lock the inode for
# themselves. See "written in place" in sql/schema.sql.
WRITE = Statement(
    f"SELECT pgstore.file_write($1, $2, $3, $4, $5, $6), {TELL.format(key='$7', notice='$8')}",
    "int8 int8 int8 bytea bool bool int4 text",
)


_NOW_NS: Final = "(extract(epoch FROM now()) * 1000000000::numeric)::bigint"
# What file_write comes to where the file has no blob, and needs none. Its bytes stay where they are, so it is no matter whether
# somebody copies it meanwhile: the row has them before or after this. No row: it has a blob, or is gone.
WRITE_INLINE = Statement(
    f"""
    WITH written AS (
         UPDATE pgstore.inode AS i
            SET inline_data = CASE WHEN $3 = 0 AND coalesce(octet_length(i.inline_data::bytea), 0) <= octet_length($4) THEN $4
                                   ELSE pgstore.bytes_overlaid(coalesce(i.inline_data::bytea, ''), $3::integer, $4) END,
                size_bytes = greatest(i.size_bytes::bigint, $3 + octet_length($4)),
                mtime_ns = {_NOW_NS},
                ctime_ns = {_NOW_NS}
          WHERE i.store_id = $1
            AND i.ino::bigint = $2
            AND i.version_to = {LIVE}
            AND i.blob_id IS NULL
         RETURNING i.size_bytes::bigint
    )
    SELECT w.size_bytes,
           {TELL.format(key="$6", notice="$7")},
           CASE WHEN $5 THEN set_config('synchronous_commit', 'off', true) END
      FROM written w
    """,
    "int8 int8 int8 bytea bool int4 text",
)


def _write(store_id: int, ino: int, offset: int | None, data: Bytes, durable: bool) -> Op[int]:
    assert data, "nothing to write"
    inside, notice = yield from note_inodes(store_id, [ino])
    is_alone = inside  # whether to lock the inode for ourselves
    for attempt in range(_ATTEMPTS):
        try:
            ((size, _),) = yield Query(WRITE, store_id, ino, offset, data, is_alone, not (inside or durable), *notice)
        except errors.SerializationConflict:
            # The file got other contents between a read and the lock; or we and a transaction of several calls waited for each
            # other.
            if inside or attempt == _ATTEMPTS - 1:
                raise
            is_alone = True
        else:
            if size is None:
                raise stale(ino)
            return size  # type: ignore[no-any-return]
    raise AssertionError("unreachable")


# In the same order; it locks the inode for itself, and so waits for all who write to the file.
TRUNCATE = Statement(
    f"SELECT pgstore.file_truncate($1, $2, $3, $4), {TELL.format(key='$5', notice='$6')}",
    "int8 int8 int8 bool int4 text",
)


def truncate(store_id: int, ino: int, size: int, *, durable: bool = False) -> Op[None]:
    """Cut the file to *size* bytes, or let it grow to so many by a hole."""
    _check_end(size)
    yield from _done_in_place(TRUNCATE, store_id, ino, size, durable=durable)


# The same.
PUNCH = Statement(
    f"SELECT pgstore.file_punch($1, $2, $3, $4, $5), {TELL.format(key='$6', notice='$7')}",
    "int8 int8 int8 int8 bool int4 text",
)


def punch(store_id: int, ino: int, start: int, end: int, *, durable: bool = False) -> Op[None]:
    """Make a hole of [*start*, *end*), as far as the file has these bytes."""
    yield from _done_in_place(PUNCH, store_id, ino, start, end, durable=durable)


SET_MTIME = Statement(
    f"""
    WITH changed AS (
         UPDATE pgstore.inode AS i
            SET mtime_ns = $3,
                ctime_ns = {_NOW_NS}
          WHERE i.store_id = $1
            AND i.ino::bigint = $2
            AND i.version_to = {LIVE}
         RETURNING 1
    )
    SELECT {TELL.format(key="$4", notice="$5")} FROM changed
    """,
    "int8 int8 int8 int4 text",
)


def set_mtime(store_id: int, ino: int, mtime_ns: int) -> Op[None]:
    """Set the time of the last change, which is on the server's disk afterwards."""
    _, notice = yield from note_inodes(store_id, [ino])
    if not (yield Query(SET_MTIME, store_id, ino, mtime_ns, *notice)):
        raise stale(ino)


def _done_in_place(statement: Statement, store_id: int, ino: int, *values: int, durable: bool) -> Op[None]:
    inside, notice = yield from note_inodes(store_id, [ino])
    for attempt in range(_ATTEMPTS):
        try:
            ((exists, _),) = yield Query(statement, store_id, ino, *values, not (inside or durable), *notice)
        except errors.SerializationConflict:
            if inside or attempt == _ATTEMPTS - 1:
                raise
        else:
            if not exists:
                raise stale(ino)
            return


# The lock itself protects nothing, and goes with the commit that follows at once. But the commit of a transaction that has a lock
# writes a record, and so waits until the disk has all that was written before it.
SYNC = Statement("SELECT 1 FROM pgstore.file_system WHERE store_id = $1 FOR KEY SHARE", "int8")


def sync(store_id: int) -> Op[None]:
    """Return when the disk has all that was written before. In a transaction it does nothing, for the commit will."""
    if not (yield from in_transaction()) and not (yield Query(SYNC, store_id)):
        raise errors.NotFoundError("the store of the open file was deleted")


def _check_end(end: int) -> None:
    if end > FILE_BYTES_MAX:
        raise errors.FileTooLarge(f"a file of {end} bytes; at most {FILE_BYTES_MAX} are possible")
