"""Contents under way: the bytes of one inode as a mount sees them, while programs have it open or its bytes are not kept yet.

What was written is in the stage, and lies over what the database has. Uploads take a snapshot of a part and send it, without a lock
that a write or a read would wait for; what was written again meanwhile is sent again. All open files of an inode share this.

`volume` and `live` say what the database has, and how it gets more.
"""

from __future__ import annotations

import abc
import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from pgstore.core import meanwhile
from pgstore.core.operation import Op
from pgstore.fs.content.blobs import FILE_BYTES_MAX, zeros
from pgstore.fs.content.block_reader import BlockReader, Source
from pgstore.mount.contents.failures import Failures
from pgstore.mount.contents.ranges import Range, Ranges, ranges_of
from pgstore.mount.contents.shared import UPLOADS_MAX, Shared
from pgstore.mount.contents.stage import StagedFile
from pgstore.mount.protocol import Bytes

T = TypeVar("T")
UPLOAD_BYTES: Final = 4 * 1024 * 1024  # that a file has ready when one more upload begins
COPY_BYTES: Final = 1024 * 1024  # that are copied at a time


class UnderWay(abc.ABC):
    """Contents of one file. Its methods block, but for those that end in `_now`, and are called by several threads at once."""

    def __init__(self, shared: Shared, ino: int, size_bytes: int, mtime_ns: int) -> None:
        self.shared = shared
        self.ino = ino
        self.size_bytes = size_bytes
        """As written so far."""
        self.mtime_ns = mtime_ns
        self.failures = Failures()
        self.open_files = 0
        self.writers = 0
        """How many of them may write."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._staged: StagedFile = shared.stage.file()
        # Offsets at which the bytes are those of the stage, and not those that the database had: staged, or zeros.
        self._newer = Ranges()
        self._base_end = size_bytes  # what the database has behind it does not count: the file was cut there
        # In units of uploads, which are bytes or chunks: what is to be uploaded, and what is being uploaded.
        self._dirty = Ranges()
        self._uploading = Ranges()
        # Who uploads: what is left of their goal, and what they wait for.
        self._drains: list[tuple[Ranges, Ranges]] = []
        self._jobs = 0  # uploads in the background
        self._has_failed = False  # no more of them, until somebody has asked for one
        shared.add_tenant(self)

    # --------------------------------------------------------------------------------------------- what the kinds say

    @abc.abstractmethod
    def _below(self, start: int, end: int) -> list[tuple[int, int, Source | bytes]]:
        """What lies below the stage in a range: parts in order, where they begin and end, and what has them. With the lock."""

    @abc.abstractmethod
    def _note_written(self, start: int, end: int) -> None:
        """Bytes of this range have changed. With the lock."""

    @abc.abstractmethod
    def _note_cut(self, before: int, size: int) -> None:
        """The file had *before* bytes and was cut to *size* bytes. With the lock."""

    @abc.abstractmethod
    def _claim(self, goal: Ranges) -> list[Range]:
        """What of *goal* to upload in one go, and nobody else uploads now; empty: there is none. With the lock."""

    @abc.abstractmethod
    def _send(self, parts: list[Range]) -> None:
        """Upload what was claimed."""

    @abc.abstractmethod
    def _sent(self, parts: list[Range]) -> None:
        """It was uploaded. With the lock."""

    @abc.abstractmethod
    def flush(self) -> None:
        """A program has closed one of its descriptors."""

    @property
    @abc.abstractmethod
    def is_flushed(self) -> bool:
        """Whether `flush` has nothing to do."""

    @abc.abstractmethod
    def sync(self) -> None:
        """Return when everything written so far is on the server's disk."""

    @abc.abstractmethod
    def relieve(self) -> None:
        """Give back of the stage what can be fetched from the database, and upload what cannot, in the background."""

    @abc.abstractmethod
    def data_ranges(self, start: int, end: int) -> Ranges:
        """Where the database has bytes that may not be zeros."""

    def stored_bytes(self, below: int) -> int:
        """About how many bytes are stored of the file, where the database has *below* of it as others see it."""
        with self._lock:
            return min(self.size_bytes, self._not_below() + below)

    @abc.abstractmethod
    def _not_below(self) -> int:
        """How many bytes the database has not, as others see it. With the lock."""

    # ------------------------------------------------------------------------------------------------------- opening

    def open(self, *, write: bool) -> None:
        with self._lock:
            self.open_files += 1
            self.writers += write

    def close(self, *, write: bool) -> None:
        with self._lock:
            self.open_files -= 1
            self.writers -= write

    @property
    def is_passed(self) -> bool:
        """Whether programs may write to it without us."""
        return False

    def look(self) -> None:  # noqa: B027 - most kinds know
        """Find out how large it is, and when it was modified, where programs write without us."""

    @property
    def is_open_for_writing(self) -> bool:
        return self.writers > 0

    @property
    def is_dirty(self) -> bool:
        """Whether something was written that was not uploaded yet."""
        return bool(self._dirty or self._uploading)

    # ------------------------------------------------------------------------------------------------------- reading

    def read(self, offset: int, length: int, reader: BlockReader) -> Sequence[Bytes]:
        pieces = self._read(offset, length, lambda source, start, end: self._fetch(reader, source, start, end))
        assert pieces is not None
        return pieces

    def read_now(self, offset: int, length: int, reader: BlockReader) -> Sequence[Bytes] | None:
        return self._read(offset, length, reader.read_now)

    def _fetch(self, reader: BlockReader, source: Source, start: int, end: int) -> Sequence[Bytes]:
        def read() -> Op[Sequence[Bytes]]:
            yield from self._before_reading()
            return reader.read(source, start, end)

        return self.shared.persistently(read)

    def _before_reading(self) -> Op[None]:
        yield from ()

    def _read(
        self, offset: int, length: int, fetch: Callable[[Source, int, int], Sequence[Bytes] | None]
    ) -> Sequence[Bytes] | None:
        with self._lock:
            end = min(offset + length, self.size_bytes)
            layers = self._layers(offset, end)
        pieces: list[Bytes] = []
        for start, stop, what in layers:
            pieces += _hole(start - offset)
            offset = start
            if isinstance(what, Source):
                found = fetch(what, start, stop)
                if found is None:
                    return None
                pieces += found
                offset += sum(map(len, found))  # fewer where others have cut the file
            else:
                pieces.append(what)
                offset = stop
        pieces += _hole(end - offset)
        return pieces

    def _layers(self, start: int, end: int) -> list[tuple[int, int, Source | bytes]]:
        """What has the bytes of a range, the stage first; what is left out are zeros. With the lock."""
        layers: list[tuple[int, int, Source | bytes]] = []
        for begin, stop in self._newer.within(start, end) if self._newer else ():
            layers += self._below(start, begin)
            layers.append((begin, stop, self._staged.read(begin, stop)))
            start = stop
        return layers + self._below(start, end) if start < end else layers

    # ------------------------------------------------------------------------------------------------------- writing

    def write(self, offset: int, data: Bytes) -> None:
        while not self.write_now(offset, data):
            self.shared.stage.wait_for_room()

    def write_now(self, offset: int, data: Bytes) -> bool:
        end = offset + len(data)
        check_size(end)
        if offset == end:
            return True
        with self._lock:
            return self._write_now(offset, end, data)

    def _write_now(self, offset: int, end: int, data: Bytes) -> bool:
        if not self._staged.write_now(offset, data):
            return False
        self._newer.add(offset, end)
        if end > self.size_bytes:
            self.size_bytes = end
        self.mtime_ns = time.time_ns()
        self._note_written(offset, end)
        return True

    def append(self, data: Bytes) -> None:
        """Write *data* where the file ends."""
        while not self.append_now(data):
            self.shared.stage.wait_for_room()

    def append_now(self, data: Bytes) -> bool:
        with self._lock:
            end = self.size_bytes + len(data)
            check_size(end)
            return self._write_now(self.size_bytes, end, data)

    def truncate(self, size: int) -> None:
        check_size(size)
        with self._lock:
            self._cut(size)

    def _cut(self, size: int) -> None:
        before, self.size_bytes = self.size_bytes, size
        self.mtime_ns = time.time_ns()
        if size < before:
            self._staged.discard(size, before)
            self._newer.remove(size, before)
            self._base_end = min(self._base_end, size)
        self._note_cut(before, size)

    def zero(self, start: int, end: int) -> None:
        """Let the bytes of a range be zeros, as far as the file has them."""
        with self._lock:
            end = min(end, self.size_bytes)
            if start < end:
                self._staged.discard(start, end)
                self._newer.add(start, end)
                self.mtime_ns = time.time_ns()
                self._note_zeroed(start, end)

    def _note_zeroed(self, start: int, end: int) -> None:
        self._note_written(start, end)

    def written_here(self) -> list[Range]:
        """Where the stage has bytes that were written."""
        with self._lock:
            return list(self._staged.held)

    def staged(self, start: int, end: int) -> bytes:
        """The bytes of a range that `written_here` has told of."""
        with self._lock:
            return self._staged.read(start, end)

    # --------------------------------------------------------------------------------------------------- where data is

    def seek(self, offset: int, whence: int) -> int:
        with self._lock:
            size, base_end = self.size_bytes, self._base_end
        if offset >= size:
            raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
        data = Ranges()
        for start, end in self.data_ranges(offset, min(size, base_end)) if offset < base_end else ():
            data.add(start, min(end, size, base_end))
        with self._lock:
            for start, end in self._newer.within(offset, size):
                data.remove(start, end)
            for start, end in self._staged.held.within(offset, size):
                data.add(start, end)
        first = data.first(offset)
        if whence == os.SEEK_DATA:
            if first is None:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            return max(offset, first[0])
        return offset if first is None or first[0] > offset else min(first[1], size)

    # ------------------------------------------------------------------------------------------------------- uploads

    def upload(self) -> None:
        """Upload what was written before the call; what is written meanwhile, or again, may be left."""
        with self._lock:
            self._has_failed = False
            goal, all_of_it = (ranges_of((*self._dirty, *self._uploading)) for _ in range(2))
        if not goal:
            return
        helpers = [self.shared.uploaders.submit(lambda: self._help(goal)) for _ in range(self._helpers(goal))]
        try:
            self._drain(goal, all_of_it)
        finally:
            for helper in helpers:
                helper.cancel()

    def _helpers(self, goal: Ranges) -> int:
        """How many of the workers are worth asking, for so much."""
        return min(UPLOADS_MAX, self._bytes_of(goal) // UPLOAD_BYTES)

    @abc.abstractmethod
    def _bytes_of(self, goal: Ranges) -> int:
        """About how many bytes *goal* has."""

    def _help(self, goal: Ranges) -> None:
        try:
            self._drain(goal, None)
        except OSError:
            return  # whoever waits for all of it comes to the same part, and to its error

    def _drain(self, goal: Ranges, wait_for: Ranges | None) -> None:
        """Upload *goal*; then wait until others have uploaded all of *wait_for*."""
        drain = (goal, ranges_of(()) if wait_for is None else wait_for)
        with self._lock:
            self._drains.append(drain)
        try:
            while True:
                with self._changed:
                    while not (parts := self._claim(goal)):
                        if wait_for is None or not any(self._uploading.overlaps(*each) for each in wait_for):
                            return
                        self.shared.check_server()
                        meanwhile.let_go()
                        self._changed.wait()
                    for part in parts:
                        self._dirty.remove(*part)
                        goal.remove(*part)
                        self._uploading.add(*part)
                self._upload(parts, goal)
        finally:
            with self._lock:
                self._drains = [each for each in self._drains if each is not drain]

    def _upload(self, parts: list[Range], goal: Ranges) -> None:
        is_sent = False
        try:
            self._send(parts)
            is_sent = True
        finally:
            with self._changed:
                for part in parts:
                    self._uploading.remove(*part)
                if is_sent:
                    self._sent(parts)
                else:
                    self._has_failed = True
                    for part in parts:
                        self._dirty.add(*part)
                        goal.add(*part)
                        for theirs, wait_for in self._drains:  # they are not to take it for uploaded
                            if wait_for.overlaps(*part):
                                theirs.add(*part)
                self._changed.notify_all()

    def _wait_for_uploads(self) -> None:
        """Wait until nothing is being uploaded. With the lock."""
        while self._uploading:
            meanwhile.let_go()
            self._changed.wait()

    def _upload_later(self, choose: Callable[[], Ranges]) -> None:
        """Have what *choose* then says uploaded in the background. With the lock."""
        if not self._has_failed and self._jobs < UPLOADS_MAX:
            self._do_later(lambda: self._upload_chosen(choose))

    def _upload_chosen(self, choose: Callable[[], Ranges]) -> None:
        self._prepare()
        with self._lock:
            goal = choose()
        self._drain(goal, None)

    def _do_later(self, work: Callable[[], None]) -> None:
        """Have *work* done in the background. With the lock."""
        self._jobs += 1
        self.shared.uploaders.submit(lambda: self._work(work))

    def _work(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as exc:
            # Not tried again until somebody asks for it: each attempt takes as long as the server is waited for.
            self._has_failed = True
            self.failures.note(exc)
        finally:
            with self._changed:
                self._jobs -= 1
                self._changed.notify_all()

    def _prepare(self) -> None:  # noqa: B027 - most kinds need nothing
        """What must be there before the first upload."""

    def release(self) -> None:
        """Nobody needs these contents any more: give back the stage."""
        with self._changed:
            self._wait_for_uploads()
            self._newer.clear()
            self._dirty.clear()
            self._staged.close()


def check_size(size: int) -> None:
    if size > FILE_BYTES_MAX:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))


def _hole(length: int) -> list[bytes]:
    return [zeros(min(COPY_BYTES, length - at)) for at in range(0, length, COPY_BYTES)]
