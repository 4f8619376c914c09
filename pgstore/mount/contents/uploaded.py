"""Uploads of a Volume's contents: what is written becomes a new blob, chunk by chunk.

The blob belongs to the client's session until a commit gives it to the inode. Chunks are uploaded as soon as programs have written
all of them; those that were not changed are shared with the blob that the file had. What was uploaded stays in the stage until a
commit has it, so that it can be uploaded again where the server has lost it in a crash, or the session was taken for dead.
"""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Final

from pgstore import errors
from pgstore.core.operation import Many, Op, Query
from pgstore.fs.content.blobs import (
    BATCH_BYTES,
    CREATE_OBJECT,
    INLINE_BYTES_MAX,
    INSERT_BLOB,
    INSERT_EXTENTS,
    LARGE_CHUNK_BYTES,
    LARGE_FILE_BYTES,
    RESERVE_BLOB,
    RESERVE_CHUNKS,
    UNIQUE_VIOLATION,
    data_of_blob,
    filled,
    is_zeros,
    read_blob,
)
from pgstore.fs.content.block_reader import Source
from pgstore.fs.model import IN_LARGE_OBJECTS, Contents
from pgstore.fs.retention.file_pin import FilePin
from pgstore.mount.contents.failures import FOREIGN_KEY_VIOLATION
from pgstore.mount.contents.new_blob import (
    DELETE_EXTENTS,
    HAS_SESSIONS_BLOB,
    SHARE_RANGES,
    BlobLost,
    NewBlob,
    relaxed,
    rows,
)
from pgstore.mount.contents.passing import Passing
from pgstore.mount.contents.ranges import Range, Ranges, ranges_of
from pgstore.mount.contents.shared import UPLOADS_MAX, Shared
from pgstore.mount.contents.under_way import UPLOAD_BYTES

ATTEMPTS: Final = 4  # to upload what is lost again and again
_UNKNOWN: Final = -1  # no server's number
_CHUNKS_AHEAD: Final = 128  # ids that are reserved at a time


