"""The connections of one event loop: a task has one while a call or a transaction of its needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from pgstore.connection import AsyncConnection
from pgstore.connection import pool as common
from pgstore.connection.pool import RESERVE_SECONDS, SHORT, URGENT, Permit, Pool, Waiter, queueing_seconds
from pgstore.core import clock


class _Waiter(Waiter[AsyncConnection]):
    """A task that waits."""

    __slots__ = ("ready",)

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        self.ready: asyncio.Future[AsyncConnection | Permit] = asyncio.get_running_loop().create_future()

    @property
    def is_served(self) -> bool:
        return self.ready.done() or self.ready.get_loop().is_closed()

    def give(self, given: AsyncConnection | Permit) -> None:
        self.ready.set_result(given)

    def tell(self) -> None:
        pass  # `give` has, for the waiter awaits the future


class AsyncPool(Pool[AsyncConnection]):
    """The connections of one event loop."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, AsyncConnection]], connections_max: int) -> None:
        super().__init__(connections_max)
        self._connect = connect
        self._idle: list[AsyncConnection] = []
        self._reaper: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None

    async def acquire(self, rank: int = SHORT) -> AsyncConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.epoch == self._epoch:
                return connection
            self.discard_now(connection)
        given = self._new_permit() or await self._wait_in_line(rank)
        if not isinstance(given, Permit):
            return given
        try:
            connection = await self._connect()
        except BaseException:
            self._free_permit(given)
            raise
        self._enter(connection, given)
        return connection

    async def _wait_in_line(self, rank: int) -> AsyncConnection | Permit:
        waiter = _Waiter(rank)
        self._waiters.append(waiter)
        if rank == URGENT:
            self._serve_from_reserve()
        if self._looking is None:
            self._look_again_in(RESERVE_SECONDS)
        try:
            async with asyncio.timeout(queueing_seconds()):
                return await waiter.ready
        except BaseException as exc:
            if waiter.ready.done() and not waiter.ready.cancelled():  # we were served: pass it on
                given = waiter.ready.result()
                if isinstance(given, Permit):
                    self._free_permit(given)
                else:
                    self.release_now(given)
            if isinstance(exc, TimeoutError):
                raise self._none_was_free() from None
            raise

    def _look_again_in(self, seconds: float) -> None:
        self._looking = asyncio.get_running_loop().call_later(seconds, self._look_again, context=Context())

    def _look_again(self) -> None:
        """Somebody waits: see whether for so long that the reserve is theirs."""
        self._looking = None
        self._serve_from_reserve()
        if self._waiters:
            self._look_again_in(RESERVE_SECONDS)

    def _idle_one(self) -> AsyncConnection | None:
        return self._idle.pop() if self._idle else None

    def begin_epoch(self) -> None:
        """New connections lead to another history: older ones are given up when they are met. Safe from any thread."""
        self._epoch += 1

    async def release(self, connection: AsyncConnection) -> None:
        self.release_now(connection)

    def release_now(self, connection: AsyncConnection) -> None:
        if self._closed or connection.epoch != self._epoch:
            self.discard_now(connection)
            return
        connection.used_at = clock.monotonic()
        if connection.reserve:
            self._reserve_idle.append(connection)
            self._serve_from_reserve()
        else:
            self._idle.append(connection)
            if self._waiters:
                self._serve()
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(common.IDLE_SECONDS, self._reap, context=Context())

    async def discard(self, connection: AsyncConnection) -> None:
        self.discard_now(connection)

    def discard_now(self, connection: AsyncConnection) -> None:
        connection.close()
        self._free_permit(connection.permit)

    async def purge(self) -> None:
        for idle in (self._idle, self._reserve_idle):
            while idle:
                self.discard_now(idle.pop())

    async def close(self) -> None:
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        if self._looking is not None and not self._waiters:
            self._looking.cancel()
            self._looking = None
        await self.purge()

    def abandon(self) -> None:
        """The event loop was closed before its connections."""
        self._closed = True
        self._reaper = self._looking = None
        self._waiters.clear()
        self._idle.clear()
        self._reserve_idle.clear()

    def rest(self) -> None:
        """A task waits to be told: close what has not been used for long."""
        self._close_idle(common.REST_SECONDS)

    def _close_idle(self, seconds: float) -> None:
        before = clock.monotonic() - seconds
        for idle in (self._idle, self._reserve_idle):
            for connection in [connection for connection in idle if connection.used_at <= before]:
                idle.remove(connection)
                self.discard_now(connection)

    def _reap(self) -> None:
        self._reaper = None
        self._close_idle(common.IDLE_SECONDS)
        if self._idle or self._reserve_idle:
            self._reaper = asyncio.get_running_loop().call_later(common.IDLE_SECONDS / 2, self._reap, context=Context())
