"""Contents under way of a NetworkFileSystem: written in place, a mebibyte at a time, soon after programs have written them."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Hashable, Sequence
from typing import Final

from pgstore import errors
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Op
from pgstore.fs.content import in_place
from pgstore.fs.content.blobs import data_of_file
from pgstore.fs.content.block_reader import Source
from pgstore.fs.retention.file_pin import FilePin
from pgstore.mount.contents.failures import os_error
from pgstore.mount.contents.ranges import Range, Ranges, ranges_of
from pgstore.mount.contents.under_way import UPLOAD_BYTES, UPLOADS_MAX, Shared, UnderWay, check_size
from pgstore.mount.protocol import Bytes

_STATES: Final = itertools.count()
FLUSH_SECONDS: Final = 1.0  # after which others see what was written
PARTS_MAX: Final = 64  # places that one message writes to


class LiveContents(UnderWay):
    """
    The bytes of a file that others may write at the same time.

    `drop` says that they have; until then what was read, or written here, is taken for what the file has.

    Args:
        state: what is another one after every change by anybody, such as size and ctime. What was read of the file in this state
            before may be in the cache still; None: it is not used.
    """

    def __init__(self, shared: Shared, ino: int, size_bytes: int, mtime_ns: int, state: Hashable | None = None) -> None:
        super().__init__(shared, ino, size_bytes, mtime_ns)
        self._pin = FilePin(shared.session, shared.store_id, ino, None)
        self._state = self._new_state() if state is None else state  # of the bytes in the database, as far as is known
        self._dirty_bytes = 0  # at least so many are in _dirty
        # Written, and perhaps not on the server's disk: if it crashes they are written again, as long as they are in the stage.
        self._unsafe = Ranges()
        self._is_cut = False  # and so is a truncation
        self._is_at_risk = False  # and something that could not be written again
        self._written_to: int | None = None  # the server that has these
        self._durable_parts: list[Range] = []  # what is written, or was last, by a statement that waits for the disk
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

    @staticmethod
    def _new_state() -> Hashable:
        return next(_STATES)

    def drop(self, size_bytes: int, mtime_ns: int, state: Hashable | None = None) -> None:
        """Others have changed the file, which has *size_bytes* now: forget all but what was written here and not uploaded."""
        with self._lock:
            self._state = self._new_state() if state is None else state
            self._is_at_risk |= bool(self._unsafe)  # it is not there any more to be written again
            self._unsafe.clear()
            self._forget_kept(all_of_it=True)
            self._base_end = size_bytes
            self.size_bytes = max(size_bytes, self._newer.end)
            if not self._newer:
                self.mtime_ns = mtime_ns

    def _forget_kept(self, *, all_of_it: bool) -> None:
        """Forget what the database has as well; or only what it has on its disk. With the lock."""
        kept = Ranges()
        for start, end in self._newer:
            kept.add(start, end)
        for needed in (self._dirty, self._uploading) if all_of_it else (self._dirty, self._uploading, self._unsafe):
            for start, end in needed:
                kept.remove(start, end)
        for start, end in kept:
            self._newer.remove(start, end)
            self._staged.discard(start, end)

    def relieve(self) -> None:
        with self._lock:
            self._forget_kept(all_of_it=False)
            if self._dirty:
                self._upload_later(self._all_dirty)
            elif self._unsafe and not self._uploading and not self._jobs:
                self._do_later(self._sync_and_forget)

    def _all_dirty(self) -> Ranges:
        return ranges_of(self._dirty)

    def _sync_and_forget(self) -> None:
        self.sync()
        with self._lock:
            self._forget_kept(all_of_it=False)

    def _not_below(self) -> int:
        return self._dirty.total + self._uploading.total

    # ------------------------------------------------------------------------------------------------------- writing

    def _note_written(self, start: int, end: int) -> None:
        self._dirty_bytes += self._dirty.add(start, end)
        if self._jobs < UPLOADS_MAX and self._dirty_bytes >= UPLOAD_BYTES * (self._jobs + 1):
            self._upload_later(self._whole_pieces)
        if not self._is_timed:
            self._is_timed = True
            self.shared.client.scheduler.leave_call(self, self._flush_later, FLUSH_SECONDS, can_wait=True)

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
        self._dirty.remove(size, before)
        self._unsafe.remove(size, before)
        self._is_cut = True
        self._note_server()

    def truncate(self, size: int) -> None:
        check_size(size)
        with self._truncations:
            with self._changed:
                self._wait_for_uploads()  # which could let the file grow again
                if size == self.size_bytes == self._base_end and not self._newer.end > size:
                    return
                self._cut(size)
            self.shared.within_timeout(lambda: self._truncate(size))
            with self._lock:
                self._state = self._new_state()
                self._base_end = size

    def _truncate(self, size: int) -> Op[None]:
        yield from self._pin.ensure()
        yield from in_place.truncate(self.shared.store_id, self.ino, size, durable=self.shared.session.server is None)

    def zero(self, start: int, end: int) -> None:
        with self._truncations:
            self.upload()  # else the file might have its size from bytes that are not written any more
            with self._changed:
                end = min(end, self.size_bytes)
                if start >= end:
                    return
                self._wait_for_uploads()
                self._forget_range(start, end)
            # Waits for the disk: what is in no stage could not be made a hole again after a crash.
            self.shared.within_timeout(lambda: self._punch(start, end))
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

    def append(self, data: Bytes) -> None:
        """
        Write *data* at the end that the file has by then, whoever else appends.

        Raises:
            OSError: EIO: the connection broke, and it is unknown whether it was written; it is not repeated.
        """
        self.upload()
        try:
            with bounded_by(Deadline.after(self.shared.timeout)):
                size = self.shared.run(self._append(bytes(data)))
        except errors.Error as exc:
            raise os_error(exc) from exc
        with self._lock:
            self._state = self._new_state()
            self._base_end = self.size_bytes = max(size, self._newer.end)

    def append_now(self, data: Bytes) -> bool:
        return False

    def _append(self, data: bytes) -> Op[int]:
        yield from self._pin.ensure()
        with self._lock:
            self._note_server()
            self._is_at_risk = True
        return (
            yield from in_place.append(self.shared.store_id, self.ino, data, durable=self.shared.session.server is None)
        )

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

    def _send(self, parts: list[Range]) -> None:
        with self._lock:
            pieces = [(start, self._staged.read(start, end)) for start, end in parts]
            self._note_server()
            durable = parts is self._durable_parts or self.shared.session.server is None
        size = self.shared.within_timeout(lambda: self._write(pieces, durable=durable))
        self.shared.uploaded(self.ino)
        with self._lock:
            self._state = self._new_state()  # what was read before, or is being read now, may lack these bytes
            self._base_end = max(self._base_end, size)

    def _write(self, pieces: Sequence[tuple[int, bytes]], *, durable: bool) -> Op[int]:
        yield from self._pin.ensure()
        store_id, ino = self.shared.store_id, self.ino
        if len(pieces) == 1:
            return (yield from in_place.write_at(store_id, ino, *pieces[0], durable=durable))
        return (yield from in_place.write_several(store_id, ino, pieces, durable=durable))

    def _sent(self, parts: list[Range]) -> None:
        self._dirty_bytes = self._dirty.total if self._dirty else 0
        if parts is self._durable_parts:
            return
        for start, end in parts:
            self._unsafe.add(start, end)

    def _note_server(self) -> None:
        """What is written now is lost if the server that has it crashes before `sync`. With the lock."""
        if self._written_to is None:
            self._written_to = self.shared.session.server

    def flush(self) -> None:
        self.sync()

    @property
    def is_flushed(self) -> bool:
        return not (self._dirty or self._uploading or self._unsafe or self._is_cut or self._is_at_risk)

    def sync(self) -> None:
        parts = self._claim_little()
        if not parts:
            self.upload()
        while True:
            with self._lock:
                if not (parts or self._unsafe or self._is_cut or self._is_at_risk):
                    return
                unsafe, self._unsafe = self._unsafe, Ranges()
                was_cut, self._is_cut = self._is_cut, False
                was_at_risk, self._is_at_risk = self._is_at_risk, False
                written_to = self._written_to
                if not self._uploading:  # else what is under way may have gone to that server, too
                    self._written_to = None
            is_safe = False
            try:
                if parts:
                    self._upload(parts, Ranges())
                else:
                    self.shared.within_timeout(lambda: in_place.sync(self.shared.store_id))
                is_safe = written_to in (None, self.shared.session.server)
            finally:
                if not is_safe:
                    self._may_be_lost(unsafe, was_cut=was_cut, was_at_risk=was_at_risk)
            if is_safe:
                return
            parts = []
            self._write_again(was_cut=was_cut, was_at_risk=was_at_risk)

    def _claim_little(self) -> list[Range]:
        """
        All that is dirty, if it is little, to be written by a statement that waits for the disk; empty: it is not.

        The disk then has all that was written before, too: one round trip, instead of two for a write and a `sync`.
        """
        with self._lock:
            if self._uploading or not self._dirty:
                return []
            goal = ranges_of(self._dirty)
            parts = self._claim(goal)
            if parts != list(goal):
                return []
            for part in parts:
                self._dirty.remove(*part)
                self._uploading.add(*part)
            self._durable_parts = parts
            return parts

    def _may_be_lost(self, unsafe: Ranges, *, was_cut: bool, was_at_risk: bool) -> None:
        with self._lock:
            self._is_cut |= was_cut
            self._is_at_risk |= was_at_risk
            self._written_to = None
            for start, end in unsafe:
                for begin, stop in self._newer.within(start, end):
                    self._dirty_bytes += self._dirty.add(begin, stop)

    def _write_again(self, *, was_cut: bool, was_at_risk: bool) -> None:
        """The server crashed, or was replaced."""
        if was_cut:
            self.shared.within_timeout(lambda: self._truncate(self.size_bytes))
        self.upload()
        if was_at_risk:
            raise OSError(
                errno.EIO, "the server crashed before what was appended was on its disk, where a part may be missing"
            )

    def data_ranges(self, start: int, end: int) -> Ranges:
        found = self.shared.persistently(lambda: data_of_file(self.shared.store_id, self.ino, start, end))
        return ranges_of(found)

    def close(self, *, write: bool) -> None:
        super().close(write=write)
        if not self.open_files:
            self._pin.release()
