"""Clients: the door to one database. Settings, connections, transactions.

Most programs use the default client, made on first use from `configure(…)` or the environment, and never see one.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

import psycopg

from pgstore import errors
from pgstore.client.chores import Chores
from pgstore.client.history import History
from pgstore.client.pool import URGENT
from pgstore.client.session import Session
from pgstore.client.transaction import _AMBIENT, Transaction, current, forget_after_fork
from pgstore.client.world import AsyncWorld, BlockingWorld, World
from pgstore.config import Settings, hidden
from pgstore.core.clock import Deadline
from pgstore.core.limit import lift, within
from pgstore.core.mapping import describe, map_error
from pgstore.core.names import check_name
from pgstore.core.operation import BeforeCommit, Op, PutBack, Query, Request
from pgstore.core.steps import is_interrupt, run_async, run_blocking
from pgstore.core.threads import is_ending

T = TypeVar("T")
_RETRIES: Final = 10
_BACKOFF_SECONDS: Final = 0.01
_CLOSE_SECONDS: Final = 60.0  # for a server that may have fallen silent; what is ephemeral then goes in ten minutes

_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_inherited: list[Any] = []  # what a forked child must neither use nor close: the parent uses it


class Client:
    """
    A database with pgstore in it.

    Args:
        url: `postgresql://user@host/database` or a libpq connection string. None: `PGSTORE_URL`, else `DATABASE_URL`, else
            libpq's variables (`PGHOST` …), else the embedded server. A function that returns one is called for every new
            connection, for passwords that expire; on any thread.
        environment: the environment of stores that name none. None: `PGSTORE_ENVIRONMENT`, else `main`.
        listen_url: a direct connection for waiting, where *url* leads through a pooler in transaction mode.
        connections_max: most connections held open, for threads together and for each event loop; two more are a reserve for what
            must not wait for these.
        auto_migrate: create the schema on first use where it is missing. None: unless `PGSTORE_AUTO_MIGRATE` is 0.
        signing_keys: secrets of 16 to 64 bytes. Dicts and Queues then sign the pickles that they write with the first, and load
            none that no key has signed: who may write to the tables may no longer run code in those who read them.

    Nothing is connected before the first use. Threads, event loops and, after a fork, processes may share a client.
    """

    def __init__(
        self,
        url: str | Callable[[], str] | None = None,
        *,
        environment: str | None = None,
        listen_url: str | None = None,
        connections_max: int = 10,
        auto_migrate: bool | None = None,
        signing_keys: Sequence[bytes] = (),
    ) -> None:
        url, listen_url, signing_keys = hidden(url), hidden(listen_url), hidden(signing_keys)
        if environment is not None:
            check_name(environment, "environment")
        self.settings = Settings(url, listen_url, environment, connections_max, auto_migrate, tuple(signing_keys))
        self.history: History | None = None  # that of its connections; what is remembered of another is looked up anew
        self.is_pooled = False  # a pooler stands before the server, which may be replaced unnoticed
        self.is_closing = False  # then nobody waits for a server to return
        self.servers_seen = 0
        self._identity: str | None = None
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        self._blocking = BlockingWorld(self)
        self._loops: dict[asyncio.AbstractEventLoop, AsyncWorld] = {}
        self._loops_lock = threading.RLock()  # reentrant, like all locks here: a signal handler may come in
        self._history_lock = threading.RLock()
        self.session = Session(self)
        self.chores = Chores(self.run)
        # Apart from the others: a long one, such as vacuum, must not let a lease end.
        self.renewals = Chores(self.run_in_background)
        self.shared: dict[object, Any] = {}  # what the stores of this client keep together, whichever handle is used

    # ------------------------------------------------------------------------------------------------ for the user

    def transaction(self, connection: Any = None) -> Transaction:
        """
        A transaction over everything done inside its `with` or `async with` block.

        Args:
            connection: a psycopg `Connection` or `AsyncConnection`, or a SQLAlchemy `Connection`, `Session`, `AsyncConnection` or
                `AsyncSession`, whose transaction to join. The caller commits it.
        """
        return Transaction(self, connection)

    def run_transaction(self, function: Callable[[Transaction], T] | Callable[[], T]) -> T:
        """
        Call *function* in a transaction; again, from the start, where the server rolled it back or went away.

        *function* receives the transaction, if it takes an argument, and may run several times; what it returns is returned after
        the commit. It is also called again after a `ConflictError`: another's commit came between. An `OutcomeUnknown` is not
        repeated.
        """
        call = _with_or_without(function)
        for attempt in range(_RETRIES):
            try:
                with self.transaction() as transaction:
                    return call(transaction)
            except (errors.Error, psycopg.OperationalError) as exc:
                if not _may_repeat(exc) or attempt == _RETRIES - 1 or current(self, blocking=True):
                    raise
                time.sleep(_backoff(attempt))
        raise AssertionError("unreachable")

    async def run_transaction_async(
        self, function: Callable[[Transaction], Coroutine[Any, Any, T]] | Callable[[], Coroutine[Any, Any, T]]
    ) -> T:
        """`run_transaction` for a coroutine function."""
        call = _with_or_without(function)
        for attempt in range(_RETRIES):
            try:
                async with self.transaction() as transaction:
                    return await call(transaction)
            except (errors.Error, psycopg.OperationalError) as exc:
                if not _may_repeat(exc) or attempt == _RETRIES - 1 or current(self, blocking=False):
                    raise
                await asyncio.sleep(_backoff(attempt))
        raise AssertionError("unreachable")

    def close(self) -> None:
        """
        Do what is left to be done, delete what is ephemeral and close the connections of blocking calls.

        The client can be used again.
        """
        if is_ending():  # and closes all by itself; other threads do not run any more, and may have locks in hand
            return
        self.is_closing = True
        try:
            with within(Deadline.after(_CLOSE_SECONDS)):
                self.renewals.close(do=False)
                self.chores.close()
                self.session.close()
        finally:
            self.is_closing = False
            lift()  # which an interrupt may have kept the block from
        self._blocking.close()
        self._blocking = BlockingWorld(self)
        self.session = Session(self)
        self.chores = Chores(self.run)
        self.renewals = Chores(self.run_in_background)
        self._abandon_loops(lambda loop: loop.is_closed())

    async def aclose(self) -> None:
        """Close the connections of this event loop. `asyncio.run` does it by itself at its end."""
        world = self._loops.get(asyncio.get_running_loop())
        if world is not None:
            await world.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        await asyncio.to_thread(self.close)

    def __repr__(self) -> str:
        url = self.settings.url if hasattr(self, "settings") else None  # a traceback may show one that was not made
        if callable(url):
            return "pgstore.Client(<function>)"
        return f"pgstore.Client({describe(url)!r})" if url is not None else "pgstore.Client()"

    @property
    def environment(self) -> str:
        """The environment of stores that name none."""
        return check_name(self.settings.effective_environment, "environment")

    # --------------------------------------------------------------------------------------------------- as a runner

    def run(self, op: Op[T], bound: Transaction | None = None) -> T:
        """Run *op* blocking: in *bound*, else in the current transaction, else each statement by itself."""
        transaction = bound if bound is not None else current(self, blocking=True) if _AMBIENT.get() else None
        if transaction is not None:
            transaction.check_form(blocking=True)
            root = transaction.root
            with root.lock:
                transaction.check_not_at_work()
                return run_blocking(root.world.perform(op, transaction))
        world = self._blocking
        request: Request | None = None
        try:
            request = next(op)
            # Most operations are one query: steps would cost as much as all else that the client does for it.
            while True:
                if type(request) is Query:
                    try:
                        result = world.query_now(request)
                    except BaseException as exc:
                        try:
                            _put_back(world, request, exc)  # before the operation goes on to something else
                        except BaseException:  # a second interrupt, perhaps before that has begun
                            _put_back(world, request, exc)
                        request = op.throw(exc)
                    else:
                        request = op.send(result)
                elif type(request) is BeforeCommit:
                    request = op.send(None)
                else:
                    break
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        except BaseException as exc:
            try:
                _put_back(world, request, exc)
            except BaseException:
                _put_back(world, request, exc)
                raise
            raise
        try:
            return run_blocking(world.perform(op, None, request))
        except BaseException as exc:  # perhaps before that has begun
            _put_back(world, request, exc)
            raise

    def run_in_background(self, op: Op[T]) -> T:
        """Run *op* blocking, outside of any transaction, on a connection that is certain even when all are busy (see `pool`)."""
        return run_blocking(self._blocking.perform(op, None, rank=URGENT))

    async def run_async(self, op: Op[T], bound: Transaction | None = None) -> T:
        """Run *op* on the event loop."""
        transaction = bound if bound is not None else current(self, blocking=False) if _AMBIENT.get() else None
        if transaction is None:
            return await run_async(self.world(blocking=False).perform(op, None))
        transaction.check_form(blocking=False)
        root = transaction.root
        async with root.async_lock:
            return await run_async(root.world.perform(op, transaction))

    def pin(self, bound: Transaction | None = None) -> Transaction | None:
        return bound if bound is not None else current(self, blocking=None)

    # --------------------------------------------------------------------------------------------------- for the others

    def world(self, *, blocking: bool) -> World:
        """The world of blocking calls, or that of the running event loop."""
        if blocking:
            return self._blocking
        loop = asyncio.get_running_loop()
        world = self._loops.get(loop)
        if world is None:
            self._abandon_loops(lambda loop: loop.is_closed())
            with self._loops_lock:
                world = self._loops[loop] = AsyncWorld(self, loop)
        return world

    def leave_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """The world of *loop* was closed."""
        with self._loops_lock:
            self._loops.pop(loop, None)

    def _abandon_loops(self, condition: Callable[[asyncio.AbstractEventLoop], bool]) -> None:
        """Close the connections of event loops that were closed without asking us."""
        with self._loops_lock:
            gone = [loop for loop in self._loops if condition(loop)]
            worlds = [self._loops.pop(loop) for loop in gone]
        for world in worlds:
            world.abandon()

    @property
    def installation(self) -> str | None:
        """The id of the schema and the name of the database; None: not connected yet."""
        return None if self.history is None else self.history.installation

    def meets(self, history: History) -> bool:
        """Whether *history*, to which a connection of somebody else's leads, is the client's; the first that it meets is."""
        if self.history is None:
            self.met(history)
        return self.history is not None and self.history.goes_on_in(history)

    def met(self, history: History) -> None:
        """A connection of the client's leads to *history*. If that is another than before, older connections are given up."""
        with self._history_lock:
            before = self.history
            if before is not None and before.goes_on_in(history):
                return
            self.history = history
            self.servers_seen += 1
        if before is not None:
            for world in (self._blocking, *tuple(self._loops.values())):
                world.links.begin_epoch()
                world.listener.move()

    def arrived(self, identity: str | None) -> None:
        """
        A connection was opened, to the cluster *identity*; None: unknown. `servers_seen` changes if it may be another server.

        After a failover or a crash the server may have forgotten what it last gave out, such as ids.
        """
        if identity is None or identity != self._identity:
            self._identity = identity
            self.servers_seen += 1

    def _forget(self) -> None:
        """After a fork, in the child: leave everything to the parent."""
        _inherited.append((self._blocking, self._loops, self.session, self.chores, self.renewals, self.shared))
        self._reset()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a pgstore.Client cannot be pickled: its URL may hold a password; "
            "pickled stores use the default client where they arrive"
        )


