"""Waiting for something that another client does, without asking again and again.

A client that waits holds a shared advisory lock on the topic's key and listens on the one channel `pgstore`. Whoever makes a
change tries the exclusive lock, and notifies only if that fails (`NOTIFY_IF_AWAITED`): an unconditional NOTIFY takes a lock on the
whole database until the commit is through and costs eight producers most of their speed. A lock needs no row, is seen without a
commit and goes away with a dead client.

The order that loses no wake-up is: register (`Listen`), read, wait. A change whose author looked for waiters just before we
registered, and which commits just after we read, wakes nobody; that is why waits are short at first and grow (`waits`).

There is one listening connection for the blocking executor of a client and one per event loop. Behind a pooler that hands a
session to several clients neither locks nor LISTEN work: there waiting is polling, unless `listen_url` leads to the server itself.
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
import weakref
import zlib
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextvars import Context
from typing import Any, Final

import psycopg
from psycopg import pq

from pgstore import errors
from pgstore.connection import AsyncConnection, BlockingConnection, BrokenConnection, Connection
from pgstore.core import clock
from pgstore.core.operation import Query, Topic
from pgstore.core.statement import Statement
from pgstore.core.steps import Steps, run_async, run_blocking
from pgstore.core.threads import Signal, going_on, is_ending, start

_LOG: Final = logging.getLogger("pgstore")
CHANNEL: Final = "pgstore"
LOCK_CLASS: Final = 0x70677374  # "pgst": the first half of our advisory lock keys
LINGER_SECONDS: Final = 1.0  # a topic stays registered this long after its last waiter: the next wait is often near
POLL_SECONDS: Final = 1.0  # at most between reads where nothing can be listened to; the first come sooner (`waits`)
_FIRST_WAIT_SECONDS: Final = 0.001
_LONGEST_WAIT_SECONDS: Final = 6.0  # below 0.2 reads a second, whatever else wakes the waiter
_RECONNECT_SECONDS: Final = 0.5

LISTEN = Query(Statement(f"LISTEN {CHANNEL}"))
# Locks of the session, counted by the server: neither may be sent again.
REGISTER = Statement(f"SELECT pg_try_advisory_lock_shared({LOCK_CLASS}, $1)", "int4")
UNREGISTER = Statement(f"SELECT pg_advisory_unlock_shared({LOCK_CLASS}, $1)", "int4")

# As a condition in SQL: someone waits for the topic whose key is parameter {key}. The lock is given back at once, also when the
# transaction goes on: kept until the commit, it would make putters take each other for waiters.
SOMEONE_WAITS: Final = (
    f"CASE WHEN pg_try_advisory_lock({LOCK_CLASS}, {{key}})"
    f" THEN NOT pg_advisory_unlock({LOCK_CLASS}, {{key}}) ELSE true END"
)
NOTIFY_IF_AWAITED = Statement(
    f"SELECT pg_notify('{CHANNEL}', $2) WHERE {SOMEONE_WAITS.format(key='$1')}",
    "int4 text",
)


# Asked of each backend anew: behind a pooler it is not the one that said hello.
BACKEND = Query(Statement("SELECT pg_backend_pid()", read_only=True))
_NOTIFY_SELF = Statement(f"SELECT pg_notify('{CHANNEL}', $1)", "text")
_PROBES: Final = 4
_PROBE_SECONDS: Final = 1.0


def keeps_its_session(connection: Connection, other: Connection) -> Steps[bool]:
    """
    Whether the pooler before *connection* leaves it one server connection as long as it is open, as in PgBouncer's session mode.

    That is tried: a notification that *other* makes has to arrive while *connection* is idle. In transaction mode nothing arrives
    then; and as a LISTEN would stay behind on a server connection of others, two connections that meet the same backend in turn, or
    not always their own, are told apart before.
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


def lock_key(topic: Topic) -> int:
    """The second half of the topic's advisory lock key. Topics that share one cost each other a needless wake-up."""
    key = zlib.crc32(topic.payload.encode())
    return key - (1 << 32) if key >= 1 << 31 else key


def announce(topic: Topic) -> Query:
    """The query that notifies those who wait for *topic*."""
    return Query(NOTIFY_IF_AWAITED, lock_key(topic), topic.payload)


def waits() -> Iterator[float]:
    """How long to wait before each further read."""
    seconds = _FIRST_WAIT_SECONDS
    while True:
        yield seconds
        seconds = min(seconds * 1.6, _LONGEST_WAIT_SECONDS)


