"""Reading ahead: who reads a file in order finds the next blocks in the cache, fetched over several connections.

A reader begins with a window of one mebibyte, which doubles as long as the file is read in order, up to 16. Who reads here and
there fetches what is asked for and no more, and nothing of it is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from pgstore.client.interfaces import ClientInterface
from pgstore.core.operation import Op
from pgstore.core.workers import Task, Workers
from pgstore.fs.content.block_cache import BLOCK_BYTES, Block, BlockCache

CONNECTIONS_MAX: Final = 4  # that read at a time
WINDOW_MIN: Final = BLOCK_BYTES
WINDOW_MAX: Final = 16 * BLOCK_BYTES
FETCH_BYTES: Final = 2 * BLOCK_BYTES  # in one statement
_PARTS_MAX: Final = 16  # of a block
_OUT_OF_ORDER: Final = 2 * BLOCK_BYTES  # the kernel sends several requests at a time, in any order

Fetched: TypeAlias = dict[int, Block]


@dataclass(frozen=True)
class Source:
    """A state of the bytes of a file."""

    key: Hashable
    size_bytes: int
    read: Callable[[int, int], Op[list[bytes]]]
    """The bytes of a range, which ends at the end of the file at the latest."""


def reading_workers(client: ClientInterface) -> Workers:
    """The threads of a client that read for others; fewer than it has connections."""
    count = max(1, min(CONNECTIONS_MAX, client.settings.connections_max - 1))
    return client.shared.setdefault("reading workers", Workers(count, "pgstore-reader"))  # type: ignore[no-any-return]


class Reading:
    """What all readers of a mount share: the cache, the threads, and what is being fetched."""

    def __init__(self, client: ClientInterface, cache: BlockCache) -> None:
        self.client = client
        self.cache = cache
        self.workers = reading_workers(client)
        self._lock = threading.Lock()
        self._tasks: dict[tuple[Hashable, int], Task[Fetched]] = {}  # by the blocks that they fetch
        # Blocks that are being fetched, beyond which none is fetched ahead.
        self._ahead_max = min(WINDOW_MAX, cache.bytes_max // 4) // BLOCK_BYTES

    def fetch_now(self, source: Source, start: int, end: int) -> list[bytes]:
        """The bytes of a range, read by the caller."""
        pieces: list[bytes] = []
        while start < end:
            stop = min(end, start + FETCH_BYTES)
            pieces += self.client.run_alone(source.read(start, stop))
            start = stop
        return pieces

    def begin(self, source: Source, first: int, last: int, *, ahead: bool) -> None:
        """Have blocks *first* to *last* fetched that are not there, if they are not *ahead* or there is room for such."""
        begun: list[int] = []
        with self._lock:
            for number in range(first, last + 1):
                key = source.key, number
                if key in self._tasks or self.cache.has(key):
                    self._submit(source, begun)
                    continue
                if ahead and len(self._tasks) + len(begun) >= self._ahead_max:
                    break
                begun.append(number)
                if len(begun) * BLOCK_BYTES >= FETCH_BYTES:
                    self._submit(source, begun)
            self._submit(source, begun)

    def _submit(self, source: Source, numbers: list[int]) -> None:
        if numbers:
            task = self.workers.submit(partial(self._fetch, source, numbers[0], numbers[-1]))
            for number in numbers:
                self._tasks[source.key, number] = task
            numbers.clear()

    def _fetch(self, source: Source, first: int, last: int) -> Fetched:
        fetched: Fetched = {}
        try:
            start, end = first * BLOCK_BYTES, min((last + 1) * BLOCK_BYTES, source.size_bytes)
            data = self.client.run_alone(source.read(start, end))
            for number, block in enumerate(_blocks(data), first):
                fetched[number] = block
                self.cache.put((source.key, number), block)
        finally:
            with self._lock:
                for number in range(first, last + 1):
                    self._tasks.pop((source.key, number), None)
        return fetched

    def block(self, source: Source, number: int) -> Block:
        """One block: from the cache, from whoever fetches it, or else fetched by the caller."""
        key = source.key, number
        with self._lock:
            task = self._tasks.get(key)
        if task is None:
            block = self.cache.get(key)
            if block is not None:
                return block
            return self._fetch(source, number, number).get(number, ())
        return task.result().get(number, ())


def _blocks(pieces: list[bytes]) -> list[Block]:
    """*pieces*, one after the other, cut into blocks."""
    blocks: list[Block] = []
    parts: list[bytes | memoryview] = []
    length = 0
    for piece in pieces:
        at = 0
        while at < len(piece):
            count = min(len(piece) - at, BLOCK_BYTES - length)
            parts.append(piece if count == len(piece) else memoryview(piece)[at : at + count])
            at += count
            length += count
            if length == BLOCK_BYTES:
                blocks.append(_joined(parts))
                parts, length = [], 0
    if parts:
        blocks.append(_joined(parts))
    return blocks


def _joined(parts: list[bytes | memoryview]) -> Block:
    """*parts* as a block: joined where they are many, or views, which would keep more in memory than themselves."""
    whole = tuple(part for part in parts if isinstance(part, bytes))
    return whole if len(whole) == len(parts) <= _PARTS_MAX else (b"".join(parts),)


class BlockReader:
    """How one open file is read."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._lock = threading.Lock()
        self._next = 0  # where reading in order goes on
        self._window = WINDOW_MIN
        self._ahead_to = 0  # the block up to which, exclusively, fetching has begun
        self._key: Hashable = None

    def read(self, source: Source, start: int, end: int) -> list[bytes | memoryview]:
        """The bytes of [*start*, *end*), which ends at the end of the file at the latest."""
        if start >= end:
            return []
        if self._is_in_order(source, start, end):
            self._go_ahead(source, start, end)
            numbers = range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1)
            return _cut([self._reading.block(source, number) for number in numbers], start, end)
        cached = self._cached(source, start, end, wait=True)
        return cached if cached is not None else list(self._reading.fetch_now(source, start, end))

    def read_now(self, source: Source, start: int, end: int) -> list[bytes | memoryview] | None:
        """`read`, from memory; None: not all is there."""
        if start >= end:
            return []
        cached = self._cached(source, start, end, wait=False)
        if cached is not None and self._is_in_order(source, start, end):
            self._go_ahead(source, start, end)
        return cached

    def _cached(self, source: Source, start: int, end: int, *, wait: bool) -> list[bytes | memoryview] | None:
        blocks: list[Block] = []
        for number in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1):
            block = self._reading.cache.get((source.key, number), wait=wait)
            if block is None:
                return None
            blocks.append(block)
        return _cut(blocks, start, end)

    def _is_in_order(self, source: Source, start: int, end: int) -> bool:
        with self._lock:
            if self._key != source.key:
                self._key = source.key
                self._next, self._ahead_to, self._window = 0, 0, WINDOW_MIN
            # Behind the place by less than what was read at a time, or before it by less than what was asked for ahead.
            if not self._next - _OUT_OF_ORDER <= start <= self._next + _OUT_OF_ORDER:
                self._next, self._window = end, WINDOW_MIN
                self._ahead_to = 0
                return False
            self._next = max(self._next, end)
            return True

    def _go_ahead(self, source: Source, start: int, end: int) -> None:
        last = (end - 1) // BLOCK_BYTES
        last_of_file = (source.size_bytes - 1) // BLOCK_BYTES
        with self._lock:
            wanted = min(last + self._window // BLOCK_BYTES, last_of_file)
            first = max(self._ahead_to, start // BLOCK_BYTES)
            ahead = wanted - first + 1
            # Not block by block: a statement for several costs less.
            if first > last and ahead < min(FETCH_BYTES, self._window) // BLOCK_BYTES and wanted < last_of_file:
                return
            if ahead <= 0:
                return
            self._ahead_to = wanted + 1
            self._window = min(2 * self._window, WINDOW_MAX)
        if first < last:  # one block is fetched by who wants it
            self._reading.begin(source, first, last, ahead=False)
        self._reading.begin(source, max(first, last + 1), wanted, ahead=True)


def _cut(blocks: list[Block], start: int, end: int) -> list[bytes | memoryview]:
    """The bytes of [*start*, *end*), of the blocks that they lie in."""
    first = start // BLOCK_BYTES * BLOCK_BYTES
    pieces: list[bytes | memoryview] = []
    for at, block in zip(range(first, end, BLOCK_BYTES), blocks, strict=True):
        for piece in block:
            stop = at + len(piece)
            if at >= start and stop <= end:
                pieces.append(piece)
            elif max(start, at) < min(end, stop):
                pieces.append(memoryview(piece)[max(start, at) - at : min(end, stop) - at])
            at = stop
    return pieces