def _put_back(world: BlockingWorld, request: Request | None, exc: BaseException) -> None:
    """Put back what *request* took, or was to put back, if *exc* is an interrupt."""
    if is_interrupt(exc):
        lift()
        if type(request) is PutBack or (type(request) is Query and request.undo is not None):
            run_blocking(world.put_back(request, None))


def _may_repeat(exc: errors.Error | psycopg.OperationalError) -> bool:
    # psycopg's own: from SQL of the caller's on the transaction's connection.
    error = exc if isinstance(exc, errors.Error) else map_error(exc)
    if isinstance(error, errors.OutcomeUnknown):
        return False
    return isinstance(error, (errors.SerializationConflict, errors.ConflictError, errors.StoreUnavailable))


def _with_or_without(function: Callable[..., T]) -> Callable[[Transaction], T]:
    """*function*, whether it takes the transaction or nothing."""
    try:
        inspect.signature(function).bind(None)
    except TypeError:  # it does not take one argument
        with contextlib.suppress(TypeError):
            inspect.signature(function).bind()
            return lambda _: function()
    except ValueError:  # it does not tell, as some that are written in C
        pass
    return function


def _backoff(attempt: int) -> float:
    # By chance: two that have collided should not come back at the same moment.
    return float(_BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.5))


# -------------------------------------------------------------------------------------------------- the default client

