"""The bytes of files of a NetworkFileSystem: written in place, seen by everybody at once.

The work is done by functions in the database (see "written in place" in sql/schema.sql for the locks): a call is one statement,
one round trip and, outside a transaction, one commit, which does not wait for the disk. `sync` does. A call of up to `CALL_BYTES`
is atomic: who reads as much at a time sees all of it or nothing.
"""

from __future__ import annotations

from typing import Final

from pgstore import errors
from pgstore.client.notifications import in_transaction
from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.content.blobs import BATCH_BYTES, FILE_BYTES_MAX, Bytes, filled, read_file, stale

CALL_BYTES: Final = 1024 * 1024
_ATTEMPTS: Final = 20

WRITE = Statement("SELECT pgstore.file_write($1, $2, $3, $4, $5, $6)", "int8 int8 int8 bytea bool bool")
TRUNCATE = Statement("SELECT pgstore.file_truncate($1, $2, $3, $4)", "int8 int8 int8 bool")
# The lock is nothing to anybody, but a commit that has written something waits until the disk has all that was written before.
SYNC = Statement("SELECT 1 FROM pgstore.file_system WHERE store_id = $1 FOR KEY SHARE", "int8")


def read_at(store_id: int, ino: int, offset: int, length: int) -> Op[tuple[int, list[bytes]]]:
    """
    The file's size, and its bytes from *offset*: at most *length*, fewer only at its end.

    Of up to `BATCH_BYTES` one state of the file; of more, the size is the last that was seen.
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


def write_at(store_id: int, ino: int, offset: int, data: Bytes) -> Op[int]:
    """Write *data* at *offset*, after a hole where that is beyond the end. Returns the size of the file."""
    size = 0
    _check_end(offset + len(data))
    if len(data) <= CALL_BYTES:
        return (yield from _write(store_id, ino, offset, data))
    done = 0
    while done < len(data):
        # Where a call ends a chunk should end, else the next call has to write it again.
        length = CALL_BYTES - (offset + done) % CALL_BYTES
        size = yield from _write(store_id, ino, offset + done, data[done : done + length])
        done += length
    return size


def append(store_id: int, ino: int, data: Bytes) -> Op[int]:
    """Write *data* at the end, wherever that is by then. Returns the size of the file, which is where *data* ends."""
    size = 0
    for start in range(0, len(data), CALL_BYTES):
        size = yield from _write(store_id, ino, None, data[start : start + CALL_BYTES])
    return size


def _write(store_id: int, ino: int, offset: int | None, data: Bytes) -> Op[int]:
    assert data, "nothing to write"
    inside = yield from in_transaction()
    is_alone = inside
    for attempt in range(_ATTEMPTS):
        try:
            ((size,),) = yield Query(WRITE, store_id, ino, offset, data, is_alone, not inside)
        except errors.SerializationConflict:
            # The contents moved between a look and the lock; or a transaction of several calls and we waited for each other.
            if inside or attempt == _ATTEMPTS - 1:
                raise
            is_alone = True
        else:
            if size is None:
                raise stale(ino)
            return size  # type: ignore[no-any-return]
    raise AssertionError("unreachable")


def truncate(store_id: int, ino: int, size: int) -> Op[None]:
    """Cut the file to *size* bytes, or let it grow to so many by a hole."""
    _check_end(size)
    inside = yield from in_transaction()
    for attempt in range(_ATTEMPTS):
        try:
            ((exists,),) = yield Query(TRUNCATE, store_id, ino, size, not inside)
        except errors.SerializationConflict:
            if inside or attempt == _ATTEMPTS - 1:
                raise
        else:
            if not exists:
                raise stale(ino)
            return


def sync(store_id: int) -> Op[None]:
    """Return when the disk has all that was written before; in a transaction that is for its commit to do."""
    if not (yield from in_transaction()) and not (yield Query(SYNC, store_id)):
        raise errors.NotFoundError("the store of the open file was deleted")


def _check_end(end: int) -> None:
    if end > FILE_BYTES_MAX:
        raise errors.FileTooLarge(f"a file of {end} bytes; at most {FILE_BYTES_MAX} are possible")