class _Registry:
    """Who waits for which topic, and which topics are registered with the server. Both listeners keep one.

    Tickets are held weakly: one that was lost, by an interrupt between two lines, is not waited for.
    """

    def __init__(self) -> None:
        self.tickets: dict[str, weakref.WeakSet[Any]] = {}
        self.registered: dict[
            str, tuple[int, float]
        ] = {}  # payload: key, when its last waiter left (inf while there are any)
        self.is_elsewhere = False  # the listening connection leads to another history than the client's others

    def add(self, ticket: Any) -> None:
        payload = ticket.topic.payload
        self.tickets.setdefault(payload, weakref.WeakSet()).add(ticket)
        if payload in self.registered:
            self.registered[payload] = (self.registered[payload][0], float("inf"))

    def remove(self, ticket: Any) -> None:
        payload = ticket.topic.payload
        waiting = self.tickets.get(payload)
        if waiting is not None:
            waiting.discard(ticket)
            self._count(payload)

    def _count(self, payload: str) -> None:
        """Note when the last waiter has left."""
        if not self.tickets.get(payload):
            self.tickets.pop(payload, None)
            key, left = self.registered.get(payload, (0, 0.0))
            if left == float("inf"):
                self.registered[payload] = (key, clock.monotonic())

    def wake(self, payload: str, *, announced: bool = True) -> None:
        for ticket in tuple(self.tickets.get(payload, ())):
            ticket.wake(announced)

    def wake_all(self) -> None:
        """Let everybody read again: a notification may have come while nobody listened."""
        for payload in tuple(self.tickets):
            self.wake(payload, announced=False)

    def take_lingering(self) -> list[int]:
        """Keys of topics whose last waiter left long enough ago; they count as unregistered from now on."""
        for payload in tuple(self.registered):
            self._count(payload)
        before = clock.monotonic() - LINGER_SECONDS
        gone = [(payload, key) for payload, (key, left) in self.registered.items() if left < before]
        for payload, _ in gone:
            del self.registered[payload]
        return [key for _, key in gone]

    # What a listening connection is told; one body for both listeners (see `connection`).

    def start(self, connection: Connection) -> Steps[None]:
        """On a new connection: listen, and register again what is waited for."""
        self.registered.clear()
        self.is_elsewhere = False
        yield connection.execute(LISTEN)
        for waiting in list(self.tickets.values()):
            for ticket in tuple(waiting)[:1]:
                yield from self.register(connection, ticket.topic)

    def register(self, connection: Connection, topic: Topic) -> Steps[bool]:
        if topic.payload in self.registered:
            return True
        key = lock_key(topic)
        for _ in range(20):  # a putter holds the exclusive lock for a moment
            rows = yield connection.execute(Query(REGISTER, key))
            if rows[0][0]:
                left = float("inf") if topic.payload in self.tickets else clock.monotonic()
                self.registered[topic.payload] = (key, left)
                return True
        return False  # someone else keeps that lock; the waiter reads again by itself

    def check(self) -> None:
        """Raise `BrokenConnection` where another connection had better be opened."""
        if self.is_elsewhere:
            raise BrokenConnection(None, sent=False)

    def unregister(self, connection: Connection, keys: list[int]) -> Steps[None]:
        for key in keys:
            yield connection.execute(Query(UNREGISTER, key))


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


@contextlib.contextmanager
def _replacing() -> Generator[None, None, None]:
    """Around the work on a listening connection: when it breaks another one is opened."""
    try:
        yield
    except BrokenConnection as exc:
        _LOG.warning("the listening connection broke and is replaced: %s", exc)


# ---------------------------------------------------------------------------------------------------- blocking executor


class BlockingTicket:
    """A waiter: a thread that sleeps until there is a notification of its topic."""

    __slots__ = ("__weakref__", "_announced", "_event", "_listener", "topic")

    def __init__(self, listener: BlockingListener, topic: Topic) -> None:
        self._listener = listener
        self._event = Signal()
        self._announced = False
        self.topic = topic

    def wait(self, seconds: float) -> bool:
        self._event.wait(self._listener.wait_seconds(seconds))
        self._event.clear()
        announced, self._announced = self._announced, False
        return announced

    def wake(self, announced: bool = True) -> None:
        if announced:
            self._announced = True
        self._event.set()

    def close(self) -> None:
        self._listener.remove(self)