_default: Client | None = None
_default_lock = threading.RLock()


def configure(
    url: str | Callable[[], str] | None = None,
    *,
    environment: str | None = None,
    listen_url: str | None = None,
    connections_max: int = 10,
    auto_migrate: bool | None = None,
    signing_keys: Sequence[bytes] = (),
) -> Client:
    """Set the default client up, in place of the environment's settings (see `Client`). Stores made before keep theirs."""
    global _default
    url, listen_url, signing_keys = hidden(url), hidden(listen_url), hidden(signing_keys)
    client = Client(
        url,
        environment=environment,
        listen_url=listen_url,
        connections_max=connections_max,
        auto_migrate=auto_migrate,
        signing_keys=signing_keys,
    )
    with _default_lock:
        _default = client
    return client


def default_client() -> Client:
    """The client of stores that were given none."""
    global _default
    client = _default
    if client is None:
        made = Client()
        with _default_lock:
            client = _default = _default or made  # in one step: a signal handler may come in
    return client


def transaction(connection: Any = None) -> Transaction:
    """A transaction of the default client; see `Client.transaction`."""
    return default_client().transaction(connection)


def run_transaction(function: Callable[[Transaction], T] | Callable[[], T]) -> T:
    """`Client.run_transaction` of the default client."""
    return default_client().run_transaction(function)


async def run_transaction_async(
    function: Callable[[Transaction], Coroutine[Any, Any, T]] | Callable[[], Coroutine[Any, Any, T]],
) -> T:
    """`Client.run_transaction_async` of the default client."""
    return await default_client().run_transaction_async(function)


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.RLock()
    forget_after_fork()
    for client in list(_clients):
        client._forget()


def _at_exit() -> None:
    for client in list(_clients):
        with contextlib.suppress(Exception):
            client.close()
            client._abandon_loops(lambda loop: not loop.is_running())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