class UploadedContents(Passing):
    """
    Contents of which `upload` brings what was written to the database.

    Args:
        base: what the version has; *chunk_size*: of its blob, if it has one.
        since: the version since which it is so; None: the inode is new.
    """

    def __init__(
        self, shared: Shared, ino: int, base: Contents, chunk_size: int | None, since: int | None, mtime_ns: int
    ) -> None:
        super().__init__(shared, ino, base.size_bytes, mtime_ns)
        self.suffix: bytes | None = None
        """Of the name with which it was made, until it is closed."""
        self.is_changed = False
        """Whether something was written since the version."""
        self._blob: NewBlob | None = None
        self._touched = Ranges()  # positions of chunks that are not those of the base; as long as there is a blob
        self._ready = Ranges()  # positions of chunks that were written from end to end and not uploaded yet
        self._evicted = Ranges()  # offsets where the bytes are those of the blob, and are not in the stage any more
        self._chunk_ids: list[int] = []
        self._preparing = threading.Lock()
        self._unclaimed_bytes = 0  # written while there was no blob
        # Of the commit under way.
        self._inline: bytes | None = None  # what it gets instead of a blob
        self._after = Ranges()  # offsets written since that was read
        self._uploads = 0  # calls of `upload` that have not returned
        self._turn = self._turn_done = 0  # of the latest that has begun, and of the one whose result counts
        self._is_frozen = False  # the blob is in its hands
        self._cut_at = base.size_bytes  # the least size since
        self._set_base(base, chunk_size, since)

    def _set_base(self, base: Contents, chunk_size: int | None, since: int | None) -> None:
        self._base = base
        self._base_chunk_size = chunk_size if base.blob_id is not None else None
        self._pin = None if since is None else FilePin(self.shared.session, self.shared.store_id, self.ino, since)
        self._base_end = base.size_bytes

    @property
    def base(self) -> Contents:
        """What the version has."""
        return self._base

    # ------------------------------------------------------------------------------------------------------- reading

    def _below(self, start: int, end: int) -> list[tuple[int, int, Source | bytes]]:
        blob = self._blob
        if blob is None or not self._evicted:
            return self._of_base(start, end)
        parts: list[tuple[int, int, Source | bytes]] = []
        for begin, stop in self._evicted.within(start, end):
            parts += self._of_base(start, begin)
            key = "blob", self.shared.store_id, blob.id, blob.state
            parts.append((begin, stop, Source(key, self.size_bytes, self._reading(blob.id))))
            start = stop
        return parts + self._of_base(start, end)

    def _of_base(self, start: int, end: int) -> list[tuple[int, int, Source | bytes]]:
        end = min(end, self._base_end)
        if start >= end:
            return []
        blob_id = self._base.blob_id
        if blob_id is None:
            return [(start, end, (self._base.inline_data or b"")[start:end])]
        key = "blob", self.shared.store_id, blob_id
        return [(start, end, Source(key, self._base.size_bytes, self._reading(blob_id)))]

    def _reading(self, blob_id: int) -> Callable[[int, int], Op[list[bytes]]]:
        def read(start: int, end: int) -> Op[list[bytes]]:
            return filled((yield from read_blob(self.shared.store_id, blob_id, start, end)), start, end)

        return read

    def _before_reading(self) -> Op[None]:
        if self._pin is not None:
            yield from self._pin.ensure()

    def data_ranges(self, start: int, end: int) -> Ranges:
        with self._lock:
            evicted = self._evicted.within(start, end)
        base = self._base
        if base.blob_id is None:
            return ranges_of(((start, end), *evicted))
        blob_id = base.blob_id
        found = self.shared.persistently(lambda: data_of_blob(self.shared.store_id, blob_id, start, end))
        return ranges_of((*found, *evicted))

    def _not_below(self) -> int:
        return self._staged.held.total + self._evicted.total

    # ------------------------------------------------------------------------------------------------------- writing

    def _note_written(self, start: int, end: int) -> None:
        self._note_changed(start, end)
        blob = self._blob
        if blob is None:
            self._unclaimed_bytes += end - start
            if self._unclaimed_bytes >= UPLOAD_BYTES and not self._jobs:
                self._upload_later(self._take_ready)
            return
        size = blob.chunk_size
        first, last = start // size, -(-end // size)
        self._dirty.add(first, last)
        self._touched.add(first, last)
        for position in range(first, end // size):
            if self._newer.covers(position * size, (position + 1) * size) and not blob.written.covers(
                position, position + 1
            ):
                self._ready.add(position, position + 1)
                self._unclaimed_bytes += size
        if self._unclaimed_bytes >= UPLOAD_BYTES and self._jobs < UPLOADS_MAX and not self._is_frozen:
            self._unclaimed_bytes = 0
            self._upload_later(self._take_ready)

    def _upload_chosen(self, choose: Callable[[], Ranges]) -> None:
        try:
            super()._upload_chosen(choose)
        except BlobLost:  # which no program is to hear of: the next upload finds out what is lost
            self._doubt_blob()

    def _take_ready(self) -> Ranges:
        ready, self._ready = self._ready, Ranges()
        return ready

    def _note_changed(self, start: int, end: int) -> None:
        self.is_changed = True
        self._after.add(start, end)
        if self._evicted:
            self._evicted.remove(start, end)

    def _note_zeroed(self, start: int, end: int) -> None:
        """As `_note_written`; but where there is nothing yet, nothing has to be uploaded."""
        self._note_changed(start, end)
        if self._blob is not None:
            self._touch_without_bytes(start, end, self._blob)

    def _touch_without_bytes(self, start: int, end: int, blob: NewBlob) -> None:
        size = blob.chunk_size
        first, last = start // size, -(-end // size)
        self._touched.add(first, last)
        for position in (first, last - 1):  # which may have bytes beside these
            self._dirty.add(position, position + 1)
        for there in (blob.written, self._uploading):
            for part in there.within(first, last):
                self._dirty.add(*part)
        self._ready.remove(first, last)

    def _note_cut(self, before: int, size: int) -> None:
        self.is_changed = True
        self._cut_at = min(self._cut_at, size)
        if size < before:
            self._evicted.remove(size, before)
            self._after.remove(size, before)
            if self._blob is not None:
                self._touch_without_bytes(size, max(before, self._base.size_bytes), self._blob)

    # ------------------------------------------------------------------------------------------------------- uploads

    def _bytes_of(self, goal: Ranges) -> int:
        return 0 if self._blob is None else goal.total * self._blob.chunk_size

    @property
    def is_dirty(self) -> bool:
        return self.is_changed and (self._blob is None or super().is_dirty or not self._blob.is_whole)

    def upload(self) -> None:
        """Bring to the database all that was written before the call. What comes meanwhile is left to the next commit."""
        self.catch_up()
        with self._changed:
            while self._is_frozen:
                self._changed.wait()
            self._uploads += 1
        try:
            for attempts_left in range(ATTEMPTS - 1, -1, -1):
                try:
                    self._upload_all()
                except BlobLost:
                    if not attempts_left:
                        raise
                    self._doubt_blob()
                else:
                    return
        except BaseException:
            with self._lock:
                self._inline = None  # what was written after it was read may not be known any more
            raise
        finally:
            with self._changed:
                self._uploads -= 1
                self._changed.notify_all()

    def _upload_all(self) -> None:
        with self._lock:
            if not self.is_changed:
                return
            self._turn += 1
            turn, size = self._turn, self.size_bytes
            self._inline = None
            self._after.clear()
            self._cut_at = size
            layers = self._layers(0, size) if size <= INLINE_BYTES_MAX else []
            if size <= INLINE_BYTES_MAX and self._passed is not None:
                self._passed.sent_inline(self._joined(layers, 0, size))
        inline = None
        if size <= INLINE_BYTES_MAX:
            inline = self._joined(layers, 0, size)
        else:
            self._prepare()
            # First: what changes afterwards replaces what was taken over, so that nothing is left out.
            self._take_over_rest()
            super().upload()
        with self._lock:
            if turn < self._turn_done:  # one that began later has finished before
                return
            self._turn_done = turn
            self._inline = inline
            if inline is None:
                assert self._blob is not None
                self._blob.size_bytes = size
                self._blob.is_whole = True

    def _prepare(self) -> None:
        with self._preparing:
            if self._blob is not None and not self._is_intact(self._blob):
                self._find_out_what_is_lost(self._blob)
            if self._blob is None:
                self._make_blob()

    def _is_intact(self, blob: NewBlob) -> bool:
        session = self.shared.session
        return blob.session_id == session.id and (blob.written_to in (None, session.server) or blob.is_safe)

    def _doubt_blob(self) -> None:
        if self._blob is not None:
            self._blob.written_to = _UNKNOWN

    def _find_out_what_is_lost(self, blob: NewBlob) -> None:
        """The server crashed or was replaced, or the session was taken for dead, since the blob was begun."""
        session, store_id = self.shared.session, self.shared.store_id
        self.shared.within_timeout(session.beat)
        is_there = self.shared.within_timeout(lambda: rows(HAS_SESSIONS_BLOB, store_id, blob.id, blob.session_id))
        is_ours = blob.session_id == self.shared.within_timeout(session.current)
        with self._changed:
            self._wait_for_uploads()
            if is_there and is_ours:
                for part in blob.written:
                    for lost in blob.safe.gaps(*part):
                        self._dirty.add(*lost)
                blob.has_rest = blob.is_whole = False
                blob.written_to = session.server
                return
            if self._evicted:
                raise OSError(
                    errno.ESTALE, "what was written to the file, and not committed yet, was lost with its session"
                )
            self._forget_blob()

    def _forget_blob(self) -> None:
        self._blob = None
        self._unclaimed_bytes = 0
        for ranges in (self._dirty, self._touched, self._ready):
            ranges.clear()

    def _make_blob(self) -> None:
        shared = self.shared
        session_id = shared.within_timeout(shared.session.current)
        while True:
            reserved = shared.within_timeout(lambda: rows(RESERVE_BLOB, shared.store_id))
            if not reserved:
                raise OSError(errno.ESTALE, "the store was deleted")
            ((blob_id, chunk_size, storage),) = reserved
            if self._base_chunk_size is not None:
                chunk_size = self._base_chunk_size
            elif self.size_bytes > LARGE_FILE_BYTES:
                chunk_size = max(chunk_size, LARGE_CHUNK_BYTES)
            blob = NewBlob(blob_id, chunk_size, session_id, shared.session.server)
            if storage == IN_LARGE_OBJECTS:
                blob.insert_chunk = CREATE_OBJECT
            if shared.within_timeout(lambda: self._insert_blob(blob)):  # noqa: B023 - called within
                break
        with self._lock:
            self._begin_blob(blob)

    def _insert_blob(self, blob: NewBlob) -> Op[bool]:
        """
        Returns False if there is one of this number.

        It may be that of an attempt whose answer was lost, which its session gives back. Or a crash has made the sequence give out
        the number once more, and it is another file's.
        """
        values = self.shared.store_id, blob.id, blob.chunk_size, blob.session_id
        try:
            yield Many([*relaxed(blob), Query(INSERT_BLOB, *values)])
        except errors.StatementFailed as exc:
            if exc.sqlstate != UNIQUE_VIOLATION:
                raise
            return False
        return True

    def _begin_blob(self, blob: NewBlob) -> None:
        """Find out what has to go into *blob*. With the lock."""
        self._blob = blob
        size, base = blob.chunk_size, self._base
        self._unclaimed_bytes = 0
        if self._base_chunk_size is None:
            self._add_chunks(self._dirty, 0, self._base_end)
        elif self._base_end < base.size_bytes:
            self._touch_without_bytes(self._base_end, base.size_bytes, blob)
        for start, end in self._newer:
            self._touch_without_bytes(start, end, blob)
            for begin, stop in self._staged.held.within(start, end):
                self._add_chunks(self._dirty, begin, stop)
                if -(-begin // size) < stop // size:
                    self._ready.add(-(-begin // size), stop // size)
        for part in self._dirty:
            self._touched.add(*part)

    def _add_chunks(self, ranges: Ranges, start: int, end: int) -> None:
        assert self._blob is not None
        ranges.add(start // self._blob.chunk_size, -(-end // self._blob.chunk_size))

    def _claim(self, goal: Ranges) -> list[Range]:
        blob = self._blob
        if blob is None or self._is_frozen:
            return []
        parts: list[Range] = []
        left = max(1, BATCH_BYTES // blob.chunk_size)
        for start, end in goal:
            for begin, stop in self._dirty.within(start, end):
                for first, last in self._uploading.gaps(begin, stop):
                    last = min(last, first + left)
                    parts.append((first, last))
                    left -= last - first
                    if not left:
                        return parts
        return parts

    def _send(self, parts: list[Range]) -> None:
        blob = self._blob
        assert blob is not None
        positions = [position for start, end in parts for position in range(start, end)]
        chunks: list[tuple[int, memoryview]] = []
        size = blob.chunk_size
        with self._lock:
            end = self.size_bytes
            layers = [
                (start * size, min(stop * size, end), self._layers(start * size, min(stop * size, end)))
                for start, stop in parts
                if start * size < end
            ]
            passed = self._passed
            forgotten = 0 if passed is None else passed.forgotten
        sent: list[tuple[int, memoryview]] = []
        for start, stop, found in layers:
            data = memoryview(self._joined(found, start, stop))
            sent.append((start, data))
            for at in range(0, len(data), size):
                chunk = data[at : at + size]
                if not is_zeros(chunk):
                    chunks.append(((start + at) // size, chunk))
        if passed is not None:
            with self._lock:
                if passed.forgotten == forgotten and self._passed is passed:
                    for start, data in sent:
                        passed.sent(start, size, data)
                        # Also what the file has grown by since it was looked at, which the version does not have.
                        self._newer.add(start, start + len(data))
        attempts = itertools.count()
        self.shared.persistently(lambda: self._write(blob, positions, chunks, is_again=next(attempts) > 0))
        with self._lock:
            blob.size_bytes = max(blob.size_bytes, min(end, (positions[-1] + 1) * size))

    def _joined(self, layers: list[tuple[int, int, Source | bytes]], start: int, end: int) -> bytes:
        """The bytes of [*start*, *end*) by *layers*; what they leave out are zeros."""
        if len(layers) == 1 and layers[0][:2] == (start, end) and isinstance(layers[0][2], bytes):
            return layers[0][2]
        parts: list[bytes] = []
        for begin, stop, what in layers:
            parts.append(bytes(begin - start))
            parts += [what] if isinstance(what, bytes) else self._fetched(what, begin, stop)
            start = stop
        return b"".join((*parts, bytes(end - start)))

    def _fetched(self, source: Source, start: int, end: int) -> list[bytes]:
        def read() -> Op[list[bytes]]:
            yield from self._before_reading()
            pieces: list[bytes] = []
            for at in range(start, end, BATCH_BYTES):
                pieces += yield from source.read(at, min(end, at + BATCH_BYTES))
            return pieces

        return self.shared.persistently(read)

    def _write(
        self, blob: NewBlob, positions: list[int], chunks: list[tuple[int, memoryview]], *, is_again: bool
    ) -> Op[None]:
        """Put *chunks* at their positions, and nothing at the others of *positions*. May be done again."""
        store_id = self.shared.store_id
        ids = yield from self._reserve(len(chunks))
        queries = relaxed(blob)
        if is_again or any(blob.written.covers(position, position + 1) for position in positions):
            queries.append(Query(DELETE_EXTENTS, store_id, blob.id, positions))
        queries += [
            Query(blob.insert_chunk, store_id, chunk_id, data) for chunk_id, (_, data) in zip(ids, chunks, strict=True)
        ]
        if chunks:
            queries.append(Query(INSERT_EXTENTS, store_id, blob.id, [position for position, _ in chunks], ids))
        try:
            yield Many(queries)
        except errors.StatementFailed as exc:
            if exc.sqlstate == FOREIGN_KEY_VIOLATION:
                raise BlobLost(errno.ESTALE, "the server has lost what was uploaded of the file") from exc
            if exc.sqlstate == UNIQUE_VIOLATION:
                # An attempt whose answer was lost; or, after a failover, ids that were given out before.
                raise errors.StoreUnavailable(str(exc)) from exc
            raise

    def _reserve(self, count: int) -> Op[list[int]]:
        with self._lock:
            ids, self._chunk_ids = self._chunk_ids[:count], self._chunk_ids[count:]
        if len(ids) < count:
            # Not in the transaction of the upload: if that is lost in a crash, the sequence must not give them out again.
            more = [row[0] for row in (yield Query(RESERVE_CHUNKS, max(count, _CHUNKS_AHEAD)))]
            missing = count - len(ids)
            ids += more[:missing]
            with self._lock:
                self._chunk_ids += more[missing:]
        return ids

    def _sent(self, parts: list[Range]) -> None:
        if self._blob is not None:
            self._blob.state += 1
            for part in parts:
                self._blob.written.add(*part)
                self._blob.safe.remove(*part)
                self._ready.remove(*part)

    def _take_over_rest(self) -> None:
        """Share the chunks of the base that did not change."""
        blob, base = self._blob, self._base
        assert blob is not None
        with self._lock:
            if blob.has_rest:
                return
            chunks = -(-min(self._base_end, self.size_bytes) // blob.chunk_size)
            rest = self._touched.gaps(0, chunks) if self._base_chunk_size is not None else []
        starts, ends = [start for start, _ in rest], [end for _, end in rest]
        if rest:
            values = self.shared.store_id, blob.id, base.blob_id, starts, ends
            self.shared.persistently(lambda: self._share(blob, values))
        with self._lock:
            for part in rest:
                blob.written.add(*part)
                for touched in self._touched.within(*part):  # meanwhile: it was the chunk of before that was taken over
                    self._dirty.add(*touched)
            blob.has_rest = True
            blob.state += 1

    def _share(self, blob: NewBlob, values: Sequence[object]) -> Op[None]:
        yield from self._before_reading()
        try:
            yield Many([*relaxed(blob), Query(SHARE_RANGES, *values)])
        except errors.StatementFailed as exc:
            if exc.sqlstate == FOREIGN_KEY_VIOLATION:
                raise BlobLost(errno.ESTALE, "the server has lost what was uploaded of the file") from exc
            raise
