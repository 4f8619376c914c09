"""New contents of a file, written before anything refers to them.

Bytes are written into a blob that belongs to the client's session, a batch at a time and outside any transaction, so that writing a
large file holds no locks and needs little memory. The commit gives the blob to an inode and takes it from the session. A blob that
never gets an inode is collected when it is abandoned, or with its session.

In a transaction the blob is simply part of the transaction.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from pgstore import errors
from pgstore.client.notifications import in_transaction
from pgstore.client.session import Session
from pgstore.client.undo import on_rollback
from pgstore.core.operation import Autonomous, Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.candidates import note_blobs, note_chunks
from pgstore.fs.content.blobs import BATCH_BYTES, FILE_BYTES_MAX, INLINE_BYTES_MAX, BlobWriter, filled, read_blob, zeros
from pgstore.fs.model import Contents, StoreGone

# The first $4 chunks of blob $3 become chunks of the new blob $2, too. The foreign key of the extents locks them: collection skips
# them, or has deleted them, and then this fails.
SHARE_EXTENTS = Statement(
    """
    INSERT INTO pgstore.extent (store_id, blob_id, position, chunk_id, is_owned)
    SELECT $1, $2, e.position, e.chunk_id, false
      FROM pgstore.extent e
     WHERE e.store_id = $1
       AND e.blob_id = $3
       AND e.position::integer < $4
    """,
    "int8 int8 int8 int8",
)
WRITE = Statement("SELECT pgstore.blob_write($1, $2, $3, $4, $5)", "int8 int8 int4 int8 bytea")
CUT = Statement(
    f"""
    WITH gone AS (
         DELETE FROM pgstore.extent
          WHERE store_id = $1
            AND blob_id = $2
            AND position::integer >= $3
         RETURNING chunk_id
    )
    {note_chunks("gone")}
    """,
    "int8 int8 int8",
)
# No row: the session was silent for too long, and collection has taken the blob from it.
RELEASE = Statement(
    "UPDATE pgstore.blob SET session_id = NULL WHERE store_id = $1 AND id = $2 AND session_id = $3", "int8 int8 int8"
)
ABANDON = Statement(
    f"""
    WITH abandoned AS (
         UPDATE pgstore.blob
            SET session_id = NULL
          WHERE store_id = $1
            AND id = $2
            AND session_id = $3
         RETURNING id AS blob_id
    )
    {note_blobs("abandoned")}
    """,
    "int8 int8 int8",
)


class Staged:
    """
    Contents being written: anywhere, but quickest at the end.

    `finish` stores what is still buffered. `hand_over`, in the transaction that makes an inode of the contents, returns where they
    are. `abandon` deletes them.
    """

    def __init__(self, store_id: int, session: Session, *, autonomous: bool) -> None:
        self.store_id = store_id
        self._session = session
        self._session_id: int | None = None
        self._autonomous = autonomous  # written outside transactions, even if one is current by then
        self._blob: BlobWriter | None = None
        self._buffer = bytearray()  # the bytes behind the end of the blob, and room for more
        self._filled = 0  # bytes of the buffer that are in use
        self._is_broken = False
        self._is_undone = False  # something that was written has been rolled back
        self._written_to: int | None = None  # the server that has it, perhaps not on its disk yet
        self._pid = os.getpid()

    @classmethod
    def begin(cls, store_id: int, session: Session) -> Op[Staged]:
        """Contents that belong to the transaction that is current now, or to none."""
        inside = yield from in_transaction()
        return cls(store_id, session, autonomous=not inside)

    def begin_with(self, old: Contents, chunk_size: int | None) -> Op[None]:
        """Begin with the bytes of an existing file. Its whole chunks are shared, the rest is copied."""
        if old.blob_id is None or chunk_size is None:
            yield from self._add(old.inline_data or b"")
            return
        whole = old.size_bytes // chunk_size
        present = yield from read_blob(self.store_id, old.blob_id, whole * chunk_size, max(old.size_bytes, 1))
        if whole:
            yield from self._do(self._share(old.blob_id, chunk_size, whole))
        yield from self._add(b"".join(filled(present, whole * chunk_size, old.size_bytes)))

    def _share(self, blob_id: int, chunk_size: int, chunks: int) -> Op[None]:
        blob = yield from self._new_blob(chunk_size)
        yield Many([*blob.begin(), Query(SHARE_EXTENTS, self.store_id, blob.blob_id, blob_id, chunks)])
        blob.size_bytes = chunks * chunk_size
        self._blob = blob

    def _new_blob(self, chunk_size: int | None = None) -> Op[BlobWriter]:
        self._session_id = yield Autonomous(self._session.current())
        is_alone = not (yield from in_transaction())
        if is_alone:
            self._written_to = self._session.server
        # Where a crash would go unnoticed each write waits for the disk.
        durable = self._written_to is None
        blob = BlobWriter(self.store_id, session_id=self._session_id, is_alone=is_alone, durable=durable)
        try:
            yield from blob.reserve(chunk_size=chunk_size)
        except StoreGone:
            raise errors.NotFoundError("the store of the open file was deleted") from None
        return blob

    def _do(self, body: Op[None]) -> Op[None]:
        if self._pid != os.getpid():
            raise errors.InvalidError("the file was opened by the process that this one was forked from; open it here")
        self._check_usable()
        self._is_broken = True  # until it has succeeded: after an error it is unknown how much was stored
        try:
            if self._autonomous:
                yield Autonomous(body)
            else:
                yield from body
        except errors.StatementFailed:  # the row of the blob may be lost
            self._check_server()
            raise
        self._is_broken = False

    def _check_usable(self) -> None:
        if self._is_undone:
            raise errors.InvalidError(
                "what was written to this file was undone with the block that it was written in, and nothing of it is kept; "
                "write it anew"
            )
        if self._is_broken:
            raise errors.InvalidError("an earlier write to this file failed, and nothing of it is kept; write it anew")

    def _check_server(self) -> None:
        if self._written_to not in (None, self._session.server):
            raise errors.StaleFile(
                "the server crashed or was replaced while the file was written, and has perhaps lost a part; write the file again"
            )

    def _note(self) -> Op[None]:
        """Find out when what is about to be written is rolled back: these contents are incomplete then, and cannot be used."""
        if not self._autonomous:
            yield from on_rollback(self._undone, of=self)

    def _undone(self) -> None:
        self._is_undone = True

    @property
    def _tail_start(self) -> int:
        return 0 if self._blob is None else self._blob.size_bytes

    @property
    def size(self) -> int:
        return self._tail_start + self._filled

    # ----------------------------------------------------------------------------------------------------- writing

    def write(self, offset: int, data: bytes | memoryview) -> Op[None]:
        """Write *data* at *offset*, after a hole where that is beyond the end."""
        if offset + len(data) > FILE_BYTES_MAX:
            raise errors.FileTooLarge(f"a file of {offset + len(data)} bytes; at most {FILE_BYTES_MAX} are possible")
        yield from self._note()
        yield from self._grow(offset)
        if offset < self._tail_start:
            before = data[: self._tail_start - offset]
            yield from self._do(self._overwrite(offset, bytes(before)))
            offset, data = offset + len(before), data[len(before) :]
            if not data:
                return
        start = offset - self._tail_start
        inside = data[: self._filled - start]
        self._buffer[start : start + len(inside)] = inside
        yield from self._add(data[len(inside) :])

    def _grow(self, size: int) -> Op[None]:
        """Add zeros up to *size*."""
        if size - self.size > BATCH_BYTES:
            yield from self._do(self._skip_to(size))
        if size > self.size:
            yield from self._add(zeros(size - self.size))

    def _skip_to(self, size: int) -> Op[None]:
        """Leave a hole of whole chunks, if there is one before *size*."""
        if self._blob is None:
            self._blob = yield from self._new_blob()
        blob = self._blob
        padded = self._filled + -self._filled % blob.chunk_size
        if blob.size_bytes + padded > size:
            return
        self._make_room(padded)
        self._buffer[self._filled : padded] = zeros(padded - self._filled)
        yield from blob.write(memoryview(self._buffer)[:padded])
        self._filled = 0
        blob.size_bytes = size // blob.chunk_size * blob.chunk_size

    def _make_room(self, size: int) -> None:
        if size > len(self._buffer):
            # A new buffer, not a longer one: memory that is not used is then never touched.
            larger = bytearray(INLINE_BYTES_MAX if size <= INLINE_BYTES_MAX else max(BATCH_BYTES, size))
            larger[: self._filled] = memoryview(self._buffer)[: self._filled]
            self._buffer = larger

    def _add(self, data: bytes | memoryview) -> Op[None]:
        while len(data):
            if self._filled >= BATCH_BYTES:
                yield from self._do(self._store_chunks())
            self._make_room(min(BATCH_BYTES, self._filled + len(data)))
            piece = data[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
            data = data[len(piece) :]

    def _store_chunks(self) -> Op[None]:
        """Store the whole chunks of the buffer, and make room in it."""
        if self._blob is None:
            self._blob = yield from self._new_blob()
        blob = self._blob
        whole = self._filled // blob.chunk_size * blob.chunk_size
        if whole:
            yield from blob.write(memoryview(self._buffer)[:whole])
            self._buffer[: self._filled - whole] = self._buffer[whole : self._filled]
            self._filled -= whole
        self._make_room(max(BATCH_BYTES, blob.chunk_size))

    def _overwrite(self, offset: int, data: bytes) -> Op[None]:
        blob = self._blob
        assert blob is not None
        for start in range(0, len(data), BATCH_BYTES):
            piece = data[start : start + BATCH_BYTES]
            yield Many(
                [*blob.begin(), Query(WRITE, self.store_id, blob.blob_id, blob.chunk_size, offset + start, piece)]
            )

    def truncate(self, size: int) -> Op[None]:
        """Cut the contents, or let them grow by a hole."""
        yield from self._note()
        if size > self.size:
            if size > FILE_BYTES_MAX:
                raise errors.FileTooLarge(f"a file of {size} bytes; at most {FILE_BYTES_MAX} are possible")
            yield from self._grow(size)
        elif size >= self._tail_start:
            self._filled = size - self._tail_start
        else:
            yield from self._do(self._cut(size))

    def _cut(self, size: int) -> Op[None]:
        blob = self._blob
        assert blob is not None
        assert blob.blob_id is not None
        chunks = size // blob.chunk_size
        start = chunks * blob.chunk_size
        tail = b""
        if size > start:
            tail = b"".join(filled((yield from read_blob(self.store_id, blob.blob_id, start, size)), start, size))
        yield Many([*blob.begin(), Query(CUT, self.store_id, blob.blob_id, chunks)])
        blob.size_bytes = start
        self._filled = 0
        self._make_room(len(tail))
        self._buffer[: len(tail)] = tail
        self._filled = len(tail)

    # ------------------------------------------------------------------------------------------------------ the end

    def finish(self) -> Op[None]:
        """Store what is still buffered."""
        if self._blob is None and self.size <= INLINE_BYTES_MAX:
            return
        yield from self._do(self._store_rest())

    def _store_rest(self) -> Op[None]:
        if self._blob is None:
            self._blob = yield from self._new_blob()
        yield from self._store_chunks()
        if self._filled or not self._blob.is_begun:
            yield from self._blob.write(memoryview(self._buffer)[: self._filled], more=False)
            self._filled = 0
        self._buffer = bytearray()

    def hand_over(self) -> Op[Contents]:
        """Take the contents from the session, in the transaction that gives them to an inode. Returns where they are."""
        self._check_usable()
        if self._blob is None:
            return Contents(self._filled, None, bytes(self._buffer[: self._filled]) or None)
        blob_id, size = self._blob.blob_id, self._blob.size_bytes
        if not (yield Query(RELEASE, self.store_id, blob_id, self._session_id)):
            raise errors.StaleFile(
                "the bytes written so far were collected, because this process had been silent for more than ten minutes; "
                "write the file again"
            )
        self._check_server()  # on a connection that was open before a crash nothing is committed any more
        return Contents(size, blob_id, None)

    def abandon(self) -> Op[None]:
        """Delete what was written, by making its blob a candidate for collection."""
        self._buffer, self._filled = bytearray(), 0
        self._is_broken = self._is_undone = False
        self._written_to = None
        if self._abandon_query is not None:
            yield from self._do(_run(self._abandon_query))
            self._blob = None

    def abandoning(self) -> Callable[[], Op[None]] | None:
        """What abandons the blob, for the session to run later; None: there is no blob, or it is that of the parent process."""
        query, self._blob = self._abandon_query, None
        return None if query is None else partial(_run, query)

    @property
    def _abandon_query(self) -> Query | None:
        if self._blob is None or self._pid != os.getpid():
            return None
        return Query(ABANDON, self.store_id, self._blob.blob_id, self._session_id)


def _run(query: Query) -> Op[None]:
    yield query
