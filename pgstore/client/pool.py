"""Who has which connection: sticky for threads, handed round on an event loop, never more than the limit.

A thread keeps its link between calls: taking it is one `list.pop`, which is atomic, and costs nothing that a pool's checkout
would. Whoever wants to take a link away — another thread at the limit, the housekeeper after five idle minutes — pops it from the
same list, so a link has one holder at any time.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from pgstore.client.links import AsyncLink, BlockingLink
from pgstore.core.clock import monotonic

IDLE_SECONDS: Final = 300.0


class _Seat:
    """A thread's place for its link: a list of one when the link is there and idle, else empty."""

    __slots__ = ("__weakref__", "free")

    def __init__(self) -> None:
        self.free: list[BlockingLink] = []


class BlockingPool:
    """The links of blocking calls."""

    def __init__(self, connect: Callable[[], BlockingLink], links_max: int) -> None:
        self._connect = connect
        self._links_max = links_max
        self._local = threading.local()
        self._lock = threading.Condition()
        self._seats: weakref.WeakSet[_Seat] = weakref.WeakSet()
        self._spare: list[BlockingLink] = []  # links whose thread has ended
        self._count = 0
        self._waiting = 0
        self._closed = False

    def acquire(self) -> BlockingLink:
        """This thread's link; else a new one; at the limit the one that was idle longest; else the next that is given back."""
        try:
            return self._local.seat.free.pop()  # type: ignore[no-any-return]
        except (AttributeError, IndexError):
            return self._acquire_slowly()

    def release(self, link: BlockingLink) -> None:
        """Give *link* back: it stays with this thread."""
        try:
            free = self._local.seat.free
        except AttributeError:
            free = self._take_seat().free
        link.used_at = monotonic()
        if free or self._closed:  # this thread holds another already: a transaction and a call outside it overlapped
            self.discard(link)
            return
        free.append(link)
        if self._waiting:
            with self._lock:
                self._lock.notify()

    def discard(self, link: BlockingLink) -> None:
        """Close *link*, which is broken or not wanted any more."""
        link.close()
        with self._lock:
            self._count -= 1
            self._lock.notify()

    def purge(self) -> None:
        """Close what is idle: the server went away, so all of it is broken."""
        self._close_idle(before=float("inf"))

    def close_idle(self) -> None:
        self._close_idle(before=monotonic() - IDLE_SECONDS)

    def close(self) -> None:
        self._closed = True
        self.purge()

    def _acquire_slowly(self) -> BlockingLink:
        self._take_seat()
        with self._lock:
            self._waiting += 1
            try:
                while True:
                    if self._spare:
                        return self._spare.pop()
                    if self._count < self._links_max:
                        self._count += 1
                        break
                    if (link := self._steal(float("inf"))) is not None:
                        return link
                    self._lock.wait(1.0)  # not for ever: `_vacate` cannot notify
            finally:
                self._waiting -= 1
        try:
            return self._connect()
        except BaseException:
            with self._lock:
                self._count -= 1
                self._lock.notify()
            raise

    def _take_seat(self) -> _Seat:
        try:
            return self._local.seat  # type: ignore[no-any-return]
        except AttributeError:
            seat = self._local.seat = _Seat()
            weakref.finalize(seat, self._vacate, seat.free)  # the thread has ended
            with self._lock:
                self._seats.add(seat)
            return seat

    def _vacate(self, free: list[BlockingLink]) -> None:
        # Called from a finaliser, possibly inside any of the above on this very thread: it must not take the lock.
        if free:
            self._spare.append(free.pop())

    def _steal(self, before: float) -> BlockingLink | None:
        """The link that has been idle longest, if since before *before*."""
        for seat in sorted((s for s in list(self._seats) if s.free), key=_idle_since):
            try:
                link = seat.free.pop()
            except IndexError:
                continue  # its thread was quicker
            if link.used_at < before:
                return link
            seat.free.append(link)
            return None
        return None

    def _close_idle(self, before: float) -> None:
        while True:
            with self._lock:
                if self._spare:
                    link: BlockingLink | None = self._spare.pop()
                else:
                    link = self._steal(before)
            if link is None:
                return
            self.discard(link)


def _idle_since(seat: _Seat) -> float:
    try:
        return seat.free[0].used_at
    except IndexError:
        return float("inf")


class AsyncPool:
    """The links of one event loop. A task has a link while a call or a transaction of its needs one."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, AsyncLink]], links_max: int) -> None:
        self._connect = connect
        self._links_max = links_max
        self._idle: list[AsyncLink] = []
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._count = 0
        self._closed = False
        self._reaper: asyncio.TimerHandle | None = None

    async def acquire(self) -> AsyncLink:
        while not self._idle and self._count >= self._links_max:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._wake_next()  # our turn had come: pass it on
                raise
        if self._idle:
            return self._idle.pop()
        self._count += 1
        try:
            return await self._connect()
        except BaseException:
            self._count -= 1
            self._wake_next()
            raise

    async def release(self, link: AsyncLink) -> None:
        self.release_now(link)

    def release_now(self, link: AsyncLink) -> None:
        if self._closed:
            self.discard_now(link)
            return
        link.used_at = time.monotonic()
        self._idle.append(link)
        if self._waiting:
            self._wake_next()
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._reap)

    async def discard(self, link: AsyncLink) -> None:
        self.discard_now(link)

    def discard_now(self, link: AsyncLink) -> None:
        link.close()
        self._count -= 1
        self._wake_next()

    async def purge(self) -> None:
        while self._idle:
            self.discard_now(self._idle.pop())

    async def close(self) -> None:
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        await self.purge()

    def _reap(self) -> None:
        self._reaper = None
        now = time.monotonic()
        for link in [link for link in self._idle if link.used_at <= now - IDLE_SECONDS]:
            self._idle.remove(link)
            self.discard_now(link)
        if self._idle:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS / 2, self._reap)

    def _wake_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
