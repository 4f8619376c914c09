"""Trying again: how often, how long, and a body that was cut short from where it ended.

The SDKs repeat requests. What they do not repeat, each in its own way, is a body that breaks off while it is read: `resumed` asks
for the rest.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Generator, Iterator
from typing import Final, NamedTuple

from pgstore import errors
from pgstore.buckets.base import Bytes

PAUSE_SECONDS_MAX: Final = 20.0


class RetryPolicy(NamedTuple):
    """How much is tried before a provider counts as not answering."""

    attempts: int = 5
    """Of a request; and of the rest of a body, without a byte more."""
    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    """Without a byte; then the attempt has failed."""
    pause_seconds: float = 0.5
    """Before the second attempt, at most; it doubles with each one."""

    def pause(self, failures: int) -> None:
        """Wait after so many failures in a row: by chance, so that those who failed together do not come back together."""
        time.sleep(random.uniform(0, min(PAUSE_SECONDS_MAX, self.pause_seconds * 2 ** (failures - 1))))


DEFAULT_POLICY: Final = RetryPolicy()


class CutShort(Exception):
    """A body broke off, or came to a stop. It can be asked for again, from there; *error* says it to users."""

    def __init__(self, error: errors.Error) -> None:
        super().__init__(str(error))
        self.error = error


def resumed(
    begin: Callable[[int], Generator[Bytes]], offset: int, policy: RetryPolicy = DEFAULT_POLICY
) -> Generator[Bytes]:
    """
    Yield what *begin* gives from *offset* on, and call it again, with the offset reached, when it ends in `CutShort`.

    Raises:
        pgstore.errors.Error: that of the last `CutShort`, after `policy.attempts` in a row that gave nothing.
    """
    failures = 0
    while True:
        try:
            with contextlib.closing(begin(offset)) as pieces:
                for piece in pieces:
                    offset += len(piece)
                    failures = 0
                    yield piece
            return
        except CutShort as cut:
            failures += 1
            error = cut.error
        if failures >= policy.attempts:
            raise error
        policy.pause(failures)


def fill(buffer: memoryview, pieces: Iterator[Bytes]) -> int:
    """Copy *pieces* into *buffer* until it is full; return how many bytes there were."""
    filled = 0
    for piece in pieces:
        piece = memoryview(piece)[: len(buffer) - filled]
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
        if filled == len(buffer):
            break
    return filled
