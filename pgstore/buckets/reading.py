"""Reading an object: from its beginning to its end as fast as the connections allow, or some bytes anywhere.

All reads of a `Reader` are of the state of the object that its tag names; once there is another they fail with `StaleFile`, so
nobody gets bytes of two states.

Whoever reads in order gets the pieces of a stream. One request gives most where the connection is fast, as it is near the bucket.
Where it is not, because a provider gives each connection only so much, a large object is read in parts, several at a time, and
always a few ahead of the reader: `pieces` finds out which it is from the first megabytes.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from collections import deque
from collections.abc import Generator, MutableSequence
from functools import partial
from typing import Final

from pgstore import errors
from pgstore.buckets.base import Bucket, Bytes, Check, ObjectInfo
from pgstore.buckets.parallel import PART_BYTES, shared
from pgstore.core import clock
from pgstore.core.workers import Task

PARTS_AHEAD_MAX: Final = 10
LARGE_BYTES: Final = 2 * PART_BYTES  # what is left of an object for which parts are worth their requests
MEASURED_BYTES: Final = 2 << 20
FAST: Final = 250e6  # bytes per second; one connection that gives so many is not made faster by others
BEHIND_BYTES: Final = 4 << 20  # kept for reads out of order, as a kernel that reads ahead sends them
JUMP_BYTES: Final = 4 << 20  # that a reader in order may leave out
MAPPED_BYTES_MIN: Final = 1 << 20  # of memory that is asked for by itself
RANDOM_BYTES_MIN: Final = 128 << 10  # of a read elsewhere, for those that follow near it

Pieces = Generator[Bytes, None, None]


def pieces(bucket: Bucket, info: ObjectInfo, offset: int = 0) -> Pieces:
    """
    The bytes of the object from *offset* to its end. Closing the iterator ends its requests.

    From the beginning they are compared with the checksum that the provider has, and the last piece comes when they are right:
    nobody is to have all of an object that is damaged.
    """
    checks: list[Check] = []
    with contextlib.closing(_pieces(bucket, info, offset, checks)) as found:
        for piece in found:
            offset += len(piece)
            for check in checks:
                check.update(piece)
                if offset == info.size_bytes and (fault := check.fault()) is not None:
                    raise errors.FileFailed(
                        f"object {info.key!r} of {bucket.shown} did not arrive as it was put: {fault}; read it again",
                        info.key,
                    )
            yield piece


def _pieces(bucket: Bucket, info: ObjectInfo, offset: int, checks: MutableSequence[Check]) -> Pieces:
    end = info.size_bytes
    if offset >= end:
        return
    if offset:
        stream = bucket.stream(info.key, offset, info.tag)
    else:
        stream = bucket.stream_to_check(info.key, info.tag, checks)
    parts: Parts | None = None
    meter = Meter()
    try:
        while offset < end:
            with meter:
                piece = next(stream, None)
            if piece is None:
                raise errors.FileFailed(
                    f"object {info.key!r} of {bucket.shown} ended after {offset} of {end} bytes", info.key
                )
            meter.add(len(piece))
            if parts is not None and offset + len(piece) >= parts.begin:
                piece = piece[: parts.begin - offset]
                end = parts.begin  # the stream has done its share
            offset += len(piece)
            if offset == end and parts is None:
                rest = next(stream, None)
                if rest is not None:
                    raise errors.StaleFile(
                        f"object {info.key!r} of {bucket.shown} has more than the {end} bytes of its listing", info.key
                    )
            yield piece
            if parts is None and meter.is_slow and end - offset >= LARGE_BYTES:
                # What the stream gives meanwhile is not lost: it goes on until the first part is due.
                parts = Parts(bucket, info, offset + PART_BYTES)
        _close(stream)
        if parts is not None:
            yield from parts
    finally:
        _close(stream)
        if parts is not None:
            parts.close()


def _close(stream: object) -> None:
    if isinstance(stream, Generator):
        stream.close()


class Meter:
    """How fast a stream comes, by the time spent in waiting for it."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._bytes: int | None = None
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = clock.monotonic()

    def __exit__(self, *exc: object) -> None:
        if self._bytes is not None:
            self._seconds += clock.monotonic() - self._began

    def add(self, count: int) -> None:
        # The first piece came with the answer to the request, which says nothing of the connection.
        self._bytes = 0 if self._bytes is None else self._bytes + count

    @property
    def is_slow(self) -> bool:
        return self._bytes is not None and self._bytes >= MEASURED_BYTES and self._bytes < FAST * self._seconds


class Parts:
    """The bytes of an object from *begin* to its end, in parts that are asked for ahead, several at a time."""

    def __init__(self, bucket: Bucket, info: ObjectInfo, begin: int) -> None:
        self.begin = begin
        self._bucket = bucket
        self._info = info
        self._shared = shared()
        self._asked = begin  # up to here
        self._tasks: deque[tuple[Task[memoryview], int]] = deque()  # and what each has taken of the budget
        self._ask()

    def __iter__(self) -> Pieces:
        while self._tasks:
            task, taken = self._tasks[0]
            part = task.result()
            self._tasks.popleft()
            self._shared.budget.give(taken)
            self._ask()
            view = memoryview(part)
            for start in range(0, len(view), 1 << 20):
                yield view[start : start + (1 << 20)]

    def _ask(self) -> None:
        while self._asked < self._info.size_bytes and len(self._tasks) < PARTS_AHEAD_MAX:
            taken = PART_BYTES if self._tasks else 0
            if taken and not self._shared.budget.take(taken):
                return
            length = min(PART_BYTES, self._info.size_bytes - self._asked)
            read = partial(read_range, self._bucket, self._info, self._asked, length)
            self._tasks.append((self._shared.workers.submit(read), taken))
            self._asked += length

    def close(self) -> None:
        """Those under way come to their end, and nobody waits for them."""
        while self._tasks:
            task, taken = self._tasks.popleft()
            task.cancel()
            self._shared.budget.give(taken)


