"""Listening for what other clients tell: a thread for blocking calls, a task for each event loop, each with one connection.

What they hold at the server, and whom they wake, is kept by a `Registry` (`client.waiters`); here is what differs between them.

Behind a pooler that hands a session to several clients neither locks nor LISTEN work: there waiting is polling, unless `listen_url`
leads to the server itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import pq

from pgstore import errors
from pgstore.client.tickets import Ticket
from pgstore.client.waiters import LISTEN, Registry
from pgstore.client.waking import CHANNEL
from pgstore.connection import AsyncConnection, BlockingConnection, BrokenConnection, Connection
from pgstore.core import clock
from pgstore.core.operation import Listen, Query, Rows, Topic
from pgstore.core.statement import Statement
from pgstore.core.steps import Steps, run_async, run_blocking
from pgstore.core.threads import Signal, going_on, is_ending, start

_LOG: Final = logging.getLogger("pgstore")
POLL_SECONDS: Final = 1.0  # at most between looks where nothing can be listened to; the first come sooner (`waits`)
_RECONNECT_SECONDS: Final = 0.5

# Asked of each backend anew: behind a pooler it is not the one that said hello.
BACKEND = Query(Statement("SELECT pg_backend_pid()", read_only=True))
_NOTIFY_SELF = Statement(f"SELECT pg_notify('{CHANNEL}', $1)", "text")
_PROBES: Final = 4
_PROBE_SECONDS: Final = 1.0


def keeps_its_session(connection: Connection, other: Connection) -> Steps[bool]:
    """
    Whether the pooler before *connection* leaves it one server connection as long as it is open, as in PgBouncer's session mode.

    It is tried out: a notification by *other* must arrive while *connection* is idle, and in transaction mode nothing arrives then.
    Before that both are asked for their backend a few times. Where they meet the same one, or not always their own, the answer is
    no: a LISTEN would stay behind on a server connection that others use.
    """
    backends = set()
    for _ in range(_PROBES):
        ((mine,),) = yield connection.execute(BACKEND)
        ((theirs,),) = yield other.execute(BACKEND)
        backends.add((mine, theirs))
    if any(mine == theirs for mine, theirs in backends) or len(backends) > 1:
        return False
    yield connection.execute(LISTEN)
    probe = f"probe/{secrets.token_hex(8)}"
    yield other.execute(Query(_NOTIFY_SELF, probe))
    give_up = clock.monotonic() + _PROBE_SECONDS
    while (seconds := give_up - clock.monotonic()) > 0:
        yield connection.wait_idle(seconds)
        if probe in _notified(connection):
            return True
    return False


def _notified(connection: Connection) -> list[str]:
    """Payloads that have arrived on *connection*. Raises `BrokenConnection` when it is gone."""
    try:
        connection.pgconn.consume_input()
        payloads = []
        while (note := connection.pgconn.notifies()) is not None:
            payloads.append(note.extra.decode())
    except psycopg.Error as exc:
        raise BrokenConnection(exc, sent=False) from exc
    if connection.pgconn.status != pq.ConnStatus.OK:
        raise BrokenConnection(None, sent=False)
    return payloads


def _hear(registry: Registry, connection: Connection) -> bool:
    """Whether anything was notified. Also what came with the results of statements: the socket tells nothing of that any more."""
    payloads = _notified(connection)
    for payload in payloads:
        registry.hear(payload)
    return bool(payloads)


def _run(query: Query, found: list[Rows], connection: Connection) -> Steps[None]:
    found.append((yield connection.execute(query)))


def _check(registry: Registry) -> None:
    """Raise `BrokenConnection` where another connection had better be opened."""
    if registry.is_elsewhere:
        raise BrokenConnection(None, sent=False)


@contextlib.contextmanager
def _replacing() -> Generator[None, None, None]:
    """Around the work on a listening connection: when it breaks another one is opened."""
    try:
        yield
    except BrokenConnection as exc:
        _LOG.warning("the listening connection broke and is replaced: %s", exc)


# ---------------------------------------------------------------------------------------------------- blocking executor


class BlockingTicket(Ticket):
    """A thread that waits."""

    __slots__ = ("_event", "_listener")

    def __init__(self, listener: BlockingListener, topic: Topic) -> None:
        super().__init__(listener.registry, topic)
        self._listener = listener
        self._event = Signal()

    def wait(self, seconds: float) -> bool:
        woken = self._event.wait(self._listener.wait_seconds(seconds))
        self._event.clear()
        return woken

    def wake(self) -> None:
        self._event.set()


class BlockingListener:
    """A thread with the one listening connection of the blocking executor."""

    def __init__(self, connect: Callable[[], BlockingConnection]) -> None:
        self._connect = connect
        self.registry = Registry(self._wake_thread)
        self._lock = self.registry.lock
        self._thread: threading.Thread | None = None
        self._wanted: deque[tuple[Callable[[Connection], Steps[None]], Signal]] = deque()
        self._wake_pipe: tuple[int, int] | None = None
        self._polls = False  # nothing can be listened to: behind a pooler, or once it is closed
        self._closed = False

    def register(self, request: Listen) -> BlockingTicket:
        """A ticket, once the server knows that this client waits, or after a second: until the server knows, its owner polls."""
        ticket = BlockingTicket(self, request.topic)
        if self._polls:
            return ticket
        if is_ending():
            raise errors.StoreUnavailable("the interpreter is ending: nothing can be waited for any more")
        try:
            if not self.registry.add(ticket, request):
                self._ask(partial(self.registry.register, ticket))
        except BaseException:
            ticket.close()
            raise
        return ticket

    def look(self, ticket: BlockingTicket, query: Query) -> Rows | None:
        """The rows of *query*, or None if they are not there within a second."""
        found: list[Rows] = []
        if ticket.entry is not None and not self._polls:
            self._ask(partial(_run, query, found))
        return found[0] if found else None

    def _ask(self, steps: Callable[[Connection], Steps[None]]) -> None:
        """Have the thread do *steps* on its connection. It goes on without us if that takes longer than a second."""
        done = Signal()
        with self._lock:
            self._wanted.append((steps, done))
            if self._thread is None or not self._thread.is_alive():
                self._wake_pipe = os.pipe()
                os.set_blocking(self._wake_pipe[1], False)  # while nobody reads: one byte is enough
                self._thread = threading.Thread(
                    target=self._run, args=(self._wake_pipe[0],), name="pgstore-listener", daemon=True
                )
                start(self._thread)
            self._wake_thread()
        done.wait(1.0)

    def wait_seconds(self, seconds: float) -> float:
        return min(seconds, POLL_SECONDS) if self._polls else seconds

    def move(self) -> None:
        """The client's connections lead to another history: listen there, within a second."""
        self.registry.is_elsewhere = True

    def close(self) -> None:
        self._closed = self._polls = True
        self.registry.wake_all()  # who still waits polls
        self._wake_thread()
        thread = self._thread
        # Not alive: Ctrl-C came before it could begin.
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(2.0)

    def _wake_thread(self) -> None:
        with self._lock:
            if self._wake_pipe is not None and self._thread is not threading.current_thread():
                with contextlib.suppress(OSError):
                    os.write(self._wake_pipe[1], b"!")

    def _run(self, wake_end: int) -> None:
        try:
            while not self._closed:
                connection = None
                try:
                    with going_on("listening"), _replacing():
                        connection = self._connect()
                        if connection.pooled and not self._keeps_its_session(connection):
                            self._polls = True
                            return
                        run_blocking(self.registry.start(connection))
                        self.registry.wake_all()
                        self._serve(connection, wake_end)
                finally:
                    if connection is not None:
                        connection.close()
                if not self._closed:
                    time.sleep(_RECONNECT_SECONDS)
        finally:
            with self._lock:
                for _, done in self._wanted:
                    done.set()
                self._wanted.clear()
                if self._wake_pipe is not None:
                    for end in self._wake_pipe:
                        os.close(end)
                    self._wake_pipe = None
                self._thread = None

    def _keeps_its_session(self, connection: BlockingConnection) -> bool:
        other = None
        try:
            other = self._connect()
            return run_blocking(keeps_its_session(connection, other))
        except (errors.Error, BrokenConnection):  # such as a pool of too few connections
            return False
        finally:
            if other is not None:
                other.close()

    def _serve(self, connection: BlockingConnection, wake_end: int) -> None:
        poller = select.poll()
        poller.register(connection.pgconn.socket, select.POLLIN)
        poller.register(wake_end, select.POLLIN)
        while not self._closed:
            _check(self.registry)
            while self._wanted:
                steps, done = self._wanted.popleft()
                try:
                    run_blocking(steps(connection))
                except BrokenConnection:
                    self._wanted.appendleft((steps, done))  # to be done again on a new connection
                    raise
                finally:
                    done.set()
            seconds = run_blocking(self.registry.work(connection))
            if _hear(self.registry, connection) or self._wanted:
                continue
            for descriptor, _ in poller.poll(seconds * 1000):
                if descriptor == wake_end:
                    os.read(wake_end, 4096)


