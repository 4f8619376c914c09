"""The bytes of a file: in its inode's row up to 64 KiB, else in chunks.

A blob is one state of a file's bytes: a row of `extent` for each range of `chunk_size_bytes` that is not all zeros, naming a chunk.
Ranges without a row are holes and read as zeros. A chunk may be shorter than its range; the rest of the range reads as zeros too.

In a Volume a blob does not change once an inode refers to it: a read of many statements that stays on one blob sees one state of
the file. In a NetworkFileSystem blobs are written in place (`in_place`): there each statement sees one state.

The bytes of a chunk are in its row or in a large object, as the file system was created. Readers need not know.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Final, TypeAlias, TypeVar

from pgstore import errors
from pgstore.core.operation import Call, CopyOut, Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.model import IN_LARGE_OBJECTS, LIVE, Contents, StoreGone

INLINE_BYTES_MAX: Final = 64 * 1024  # a CHECK of the database too
BATCH_BYTES: Final = 4 * 1024 * 1024  # how much is in memory at a time
COPY_BYTES: Final = 16 * 1024 * 1024  # the same when reading by COPY
LARGE_FILE_BYTES: Final = 64 * 1024 * 1024  # larger files have chunks of at least LARGE_CHUNK_BYTES
LARGE_CHUNK_BYTES: Final = 1024 * 1024
FILE_BYTES_MAX: Final = 1 << 44  # 2^31 chunks of 8 KiB
_FIRST_CHUNKS: Final = 16  # ids that are reserved with the blob's
_CHUNKS_AHEAD: Final = 128  # ids that are reserved at a time, where that takes a commit of its own
UNIQUE_VIOLATION: Final = "23505"
_ATTEMPTS: Final = 4  # when connections break

Bytes: TypeAlias = bytes | memoryview
Piece: TypeAlias = tuple[int, bytes]  # where in the file, what
PieceView: TypeAlias = tuple[int, Bytes]  # the same, or a view of a buffer that is used again
B = TypeVar("B", bytes, Bytes)


def write(
    store_id: int, read: Callable[[int], bytes], size_hint: int | None, progress: Callable[[int], object]
) -> Op[Contents]:
    """
    Store all that *read* returns. In a transaction; nothing of it is seen by others yet. Returns where it is stored.

    Args:
        read: called with a number of bytes, returns so many, fewer only at the end. It may block.
        size_hint: about how many bytes there are, which decides on the size of chunks; None: unknown.
        progress: called with the number of bytes stored since the last call.
    """
    first: bytes = yield Call(partial(read, BATCH_BYTES))
    if len(first) <= INLINE_BYTES_MAX:
        progress(len(first))
        return Contents(len(first), None, first or None)
    blob = BlobWriter(store_id)
    yield from blob.reserve(size_hint)
    batch, more = first, len(first) == BATCH_BYTES
    while batch or more:
        if more and (rest := blob.batch_bytes - len(batch)):
            batch += yield Call(partial(read, rest))
            more = len(batch) == blob.batch_bytes
        yield from blob.write(batch, more=more)
        progress(len(batch))
        batch = b""
    return Contents(blob.size_bytes, blob.blob_id, None)


# Whoever asks again has wasted some numbers.
RESERVE_BLOB = Statement(
    """
    SELECT nextval('pgstore.blob_id_seq'::regclass), f.chunk_size_bytes, f.storage
      FROM pgstore.file_system f
     WHERE f.store_id = $1
    """,
    "int8",
    repeatable=True,
)
RESERVE_CHUNKS = Statement(
    "SELECT nextval('pgstore.chunk_id_seq'::regclass) FROM generate_series(1, $1)", "int4", repeatable=True
)
INSERT_BLOB = Statement(
    "INSERT INTO pgstore.blob (store_id, id, chunk_size_bytes, session_id) VALUES ($1, $2, $3, $4)",
    "int8 int8 int4 int8",
)
INSERT_CHUNK = Statement("INSERT INTO pgstore.chunk (store_id, id, data) VALUES ($1, $2, $3)", "int8 int8 bytea")
CREATE_OBJECT = Statement("SELECT pgstore.chunk_create($1, $2, 0, $3)", "int8 int8 bytea")
INSERT_EXTENTS = Statement(
    """
    INSERT INTO pgstore.extent (store_id, blob_id, position, chunk_id)
    SELECT $1, $2, u.position, u.chunk_id
      FROM unnest($3, $4) AS u (position, chunk_id)
    """,
    "int8 int8 int4[] int8[]",
)
# Of our own blob: a chunk of the same id may be another's, where a failover has lost what the sequence had given out.
HAS_EXTENT = Statement(
    """
    SELECT 1
      FROM pgstore.extent
     WHERE store_id = $1
       AND blob_id = $2
       AND position::integer = $3
       AND chunk_id = $4
    """,
    "int8 int8 int4 int8",
    read_only=True,
)
HAS_BLOB = Statement("SELECT 1 FROM pgstore.blob WHERE store_id = $1 AND id = $2", "int8 int8", read_only=True)
# For uploads outside a transaction. What a crash may lose was not promised to anybody yet, and the commit that gives the file its
# name flushes all that was written before it. Whoever makes that commit sees to it that there was no crash (`Staged`).
ASYNC_COMMIT = Statement("SELECT set_config('synchronous_commit', 'off', true)")


class BlobWriter:
    """
    A new blob, written from the beginning to the end.

    Args:
        session_id: the session that it belongs to until an inode refers to it; collection deletes it with the session. None: it is
            part of a transaction.
        is_alone: each write is a transaction of its own.
        durable: its commit waits for the disk.
    """

    def __init__(
        self, store_id: int, *, session_id: int | None = None, is_alone: bool = False, durable: bool = True
    ) -> None:
        self.store_id = store_id
        self.blob_id: int | None = None  # None until reserve()
        self.chunk_size = 0
        self.size_bytes = 0
        self._session_id = session_id
        self._is_alone = is_alone
        self._durable = durable
        self.is_begun = False
        self._insert_chunk = INSERT_CHUNK
        self._ids: list[int] = []  # reserved for chunks to come

    def reserve(self, size_hint: int | None = None, *, chunk_size: int | None = None) -> Op[None]:
        """Give the blob an id and a size of chunks: *chunk_size*, else what suits *size_hint* bytes."""
        rows, ids = yield Many([Query(RESERVE_BLOB, self.store_id), Query(RESERVE_CHUNKS, _FIRST_CHUNKS)])
        if not rows:
            raise StoreGone
        self.blob_id, default_size, storage = rows[0]
        if size_hint is not None and size_hint > LARGE_FILE_BYTES:
            default_size = max(default_size, LARGE_CHUNK_BYTES)
        self.chunk_size = default_size if chunk_size is None else chunk_size
        self._ids = [row[0] for row in ids]
        if storage == IN_LARGE_OBJECTS:
            self._insert_chunk = CREATE_OBJECT

    @property
    def batch_bytes(self) -> int:
        """How many bytes to write at a time: whole chunks, about `BATCH_BYTES`."""
        return -(-BATCH_BYTES // self.chunk_size) * self.chunk_size

    def write(self, batch: Bytes, *, more: bool = True) -> Op[None]:
        """Add *batch* at the end of the blob, which must be the end of a chunk. *more*: another batch will follow."""
        pieces = _pieces(batch, self.chunk_size, self.size_bytes // self.chunk_size)
        if (missing := len(pieces) - len(self._ids)) > 0:
            count = missing if self._durable else max(missing, _CHUNKS_AHEAD)
            self._ids += [row[0] for row in (yield Query(RESERVE_CHUNKS, count))]
        taken, self._ids = self._ids[: len(pieces)], self._ids[len(pieces) :]
        queries = self.begin()
        for chunk_id, (_, data) in zip(taken, pieces, strict=True):
            queries.append(Query(self._insert_chunk, self.store_id, chunk_id, data))
        if pieces:
            queries.append(
                Query(INSERT_EXTENTS, self.store_id, self.blob_id, [position for position, _ in pieces], taken)
            )
        if self._durable:
            # The ids for the next batch are reserved in the same round trip. Not by a commit that does not wait for the disk: after
            # a crash the sequence would give the ids that we have to others, too.
            lacking = max(0, self.batch_bytes // self.chunk_size - len(self._ids)) if more else 0
            queries.append(Query(RESERVE_CHUNKS, lacking))
        done = Query(HAS_BLOB, self.store_id, self.blob_id)
        if taken:
            done = Query(HAS_EXTENT, self.store_id, self.blob_id, pieces[-1][0], taken[-1])
        reserved = yield from self._send(queries, done)
        if self._durable:
            self._ids += [row[0] for row in reserved]
        self.size_bytes += len(batch)

    def _send(self, queries: list[Query], done: Query) -> Op[Rows]:
        """
        Run *queries* in one transaction, and return the result of the last.

        If they are a transaction of their own, a broken connection does no harm: *done* finds out by the reserved ids whether they
        were written, and the ids keep them from being written twice.
        """
        for attempts_left in range(_ATTEMPTS - 1, -1, -1):
            try:
                return (yield Many(queries))[-1]  # type: ignore[no-any-return]
            except (errors.OutcomeUnknown, errors.StatementFailed) as exc:
                if not self._is_alone or not attempts_left:
                    raise
                if isinstance(exc, errors.StatementFailed) and exc.sqlstate != UNIQUE_VIOLATION:
                    raise
            if (yield done):
                break
        return []

    def begin(self) -> list[Query]:
        """The queries that a round trip with writes to the blob begins with."""
        queries = [] if self._durable else [Query(ASYNC_COMMIT)]
        if not self.is_begun:
            self.is_begun = True
            queries.append(Query(INSERT_BLOB, self.store_id, self.blob_id, self.chunk_size, self._session_id))
        return queries


def _pieces(batch: Bytes, chunk_size: int, position: int) -> list[tuple[int, memoryview]]:
    """The chunks of *batch* that are not all zeros, with their positions in the blob; *position*: that of the first one."""
    view = memoryview(batch)
    pieces = ((start, view[start : start + chunk_size]) for start in range(0, len(view), chunk_size))
    return [(position + start // chunk_size, piece) for start, piece in pieces if not is_zeros(piece)]


def is_zeros(piece: memoryview) -> bool:
    # Comparing views takes a thousand times as long as comparing bytes, and bytes must be copied first: most chunks need neither.
    return not (piece[0] or piece[-1] or piece[len(piece) // 2]) and bytes(piece) == zeros(len(piece))


_ZEROS: Final = bytes(LARGE_CHUNK_BYTES)


def zeros(length: int) -> bytes:
    return _ZEROS[:length] if length <= len(_ZEROS) else bytes(length)


# --------------------------------------------------------------------------------------------------------------- reading


# What blob b has of [$3, $4): a row for each chunk, with its bytes and where in the file they begin; one without bytes if there is
# no chunk.
#
# LATERAL with LIMIT looks up each extent's chunk by its key; a join might read all chunks, if it was planned while there were few.
# Whole chunks are returned without `substring`, which would copy them once more. Extents are read in the order of their key, for
# sorting the result would take memory for all of its bytes. A join promises no order, so the client sorts the few rows again.
_PIECES: Final = """
      LEFT JOIN LATERAL (
           SELECT greatest(x.begins, $3) AS start, k.data
             FROM pgstore.extent e
            CROSS JOIN LATERAL (
                  SELECT e.position::bigint * b.chunk_size_bytes::integer AS begins, b.chunk_size_bytes::integer AS size) x
            CROSS JOIN LATERAL (
                  SELECT CASE
                         WHEN c.large_object IS NOT NULL
                         THEN pgstore.chunk_read($1, c.id, greatest($3 - x.begins, 0),
                                                 (least($4 - x.begins, x.size) - greatest($3 - x.begins, 0))::integer)
                         WHEN $3 <= x.begins AND $4 >= x.begins + x.size
                         THEN c.data
                         ELSE substring(c.data FROM greatest($3 - x.begins, 0)::integer + 1
                                               FOR (least($4 - x.begins, x.size) - greatest($3 - x.begins, 0))::integer)
                         END AS data
                    FROM pgstore.chunk c
                   WHERE c.store_id = $1
                     AND c.id = e.chunk_id
                   LIMIT 1) k
            WHERE e.store_id = $1
              AND e.blob_id = b.id
              AND e.position::integer BETWEEN least($3 / b.chunk_size_bytes::integer, 2147483647)::integer
                                 AND least(($4 - 1) / b.chunk_size_bytes::integer, 2147483647)::integer
            ORDER BY e.position
           OFFSET 0) p ON true
