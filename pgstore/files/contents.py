"""The bytes of a file: in its inode's row up to 64 KiB, else in chunks.

A blob is one state of a file's bytes: an `extent` row for each range of `chunk_size_bytes` that is not all zeros, naming a chunk.
Ranges without a row are holes and read as zeros. Blobs never change once an inode refers to them, so a read of many statements
that stays on the blob it began with sees one state of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from pgstore.core.operation import Call, Many, Op, Query
from pgstore.core.statement import Statement

INLINE_BYTES_MAX: Final = 64 * 1024  # a CHECK of the table inode
BATCH_BYTES: Final = 4 * 1024 * 1024  # in memory at a time
LARGE_FILE_BYTES: Final = 64 * 1024 * 1024  # a file above it has chunks of LARGE_CHUNK_BYTES
LARGE_CHUNK_BYTES: Final = 1024 * 1024
_FIRST_CHUNKS: Final = 16  # ids to begin with

RESERVE_BLOB = Statement(
    "SELECT nextval('pgstore.blob_id_seq'), f.chunk_size_bytes FROM pgstore.file_system f WHERE f.store_id = $1",
    "int8",
)
RESERVE_CHUNKS = Statement("SELECT nextval('pgstore.chunk_id_seq') FROM generate_series(1, $1)", "int4")
INSERT_BLOB = Statement(
    "INSERT INTO pgstore.blob (store_id, id, chunk_size_bytes) VALUES ($1, $2, $3)", "int8 int8 int4"
)
INSERT_CHUNK = Statement("INSERT INTO pgstore.chunk (store_id, id, data) VALUES ($1, $2, $3)", "int8 int8 bytea")
INSERT_EXTENTS = Statement(
    """
    INSERT INTO pgstore.extent (store_id, blob_id, position, chunk_id)
    SELECT $1, $2, u.position, u.chunk_id
      FROM unnest($3, $4) AS u (position, chunk_id)
    """,
    "int8 int8 int4[] int8[]",
)
# LATERAL with LIMIT: one look at the key of `chunk` for each extent. A join might read all chunks, planned while there were few.
READ_CHUNKS = Statement(
    """
    SELECT e.position, c.data
      FROM pgstore.extent e
     CROSS JOIN LATERAL (
           SELECT k.data
             FROM pgstore.chunk k
            WHERE k.store_id = $1
              AND k.id = e.chunk_id
            LIMIT 1) c
     WHERE e.store_id = $1
       AND e.blob_id = $2
       AND e.position BETWEEN $3 AND $4
     ORDER BY e.position
    """,
    "int8 int8 int4 int4",
    reads=True,
)


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
    rows, ids = yield Many([Query(RESERVE_BLOB, store_id), Query(RESERVE_CHUNKS, _FIRST_CHUNKS)])
    if not rows:
        raise StoreGone
    blob_id, chunk_size = rows[0]
    if size_hint is not None and size_hint > LARGE_FILE_BYTES:
        chunk_size = max(chunk_size, LARGE_CHUNK_BYTES)
    blob = _Blob(store_id, blob_id, chunk_size)
    size = yield from _write_chunks(blob, first, read, [row[0] for row in ids], progress)
    return Contents(size, blob_id, None)


class _Blob(NamedTuple):
    store_id: int
    blob_id: int
    chunk_size: int


def _write_chunks(
    blob: _Blob, begun: bytes, read: Callable[[int], bytes], ids: list[int], progress: Callable[[int], object]
) -> Op[int]:
    """Write chunks, a batch at a time, until *read* ends; *begun* are its first bytes. Returns the number of bytes."""
    chunks_max = -(-BATCH_BYTES // blob.chunk_size)
    batch_bytes = chunks_max * blob.chunk_size
    queries = [Query(INSERT_BLOB, *blob)]
    position = size = 0
    more = len(begun) == BATCH_BYTES
    while more or begun:
        batch, begun = begun, b""
        if more and (rest := batch_bytes - len(batch)):
            batch += yield Call(partial(read, rest))
            more = len(batch) == batch_bytes
        pieces = _pieces(batch, blob.chunk_size, position)
        if len(ids) < len(pieces):
            ids += [row[0] for row in (yield Query(RESERVE_CHUNKS, len(pieces) - len(ids)))]
        taken, ids = ids[: len(pieces)], ids[len(pieces) :]
        for chunk_id, (_, data) in zip(taken, pieces, strict=True):
            queries.append(Query(INSERT_CHUNK, blob.store_id, chunk_id, data))
        if pieces:
            queries.append(Query(INSERT_EXTENTS, blob.store_id, blob.blob_id, [place for place, _ in pieces], taken))
        # The ids of the next batch come back with this one, in no round trip of their own.
        *_, reserved = yield Many([*queries, Query(RESERVE_CHUNKS, max(0, chunks_max - len(ids)) if more else 0)])
        ids += [row[0] for row in reserved]
        queries = []
        position += chunks_max
        size += len(batch)
        progress(len(batch))
    return size


def _pieces(batch: bytes, chunk_size: int, position: int) -> list[tuple[int, bytes]]:
    """The chunks of *batch* that are not all zeros, with their positions in the blob; the first is at *position*."""
    pieces = ((start, batch[start : start + chunk_size]) for start in range(0, len(batch), chunk_size))
    return [(position + start // chunk_size, piece) for start, piece in pieces if piece != zeros(len(piece))]


_ZEROS: Final = bytes(LARGE_CHUNK_BYTES)


def zeros(length: int) -> bytes:
    return _ZEROS[:length] if length <= len(_ZEROS) else bytes(length)


def read_chunks(store_id: int, blob_id: int, chunk_size: int, start: int, end: int) -> Op[list[tuple[int, bytes]]]:
    """
    The chunks that hold bytes of [*start*, *end*), as (offset in the file, bytes), in order; holes are left out.

    Whole chunks: the first and last may reach beyond the range. Ask for at most `BATCH_BYTES` at a time.
    """
    rows = yield Query(READ_CHUNKS, store_id, blob_id, start // chunk_size, (end - 1) // chunk_size)
    return [(position * chunk_size, data) for position, data in rows]


def filled(pieces: list[tuple[int, bytes]], start: int, end: int) -> list[bytes]:
    """What `read_chunks` gave for [*start*, *end*) as pieces that follow each other: holes filled, cut to the range."""
    result: list[bytes] = []
    for offset, data in pieces:
        if offset > start:
            result += _hole(offset - start)
            start = offset
        piece = data[start - offset : end - offset] if offset < start or offset + len(data) > end else data
        result.append(piece)
        start += len(piece)
    return result + _hole(end - start)


def _hole(length: int) -> list[bytes]:
    return [zeros(min(len(_ZEROS), length - at)) for at in range(0, length, len(_ZEROS))]