class BlockingListener:
    """A thread with the one listening connection of the blocking executor."""

    def __init__(self, connect: Callable[[], BlockingConnection]) -> None:
        self._connect = connect
        self._registry = _Registry()
        self._lock = threading.RLock()  # reentrant: a signal handler may come in
        self._thread: threading.Thread | None = None
        self._wanted: list[tuple[Topic, Signal]] = []
        self._wake_pipe: tuple[int, int] | None = None
        self._polls = False  # behind a pooler: nothing can be listened to
        self._closed = False

    def register(self, topic: Topic) -> BlockingTicket:
        """A ticket, once the server knows that this client waits, or after a second: until the server knows, its owner polls."""
        ticket = BlockingTicket(self, topic)
        if self._polls:
            return ticket
        if is_ending():
            raise errors.StoreUnavailable("the interpreter is ending: nothing can be waited for any more")
        done = Signal()
        with self._lock:
            self._registry.add(ticket)
            if topic.payload in self._registry.registered:
                return ticket
            self._wanted.append((topic, done))
            if self._thread is None or not self._thread.is_alive():
                self._wake_pipe = os.pipe()
                self._thread = threading.Thread(
                    target=self._run, args=(self._wake_pipe[0],), name="pgstore-listener", daemon=True
                )
                start(self._thread)
            self._wake_thread()
        try:
            done.wait(1.0)
        except BaseException:
            self.remove(ticket)
            raise
        return ticket

    def remove(self, ticket: BlockingTicket) -> None:
        with self._lock:
            self._registry.remove(ticket)

    def wait_seconds(self, seconds: float) -> float:
        return min(seconds, POLL_SECONDS) if self._polls else seconds

    def move(self) -> None:
        """The client's connections lead to another history: listen there, within a second."""
        self._registry.is_elsewhere = True

    def close(self) -> None:
        self._closed = True
        with self._lock:
            self._wake_thread()
        thread = self._thread
        # Not alive: Ctrl-C came before it could begin.
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            thread.join(2.0)

    def _wake_thread(self) -> None:
        if self._wake_pipe is not None:
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
                        run_blocking(self._registry.start(connection))
                        self._registry.wake_all()
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
            self._registry.check()
            with self._lock:
                wanted, self._wanted = self._wanted, []
                unwanted = self._registry.take_lingering()
            run_blocking(self._registry.unregister(connection, unwanted))
            for topic, done in wanted:
                run_blocking(self._registry.register(connection, topic))
                done.set()
            for payload in _notified(connection):
                with self._lock:
                    self._registry.wake(payload)
            if self._wanted:
                continue
            for descriptor, _ in poller.poll(1000):
                if descriptor == wake_end:
                    os.read(wake_end, 4096)


# ------------------------------------------------------------------------------------------------------- event loop


class AsyncTicket:
    """A waiter: a task that sleeps until there is a notification of its topic."""

    __slots__ = ("__weakref__", "_announced", "_event", "_listener", "topic")

    def __init__(self, listener: AsyncListener, topic: Topic) -> None:
        self._listener = listener
        self._event = asyncio.Event()
        self._announced = False
        self.topic = topic

    async def wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(min(self._listener.wait_seconds(seconds), 1e6)):
                await self._event.wait()
        except TimeoutError:
            pass
        finally:
            self._event.clear()
        announced, self._announced = self._announced, False
        return announced

    def wake(self, announced: bool = True) -> None:
        if announced:
            self._announced = True
        self._event.set()

    def close(self) -> None:
        self._listener.remove(self)


class AsyncListener:
    """A task with the one listening connection of an event loop."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, AsyncConnection]]) -> None:
        self._connect = connect
        self._registry = _Registry()
        self._wanted: list[tuple[Topic, asyncio.Future[None]]] = []
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._polls = False

    async def register(self, topic: Topic) -> AsyncTicket:
        ticket = AsyncTicket(self, topic)
        if self._polls:
            return ticket
        self._registry.add(ticket)
        if topic.payload in self._registry.registered:
            return ticket
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wanted.append((topic, done))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="pgstore-listener", context=Context())
        self._news.set()
        try:
            await asyncio.wait([done], timeout=1.0)
        except BaseException:
            self.remove(ticket)
            raise
        return ticket

    def remove(self, ticket: AsyncTicket) -> None:
        self._registry.remove(ticket)

    def wait_seconds(self, seconds: float) -> float:
        return min(seconds, POLL_SECONDS) if self._polls else seconds

    def move(self) -> None:
        """The client's connections lead to another history: listen there, within a second. Safe from any thread."""
        self._registry.is_elsewhere = True

    async def close(self) -> None:
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
                        await run_async(self._registry.start(connection))
                        self._registry.wake_all()
                        await self._serve(connection)
                finally:
                    if connection is not None:
                        connection.close()
                await asyncio.sleep(_RECONNECT_SECONDS)
        finally:
            for _, done in self._wanted:
                if not done.done() and not done.get_loop().is_closed():
                    done.set_result(None)
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
            self._registry.check()
            self._news.clear()
            wanted, self._wanted = self._wanted, []
            await run_async(self._registry.unregister(connection, self._registry.take_lingering()))
            for topic, done in wanted:
                await run_async(self._registry.register(connection, topic))
                if not done.done():
                    done.set_result(None)
            for payload in _notified(connection):
                self._registry.wake(payload)
            if self._wanted:
                continue
            await connection.wait_readable(self._news, 1.0)