"""
# It begins with the blob's own row: no row means that the blob was collected, and not that it is one hole.
_READ_BLOB: Final = f"""
    SELECT p.start, p.data
      FROM pgstore.blob b
      {_PIECES}
     WHERE b.store_id = $1
       AND b.id = $2
"""
READ_BLOB = Statement(_READ_BLOB, "int8 int8 int8 int8", read_only=True)


def read_blob(store_id: int, blob_id: int, start: int, end: int) -> Op[list[Piece]]:
    """
    The bytes of [*start*, *end*), in order, without holes. Ask for at most `BATCH_BYTES` at a time.

    Raises:
        StaleFile: the blob was collected: no file has it, and no version that is kept.
    """
    rows = yield Query(READ_BLOB, store_id, blob_id, start, end)
    if not rows:
        raise _collected(blob_id)
    return sorted(((offset, data) for offset, data in rows if data), key=itemgetter(0))


def copy_blob(store_id: int, blob_id: int, start: int, end: int, buffer: bytearray) -> Op[list[PieceView]]:
    """
    `read_blob` by COPY: quicker by a third for large ranges, but the statement is planned anew each time.

    Args:
        buffer: at least *end* - *start* bytes, which are written into it. Using one buffer again and again is much of the gain.
    """
    copied = _Copied(buffer, start)
    yield copied.request(_READ_BLOB, store_id, blob_id, start, end)
    if not copied.rows:
        raise _collected(blob_id)
    return copied.pieces()


def _collected(blob_id: int) -> errors.StaleFile:
    return errors.StaleFile(
        f"the contents of the open file were collected (blob {blob_id}): it was replaced or removed, and the version that had "
        "it is not kept any more; open it again"
    )


# The same of the newest state of an inode, with its size. One statement, and so one state.
_READ_FILE: Final = f"""
    SELECT p.start, p.data, i.size_bytes,
           CASE WHEN i.blob_id IS NULL
                THEN substring(i.inline_data FROM least($3, {INLINE_BYTES_MAX})::integer + 1
                                             FOR least($4 - $3, {INLINE_BYTES_MAX})::integer)
                END
      FROM pgstore.inode i
      LEFT JOIN LATERAL (
           SELECT n.id, n.chunk_size_bytes
             FROM pgstore.blob n
            WHERE n.store_id = $1
              AND n.id = i.blob_id
            LIMIT 1) b ON true
      {_PIECES}
     WHERE i.store_id = $1
       AND i.ino::bigint = $2
       AND i.version_to = {LIVE}
