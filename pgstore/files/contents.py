"""The bytes of a file: in its inode's row up to 64 KiB, else in chunks.

A blob is one state of a file's bytes: an `extent` row for each range of `chunk_size_bytes` that is not all zeros, naming a chunk.
Ranges without a row are holes and read as zeros. A chunk may be shorter than its range, the rest of which reads as zeros too.

In a Volume blobs never change once an inode refers to them, so a read of many statements that stays on the blob it began with sees
one state of the file. In a NetworkFileSystem they are written in place (see `live`): there a statement sees one state.

Where a chunk's bytes are, in its row or in a large object, is a matter of the file system; readers need not know.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias, TypeVar

from pgstore import errors
from pgstore.core.operation import Call, CopyOut, Many, Op, Query, Rows
from pgstore.core.statement import Statement

INLINE_BYTES_MAX: Final = 64 * 1024  # a CHECK of the database too
BATCH_BYTES: Final = 4 * 1024 * 1024  # in memory at a time
COPY_BYTES: Final = 16 * 1024 * 1024  # the same, where reading fast is all that matters
LARGE_FILE_BYTES: Final = 64 * 1024 * 1024  # a file above it has chunks of LARGE_CHUNK_BYTES
LARGE_CHUNK_BYTES: Final = 1024 * 1024
FILE_BYTES_MAX: Final = 1 << 44  # 2^31 chunks of 8 KiB
_FIRST_CHUNKS: Final = 16  # ids to begin with
UNIQUE_VIOLATION: Final = "23505"
_ATTEMPTS: Final = 4  # over connections that break

RESERVE_BLOB = Statement(
    """
    SELECT nextval('pgstore.blob_id_seq'::regclass), f.chunk_size_bytes, f.storage
      FROM pgstore.file_system f
     WHERE f.store_id = $1
    """,
    "int8",
)
RESERVE_CHUNKS = Statement("SELECT nextval('pgstore.chunk_id_seq'::regclass) FROM generate_series(1, $1)", "int4")
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
HAS_CHUNK = Statement("SELECT 1 FROM pgstore.chunk WHERE store_id = $1 AND id = $2", "int8 int8", reads=True)
HAS_BLOB = Statement("SELECT 1 FROM pgstore.blob WHERE store_id = $1 AND id = $2", "int8 int8", reads=True)
# Uploads outside a transaction: what a crash may take was not promised to anybody yet, and the commit that gives the file its
# name flushes all that was written before it.
RELAX = Statement("SELECT set_config('synchronous_commit', 'off', true)")

# What blob b has of [$3, $4): a row for each chunk, with where its bytes begin in the file; one without bytes if there is none.
#
# LATERAL with LIMIT: one look at the key of `chunk` for each extent. A join might read all chunks, planned while there were few.
# Whole chunks are given as they are: `substring` copies what is copied for sending anyway. The order is that of the key
# of `extent`: ordering the result, bytes and all, could take memory for all of it. A join promises no order, so the client looks.
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
# Joined to the blob itself: no row means that it was collected, and not that all of it is holes.
_READ_BLOB: Final = f"""
    SELECT p.start, p.data
      FROM pgstore.blob b
      {_PIECES}
     WHERE b.store_id = $1
       AND b.id = $2
"""
READ_BLOB = Statement(_READ_BLOB, "int8 int8 int8 int8", reads=True)
# The same of the newest state of an inode, with its size: one statement, so one state.
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
       AND i.version_to = 9223372036854775807
"""
READ_FILE = Statement(_READ_FILE, "int8 int8 int8 int8", reads=True)

Bytes: TypeAlias = bytes | memoryview
Piece: TypeAlias = tuple[int, bytes]  # where in the file, what
PieceView: TypeAlias = tuple[int, Bytes]  # the same, perhaps as a part of something larger
B = TypeVar("B", bytes, Bytes)


class Contents(NamedTuple):
    """Where the bytes of a file are: at most one of the two; neither: it is empty."""

    size_bytes: int
    blob_id: int | None
    inline_data: bytes | None


class StoreGone(Exception):
    """The file system does not exist any more."""


def write(
    store_id: int, read: Callable[[int], bytes], size_hint: int | None, progress: Callable[[int], object]
) -> Op[Contents]:
    """
    Store all that *read* gives, and return where it is. Runs in a transaction, and shows nothing to others.

    Args:
        read: called with a number of bytes, gives so many; fewer only at the end. Blocking.
        size_hint: about how much there is to read, which decides on the size of chunks; None: unknown.
        progress: called with the number of bytes stored since the last call.
    """
    first: bytes = yield Call(lambda: read(BATCH_BYTES))
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


