"""Connections for an event loop, which waits for the socket."""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from typing import Any, Final, TypeVar

import psycopg

from pgstore import errors
from pgstore.connection import protocol
from pgstore.connection.base import BrokenConnection, Connection, Silence, cancel_seconds
from pgstore.connection.protocol import READ
from pgstore.core import clock, limit
from pgstore.core.operation import Many, Query
from pgstore.core.uninterrupted import run_uninterrupted_async

T = TypeVar("T")
_NEVER: Final = float("inf")


class AsyncConnection(Connection):
    """A connection driven by an event loop."""

    driver_connection: psycopg.AsyncConnection[Any]

    def __init__(self, connection: psycopg.AsyncConnection[Any], *, pooled: bool) -> None:
        super().__init__(connection, pooled=pooled)
        self._loop = asyncio.get_running_loop()
        self._socket = self.pgconn.socket
        self._waiter: asyncio.Future[None] | None = None
        self._reading = False
        self._idle_wakes = 0
        self._silent_at = _NEVER  # when the call is given up, unless something comes
        self._alarm: asyncio.TimerHandle | None = None

    async def _drive(self, io: protocol.Io[T], taking: Query | Many | None = None) -> T:
        try:
            wanted = next(io)
            while True:
                await self._ready(wanted)
                wanted = io.send(None)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        except (errors.Error, BrokenConnection):
            raise
        except Silence:
            self.release_socket()
            return await run_uninterrupted_async(partial(self.time_out, io, taking, cancel_seconds()))  # type: ignore[no-any-return]
        except GeneratorExit:
            self.close()  # the event loop is gone, and with it all hope for an answer
            raise
        except BaseException:
            self.release_socket()
            await run_uninterrupted_async(partial(self.end, io, taking))
            raise
        finally:
            self.used_at = clock.monotonic()
            if self.exposed:
                self._stop_reading()

    def expose(self) -> None:
        super().expose()
        self._stop_reading()  # psycopg waits for the same socket, and takes our reader away

    async def _ready(self, wanted: int) -> None:
        waiter = self._waiter = self._loop.create_future()
        if not self._reading:
            # In an empty context: a handle keeps the one it was made in, and with that the caller's transaction, alive.
            Context().run(self._loop.add_reader, self._socket, self._wake)
            self._reading = True
        if wanted != READ:
            self._loop.add_writer(self._socket, self._wake)
        if (seconds := limit.wait_seconds()) is not None:
            self._set_alarm(seconds)
        try:
            await waiter
        finally:
            self._silent_at = _NEVER
            self._waiter = None
            if wanted != READ:
                self._loop.remove_writer(self._socket)

    def _set_alarm(self, seconds: float) -> None:
        # One for many waits, which looks when it rings whether it is wanted: setting it costs more than most waits take.
        self._silent_at = self._loop.time() + seconds
        if self._alarm is not None:
            if self._alarm.when() <= self._silent_at:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._silent_at, self._ring, context=Context())

    def _ring(self) -> None:
        self._alarm = None
        waiter = self._waiter
        if waiter is None or waiter.done() or self._silent_at == _NEVER:
            return
        left = self._silent_at - self._loop.time()
        if left > 0:
            self._set_alarm(left)
        else:
            waiter.set_exception(Silence())

    async def wait_readable(self, news: asyncio.Event, seconds: float) -> None:
        """Wait until something arrives unasked for, or *news* is set, at most *seconds*."""
        telling = asyncio.ensure_future(news.wait())
        arriving = asyncio.ensure_future(self._ready(READ))
        try:
            await asyncio.wait([telling, arriving], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not self._loop.is_closed():
                telling.cancel()
                arriving.cancel()
                await asyncio.gather(telling, arriving, return_exceptions=True)

    async def wait_idle(self, seconds: float) -> None:
        await self.wait_readable(asyncio.Event(), seconds)

    def _wake(self) -> None:
        if self._waiter is not None:
            self._idle_wakes = 0
            if not self._waiter.done():
                self._waiter.set_result(None)
            return
        # Adding and removing a reader costs two system calls per query, so it stays between them. The loop may call once more
        # for data that has been read meanwhile; twice in a row is the server closing the connection.
        self._idle_wakes += 1
        if self._idle_wakes > 1:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._socket)
            self._reading = False

    def release_socket(self) -> None:
        self._stop_reading()

    def _cancel(self, seconds: float) -> None:
        # On a loop of this thread's own: the connection's may be closing.
        asyncio.run(self.driver_connection.cancel_safe(timeout=seconds))

    def close(self) -> None:
        self._stop_reading()
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.cancel()
        super().close()