"""
READ_FILE = Statement(_READ_FILE, "int8 int8 int8 int8", read_only=True)


def read_file(store_id: int, ino: int, start: int, end: int) -> Op[tuple[int, list[Piece]]]:
    """
    The present size of file *ino*, and its bytes of [*start*, *end*) as in `read_blob`.

    Raises:
        StaleFile: the inode does not exist any more.
    """
    rows = yield Query(READ_FILE, store_id, ino, start, end)
    if not rows:
        raise stale(ino)
    size, inline = rows[0][2:]
    if inline:
        return size, [(start, inline)]
    return size, sorted(((offset, data) for offset, data, _, _ in rows if data), key=itemgetter(0))


def copy_file(store_id: int, ino: int, start: int, end: int, buffer: bytearray) -> Op[tuple[int, list[PieceView]]]:
    """`read_file` by COPY; see `copy_blob`."""
    copied = _Copied(buffer, start)
    yield copied.request(_READ_FILE, store_id, ino, start, end)
    if not copied.rows:
        raise stale(ino)
    return copied.size, copied.pieces()


# Not of a chunk, but of its whole range: what is behind its end reads as zeros, as a hole does.
_DATA: Final = """
    SELECT greatest(e.position::bigint * b.chunk_size_bytes::integer, $3),
           least((e.position::bigint + 1) * b.chunk_size_bytes::integer, $4)
      FROM pgstore.extent e
     WHERE e.store_id = $1
       AND e.blob_id = b.id
       AND e.position::integer BETWEEN least($3 / b.chunk_size_bytes::integer, 2147483647)::integer
                          AND least(($4 - 1) / b.chunk_size_bytes::integer, 2147483647)::integer