def read_range(bucket: Bucket, info: ObjectInfo, offset: int, length: int) -> memoryview:
    # What is large is mapped, and unmapped when nobody has it any more. From the heap it would come out of the arena of the thread
    # that reads it, which keeps it: 279 MB for a process that reads and puts 256 MiB, instead of 173.
    data: mmap.mmap | bytearray
    if length >= MAPPED_BYTES_MIN:
        data = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    else:
        data = bytearray(length)
    view = memoryview(data)
    bucket.read_into(info.key, view, offset, info.tag)
    return view


class Window:
    """Bytes of an object around where somebody reads in order: those that came last, in one piece from `low` to `high`."""

    def __init__(self, start: int) -> None:
        self.low = self.high = start
        self._pieces: deque[tuple[int, memoryview]] = deque()

    def add(self, piece: Bytes) -> None:
        self._pieces.append((self.high, memoryview(piece)))
        self.high += len(piece)

    def views(self, offset: int, end: int) -> list[memoryview] | None:
        """The bytes from *offset* to *end*; None: not all are here."""
        if not self.low <= offset <= end <= self.high:
            return None
        found = []
        for start, piece in self._pieces:
            if start < end and offset < start + len(piece):
                found.append(piece[max(offset - start, 0) : end - start])
        return found

    def drop_before(self, offset: int) -> None:
        while len(self._pieces) > 1 and self._pieces[1][0] <= offset:
            self._pieces.popleft()
            self.low = self._pieces[0][0]


class Reader:
    """
    An object that is open for reading, in the state that *info* names. Several threads may read at a time.

    Raises of all reads:
        StaleFile: the object was replaced or deleted.
    """

    def __init__(self, bucket: Bucket, info: ObjectInfo, path: str) -> None:
        self.info = info
        self.path = path
        self._bucket = bucket
        self._is_closed = False
        self._pull = threading.Lock()  # held by whoever waits for the stream
        self._table = threading.Lock()  # over the windows; nobody waits with it
        self._stream: Pieces | None = None
        self._window = Window(0)  # of the stream
        self._spot = Window(0)  # around the last read elsewhere
        self._next = 0  # where a read that goes on in order would begin

    @property
    def size_bytes(self) -> int:
        return self.info.size_bytes

    def read_at(self, offset: int, length: int) -> bytes:
        """*length* bytes from *offset* on, fewer only at the end of the object."""
        views = self.views_at(offset, length)
        if len(views) == 1:
            whole = views[0].obj
            return whole if isinstance(whole, bytes) and len(whole) == len(views[0]) else bytes(views[0])
        return b"".join(views)

    def views_at(self, offset: int, length: int) -> list[memoryview]:
        """`read_at`, in as many pieces as they have come in, which are not copied."""
        self._check_open()
        end = min(offset + length, self.size_bytes)
        if offset >= end:
            return []
        data = None
        with self._table:
            found = self._window.views(offset, end) or self._spot.views(offset, end)
            if found is not None:
                self._next = end
                return found
            is_in_order = self._is_near(offset) or offset == self._next
        if is_in_order:
            with self._pull:
                self._check_open()
                data = self._read_in_order(offset, end)
        return self._read_elsewhere(offset, end) if data is None else data

    def _is_near(self, offset: int) -> bool:
        """Whether the stream gives the byte at *offset* soon, or has given it just now."""
        return self._stream is not None and self._window.low <= offset <= self._window.high + JUMP_BYTES

    def _read_in_order(self, offset: int, end: int) -> list[memoryview] | None:
        """Have the stream give what is wanted. None: another thread has taken it elsewhere meanwhile. With `_pull`."""
        with self._table:
            window = self._window
            is_near = self._is_near(offset)
            if not is_near and offset != self._next:
                return None
        if not is_near or self._stream is None:
            self._end_stream()
            with self._table:
                window = self._window = Window(offset)
            self._stream = pieces(self._bucket, self.info, offset)
        stream = self._stream
        try:
            while window.high < end:
                piece = next(stream)
                with self._table:
                    window.add(piece)
                    window.drop_before(min(offset, window.high - BEHIND_BYTES))
        except BaseException:
            self._end_stream()  # it cannot go on
            raise
        with self._table:
            data = window.views(offset, end)
            self._next = end
        if window.high == self.size_bytes:
            self._end_stream()
        assert data is not None, "nothing from the offset on was dropped"
        return data

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _read_elsewhere(self, offset: int, end: int) -> list[memoryview]:
        length = min(max(end - offset, RANDOM_BYTES_MIN), self.size_bytes - offset)
        data = read_range(self._bucket, self.info, offset, length)
        with self._table:
            self._next = end
            if length > end - offset:
                self._spot = Window(offset)
                self._spot.add(data)
        return [memoryview(data)[: end - offset]]

    def pieces(self, offset: int = 0) -> Pieces:
        """All from *offset* to the end, in pieces of about 1 MiB. Independent of `read_at`."""
        self._check_open()
        return pieces(self._bucket, self.info, offset)

    def close(self) -> None:
        """End all requests. What another thread is just reading it may still get."""
        self._is_closed = True
        with self._pull:
            self._end_stream()
        with self._table:
            self._window = self._spot = Window(0)

    def _check_open(self) -> None:
        if self._is_closed:
            raise errors.InvalidError(f"file {self.path!r} is closed")
