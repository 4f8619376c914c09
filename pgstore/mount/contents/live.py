"""Contents under way of a NetworkFileSystem: written in place, a mebibyte at a time, soon after programs have written them.

What was uploaded stays in the stage until it is on the server's disk (`unsafe`, `disk`). What a crash of the server may have taken
is written again: by who waits for it, and by the mount in the background.
"""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, TypeVar

from pgstore import errors
from pgstore.client.history import only_server
from pgstore.core import meanwhile
from pgstore.core.operation import Op
from pgstore.fs.content import in_place
from pgstore.fs.content.blobs import INLINE_BYTES_MAX, data_of_file
from pgstore.fs.content.block_reader import BlockReader, Source
from pgstore.fs.retention.file_pin import FilePin
from pgstore.mount.contents.disk import Commit
from pgstore.mount.contents.ranges import Range, Ranges, ranges_of
from pgstore.mount.contents.under_way import UPLOAD_BYTES, UPLOADS_MAX, Shared, UnderWay, check_size
from pgstore.mount.contents.unsafe import Appended, Unsafe
from pgstore.mount.protocol import Bytes

T = TypeVar("T")
_STATES: Final = itertools.count()
FLUSH_SECONDS: Final = 1.0  # after which others see what was written
PARTS_MAX: Final = 64  # places that one message writes to
APPENDED_BYTES_MAX: Final = 4 * 1024 * 1024  # of one file, in memory until the disk has them


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
        self._unsafe = Unsafe(shared.disk)
        self._losses = 0  # grows when some of it turns out to be lost, and is to be uploaded again
        self._losses_made_good = 0
        self._cut_again: int | None = None  # a truncation that was lost, with all that was written behind that size
        self._mtime_set: int | None = None  # by a program, since it has written last
        # Held while the size is changed in the database. Reentrant: who does may have to do so again what a crash has taken.
        self._truncations = threading.RLock()
        # Held while bytes are appended, after `_truncations`. Nothing else is sent meanwhile, nor while these may be lost.
        self._appending = threading.Lock()
        self._servers: dict[Range, int | None] = {}  # before it was sent, by the first part of what is being sent
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

    def _fetch(self, reader: BlockReader, source: Source, start: int, end: int) -> Sequence[Bytes]:
        fetch = super()._fetch
        return self._found_again(lambda: fetch(reader, source, start, end))

    @property
    def has_lost_end(self) -> bool:
        """Whether a crash has taken what was appended, or a truncation: what the database has of the file is to be read later."""
        return self._has_lost_cut or self._unsafe.has_lost_end

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

    @staticmethod
    def _new_state() -> Hashable:
        return next(_STATES)

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

    def _read_anew(self, *but: Iterable[Range]) -> None:
        """Read of the database, *but* for these ranges, what was written here. With the lock."""
        read = ranges_of(self._newer)
        for needed in but:
            for start, end in needed:
                read.remove(start, end)
        for start, end in read:
            self._newer.remove(start, end)
            self._give_back(start, end)

    def _give_back(self, start: int, end: int) -> None:
        """Give back what the stage has of a range, where nobody needs it any more. With the lock."""
        if self._newer.covers(start, end):
            return
        free = ranges_of([(start, end)])
        for needed in (self._newer, self._dirty, self._uploading, self._unsafe.written):
            for begin, stop in needed:
                free.remove(begin, stop)
        for each in free:
            self._staged.discard(*each)

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

    def set_mtime(self, mtime_ns: int) -> None:
        """A program has set the time of the last change, which writing again what a crash takes is to leave as it is."""
        with self._lock:
            self._mtime_set = None if self.is_safe else mtime_ns

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

    def append(self, data: Bytes) -> None:
        """
        Write *data* at the end that the file has by then, whoever else appends.

        Raises:
            OSError: EIO: the connection broke, and it is unknown whether it was written; it is not repeated.
        """
        self.upload()
        written = bytes(data)
        while not self._append_alone(written):
            self.sync()
        with self._lock:
            is_much = self._unsafe.appended_bytes > APPENDED_BYTES_MAX
        if is_much:
            self.sync()

    def _append_alone(self, data: bytes) -> bool:
        """Append *data*; False: not while something else is lost."""
        is_unknown = False
        commit: Commit | None = None
        before = self._base_end  # where it would go if nobody else appended

        def attempt() -> Op[int]:
            nonlocal is_unknown, commit
            yield from self._pin.ensure()
            server = self.shared.disk.server
            yield from self._append_lost()
            if is_unknown:
                size = yield from self._size_if_appended(before, data)
                if size is not None:  # it is there, though not on the disk for that
                    commit = None if server is None else self.shared.disk.committed(server)
                    return size
            is_unknown = True  # from here on
            try:
                with only_server(server):  # any other may have lost what was appended before
                    size = yield from in_place.append(self.shared.store_id, self.ino, data, durable=server is None)
            except errors.OutcomeUnknown:
                raise
            except errors.Error:
                is_unknown = False
                raise
            commit = None if server is None else self.shared.disk.committed(server)
            return size

        with self._truncations, self._appending:
            if not self._secure_placed():
                return False
            size = self._persist(attempt)
            self.shared.uploaded(self.ino)
            with self._lock:
                self._mtime_set = None
                if commit is not None:
                    self._unsafe.appended.append(Appended(commit, size - len(data), data))
                self._state = self._new_state()
                self._base_end = self.size_bytes = max(size, self._newer.end)
        return True

    def _secure_placed(self) -> bool:
        """Return when nothing but what was appended may be lost; False: something is. With `_truncations` and `_appending`."""
        with self._changed:
            while self._servers:
                meanwhile.let_go()
                self._changed.wait()
            if not (self._unsafe.has_placed or self.has_lost):
                return True
        self.shared.disk.flush()
        with self._lock:
            self._settle()
            return not (self._unsafe.has_placed or self.has_lost)

    def _secure_appended(self) -> None:
        """Return when nothing that was appended may be lost."""
        with self._appending:
            self._secure_appended_only()

    def _secure_appended_only(self) -> None:
        """`_secure_appended`, with `_appending`."""
        while self._unsafe.appended:
            with self._lock:
                self._settle()
                has_lost = self._unsafe.has_lost_appended
            if has_lost:
                self._persist(self._append_lost)
            elif self._unsafe.appended:
                self.shared.disk.flush()

    def _size_if_appended(self, before: int, data: bytes) -> Op[int | None]:
        """After an attempt to append *data*, whose answer was lost: the size of the file if it was done; None: it was not."""
        size, pieces = yield from in_place.read_at(self.shared.store_id, self.ino, before, len(data))
        if size <= before:
            return None
        if size == before + len(data) and b"".join(pieces) == data:
            return size
        raise OSError(errno.EIO, "the connection broke, and it is unknown whether bytes were appended")

    def append_now(self, data: Bytes) -> bool:
        return False

    def _append_lost(self) -> Op[None]:
        """Append once more what a crash of the server has taken. With `_appending`."""
        with self._lock:
            lost = [each for each in self._unsafe.appended if self.shared.disk.is_lost(each.commit)]
        for each in lost:
            server = self.shared.disk.server
            with only_server(server):
                _, pieces = yield from in_place.read_at(self.shared.store_id, self.ino, each.offset, len(each.data))
                if b"".join(pieces) != each.data:  # by now others may have appended there
                    end = yield from in_place.append(self.shared.store_id, self.ino, each.data, durable=server is None)
                    self.shared.uploaded(self.ino)
                    each.offset = end - len(each.data)
                    with self._lock:
                        self._state = self._new_state()
                        self._base_end = max(self._base_end, end)
                        self.size_bytes = max(self.size_bytes, end)
            each.commit = self.shared.disk.committed(server)

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

    def _persist(self, make: Callable[[], Op[T]]) -> T:
        return self._found_again(lambda: self.shared.within_timeout(make))

    def _found_again(self, do: Callable[[], T]) -> T:
        """The result of *do*; where a crash has taken the file, once more after its name was made anew, after each crash."""
        while True:
            before = self.shared.names_brought_back
            try:
                return do()
            except OSError as exc:
                if exc.errno != errno.ESTALE:
                    raise
                self.shared.bring_back_names()
                if self.shared.names_brought_back == before:
                    raise

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

    @property
    def is_safe(self) -> bool:
        """Whether all that was written is on the server's disk, as far as is known."""
        return not (self._dirty or self._uploading or self._unsafe or self._cut_again is not None)

    @property
    def has_lost(self) -> bool:
        """Whether something is to be written again that a crash of the server may have taken."""
        return self._losses != self._losses_made_good

    # ---------------------------------------------------------------------------------------------------- on the disk

    def sync(self) -> None:
        while True:
            losses = self.bring_back(durably=True)
            mark = self.shared.disk.mark()
            if self._is_safe_before(mark, losses):
                return
            self.shared.disk.flush()
            if self._is_safe_before(mark, losses):
                return

    def _is_safe_before(self, mark: int, losses: int) -> bool:
        """Whether what was uploaded before *mark* was taken is on the disk, and nothing was lost since there were *losses*."""
        with self._lock:
            self._settle()
            return losses == self._losses and not self._unsafe.has_before(mark)

    def settle(self) -> None:
        """Give back what is on the server's disk, and find out what is lost."""
        with self._lock:
            self._settle()

    def bring_back(self, *, durably: bool = False) -> int:
        """
        Upload what was not uploaded, or is lost. Returns how often something was lost before.

        Args:
            durably: if that is little, by a statement that waits for the disk.
        """
        with self._lock:
            self._settle()
            self._has_failed = False
            losses = self._losses
            has_lost_appended = self._unsafe.has_lost_appended
        self._bring_back_cut()
        if has_lost_appended:
            with self._appending:
                self._persist(self._append_lost)
        if durably and (parts := self._claim_little()):
            self._durable_parts = parts
            self._upload(parts, Ranges())
        else:
            self.upload()
        mtime_ns = self._mtime_set
        if mtime_ns is not None and losses != self._losses_made_good:
            self._persist(lambda: in_place.set_mtime(self.shared.store_id, self.ino, mtime_ns))
        self._losses_made_good = losses
        return losses

    def _settle(self) -> None:
        """Forget what is on the disk; have uploaded again what is lost. With the lock."""
        if not self._unsafe:
            return
        if self._cut_again is None:
            for start, end in self._unsafe.forget_safe():
                self._give_back(start, end)
        lost, cut = self._unsafe.take_lost()
        if cut is not None:
            self._cut_again = cut if self._cut_again is None else min(cut, self._cut_again)
        if lost or cut is not None or self._unsafe.has_lost_appended:
            self._losses += 1
        for start, end in lost:
            self._make_dirty(start, end)

    def _make_dirty(self, start: int, end: int) -> None:
        end = min(end, self.size_bytes) if self._cut_again is not None else end
        if start < end:
            self._dirty_bytes += self._dirty.add(start, end)
            self._newer.add(start, end)
            self.size_bytes = max(self.size_bytes, end)

    @property
    def _has_lost_cut(self) -> bool:
        return self._cut_again is not None

    def _bring_back_cut(self) -> None:
        """Cut the file again, if that is lost; all that was written behind is to be uploaded afterwards."""
        if not self._has_lost_cut:
            return
        with self._truncations:
            with self._lock:
                losses, size, wanted = self._losses, self._cut_again, self.size_bytes
            if size is None:  # another thread has done it
                return
            size = min(size, wanted)  # it may have been cut further since it was known to be lost
            self._truncate(size)
            if wanted > size:
                self._truncate(wanted)
            with self._lock:
                if losses == self._losses:
                    self._cut_again = None
                for start, end in (*self._unsafe.written, *self._uploading):
                    self._make_dirty(max(start, size), end)

    def _claim_little(self) -> list[Range]:
        """All that is dirty, if it is little and nothing is being uploaded; empty: it is not."""
        with self._lock:
            if self._uploading or not self._dirty or self._cut_again is not None:
                return []
            parts = list(self._dirty)
            if len(parts) > 1 or parts[0][0] // in_place.CALL_BYTES != (parts[0][1] - 1) // in_place.CALL_BYTES:
                goal = ranges_of(parts)
                parts = self._claim(goal)
                if parts != list(goal):
                    return []
            for part in parts:
                self._dirty.remove(*part)
                self._uploading.add(*part)
            self._has_failed = False
            return parts

    def data_ranges(self, start: int, end: int) -> Ranges:
        found = self.shared.persistently(lambda: data_of_file(self.shared.store_id, self.ino, start, end))
        return ranges_of(found)

    def close(self, *, write: bool) -> None:
        super().close(write=write)
        if not self.open_files:
            self._pin.release()
