"""Executors carry operations out: one for a client's blocking calls, one for each event loop that it is used from.

An executor has a pool of connections, a listener, and ways to sleep and to call blocking code; how requests are carried out is
written once over these.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import contextvars
import inspect
import itertools
import logging
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

from pgstore import embedded, errors, migrate
from pgstore.client import telemetry
from pgstore.client.history import history_of
from pgstore.client.interfaces import ClientInterface
from pgstore.client.listener import AsyncListener, BlockingListener
from pgstore.client.transaction import Transaction
from pgstore.connection import RECONNECT_SECONDS, AsyncConnection, BlockingConnection, BrokenConnection, RetryBudget
from pgstore.connection.asynchronous_pool import AsyncPool
from pgstore.connection.blocking_pool import BlockingPool
from pgstore.connection.handshake import connect, connect_async, handshake
from pgstore.connection.pool import SHORT, URGENT
from pgstore.core import clock, limit
from pgstore.core.error_mapping import describe
from pgstore.core.operation import (
    Autonomous,
    BeforeCommit,
    Begin,
    Call,
    Commit,
    CopyIn,
    CopyOut,
    Cursor,
    Listen,
    Look,
    Many,
    Op,
    OpenCursor,
    PutBack,
    Query,
    Request,
    Rollback,
    Wait,
    holds,
    is_in_doubt,
    putting_back,
)
from pgstore.core.statement import Statement
from pgstore.core.steps import Steps, is_interrupt, run_async, run_blocking
from pgstore.core.uninterrupted import run_uninterrupted, run_uninterrupted_async

T = TypeVar("T")

_LOG: Final = logging.getLogger("pgstore")
_RETRY_SECONDS: Final = 0.1
_OUTCOME_SECONDS: Final = 5.0
_ENCLOSED_WAIT_SECONDS: Final = 0.005  # between two looks, where all share a transaction
# Of joined transactions, in which cursors of an earlier block may still be open. Not a name for each: every text is counted by
# itself where the server counts statements.
_CURSORS: Final = itertools.cycle(f"pgstore_joined_{number}" for number in range(4096))

# Not `read_only`: a replica may not have heard of the transaction yet.
STATUS_OF_XID = Statement("SELECT pg_xact_status($1::xid8)", "text", repeatable=True)


class Executor(abc.ABC):
    """What both kinds share."""

    is_async: bool
    pool: Any
    listener: Any

    def __init__(self, client: ClientInterface) -> None:
        self.client = client

    # What the kinds differ in; a value from one, an awaitable from the other (see `core.steps`).

    @abc.abstractmethod
    def connect(self, url: str) -> Any: ...

    @abc.abstractmethod
    def call(self, function: Callable[[], Any]) -> Any: ...

    @abc.abstractmethod
    def sleep(self, seconds: float) -> Any: ...

    @abc.abstractmethod
    def run_uninterrupted(self, function: Callable[[], Any]) -> Any: ...

    # ---------------------------------------------------------------------------------------------------- operations

    def perform(
        self, op: Op[T], transaction: Transaction | None, request: Request | None = None, *, rank: int = SHORT
    ) -> Steps[T]:
        """
        Carry *op* out in *transaction*, or each statement by itself.

        *request*: what it asked for already; *rank*: its rank among those who want a connection (see `pool`).
        """
        outer: list[Transaction | None] = []
        last: Query | Many | PutBack | None = None
        result: Any = None
        # For the operation to hear of. A list, which is empty when it has: a variable would hold what holds this frame.
        failures: list[BaseException] = []
        while True:
            try:
                while True:  # within the `try`: an interrupt may come as it turns
                    if request is None:
                        request = op.throw(failures.pop()) if failures else op.send(result)
                    result = None
                    if type(request) is not BeforeCommit:  # which is no step further: what was taken is in hand still
                        last = request if isinstance(request, (Query, Many, PutBack)) else None
                    if type(request) is Query:
                        result = (
                            yield from self.query(request, rank) if transaction is None else transaction.query(request)
                        )
                    elif type(request) is BeforeCommit:
                        result = None if transaction is None else transaction.hooked(request)
                    elif isinstance(request, Begin):
                        outer.append(transaction)
                        result = transaction = yield from self._begin(transaction, rank)
                    elif isinstance(request, (Commit, Rollback)):
                        transaction = outer.pop()
                        yield from request.mark.commit() if isinstance(request, Commit) else request.mark.rollback()
                    else:
                        result = yield from self._carry_out(request, transaction, rank)
                    request = None
            except StopIteration as done:
                # Nothing comes between this and the return: what was taken is in nobody else's hands.
                return done.value  # type: ignore[no-any-return]
            except BaseException as exc:
                try:
                    if last is not None and is_interrupt(exc):  # before the operation goes on to something else
                        yield from self.put_back(last, transaction)
                except GeneratorExit:
                    raise
                except BaseException:  # a second interrupt, perhaps before that has begun
                    if last is not None:
                        yield from self.put_back(last, transaction)
                if inspect.getgeneratorstate(op) == inspect.GEN_SUSPENDED:
                    failures.append(exc)
                    request = None
                    continue
                raise

    def put_back(self, request: Query | Many | PutBack, transaction: Transaction | None) -> Steps[None]:
        """The operation was interrupted while it had the rows of *request*: put them back, if that was not done yet."""
        if transaction is not None and transaction.root.joined and is_in_doubt(request):
            # Psycopg has dropped the answer to what it could not cancel any more.
            yield from transaction.root.abort_block()
        elif holds(request):
            with contextlib.suppress(
                errors.Error, BrokenConnection
            ):  # what stopped the operation is what the caller hears of
                yield from self._put_back(partial(putting_back, request), transaction)

    def _put_back(self, undo: Callable[[], Sequence[Query]], transaction: Transaction | None) -> Steps[None]:
        """Run the queries that *undo* gives; it is asked for them where no interrupt comes any more."""
        if transaction is None:
            # By the executor of blocking calls, on whatever thread: this executor's loop may be coming to its end.
            executor = cast("BlockingExecutor", self.client.executor(blocking=True))
            yield self.run_uninterrupted(lambda: executor.put_back_now(undo()))
            return
        root = transaction.root
        if root.connection is None or root.lost is not None:
            return  # rolled back with all else
        if root.joined:
            try:
                for query in undo():
                    yield from transaction.query(query)
            except GeneratorExit:
                raise
            except BaseException:
                yield from root.abort_block()
                raise
        else:
            connection = root.connection
            connection.release_socket()
            yield from root.checked(root.executor.run_uninterrupted, lambda: connection.put_back(undo()))

    def _begin(self, outer: Transaction | None, rank: int) -> Steps[Transaction]:
        transaction = Transaction(self.client)
        transaction.attach(self, outer, rank)
        if outer is not None:
            yield from transaction.savepoint()
        return transaction

    def _carry_out(self, request: Request, transaction: Transaction | None, rank: int) -> Steps[Any]:
        match request:
            case Many():
                if transaction is not None:
                    return (yield from transaction.query(request))
                return (yield from self._autocommit("execute_many", request, repeatable=request.repeatable, rank=rank))
            case PutBack():
                return (yield from self._put_back(request.give, transaction))
            case CopyIn():
                return (yield from self._run("copy_in", request, transaction, rank))
            case CopyOut():
                return (yield from self._run("copy_out", request, transaction, rank))
            case Cursor():
                return (yield from self._declare(request, transaction))
            case Listen():
                if transaction is not None:
                    yield from transaction.root.check_can_wait()
                return (yield self.listener.register(request))
            case Look():
                if transaction is not None and transaction.root.encloses:
                    return None  # what it looks for may be seen in the transaction only
                return (yield self.listener.look(request.ticket, request.query))
            case Wait():
                return (yield from self._wait(request, transaction))
            case Autonomous():
                if transaction is None or not self._has_another_connection(transaction):
                    return (yield from self.perform(request.op, transaction, rank=rank))
                return (yield from self.perform(request.op, None, rank=URGENT))
            case Call():
                return (yield self.call(request.function))
        raise errors.InvalidError(f"an operation asked for {request!r}, which is not a request")

    def _has_another_connection(self, transaction: Transaction | None) -> bool:
        """
        Whether a statement can run beside *transaction*: a client of one connection has none left for it, unless it joined.

        Nor can it beside one that encloses all, in which alone is to be seen what the statement is about.
        """
        if transaction is None or transaction.root.joined:
            return True
        return not transaction.root.encloses and self.client.settings.connections_max > 1

    def _run(self, method: str, request: Any, transaction: Transaction | None, rank: int) -> Steps[Any]:
        if transaction is not None:
            return (yield from transaction.run(method, request))
        return (yield from self._autocommit(method, request, repeatable=isinstance(request, CopyOut), rank=rank))

    def _declare(self, request: Cursor, transaction: Transaction | None) -> Steps[OpenCursor]:
        if transaction is None:
            raise errors.InvalidError("a server-side cursor needs a transaction")
        query = request.query
        # A cursor that was not read to its end lives as long as the transaction.
        cursors = transaction.root.cursors
        number = next(number for number in itertools.count(1) if number not in cursors)
        name = next(_CURSORS) if transaction.root.joined else f"pgstore_cursor_{number}"
        declare = Statement(
            f"DECLARE {name} NO SCROLL CURSOR FOR {query.statement.sql.decode()}",
            " ".join(query.statement.types),
            read_only=query.read_only,
            repeatable=False,
            once=True,
        )
        yield from transaction.query(Query(declare, *query.values))
        transaction.root.wrote = True  # else a wait would take it for unused and restart it, without the cursor
        cursors.add(number)
        return OpenCursor(name, partial(cursors.discard, number))

    def _wait(self, request: Wait, transaction: Transaction | None) -> Steps[bool]:
        connection = None
        if transaction is not None and transaction.root.encloses:
            return (yield from self._wait_beside(request, transaction.root))
        if transaction is not None:
            root = transaction.root
            yield from root.restart_if_unused()
            connection = None if root.joined else root.connection
        if connection is None:
            self.pool.rest()
            return bool((yield request.ticket.wait(request.seconds)))  # type: ignore[attr-defined]
        if connection.reserve:
            raise errors.StoreUnavailable(
                f"all {self.client.settings.connections_max} connections of the client are held by transactions that wait, and "
                "this one has the last of its reserve: it must not wait too, or nobody could put what they wait for; "
                "wait outside of transactions, or raise connections_max"
            )
        connection.is_waiting = True
        try:
            return bool((yield request.ticket.wait(request.seconds)))  # type: ignore[attr-defined]
        finally:
            connection.is_waiting = False

    def _wait_beside(self, request: Wait, root: Any) -> Steps[bool]:
        """Wait in a transaction that others share, who are to go on. Nobody is told of what they do: it is not committed."""
        yield from root.give_way(lambda: self.sleep(min(request.seconds, _ENCLOSED_WAIT_SECONDS)), self.is_async)
        return False

    # ------------------------------------------------------------------------------------------- single statements

    def query(self, query: Query, rank: int = SHORT) -> Steps[Any]:
        """Run *query* in a transaction of its own."""
        return (yield from self._autocommit("execute", query, repeatable=query.repeatable, rank=rank))

    def _autocommit(self, method: str, request: Any, *, repeatable: bool, rank: int) -> Steps[Any]:
        connection = yield self.pool.acquire(rank)
        try:
            self.client.check_server()
            result = yield getattr(connection, method)(request)
        except BrokenConnection as exc:
            return (yield from self._repeat(method, request, connection, exc, repeatable=repeatable, rank=rank))
        except GeneratorExit:
            self.pool.discard_now(connection)
            raise
        except BaseException:
            yield self._give_back(connection)
            raise
        yield self.pool.release(connection)
        return result

    def _repeat(
        self,
        method: str,
        request: Any,
        connection: Any,
        broken: BrokenConnection,
        *,
        repeatable: bool,
        rank: int = SHORT,
    ) -> Steps[Any]:
        """*connection* broke: repeat what cannot do harm on a new connection."""
        budget = RetryBudget()
        while True:
            yield self.pool.discard(connection)
            yield self.pool.purge()
            if broken.sent and not repeatable:
                raise _outcome_unknown(broken) from broken
            budget.spend(broken)
            _LOG.warning("a connection broke and is replaced; its statement is sent again: %s", broken)
            connection = yield self.pool.acquire(rank)
            try:
                self.client.check_server()
                result = yield getattr(connection, method)(request)
            except BrokenConnection as exc:
                broken = exc
            except GeneratorExit:
                self.pool.discard_now(connection)
                raise
            except BaseException:
                yield self._give_back(connection)
                raise
            else:
                yield self.pool.release(connection)
                return result

    def _give_back(self, connection: Any) -> Any:
        return self.pool.release(connection) if connection.clean else self.pool.discard(connection)

    def outcome(self, xid: str, identity: str) -> Steps[str | None]:
        """What became of transaction *xid* of the cluster *identity*: 'committed', 'aborted', or None if that is not known."""
        give_up = clock.monotonic() + _OUTCOME_SECONDS
        while True:
            connection = yield self.pool.acquire(URGENT)
            if connection.identity != identity:
                yield self.pool.release(connection)
                return None  # a failover or a crash: the number may be another transaction's there
            status: str | None = "in progress"
            try:
                ((status,),) = yield connection.execute(Query(STATUS_OF_XID, xid))
            except BrokenConnection:
                yield self.pool.discard(connection)
            except GeneratorExit:
                self.pool.discard_now(connection)
                raise
            except BaseException:
                yield self._give_back(connection)
                raise
            else:
                yield self.pool.release(connection)
            if status != "in progress" or clock.monotonic() > give_up:
                return status
            yield self.sleep(_RETRY_SECONDS)

    # ------------------------------------------------------------------------------------------------- connections

    def open_connection(self) -> Steps[Any]:
        """A new connection, checked, to a database that has our schema."""
        client = self.client
        give_up = clock.monotonic() + RECONNECT_SECONDS
        migrated = has_waited = False
        while True:
            url = yield from self._url()
            connection = None
            try:
                connection = yield self.connect(url)
                found = yield from handshake(connection, url)
                client.follow(history_of(found.schema, connection.identity))
                client.note_server(connection.identity)
                if found.pooled:
                    client.is_pooled = True
                telemetry.look()  # not for each operation, which would cost more than the look itself tells
                return connection
            except errors.SchemaMissing:
                _close(connection)
                if migrated or not client.settings.may_migrate:
                    raise
                migrated = True
            except errors.StoreUnavailable as exc:
                _close(connection)
                if client.history is None or client.is_closing or clock.monotonic() > give_up or limit.is_spent():
                    raise
                if not has_waited:
                    has_waited = True
                    _LOG.warning("the server is away, and waited for: %s", exc)
                yield self.sleep(_RETRY_SECONDS)
                continue
            except BaseException:
                _close(connection)
                raise
            yield self.call(partial(migrate.upgrade, url))

    def open_listening_connection(self) -> Steps[Any]:
        """A connection for the listener; `pooled` where nothing can be heard on it."""
        url = self.client.settings.listen_url or (yield from self._url())
        connection = yield self.connect(url)
        try:
            yield from handshake(connection, url)
        except BaseException:
            connection.close()
            raise
        return connection

    def _url(self) -> Steps[str]:
        settings = self.client.settings
        # A function of the caller's may ask somebody: not on the thread of an event loop.
        url = (yield self.call(settings.configured_url)) if callable(settings.url) else settings.configured_url()
        if url is None:
            url = yield self.call(embedded.ensure)
        if not self.client.has_said_where:
            self.client.has_said_where = True
            _LOG.info("the database is %s, %s", describe(url, with_defaults=True), settings.url_setting)
        return url


def _close(connection: Any) -> None:
    if connection is not None:
        connection.close()


def _outcome_unknown(broken: BrokenConnection) -> errors.OutcomeUnknown:
    _LOG.warning("whether a write has happened is unknown: the connection broke after it was sent: %s", broken)
    return errors.OutcomeUnknown(
        f"the connection broke after a write was sent, which may or may not have happened: {broken}; "
        "in a transaction (pgstore.transaction) the outcome is found out"
    )


class BlockingExecutor(Executor):
    """Carries out blocking calls, on the threads that make them."""

    is_async = False

    def __init__(self, client: ClientInterface) -> None:
        super().__init__(client)
        self.pool = BlockingPool(
            lambda: run_blocking(self.open_connection()), client.settings.connections_max, self._call_repeatedly
        )
        self.listener = BlockingListener(lambda: run_blocking(self.open_listening_connection()))

    def _call_repeatedly(self, key: object, function: Callable[[], bool], seconds: float) -> None:
        """Call *function* every so many *seconds*, until it returns True or the client is closed."""
        self.client.scheduler.urgent.leave_call(
            key, function, seconds, again_seconds=seconds, again_after_failure=True, can_wait=True
        )

    def query_now(self, query: Query) -> Any:
        """`query`, without the cost of steps."""
        pool = self.pool
        connection = pool.acquire()
        try:
            self.client.check_server()
            result = connection.execute(query)
        except BrokenConnection as exc:
            return run_blocking(self._repeat("execute", query, connection, exc, repeatable=query.repeatable))
        except BaseException:
            self._give_back(connection)
            raise
        pool.release(connection)
        return result

    def run_alone(self, op: Op[T]) -> T:
        """Carry *op* out, each statement by itself: `perform`, without the cost of steps where it asks for single statements."""
        failures: list[BaseException] = []  # as in `perform`
        result: Any = None
        while True:
            try:
                while True:
                    request = op.throw(failures.pop()) if failures else op.send(result)
                    if type(request) is Query and request.undo is None:
                        result = self.query_now(request)
                    elif type(request) is BeforeCommit:
                        result = None
                    else:
                        return run_blocking(self.perform(op, None, request))
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            except BaseException as exc:
                if inspect.getgeneratorstate(op) != inspect.GEN_SUSPENDED:
                    if is_interrupt(exc):
                        limit.lift()
                    raise
                failures.append(exc)

    def put_back_now(self, queries: Sequence[Query]) -> None:
        """Run *queries* in a transaction of their own; to be called where no interrupt comes."""
        run_blocking(self._autocommit("put_back", queries, repeatable=False, rank=URGENT))

    def connect(self, url: str) -> BlockingConnection:
        return connect(url)

    def call(self, function: Callable[[], Any]) -> Any:
        return function()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def run_uninterrupted(self, function: Callable[[], Any]) -> Any:
        return run_uninterrupted(function)

    def close(self) -> None:
        self.listener.close()
        self.pool.close()


class AsyncExecutor(Executor):
    """Carries out calls on one event loop."""

    is_async = True

    def __init__(self, client: ClientInterface, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(client)
        self._loop = loop
        self.pool = AsyncPool(lambda: run_async(self.open_connection()), client.settings.connections_max)
        self.listener = AsyncListener(lambda: run_async(self.open_listening_connection()))
        self._until_shutdown: AsyncGenerator[None, None] | None = None
        self._opened: weakref.WeakSet[AsyncConnection] = weakref.WeakSet()

    async def connect(self, url: str) -> AsyncConnection:
        if self._until_shutdown is None:
            self._until_shutdown = self._close_with_loop()
            await anext(self._until_shutdown)
        connection = await connect_async(url)
        self._opened.add(connection)
        return connection

    async def call(self, function: Callable[[], Any]) -> Any:
        context = contextvars.copy_context()
        try:
            work = asyncio.get_running_loop().run_in_executor(None, context.run, function)
        except RuntimeError:  # the interpreter is about to end, and starts no threads any more
            return function()
        return await work

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def run_uninterrupted(self, function: Callable[[], Any]) -> Any:
        return await run_uninterrupted_async(function)

    async def close(self) -> None:
        generator, self._until_shutdown = self._until_shutdown, None
        if generator is not None:
            await generator.aclose()
        else:
            await self._close()

    def abandon(self) -> None:
        """Close what can be closed without the event loop, which is gone."""
        self._until_shutdown = None
        self.pool.abandon()
        for connection in list(self._opened):
            connection.close()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        # The one thing that asyncio.run tells of its end: it closes the asynchronous generators that are left.
        try:
            yield
        finally:
            await self._close()

    async def _close(self) -> None:
        self.client.loop_closed(self._loop)
        await self.listener.close()
        await self.pool.close()
