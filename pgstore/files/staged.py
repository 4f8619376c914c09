"""New contents of a file, written before anything refers to them.

Bytes go into a blob that belongs to the client's session, a batch at a time and outside any transaction, so that writing a large
file holds no locks and needs little memory. A commit then gives the blob to an inode, and takes it from the session. What is never
attached is collected with its session, or when it is left.

In a transaction the blob is simply part of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pgstore import errors
from pgstore.client.announcements import in_transaction
from pgstore.client.session import Session
from pgstore.client.undo import on_rollback
from pgstore.core.operation import Apart, Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.files.build import Builder, is_directory
from pgstore.files.contents import (
    BATCH_BYTES,
    FILE_BYTES_MAX,
    INLINE_BYTES_MAX,
    BlobWriter,
    Contents,
    StoreGone,
    filled,
    read_blob,
    zeros,
)
from pgstore.files.paths import Names, join
from pgstore.files.tree import Node, Tree, Walk, check_file

FILE_MODE: Final = 0o644

# Whole chunks that the new blob has in common with an old one. Its key leads to the chunks, which collection then leaves alone.
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
    """
    WITH gone AS (
         DELETE FROM pgstore.extent
          WHERE store_id = $1
            AND blob_id = $2
            AND position::integer >= $3
         RETURNING chunk_id)
    INSERT INTO pgstore.chunk_left (store_id, chunk_id)
    SELECT $1, g.chunk_id
      FROM gone g
    ON CONFLICT (store_id, chunk_id) DO UPDATE SET left_at = greatest(excluded.left_at, chunk_left.left_at)
    """,
    "int8 int8 int8",
)
# No row: the session was silent for too long, and the blob went with it.
RELEASE = Statement(
    "UPDATE pgstore.blob SET session_id = NULL WHERE store_id = $1 AND id = $2 AND session_id = $3", "int8 int8 int8"
)
LEAVE = Statement(
    """
    WITH left_now AS (
         UPDATE pgstore.blob
            SET session_id = NULL
          WHERE store_id = $1
            AND id = $2
            AND session_id = $3
         RETURNING id)
    INSERT INTO pgstore.blob_left (store_id, blob_id)
    SELECT $1, l.id
      FROM left_now l
    ON CONFLICT (store_id, blob_id) DO UPDATE SET left_at = greatest(excluded.left_at, blob_left.left_at)
    """,
    "int8 int8 int8",
)


class Staged:
    """
    Contents being written; anywhere, though to the end is what it is made for.

    `finish` stores what is left, `settle` gives the contents and is run in the transaction that makes an inode of them; after
    `leave` there is nothing.
    """

    def __init__(self, store_id: int, session: Session, *, apart: bool) -> None:
        self.store_id = store_id
        self._session = session
        self._session_id: int | None = None
        self._apart = apart  # from a transaction that is current later
        self._blob: BlobWriter | None = None
        self._buffer = bytearray()  # the end of the file, from where the blob ends, and room for more
        self._filled = 0  # bytes of the buffer
        self._is_broken = False
        self._is_undone = False  # what was written since some savepoint was undone
        self._pid = os.getpid()

    @classmethod
    def begin(cls, store_id: int, session: Session) -> Op[Staged]:
        """Contents that belong to the transaction that is current now, or to none."""
        inside = yield from in_transaction()
        return cls(store_id, session, apart=not inside)

    def begin_with(self, old: Contents, chunk_size: int | None) -> Op[None]:
        """Begin with the bytes that a file has, sharing its chunks but the last."""
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
        self._session_id = yield Apart(self._session.current())
        relaxed = not (yield from in_transaction())
        blob = BlobWriter(self.store_id, session_id=self._session_id, relaxed=relaxed)
        try:
            yield from blob.reserve(chunk_size=chunk_size)
        except StoreGone:
            raise errors.NotFoundError("the store of the open file was deleted") from None
        return blob

    def _do(self, body: Op[None]) -> Op[None]:
        if self._pid != os.getpid():
            raise errors.InvalidError("the file was opened by the process that this one was forked from; open it here")
        self._check_usable()
        self._is_broken = True  # unless all goes well: else nobody knows how much was stored
        if self._apart:
            yield Apart(body)
        else:
            yield from body
        self._is_broken = False

    def _check_usable(self) -> None:
        if self._is_undone:
            raise errors.InvalidError(
                "what was written to this file was undone with the block that it was written in, and nothing of it is kept; "
                "write it anew"
            )
        if self._is_broken:
            raise errors.InvalidError("an earlier write to this file failed, and nothing of it is kept; write it anew")

    def _note(self) -> Op[None]:
        """What is written in a transaction, or a savepoint, that is rolled back is nowhere: the file is then of no use any more."""
        if not self._apart:
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
            # Not by extending: what is not used is then not touched.
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
        """Store the whole chunks of the buffer; afterwards there is room in it."""
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
        """Store what is left to store."""
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

    def settle(self) -> Op[Contents]:
        """The contents, which are given to a file by the running transaction."""
        self._check_usable()
        if self._blob is None:
            return Contents(self._filled, None, bytes(self._buffer[: self._filled]) or None)
        blob_id, size = self._blob.blob_id, self._blob.size_bytes
        if not (yield Query(RELEASE, self.store_id, blob_id, self._session_id)):
            raise errors.StaleFile(
                "the bytes written so far were collected, because this process had been silent for more than ten minutes; "
                "write the file again"
            )
        return Contents(size, blob_id, None)

    def leave(self) -> Op[None]:
        """Give up what was written."""
        self._buffer, self._filled = bytearray(), 0
        self._is_broken = self._is_undone = False
        if self._left is not None:
            yield from self._do(_run(self._left))
            self._blob = None

    def leaving(self) -> Callable[[], Op[None]] | None:
        """What gives up the blob, for somebody else to run later; None: there is none, or it is another process's."""
        query, self._blob = self._left, None
        return None if query is None else partial(_run, query)

    @property
    def _left(self) -> Query | None:
        if self._blob is None or self._pid != os.getpid():
            return None
        return Query(LEAVE, self.store_id, self._blob.blob_id, self._session_id)


def _run(query: Query) -> Op[None]:
    yield query


def attach(tree: Tree, staged: Staged, names: Names, *, exclusive: bool) -> Op[None]:
    """Let the path *names* lead to a file of what was staged, in place of one that is there; *exclusive*: only if nothing is."""
    walk = yield from tree.place(names)
    check_writable(walk, names, exclusive=exclusive)
    mode = FILE_MODE if walk.node is None else walk.node.mode
    builder = Builder(tree)
    parent = yield from builder.directory(walk.names[:-1], walk)
    contents = yield from staged.settle()
    yield from builder.reserve(1)
    ino = builder.file(parent, walk.names[-1], mode, None, contents, exclusive=exclusive, was_free=walk.node is None)
    yield from builder.send()
    if walk.node is not None and (kept := _beside_mode(walk.node)):
        yield from tree.changes.set_attributes(ino, "f", kept, walk.names)


def _beside_mode(node: Node) -> dict[str, Any]:
    """What else a file keeps that is opened and written anew, of what most have not."""
    kept = {"uid": node.uid, "gid": node.gid, "xattrs": node.xattrs}
    return {name: value for name, value in kept.items() if value}


def check_writable(walk: Walk, names: Names, *, exclusive: bool) -> None:
    """Raise an error if *walk* leads to something that cannot become, or be replaced by, a file."""
    check_file(walk)
    if walk.node is None:
        return
    if walk.node.is_directory:
        raise is_directory(names)
    if exclusive:
        raise errors.FileExists(f"{join(names)!r} exists", join(names))
