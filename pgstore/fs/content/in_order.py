"""Reading a large file from one end to the other, over several connections."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from pgstore.client.interfaces import ClientInterface
from pgstore.core.operation import Op
from pgstore.core.workers import Task
from pgstore.fs.content.blobs import BATCH_BYTES
from pgstore.fs.content.block_reader import reading_workers

T = TypeVar("T")


class InOrder(Generic[T]):
    """
    What *read* gives of [*start*, *end*), `BATCH_BYTES` at a time, of which some are being read while one is used.

    Outside of any transaction: *read* runs on other threads, on connections of their own.
    """

    def __init__(self, client: ClientInterface, read: Callable[[int, int], Op[T]], start: int, end: int) -> None:
        self._client = client
        self._read = read
        self.at = start  # where the next piece begins
        self._ahead_to = start
        self._end = end
        self._tasks: deque[Task[T]] = deque()
        self._workers = reading_workers(client)

    def next(self) -> tuple[int, T] | None:
        """Where the next piece ends, and the piece; None at the end. Blocks."""
        while self._ahead_to < self._end and len(self._tasks) <= self._workers.threads_max:
            start, self._ahead_to = self._ahead_to, min(self._end, self._ahead_to + BATCH_BYTES)
            self._tasks.append(self._workers.submit(partial(self._run, start, self._ahead_to)))
        if not self._tasks:
            return None
        piece = self._tasks.popleft().result()
        self.at = min(self._end, self.at + BATCH_BYTES)
        return self.at, piece

    def _run(self, start: int, end: int) -> T:
        return self._client.run_alone(self._read(start, end))

    def close(self) -> None:
        """Read no more."""
        self._end = self._ahead_to
        while self._tasks:
            self._tasks.pop().cancel()