class BlobWriter:
    """A new blob, written from the beginning to the end. *session_id*: whose it is until an inode refers to it."""

    def __init__(self, store_id: int, *, session_id: int | None = None, relaxed: bool = False) -> None:
        self.store_id = store_id
        self.blob_id: int | None = None  # None until `reserve`
        self.chunk_size = 0
        self.size_bytes = 0
        self._session_id = session_id
        self._relaxed = relaxed
        self.is_begun = False
        self._insert_chunk = INSERT_CHUNK
        self._ids: list[int] = []  # of chunks to come

    def reserve(self, size_hint: int | None = None, *, chunk_size: int | None = None) -> Op[None]:
        """Give the blob its id, and its size of chunks: *chunk_size*, else what suits *size_hint* bytes."""
        rows, ids = yield Many([Query(RESERVE_BLOB, self.store_id), Query(RESERVE_CHUNKS, _FIRST_CHUNKS)])
        if not rows:
            raise StoreGone
        self.blob_id, default_size, storage = rows[0]
        if size_hint is not None and size_hint > LARGE_FILE_BYTES:
            default_size = max(default_size, LARGE_CHUNK_BYTES)
        self.chunk_size = default_size if chunk_size is None else chunk_size
        self._ids = [row[0] for row in ids]
        if storage == "l":
            self._insert_chunk = CREATE_OBJECT

    @property
    def batch_bytes(self) -> int:
        """How much to write at once: whole chunks, about `BATCH_BYTES`."""
        return -(-BATCH_BYTES // self.chunk_size) * self.chunk_size

    def write(self, batch: Bytes, *, more: bool = True) -> Op[None]:
        """Add *batch* at the end, which is where a chunk ends. *more*: to expect another."""
        pieces = _pieces(batch, self.chunk_size, self.size_bytes // self.chunk_size)
        if len(self._ids) < len(pieces):
            self._ids += [row[0] for row in (yield Query(RESERVE_CHUNKS, len(pieces) - len(self._ids)))]
        taken, self._ids = self._ids[: len(pieces)], self._ids[len(pieces) :]
        queries = self.begin()
        for chunk_id, (_, data) in zip(taken, pieces, strict=True):
            queries.append(Query(self._insert_chunk, self.store_id, chunk_id, data))
        if pieces:
            queries.append(Query(INSERT_EXTENTS, self.store_id, self.blob_id, [place for place, _ in pieces], taken))
        # The ids of the next batch come back with this one, in no round trip of their own.
        lacking = max(0, self.batch_bytes // self.chunk_size - len(self._ids)) if more else 0
        done = Query(HAS_CHUNK, self.store_id, taken[-1]) if taken else Query(HAS_BLOB, self.store_id, self.blob_id)
        reserved = yield from self._send([*queries, Query(RESERVE_CHUNKS, lacking)], done)
        self._ids += [row[0] for row in reserved]
        self.size_bytes += len(batch)

    def _send(self, queries: list[Query], done: Query) -> Op[Rows]:
        """
        Run *queries* in one transaction, and return the result of the last.

        A connection that breaks meanwhile does no harm where that is a transaction of its own: what is written has ids that were
        reserved for it, by which *done* finds out whether it was, and which are in the way of a second time.
        """
        for attempts_left in range(_ATTEMPTS - 1, -1, -1):
            try:
                return (yield Many(queries))[-1]  # type: ignore[no-any-return]
            except (errors.OutcomeUnknown, errors.StatementFailed) as exc:
                if not self._relaxed or not attempts_left:
                    raise
                if isinstance(exc, errors.StatementFailed) and exc.sqlstate != UNIQUE_VIOLATION:
                    raise
            if (yield done):
                break
        return []

    def begin(self) -> list[Query]:
        """What has to be run before anything else in the same round trip."""
        queries = [Query(RELAX)] if self._relaxed else []
        if not self.is_begun:
            self.is_begun = True
            queries.append(Query(INSERT_BLOB, self.store_id, self.blob_id, self.chunk_size, self._session_id))
        return queries


def _pieces(batch: Bytes, chunk_size: int, position: int) -> list[tuple[int, memoryview]]:
    """The chunks of *batch* that are not all zeros, with their positions in the blob; the first is at *position*."""
    view = memoryview(batch)
    pieces = ((start, view[start : start + chunk_size]) for start in range(0, len(view), chunk_size))
    return [(position + start // chunk_size, piece) for start, piece in pieces if not _is_zeros(piece)]


def _is_zeros(piece: memoryview) -> bool:
    # Comparing views takes a thousand times as long as comparing bytes, and copying them costs, too: most need neither.
    return not (piece[0] or piece[-1] or piece[len(piece) // 2]) and bytes(piece) == zeros(len(piece))


_ZEROS: Final = bytes(LARGE_CHUNK_BYTES)


def zeros(length: int) -> bytes:
    return _ZEROS[:length] if length <= len(_ZEROS) else bytes(length)


# --------------------------------------------------------------------------------------------------------------- reading


def read_blob(store_id: int, blob_id: int, start: int, end: int) -> Op[list[Piece]]:
    """
    What there is of [*start*, *end*), in order; holes are left out. Ask for at most `BATCH_BYTES` at a time.

    Raises:
        StaleFile: the blob was collected: its file is gone, and no version that anybody reads has it.
    """
    rows = yield Query(READ_BLOB, store_id, blob_id, start, end)
    if not rows:
        raise _collected(blob_id)
    return sorted(((offset, data) for offset, data in rows if data), key=itemgetter(0))


def copy_blob(store_id: int, blob_id: int, start: int, end: int, buffer: bytearray) -> Op[list[PieceView]]:
    """
    `read_blob` for much at once: quicker by a third, but planned anew each time.

    Args:
        buffer: of at least *end* - *start* bytes, which are left in it. Using it again and again is much of what makes this quick.
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


def read_file(store_id: int, ino: int, start: int, end: int) -> Op[tuple[int, list[Piece]]]:
    """
    The size of file *ino* as it is now, and what there is of [*start*, *end*), as `read_blob` has it.

    Raises:
        StaleFile: there is no such inode any more.
    """
    rows = yield Query(READ_FILE, store_id, ino, start, end)
    if not rows:
        raise stale(ino)
    size, inline = rows[0][2:]
    if inline:
        return size, [(start, inline)]
    return size, sorted(((offset, data) for offset, data, _, _ in rows if data), key=itemgetter(0))


def copy_file(store_id: int, ino: int, start: int, end: int, buffer: bytearray) -> Op[tuple[int, list[PieceView]]]:
    """`read_file` as `copy_blob` does it."""
    copied = _Copied(buffer, start)
    yield copied.request(_READ_FILE, store_id, ino, start, end)
    if not copied.rows:
        raise stale(ino)
    return copied.size, copied.pieces()


def stale(ino: int) -> errors.StaleFile:
    return errors.StaleFile(f"the open file (inode {ino}) was removed and then collected; nothing of it is left")


def filled(pieces: list[tuple[int, B]], start: int, end: int) -> list[B]:
    """*pieces*, which are within [*start*, *end*), as bytes that follow each other: holes filled."""
    result: list[B] = []
    for offset, data in pieces:
        if offset > start:
            result += _hole(offset - start)
        result.append(data)
        start = offset + len(data)
    return result + _hole(end - start)


def _hole(length: int) -> list[bytes]:
    return [zeros(min(len(_ZEROS), length - at)) for at in range(0, length, len(_ZEROS))]


_COPY_HEAD: Final = b"PGCOPY\n\xff\r\n\0"
_COPY_HEAD_BYTES: Final = 19  # with flags and the length of an extension, which are 0
_short = struct.Struct("!h").unpack_from
_integer = struct.Struct("!i").unpack_from
_bigint = struct.Struct("!q").unpack


class _Copied:
    """Takes the rows of `_READ_BLOB` or `_READ_FILE` from a COPY, and puts their bytes where they belong."""

    def __init__(self, buffer: bytearray, start: int) -> None:
        self._buffer = memoryview(buffer)
        self._start = start
        self._begin()

    def _begin(self) -> None:
        self.rows = 0
        self.size = 0
        self._runs: list[tuple[int, int]] = []  # what there is: from, to

    def request(self, sql: str, *values: int) -> CopyOut:
        # COPY takes no parameters.
        with_values = re.sub(r"\$(\d)", lambda match: f"{values[int(match[1]) - 1]:d}::bigint", sql)
        return CopyOut(f"COPY ({with_values}) TO STDOUT (FORMAT binary)", self._take)

    def _take(self, row: bytes | memoryview) -> None:
        """A row; the first with the head of the format, the last without anything else."""
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
