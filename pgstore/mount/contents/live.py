"""Contents under way of a NetworkFileSystem: written in place, a mebibyte at a time, soon after programs have written them."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Final

from pgstore.core.operation import Op
from pgstore.fs.content import in_place
from pgstore.fs.content.blobs import INLINE_BYTES_MAX, data_of_file
from pgstore.fs.content.block_reader import BlockReader, Source
from pgstore.mount.contents.appending import Appendable
from pgstore.mount.contents.ranges import Range, Ranges, ranges_of
from pgstore.mount.contents.shared import UPLOADS_MAX, Shared
from pgstore.mount.contents.under_way import UPLOAD_BYTES, check_size
from pgstore.mount.protocol import Bytes

FLUSH_SECONDS: Final = 1.0  # after which others see what was written
PARTS_MAX: Final = 64  # places that one message writes to


class LiveContents(Appendable):
    """
    The bytes of a file that others may write at the same time.

    `drop` says that they have; until then what was read, or written here, is taken for what the file has.

    Args:
        state: what is another one after every change by anybody, such as size and ctime. What was read of the file in this state
            before may be in the cache still; None: it is not used.
    """

    def __init__(self, shared: Shared, ino: int, size_bytes: int, mtime_ns: int, state: Hashable | None = None) -> None:
        super().__init__(shared, ino, size_bytes, mtime_ns)
        if state is not None:
            self._state = state
        self._is_timed = False

    def _below(self, start: int, end: int) -> list[tuple[int, int, Source | bytes]]:
        end = min(end, self._base_end)
        if start >= end:
            return []
        return [(start, end, Source(self._source_key, self._base_end, self._read_base))]

    def _read_base(self, start: int, end: int) -> Op[list[bytes]]:
        _, pieces = yield from in_place.read_at(self.shared.store_id, self.ino, start, end - start)
        return pieces

    def _before_reading(self) -> Op[None]:
        yield from self._pin.ensure()

    def _fetch(self, reader: BlockReader, source: Source, start: int, end: int) -> Sequence[Bytes]:
        fetch = super()._fetch
        return self._found_again(lambda: fetch(reader, source, start, end))

    def read(self, offset: int, length: int, reader: BlockReader) -> Sequence[Bytes]:
        while True:
            pieces = super().read(offset, length, reader)
            if not self.has_lost_end:
                return pieces
            self.bring_back()

    def read_now(self, offset: int, length: int, reader: BlockReader) -> Sequence[Bytes] | None:
        return None if self.has_lost_end else super().read_now(offset, length, reader)

    def know(self, data: bytes, state: Hashable = None) -> None:
        """All of the file is *data*, as it is in *state*, if that is still known to be the present one; None: it is."""
        with self._lock:
            if state is not None and (state != self._state or len(data) != self._base_end):
                return
            key = self._source_key
        self.shared.reading.cache.put((key, 0), (data,))

    @property
    def _source_key(self) -> Hashable:
        return "live", self.shared.store_id, self.ino, self._state

    def drop(self, size_bytes: int, mtime_ns: int, state: Hashable | None = None) -> None:
        """
        Others have changed the file, which has *size_bytes* now: read anew what was not written here, or was uploaded.

        That stays in the stage until it is on the server's disk. What the server has lost is to be uploaded once more.
        """
        with self._lock:
            self._settle()
            self._state = self._new_state() if state is None else state
            self._read_anew(*self._not_uploaded)
            if self._cut_again is None:
                self._base_end = size_bytes
                self.size_bytes = max(size_bytes, self._newer.end)
            if not self._newer:
                self.mtime_ns = mtime_ns

    @property
    def _not_uploaded(self) -> tuple[Iterable[Range], ...]:
        return self._dirty, self._uploading

    def relieve(self) -> None:
        with self._lock:
            self._settle()
            self._read_anew(*self._not_uploaded)
            if self._dirty:
                self._upload_later(self._all_dirty)
            elif self._unsafe and not self._uploading and not self._jobs:
                self._do_later(self.sync)

    def _all_dirty(self) -> Ranges:
        return ranges_of(self._dirty)

    def _not_below(self) -> int:
        return self._dirty.total + self._uploading.total

    # ------------------------------------------------------------------------------------------------------- writing

    def _note_written(self, start: int, end: int) -> None:
        self._mtime_set = None
        self._dirty_bytes += self._dirty.add(start, end)
        if self._jobs < UPLOADS_MAX and self._dirty_bytes >= UPLOAD_BYTES * (self._jobs + 1):
            self._upload_later(self._whole_pieces)
        if not self._is_timed:
            self._is_timed = True
            self.shared.call_soon(self._flush_later, FLUSH_SECONDS)

    def _whole_pieces(self) -> Ranges:
        """What is dirty, but for the piece that is being written."""
        goal = ranges_of(self._dirty)
        end = self._dirty.end
        goal.remove(end // in_place.CALL_BYTES * in_place.CALL_BYTES, end)
        return goal or ranges_of(self._dirty)

    def _flush_later(self) -> None:
        with self._lock:
            self._is_timed = False
            if self._dirty:
                self._upload_later(self._all_dirty)

    def _note_cut(self, before: int, size: int) -> None:
        self._mtime_set = None
        self._dirty.remove(size, before)
        self._unsafe.forget_behind(size)

    def truncate(self, size: int) -> None:
        check_size(size)
        self._bring_back_cut()
        with self._truncations:
            self._secure_appended()
            with self._changed:
                self._wait_for_uploads()  # which could let the file grow again
                if size == self.size_bytes == self._base_end and not self._newer.end > size:
                    return
                self._cut(size)
            self._truncate(size)

    def _truncate(self, size: int) -> None:
        """Have the database do it, with `_truncations`."""
        store_id, server = self.shared.store_id, self.shared.disk.server

        def cut() -> Op[None]:
            yield from self._pin.ensure()
            yield from in_place.truncate(store_id, self.ino, size, durable=server is None)

        self._persist(cut)
        self.shared.uploaded(self.ino)
        with self._lock:
            if server is not None:
                self._unsafe.cut(self.shared.disk.committed(server), size)
            self._state = self._new_state()
            self._base_end = size

    def zero(self, start: int, end: int) -> None:
        with self._truncations:
            self.upload()  # else the file might have its size from bytes that are not written any more
            self._secure_appended()
            with self._changed:
                end = min(end, self.size_bytes)
                if start >= end:
                    return
                self._wait_for_uploads()
                self._forget_range(start, end)
            # Waits for the disk: what is in no stage could not be made a hole again after a crash.
            mark = self.shared.disk.mark()
            self._persist(lambda: self._punch(start, end))
            self.shared.uploaded(self.ino)
            self.shared.disk.flushed(mark)
            with self._lock:
                self._state = self._new_state()
                self.mtime_ns = time.time_ns()
                for begin, stop in self._newer.within(start, end):  # written meanwhile, and perhaps punched away
                    self._dirty_bytes += self._dirty.add(begin, stop)

    def _forget_range(self, start: int, end: int) -> None:
        """Forget what the database has as well. With the lock."""
        kept = ranges_of(self._newer.within(start, end))
        for begin, stop in self._dirty.within(start, end):
            kept.remove(begin, stop)
        for begin, stop in kept:
            self._newer.remove(begin, stop)
            self._unsafe.remove(begin, stop)
            self._staged.discard(begin, stop)

    def _punch(self, start: int, end: int) -> Op[None]:
        yield from self._pin.ensure()
        yield from in_place.punch(self.shared.store_id, self.ino, start, end, durable=True)

    # ------------------------------------------------------------------------------------------------------- uploads

    def _bytes_of(self, goal: Ranges) -> int:
        return goal.total

    def _claim(self, goal: Ranges) -> list[Range]:
        piece = in_place.CALL_BYTES
        for start, end in goal:
            if not self._dirty.overlaps(start, end):
                goal.remove(start, end)
        for start, end in goal:
            while start < end:
                # Not beyond a multiple of it: the next piece would have to write a chunk that is not full once more.
                stop = (start // piece + 1) * piece
                if not self._uploading.overlaps(stop - piece, stop) and (parts := self._dirty.within(start, stop)):
                    return parts[:PARTS_MAX]
                start = stop
        return []

    def upload(self) -> None:
        self._bring_back_cut()
        super().upload()

    def _prepare(self) -> None:
        self._bring_back_cut()

    def _send(self, parts: list[Range]) -> None:
        disk = self.shared.disk
        with self._appending:
            self._secure_appended_only()
            with self._lock:
                pieces = [(start, self._staged.read(start, end)) for start, end in parts]
                server = self._servers[parts[0]] = disk.server
                durable = parts is self._durable_parts or server is None
        mark = disk.mark() if durable else 0
        try:
            size = self._persist(lambda: self._write(pieces, durable=durable))
        except BaseException:
            self._servers.pop(parts[0], None)
            raise
        self.shared.uploaded(self.ino)
        if durable:
            disk.flushed(mark)
        with self._lock:
            self._state = self._new_state()  # what was read before, or is being read now, may lack these bytes
            self._base_end = max(self._base_end, size)

    def _write(self, pieces: Sequence[tuple[int, bytes]], *, durable: bool) -> Op[int]:
        yield from self._pin.ensure()
        store_id, ino = self.shared.store_id, self.ino
        if len(pieces) == 1:
            is_small = max(self._base_end, self.size_bytes) <= INLINE_BYTES_MAX
            return (yield from in_place.write_at(store_id, ino, *pieces[0], durable=durable, is_small=is_small))
        return (yield from in_place.write_several(store_id, ino, pieces, durable=durable))

    def _sent(self, parts: list[Range]) -> None:
        self._dirty_bytes = self._dirty.total if self._dirty else 0
        server = self._servers.pop(parts[0])
        if (parts is self._durable_parts or server is None) and not (self._unsafe.has_cut or self._has_lost_cut):
            return
        written = ranges_of(parts)
        written.remove(self.size_bytes, max(self.size_bytes, written.end))
        self._unsafe.wrote(self.shared.disk.committed(server), written)

    def flush(self) -> None:
        if parts := self._claim_little():
            self._upload(parts, Ranges())
        else:
            self.upload()

    @property
    def is_flushed(self) -> bool:
        return not (self._dirty or self._uploading)

    def data_ranges(self, start: int, end: int) -> Ranges:
        found = self.shared.persistently(lambda: data_of_file(self.shared.store_id, self.ino, start, end))
        return ranges_of(found)

    def close(self, *, write: bool) -> None:
        super().close(write=write)
        if not self.open_files:
            self._pin.release()
