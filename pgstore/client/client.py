"""A client: the settings for one database, and what is open on it.

It puts together an executor for blocking calls and one per event loop, a session and a scheduler, and hands operations to them:
`run` is the path of every blocking call.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import logging
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Final, TypeVar

import psycopg

from pgstore import embedded, errors
from pgstore.client.executor import AsyncExecutor, BlockingExecutor, Executor
from pgstore.client.interfaces import ClientInterface
from pgstore.client.scheduler import Scheduler
from pgstore.client.scope import AMBIENT, current, forget_after_fork
from pgstore.client.session import Session
from pgstore.client.telemetry import prepare as prepare_telemetry
from pgstore.client.transaction import Transaction
from pgstore.config import Settings, as_url, hidden
from pgstore.connection.pool import URGENT
from pgstore.core.async_usage import running_loop, warn_of_blocking
from pgstore.core.clock import Deadline
from pgstore.core.error_mapping import check_conninfo, describe, map_error
from pgstore.core.limit import bounded_by, lift
from pgstore.core.names import check_name
from pgstore.core.operation import BeforeCommit, Op, PutBack, Query, Request
from pgstore.core.steps import is_interrupt, run_async, run_blocking
from pgstore.core.threads import is_ending

T = TypeVar("T")
_LOG: Final = logging.getLogger("pgstore")
_RETRIES: Final = 10
_BACKOFF_SECONDS: Final = 0.01
_URGENT_SECONDS: Final = 5.0  # for one task of the urgent lane: the others wait for it
_CLOSE_SECONDS: Final = 60.0  # for a server that may have fallen silent; what is ephemeral then goes in ten minutes

_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_inherited: list[Any] = []  # what a forked child must neither use nor close: the parent uses it


class Client(ClientInterface):
    """
    A database with pgstore in it: Postgres 14 to 18, UTF8, without an extension or a superuser.

    Args:
        url: `postgresql://user@host/database`, also in SQLAlchemy's form `postgresql+psycopg://…`, or a libpq connection string.
            None: the first of these that is set: `PGSTORE_URL`; `DATABASE_URL`; libpq's variables (`PGHOST`, `PGHOSTADDR`,
            `PGSERVICE`, `PGDATABASE`, `PGUSER`); else the embedded server, which is started. A variable that is set but empty is
            an error. A function that returns one is called for every new connection, for passwords that expire; on any thread.
        environment: the environment of stores that name none. None: `PGSTORE_ENVIRONMENT`, else `main`.
        listen_url: a direct connection for waiting, where *url* leads through a pooler in transaction mode.
        connections_max: most connections held open, for threads together and for each event loop; two more are a reserve for what
            must not wait for these, and one listens while something waits.
        auto_migrate: create the schema on first use where it is missing. None: unless `PGSTORE_AUTO_MIGRATE` is 0.
        signing_keys: secrets of 16 to 64 bytes. Dicts and Queues then sign the pickles that they write with the first, and load
            none that no key has signed: who may write to the tables may no longer run code in those who read them.
        telemetry: tell OpenTelemetry of each operation: a span and measurements, without keys and values. None: where the program
            has set it up, unless `PGSTORE_TELEMETRY` is 0.

    Nothing is connected before the first use. Threads, event loops and, after a fork, processes may share a client. A store of
    another database than the default: `Dict.from_name("x", client=client)`.

    **The schema** `pgstore` is made on first use if the role may create schemas in the database, and later upgraded by
    `pgstore migrate`, never unasked.

    **Connections.** A thread keeps the one it used, an event loop shares its own among tasks, and all that is idle for five
    minutes is closed. Of several hosts in the URL the one that can be written to is used; a connection whose server turns out
    to be read-only, as after a failover, is given up. A program that was connected waits ten seconds for a server that
    restarts, and notices within half a minute that one is gone without a word. Behind a pooler in transaction mode (PgBouncer),
    which it notices, it neither prepares statements nor relies on the session, and a call that waits asks again and again,
    after some seconds once a second, unless `listen_url` is given.

    **Closing.** A client need not be closed. One that nobody refers to any more lets its connections go, unless it has made
    something that is ephemeral, a mount or the like, which it keeps alive; at the end of the program all is closed and deleted.
    What has to be closed is files that are written: one that was not is a `ResourceWarning`.

    **The embedded server** is a Postgres of your own, which starts when it is needed, goes on running when the program ends,
    and listens on a socket that only you can reach. `pgstore server start|stop|status|url` looks after it; its data is in
    `PGSTORE_SERVER_DIR`, else in `~/.local/share/pgstore/pg<version>`. It uses the machine's Postgres programs, else those of
    `pip install 'pgstore[embedded]'`.

    **Signatures.** Every pickle is signed for its Dict and key, or its Queue and partition. A signature says who wrote
    something, not that it is given out once or is the newest: who may write to the table can repeat an item in its partition,
    and bring back an older value of a key.
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
        telemetry: bool | None = None,
    ) -> None:
        super().__init__()
        url, listen_url, signing_keys = hidden(url), hidden(listen_url), hidden(signing_keys)
        if environment is not None:
            check_name(environment, "environment")
        self.settings = Settings(
            url, listen_url, environment, connections_max, auto_migrate, tuple(signing_keys), telemetry
        )
        self.is_closing = self.has_said_where = False
        self.enclosing = None  # of the instance, where it is found sooner: each blocking call looks
        self.is_observed = self.settings.may_be_observed
        if self.is_observed:
            prepare_telemetry(required=telemetry is True)
        self._reset()
        _clients.add(self)

    def _reset(self) -> None:
        self._blocking = BlockingExecutor(self)
        self._loops: dict[asyncio.AbstractEventLoop, AsyncExecutor] = {}
        self._loops_lock = threading.RLock()  # reentrant, like all locks here: a signal handler may come in
        self._history_lock = threading.RLock()
        self.session = Session(self)
        self.scheduler = Scheduler(self.run, self._run_urgently)
        self.shared: dict[object, Any] = {}  # what the stores of this client keep together, whichever handle is used

    # ------------------------------------------------------------------------------------------------ for the user

    def transaction(self, connection: Any = None) -> Transaction:
        """
        A transaction over everything done inside its `with` or `async with` block.

        Args:
            connection: a psycopg `Connection` or `AsyncConnection`, a SQLAlchemy `Connection`, `Session`, `AsyncConnection` or
                `AsyncSession`, or Django's `connection`, whose transaction to join. The caller commits it.
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
                _say_repeated(attempt, exc)
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
                _say_repeated(attempt, exc)
                await asyncio.sleep(_backoff(attempt))
        raise AssertionError("unreachable")

    def connection_url(self) -> str:
        """
        The URL of the database with all that is needed to log in, for other libraries: SQLAlchemy, Django, psycopg, `psql`.

        Where nothing else is configured it is that of the embedded server, which is started. `postgresql://` alone says that
        libpq's variables have everything. It may hold a password; its `repr` hides it, `str`, `print` and f-strings do not.
        Where a function was given as url, it is asked.
        """
        url = self.settings.configured_url()
        if url is None:
            url = embedded.ensure()
        check_conninfo(url)
        return as_url(url)

    def close(self) -> None:
        """
        Do what is left to be done, delete what is ephemeral and close the connections of blocking calls.

        The client can be used again. Leases and locks that it still holds are not renewed any more; a call that waits just then
        goes on, by looking once a second.
        """
        if is_ending():  # and closes all by itself; other threads do not run any more, and may have locks in hand
            return
        self.is_closing = True
        try:
            with bounded_by(Deadline.after(_CLOSE_SECONDS)):
                self.scheduler.close()
                self.session.close()
        finally:
            self.is_closing = False
            lift()  # which an interrupt may have kept the block from
        self._blocking.close()
        self._blocking = BlockingExecutor(self)
        self.session = Session(self)
        self.scheduler = Scheduler(self.run, self._run_urgently)
        self._abandon_loops(lambda loop: loop.is_closed())

    async def aclose(self) -> None:
        """Close the connections of this event loop. `asyncio.run` does it by itself at its end."""
        executor = self._loops.get(asyncio.get_running_loop())
        if executor is not None:
            await executor.close()

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
        if not hasattr(self, "settings"):  # a traceback may show one that was not made
            return "pgstore.Client()"
        if callable(self.settings.url):
            return "pgstore.Client(<function>)"
        with contextlib.suppress(errors.ConfigurationError):
            url = self.settings.configured_url()
            return f"pgstore.Client({'embedded server' if url is None else describe(url, with_defaults=True)!r})"
        return "pgstore.Client(<unusable settings>)"

    @property
    def environment(self) -> str:
        """The environment of stores that name none."""
        return check_name(self.settings.effective_environment, "environment")

    # --------------------------------------------------------------------------------------------------- as a runner

    def run(self, op: Op[T], bound: Transaction | None = None) -> T:
        """Run *op* blocking: in *bound*, else in the current transaction, else each statement by itself."""
        transaction: Transaction | None = (
            bound
            if bound is not None
            else current(self, blocking=True)
            if AMBIENT.get() or self.enclosing is not None
            else None
        )
        if transaction is not None:
            transaction.check_form(blocking=True)
            root = transaction.root
            with root.lock:
                root.check_not_at_work()
                return run_blocking(root.executor.perform(op, transaction))
        executor = self._blocking
        request: Request | None = None
        try:
            request = next(op)
            if running_loop() is not None:
                warn_of_blocking()
            # Most operations are one query: steps would cost as much as all else that the client does for it.
            while True:
                if type(request) is Query:
                    try:
                        result = executor.query_now(request)
                    except BaseException as exc:
                        try:
                            _put_back(executor, request, exc)  # before the operation goes on to something else
                        except BaseException:  # a second interrupt, perhaps before that has begun
                            _put_back(executor, request, exc)
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
                _put_back(executor, request, exc)
            except BaseException:
                _put_back(executor, request, exc)
                raise
            raise
        try:
            return run_blocking(executor.perform(op, None, request))
        except BaseException as exc:  # perhaps before that has begun
            _put_back(executor, request, exc)
            raise

    def run_in_background(self, op: Op[T]) -> T:
        """Run *op* blocking, outside of any transaction, on a connection that is to be had even when all are busy (see `pool`)."""
        return run_blocking(self._blocking.perform(op, None, rank=URGENT))

    def run_alone(self, op: Op[T]) -> T:
        """Run *op* blocking, outside of any transaction, whatever the context."""
        return self._blocking.run_alone(op)

    def _run_urgently(self, op: Op[T]) -> T:
        """`run_in_background`, with a bound: a server process that has fallen silent must not keep what comes after it waiting."""
        with bounded_by(Deadline.after(_URGENT_SECONDS)):
            return self.run_in_background(op)

    async def run_async(self, op: Op[T], bound: Transaction | None = None) -> T:
        """Run *op* on the event loop."""
        transaction: Transaction | None = (
            bound
            if bound is not None
            else current(self, blocking=False)
            if AMBIENT.get() or self.enclosing is not None
            else None
        )
        if transaction is None:
            return await run_async(self.executor(blocking=False).perform(op, None))
        transaction.check_form(blocking=False)
        root = transaction.root
        async with root.async_lock:
            # That of a transaction which encloses all is of blocking calls.
            executor = self.executor(blocking=False) if root.encloses else root.executor
            return await root.run_async(executor.perform(op, transaction))

    def pin(self, bound: Transaction | None = None) -> Transaction | None:
        return bound if bound is not None else current(self, blocking=None)

    # --------------------------------------------------------------------------------------------------- for the others

    def executor(self, *, blocking: bool) -> Executor:
        """The executor of blocking calls, or that of the running event loop."""
        if blocking:
            return self._blocking
        loop = asyncio.get_running_loop()
        executor = self._loops.get(loop)
        if executor is None:
            self._abandon_loops(lambda loop: loop.is_closed())
            with self._loops_lock:
                executor = self._loops[loop] = AsyncExecutor(self, loop)
        return executor

    def loop_closed(self, loop: asyncio.AbstractEventLoop) -> None:
        """The executor of *loop* was closed."""
        with self._loops_lock:
            self._loops.pop(loop, None)

    def _abandon_loops(self, condition: Callable[[asyncio.AbstractEventLoop], bool]) -> None:
        """Close the connections of event loops that were closed without asking us."""
        with self._loops_lock:
            gone = [loop for loop in self._loops if condition(loop)]
            executors = [self._loops.pop(loop) for loop in gone]
        for executor in executors:
            executor.abandon()

    def give_up_older_connections(self) -> None:
        for executor in (self._blocking, *tuple(self._loops.values())):
            executor.pool.begin_epoch()
            executor.listener.move()

    def _forget(self) -> None:
        """After a fork, in the child: leave everything to the parent."""
        _inherited.append((self._blocking, self._loops, self.session, self.scheduler, self.shared))
        self._reset()

    def __reduce__(self) -> Any:
        raise TypeError(
            "a pgstore.Client cannot be pickled: its URL may hold a password; "
            "pickled stores use the default client where they arrive"
        )


def _put_back(executor: BlockingExecutor, request: Request | None, exc: BaseException) -> None:
    """Put back what *request* took, or was to put back, if *exc* is an interrupt."""
    if is_interrupt(exc):
        lift()
        if type(request) is PutBack or (type(request) is Query and request.undo is not None):
            run_blocking(executor.put_back(request, None))


def _may_repeat(exc: errors.Error | psycopg.OperationalError) -> bool:
    # psycopg's own: from SQL of the caller's on the transaction's connection.
    error = exc if isinstance(exc, errors.Error) else map_error(exc)
    if isinstance(error, errors.OutcomeUnknown):
        return False
    return isinstance(error, (errors.SerializationConflict, errors.ConflictError, errors.StoreUnavailable))


def _say_repeated(attempt: int, exc: BaseException) -> None:
    _LOG.warning("a transaction is run again, after attempt %d of %d: %s", attempt + 1, _RETRIES, exc)


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


def _after_fork_in_child() -> None:
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