"""
DATA_OF_BLOB = Statement(
    f"""
    SELECT d.*
      FROM pgstore.blob b
     CROSS JOIN LATERAL ({_DATA}) d (start, stop)
     WHERE b.store_id = $1
       AND b.id = $2
     ORDER BY d.start
    """,
    "int8 int8 int8 int8",
    read_only=True,
)
DATA_OF_FILE = Statement(
    f"""
    SELECT coalesce(d.start, $3), coalesce(d.stop, $4)
      FROM pgstore.inode i
      LEFT JOIN pgstore.blob b ON b.store_id = $1 AND b.id = i.blob_id
      LEFT JOIN LATERAL ({_DATA}) d (start, stop) ON true
     WHERE i.store_id = $1
       AND i.ino::bigint = $2
       AND i.version_to = {LIVE}
       AND (i.blob_id IS NULL OR d.start IS NOT NULL)
     ORDER BY 1
    """,
    "int8 int8 int8 int8",
    read_only=True,
)


def data_of_blob(store_id: int, blob_id: int, start: int, end: int) -> Op[list[tuple[int, int]]]:
    """Where in [*start*, *end*) a blob has chunks: the ranges, in order."""
    return (yield Query(DATA_OF_BLOB, store_id, blob_id, start, end))  # type: ignore[no-any-return]


def data_of_file(store_id: int, ino: int, start: int, end: int) -> Op[list[tuple[int, int]]]:
    """The same of the newest state of an inode; a small file has no holes."""
    return (yield Query(DATA_OF_FILE, store_id, ino, start, end))  # type: ignore[no-any-return]


def stale(ino: int) -> errors.StaleFile:
    return errors.StaleFile(f"the open file (inode {ino}) was removed and then collected; nothing of it is left")


def filled(pieces: list[tuple[int, B]], start: int, end: int) -> list[B]:
    """The bytes of [*start*, *end*) one after the other, given the *pieces* that are no holes."""
    result: list[B] = []
    for offset, data in pieces:
        if offset > start:
            result += _hole(offset - start)
        result.append(data)
        start = offset + len(data)
    if end > start:
        result += _hole(end - start)
    return result


def _hole(length: int) -> list[bytes]:
    return [zeros(min(len(_ZEROS), length - at)) for at in range(0, length, len(_ZEROS))]


_COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\0"
_COPY_HEAD_BYTES: Final = 19  # with flags and the length of an extension, which are 0
_short = struct.Struct("!h").unpack_from
_integer = struct.Struct("!i").unpack_from
_bigint = struct.Struct("!q").unpack


class _Copied:
    """Receives the rows of `_READ_BLOB` or `_READ_FILE` from a COPY, and writes their bytes into a buffer."""

    def __init__(self, buffer: bytearray, start: int) -> None:
        self._buffer = memoryview(buffer)
        self._start = start
        self._begin()

    def _begin(self) -> None:
        self.rows = 0
        self.size = 0
        self._runs: list[tuple[int, int]] = []  # ranges of the buffer that have bytes

    def request(self, sql: str, *values: int) -> CopyOut:
        # COPY takes no parameters.
        with_values = re.sub(r"\$(\d)", lambda match: f"{values[int(match[1]) - 1]:d}::bigint", sql)
        return CopyOut(f"COPY ({with_values}) TO STDOUT (FORMAT binary)", self._take)

    def _take(self, row: bytes | memoryview) -> None:
        """One block: a row, the first one behind the header of the format; or the trailer."""
        block = memoryview(row)
        at = 0
        if bytes(block[: len(_COPY_HEAD)]) == _COPY_HEAD:
            self._begin()
            at = _COPY_HEAD_BYTES
        if len(block) < at + 6:
            return
        fields: list[memoryview | None] = []
        (count,) = _short(block, at)
        at += 2
        for _ in range(count):
            (length,) = _integer(block, at)
            at += 4
            fields.append(None if length < 0 else block[at : at + length])
            at += max(length, 0)
        self.rows += 1
        offset, data, *of_file = fields
        if of_file and of_file[0] is not None:
            (self.size,) = _bigint(of_file[0])
        if of_file and of_file[1] is not None:
            self._put(self._start, of_file[1])
        elif offset is not None and data is not None:
            self._put(_bigint(offset)[0], data)

    def _put(self, offset: int, data: memoryview) -> None:
        start, end = offset - self._start, offset - self._start + len(data)
        self._buffer[start:end] = data
        if self._runs and self._runs[-1][1] == start:
            self._runs[-1] = (self._runs[-1][0], end)
        elif start < end:
            self._runs.append((start, end))

    def pieces(self) -> list[PieceView]:
        return [(self._start + start, self._buffer[start:end]) for start, end in sorted(self._runs)]