# ------------------------------------------------------------------------------------------------------- event loop


def _set(event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop was closed, and with it all who wait
        event.set()


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done() and not done.get_loop().is_closed():
        done.set_result(None)


class AsyncTicket(Ticket):
    """A task that waits."""

    __slots__ = ("_event", "_listener")

    def __init__(self, listener: AsyncListener, topic: Topic) -> None:
        super().__init__(listener.registry, topic)
        self._listener = listener
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(min(self._listener.wait_seconds(seconds), 1e6)):
                return await self._event.wait()
        except TimeoutError:
            return False
        finally:
            self._event.clear()

    def wake(self) -> None:
        _set(self._event)


class AsyncListener:
    """A task with the one listening connection of an event loop."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, AsyncConnection]]) -> None:
        self._connect = connect
        self._news = asyncio.Event()
        self.registry = Registry(partial(_set, self._news))
        self._wanted: deque[tuple[Callable[[Connection], Steps[None]], asyncio.Future[None]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._polls = False

    async def register(self, request: Listen) -> AsyncTicket:
        ticket = AsyncTicket(self, request.topic)
        if self._polls:
            return ticket
        try:
            if not self.registry.add(ticket, request):
                await self._ask(partial(self.registry.register, ticket))
        except BaseException:
            ticket.close()
            raise
        return ticket

    async def look(self, ticket: AsyncTicket, query: Query) -> Rows | None:
        """The rows of *query*, or None if they are not there within a second."""
        found: list[Rows] = []
        if ticket.entry is not None and not self._polls:
            await self._ask(partial(_run, query, found))
        return found[0] if found else None

    async def _ask(self, steps: Callable[[Connection], Steps[None]]) -> None:
        """Have the task do *steps* on its connection. It goes on without us if that takes longer than a second."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted.append((steps, done))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="pgstore-listener", context=Context())
        self._news.set()
        await asyncio.wait([done], timeout=1.0)

    def wait_seconds(self, seconds: float) -> float:
        return min(seconds, POLL_SECONDS) if self._polls else seconds

    def move(self) -> None:
        """The client's connections lead to another history: listen there, within a second. Safe from any thread."""
        self.registry.is_elsewhere = True

    async def close(self) -> None:
        self._polls = True
        self.registry.wake_all()  # who still waits polls
        if self._task is not None and not self._task.done():
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                connection = None
                try:
                    with going_on("listening", loop), _replacing():
                        connection = await self._connect()
                        if connection.pooled and not await self._keeps_its_session(connection):
                            self._polls = True
                            return
                        await run_async(self.registry.start(connection))
                        self.registry.wake_all()
                        await self._serve(connection)
                finally:
                    if connection is not None:
                        connection.close()
                await asyncio.sleep(_RECONNECT_SECONDS)
        finally:
            for _, done in self._wanted:
                _finish(done)
            self._wanted.clear()

    async def _keeps_its_session(self, connection: AsyncConnection) -> bool:
        other = None
        try:
            other = await self._connect()
            return await run_async(keeps_its_session(connection, other))
        except (errors.Error, BrokenConnection):
            return False
        finally:
            if other is not None:
                other.close()

    async def _serve(self, connection: AsyncConnection) -> None:
        while True:
            _check(self.registry)
            self._news.clear()
            while self._wanted:
                steps, done = self._wanted.popleft()
                try:
                    await run_async(steps(connection))
                except BrokenConnection:
                    self._wanted.appendleft((steps, done))
                    raise
                finally:
                    _finish(done)
            seconds = await run_async(self.registry.work(connection))
            if not (_hear(self.registry, connection) or self._wanted):
                await connection.wait_readable(self._news, seconds)
