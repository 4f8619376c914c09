"""Worlds: what carries operations out. One for a client's blocking calls, one for each event loop that it is used from.

A world has links, a listener, and ways to sleep and to call blocking code; how requests are carried out is written once over these.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import contextvars
import inspect
import itertools
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from pgstore import embedded, errors, migrate
from pgstore.client.connect import connect, connect_async, introduce
from pgstore.client.history import history_of
from pgstore.client.links import RECONNECT_SECONDS, AsyncLink, BlockingLink, BrokenLink, Patience
from pgstore.client.listener import AsyncListener, BlockingListener
from pgstore.client.pool import SHORT, URGENT, AsyncPool, BlockingPool
from pgstore.client.transaction import Transaction
from pgstore.core import limit
from pgstore.core.certainly import certainly, certainly_async
from pgstore.core.operation import (
    Apart,
    BeforeCommit,
    Begin,
    Call,
    Commit,
    CopyIn,
    CopyOut,
    Cursor,
    Listen,
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

if TYPE_CHECKING:
    from pgstore.client import Client

T = TypeVar("T")

_RETRY_SECONDS: Final = 0.1
_OUTCOME_SECONDS: Final = 5.0
# Of joined transactions, in which cursors of an earlier block may still be open. Not a name for each: every text is counted by
# itself where the server counts statements.
_CURSORS: Final = itertools.cycle(f"pgstore_joined_{number}" for number in range(4096))

STATUS_OF_XID = Statement("SELECT pg_xact_status($1::xid8)", "text", reads=True)


class World(abc.ABC):
    """What both kinds share."""

    is_async: bool
    links: Any
    listener: Any

    def __init__(self, client: Client) -> None:
        self.client = client

    # What the kinds differ in; a value from one, an awaitable from the other (see `core.steps`).

    @abc.abstractmethod
    def connect(self, url: str) -> Any: ...

    @abc.abstractmethod
    def call(self, function: Callable[[], Any]) -> Any: ...

    @abc.abstractmethod
    def sleep(self, seconds: float) -> Any: ...

    @abc.abstractmethod
    def certainly(self, function: Callable[[], Any]) -> Any: ...

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
                        result = None if transaction is None else transaction.enrol(request)
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
        """The operation was interrupted with the rows of *request* in hand: undo it, if that was not done yet."""
        if transaction is not None and transaction.root.joined and is_in_doubt(request):
            # Psycopg has dropped the answer to what it could not cancel any more.
            yield from transaction.spoil()
        elif holds(request):
            with contextlib.suppress(
                errors.Error, BrokenLink
            ):  # what stopped the operation is what the caller hears of
                yield from self._put_back(partial(putting_back, request), transaction)

    def _put_back(self, undo: Callable[[], Sequence[Query]], transaction: Transaction | None) -> Steps[None]:
        """Run the queries that *undo* gives; it is asked for them where no interrupt comes any more."""
        if transaction is None:
            # By the world of blocking calls, on whatever thread: this world's loop may be coming to its end.
            world = cast("BlockingWorld", self.client.world(blocking=True))
            yield self.certainly(lambda: world.put_back_now(undo()))
            return
        root = transaction.root
        if root.link is None or root.lost is not None:
            return  # rolled back with all else
        if root.joined:
            try:
                for query in undo():
                    yield from transaction.query(query)
            except GeneratorExit:
                raise
            except BaseException:
                yield from transaction.spoil()
                raise
        else:
            link = root.link
            link.let_go()
            yield from transaction._checked(self.certainly, lambda: link.put_back(undo()))

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
                return (yield from self._by_itself("execute_many", request, reads=request.reads, rank=rank))
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
                    yield from transaction.check_can_wait()
                return (yield self.listener.register(request.topic))
            case Wait():
                return (yield from self._wait(request, transaction))
            case Apart():
                if transaction is None or not self._has_another_link(transaction):
                    return (yield from self.perform(request.op, transaction, rank=rank))
                return (yield from self.perform(request.op, None, rank=URGENT))
            case Call():
                return (yield self.call(request.function))
        raise errors.InvalidError(f"an operation asked for {request!r}, which is not a request")

    def _has_another_link(self, transaction: Transaction | None) -> bool:
        """Whether a statement can run beside *transaction*: a client of one connection has none left for it, unless it joined."""
        return transaction is None or transaction.root.joined or self.client.settings.connections_max > 1

    def _run(self, method: str, request: Any, transaction: Transaction | None, rank: int) -> Steps[Any]:
        if transaction is not None:
            return (yield from transaction.run(method, request))
        return (yield from self._by_itself(method, request, reads=isinstance(request, CopyOut), rank=rank))

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
            reads=True,
            once=True,
        )
        yield from transaction.query(Query(declare, *query.values))
        transaction.root.wrote = True  # else a wait would take it for unused and restart it, without the cursor
        cursors.add(number)
        return OpenCursor(name, partial(cursors.discard, number))

    def _wait(self, request: Wait, transaction: Transaction | None) -> Steps[bool]:
        link = None
        if transaction is not None:
            yield from transaction.restart_if_unused()
            root = transaction.root
            link = None if root.joined else root.link
        if link is None:
            return bool((yield request.ticket.wait(request.seconds)))  # type: ignore[attr-defined]
        if link.reserve:
            raise errors.StoreUnavailable(
                f"all {self.client.settings.connections_max} connections of the client are held by transactions that wait, and "
                "this one has the last of its reserve: it must not wait too, or nobody could put what they wait for; "
                "wait outside of transactions, or raise connections_max"
            )
        link.is_waiting = True
        try:
            return bool((yield request.ticket.wait(request.seconds)))  # type: ignore[attr-defined]
        finally:
            link.is_waiting = False

    # ------------------------------------------------------------------------------------------- single statements

    def query(self, query: Query, rank: int = SHORT) -> Steps[Any]:
        """Run *query* in a transaction of its own."""
        return (yield from self._by_itself("execute", query, reads=query.reads, rank=rank))

    def _by_itself(self, method: str, request: Any, *, reads: bool, rank: int) -> Steps[Any]:
        link = yield self.links.acquire(rank)
        try:
            result = yield getattr(link, method)(request)
        except BrokenLink as exc:
            return (yield from self._again(method, request, link, exc, reads=reads, rank=rank))
        except GeneratorExit:
            self.links.discard_now(link)
            raise
        except BaseException:
            yield self._give_back(link)
            raise
        yield self.links.release(link)
        return result

    def _again(
        self, method: str, request: Any, link: Any, broken: BrokenLink, *, reads: bool, rank: int = SHORT
    ) -> Steps[Any]:
        """*link* broke: repeat what cannot do harm on a new connection."""
        patience = Patience()
        while True:
            yield self.links.discard(link)
            yield self.links.purge()
            if broken.sent and not reads:
                raise _unknown(broken) from broken
            patience.spend(broken)
            link = yield self.links.acquire(rank)
            try:
                result = yield getattr(link, method)(request)
            except BrokenLink as exc:
                broken = exc
            except GeneratorExit:
                self.links.discard_now(link)
                raise
            except BaseException:
                yield self._give_back(link)
                raise
            else:
                yield self.links.release(link)
                return result

    def _give_back(self, link: Any) -> Any:
        return self.links.release(link) if link.clean else self.links.discard(link)

    def outcome(self, xid: str, identity: str) -> Steps[str | None]:
        """What became of transaction *xid* of the cluster *identity*: 'committed', 'aborted', or None if that is not known."""
        give_up = time.monotonic() + _OUTCOME_SECONDS
        while True:
            link = yield self.links.acquire(URGENT)
            if link.identity != identity:
                yield self.links.release(link)
                return None  # a failover or a crash: the number may be another transaction's there
            status: str | None = "in progress"
            try:
                ((status,),) = yield link.execute(Query(STATUS_OF_XID, xid))
            except BrokenLink:
                yield self.links.discard(link)
            except GeneratorExit:
                self.links.discard_now(link)
                raise
            except BaseException:
                yield self._give_back(link)
                raise
            else:
                yield self.links.release(link)
            if status != "in progress" or time.monotonic() > give_up:
                return status
            yield self.sleep(_RETRY_SECONDS)

    # ------------------------------------------------------------------------------------------------- connections

    def open_link(self) -> Steps[Any]:
        """A new connection, checked, to a database that has our schema."""
        client = self.client
        give_up = time.monotonic() + RECONNECT_SECONDS
        migrated = False
        while True:
            url = yield from self._url()
            link = None
            try:
                link = yield self.connect(url)
                found = yield from introduce(link, url)
                client.met(history_of(found.schema, link.identity))
                client.arrived(link.identity)
                if found.pooled:
                    client.is_pooled = True
                return link
            except errors.SchemaMissing:
                _close(link)
                if migrated or not client.settings.may_migrate:
                    raise
                migrated = True
            except errors.StoreUnavailable:
                _close(link)
                if client.history is None or client.is_closing or time.monotonic() > give_up or limit.is_spent():
                    raise
                yield self.sleep(_RETRY_SECONDS)
                continue
            except BaseException:
                _close(link)
                raise
            yield self.call(partial(migrate.upgrade, url))

    def open_listening_link(self) -> Steps[Any]:
        """A connection for the listener; `pooled` where nothing can be heard on it."""
        url = self.client.settings.listen_url or (yield from self._url())
        link = yield self.connect(url)
        try:
            yield from introduce(link, url)
        except BaseException:
            link.close()
            raise
        return link

    def _url(self) -> Steps[str]:
        settings = self.client.settings
        # A function of the caller's may ask somebody: not on the thread of an event loop.
        url = (yield self.call(settings.configured_url)) if callable(settings.url) else settings.configured_url()
        if url is None:
            url = yield self.call(embedded.ensure)
        return url


def _close(link: Any) -> None:
    if link is not None:
        link.close()


def _unknown(broken: BrokenLink) -> errors.OutcomeUnknown:
    return errors.OutcomeUnknown(
        f"the connection broke after a write was sent, which may or may not have happened: {broken}; "
        "in a transaction (pgstore.transaction) the outcome is found out"
    )


class BlockingWorld(World):
    """Carries out blocking calls, on the threads that make them."""

    is_async = False

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.links = BlockingPool(lambda: run_blocking(self.open_link()), client.settings.connections_max)
        self.listener = BlockingListener(lambda: run_blocking(self.open_listening_link()))

    def query_now(self, query: Query) -> Any:
        """`query`, without the cost of steps."""
        links = self.links
        link = links.acquire()
        try:
            result = link.execute(query)
        except BrokenLink as exc:
            return run_blocking(self._again("execute", query, link, exc, reads=query.reads))
        except BaseException:
            self._give_back(link)
            raise
        links.release(link)
        return result

    def put_back_now(self, queries: Sequence[Query]) -> None:
        """Run *queries* in a transaction of their own; to be called where no interrupt comes."""
        run_blocking(self._by_itself("put_back", queries, reads=False, rank=URGENT))

    def connect(self, url: str) -> BlockingLink:
        return connect(url)

    def call(self, function: Callable[[], Any]) -> Any:
        return function()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def certainly(self, function: Callable[[], Any]) -> Any:
        return certainly(function)

    def close(self) -> None:
        self.listener.close()
        self.links.close()


class AsyncWorld(World):
    """Carries out calls on one event loop."""

    is_async = True

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(client)
        self._loop = loop
        self.links = AsyncPool(lambda: run_async(self.open_link()), client.settings.connections_max)
        self.listener = AsyncListener(lambda: run_async(self.open_listening_link()))
        self._until_shutdown: AsyncGenerator[None, None] | None = None
        self._opened: weakref.WeakSet[AsyncLink] = weakref.WeakSet()

    async def connect(self, url: str) -> AsyncLink:
        if self._until_shutdown is None:
            self._until_shutdown = self._close_with_loop()
            await anext(self._until_shutdown)
        link = await connect_async(url)
        self._opened.add(link)
        return link

    async def call(self, function: Callable[[], Any]) -> Any:
        context = contextvars.copy_context()
        try:
            work = asyncio.get_running_loop().run_in_executor(None, context.run, function)
        except RuntimeError:  # the interpreter is about to end, and starts no threads any more
            return function()
        return await work

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def certainly(self, function: Callable[[], Any]) -> Any:
        return await certainly_async(function)

    async def close(self) -> None:
        generator, self._until_shutdown = self._until_shutdown, None
        if generator is not None:
            await generator.aclose()
        else:
            await self._close()

    def abandon(self) -> None:
        """Close what can be closed without the event loop, which is gone."""
        self._until_shutdown = None
        self.links.abandon()
        for link in list(self._opened):
            link.close()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        # The one thing that asyncio.run tells of its end: it closes the asynchronous generators that are left.
        try:
            yield
        finally:
            await self._close()

    async def _close(self) -> None:
        self.client.leave_loop(self._loop)
        await self.listener.close()
        await self.links.close()
