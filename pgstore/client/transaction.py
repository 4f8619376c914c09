"""Transactions: everything that stores do inside commits together, or not at all.

A `Transaction` is one block: the outermost has a real transaction below it (`client.root`), of pgstore's own or joined to that of a
caller; a block inside another is a savepoint in the same. For which code it is the current one says `client.scope`.

What would make transactions wait for each other — the lock of a Volume's head, a notification — is kept back by commit hooks until
the commit of an own transaction, and written by the operation in a joined one.

Steps are written once for blocking and asynchronous connections (`core.steps`).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from types import TracebackType
from typing import Any, Final

from psycopg.conninfo import conninfo_to_dict

from pgstore import embedded, errors
from pgstore.client.history import history_of
from pgstore.client.interfaces import ClientInterface, ExecutorInterface
from pgstore.client.root import Root
from pgstore.client.scope import Scope, current
from pgstore.connection.handshake import CALLERS_SETTINGS, SCHEMA, WHO_ANSWERS, check_schema
from pgstore.connection.joined import source_of
from pgstore.core import observation
from pgstore.core.async_usage import running_loop, warn_of_blocking
from pgstore.core.operation import BeforeCommit, CommitHook, Hooked, Many, Query
from pgstore.core.search_path import fault_of
from pgstore.core.steps import Steps, run_async, run_blocking, shielded

SAVEPOINT_NAMES: Final = 64


class Transaction(Scope):
    """
    A transaction over all stores of a client, and over the caller's own tables.

    Made by `pgstore.transaction()`; used with `with` or `async with`. Inside, every operation of the same thread and task takes
    part. Leaving the block normally commits; an exception undoes everything. A block inside another is a savepoint; so is one that
    joins a transaction of the caller's, from its first write on.

    `connection` gives the psycopg connection for SQL of one's own. `store.using(tx)` uses a store in this transaction from
    another thread or task, one call at a time.
    """

    _client: ClientInterface

    def __init__(self, client: ClientInterface, connection: Any = None) -> None:
        super().__init__(client)
        self._source = None if connection is None else source_of(connection)
        self._root: Root | None = None
        self._savepoint: str | None = None
        self._marks: dict[object, Any] = {}  # of the commit hooks, at the savepoint
        self._had_callers_settings = False  # at the savepoint
        self._tell_ended: observation.Ended | None = None  # whoever observes it

    # ------------------------------------------------------------------------------------------------- for the user

    @property
    def connection(self) -> Any:
        """
        The psycopg connection of this transaction, for SQL of the caller's: `tx.connection.execute("INSERT …")`.

        Do not commit, roll back or close it: the block is then at its end, and all that follows in it, also its end, raises
        `TransactionScopeError`. In an asynchronous transaction use `await tx.get_connection()`: this cannot begin
        one, and leaves the settings of the planner as pgstore has them.
        """
        root = self.root
        if root.executor.is_async:
            if not root.begun:
                raise errors.InvalidError("nothing was done in this transaction yet; use `await tx.get_connection()`")
            if root.joined:
                raise errors.InvalidError("this transaction is joined; use the connection that you joined")
            root.check_not_ended()
            root.expose()
        else:
            with root.lock:
                root.check_not_at_work()
                run_blocking(root.begin())
                if root.joined:
                    run_blocking(root.set_block_savepoint())
                    return run_blocking(root.connection.callers_connection())
                run_blocking(root.lend())
        return root.connection.driver_connection

    async def get_connection(self) -> Any:
        """`connection`, for asynchronous transactions."""
        root = self.root
        if root.encloses:
            raise errors.InvalidError(
                "the connection of a test with the fixture `pgstore_transaction` is not asynchronous; use `tx.connection`, or the "
                "fixture `pgstore_client`"
            )
        async with root.async_lock:
            await run_async(root.begin())
            if root.joined:
                await run_async(root.set_block_savepoint())
                return await run_async(root.connection.callers_connection())
            await run_async(root.lend())
            return root.connection.driver_connection

    def __enter__(self) -> Transaction:
        self._enter(blocking=True)
        try:
            if self._root is None:
                run_blocking(self._open())
            else:
                with self._root.lock:
                    self._root.check_not_at_work()
                    run_blocking(self._open())
            self._begin_observed()
        except BaseException:
            self._ended = True
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not self.is_parents:
                root = self.root
                with root.lock:
                    root.check_not_at_work()
                    run_blocking(self.commit() if exc is None else self.rollback())
                self._check_context(root, exc)
        finally:
            self._leave_scope()
            self._end_observed()

    async def __aenter__(self) -> Transaction:
        self._enter(blocking=False)
        try:
            if self._root is None:
                await run_async(self._open())
            else:
                async with self._root.async_lock:
                    await self._root.run_async(self._open())
            self._begin_observed()
        except BaseException:
            self._ended = True
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.is_parents:
                return
            root = self.root
            if kind is GeneratorExit and not self._can_await():
                root.abandon_now()
            elif kind is None:
                try:
                    async with root.async_lock:
                        await root.run_async(self.commit())
                except GeneratorExit:
                    raise
                except BaseException:
                    if not self._ended:  # cancelled while another task was using the transaction
                        await shielded(self._roll_back_in_turn())
                    raise
            else:
                await shielded(self._roll_back_in_turn())
            self._check_context(root, exc)
        except GeneratorExit:
            if not self._ended:
                self.root.abandon_now()
            raise
        finally:
            self._leave_scope()
            self._end_observed()

    def _begin_observed(self) -> None:
        if observation.observer is not None:
            self._tell_ended = observation.observer.block(self)

    def _end_observed(self) -> None:
        """The block has ended: well, or with what is being raised."""
        tell, self._tell_ended = self._tell_ended, None
        if tell is not None:
            tell(sys.exc_info()[1])

    def _check_context(self, root: Root, exc: BaseException | None) -> None:
        """Raise `TransactionScopeError` where the block had lost its context, so that nothing took part in it. At its end."""
        if not root.is_unused or self.is_in_context or not (exc is None or isinstance(exc, Exception)):
            return
        raise errors.TransactionScopeError(
            "the transaction was left in another context than it was entered in, and nothing was done in it: whatever was done in "
            "between did not take part, and was committed by itself. Frameworks resume generators, such as dependencies and "
            "fixtures, in a copy of the context, where the transaction is not the current one; use store.using(tx) to take part in "
            "it, or open a transaction where the stores are used"
        )

    def _can_await(self) -> bool:
        """Whether the event loop goes on: an asynchronous generator is closed, or else what is left over of a loop that ended."""
        assert self._owner is not None
        try:
            return self._owner[1] is not None and self._owner[1].get_loop() is asyncio.get_running_loop()
        except RuntimeError:
            return False

    async def _roll_back_in_turn(self) -> None:
        if self._ended:  # abandoned before it could begin
            return
        async with self.root.async_lock:
            await self.root.run_async(self.rollback())

    def __repr__(self) -> str:
        state = "ended" if self._ended else "new" if self._root is None else "open"
        kind = " joined" if self._source is not None else ""
        return f"<pgstore.Transaction{kind} {state}>"

    # ------------------------------------------------------------------------------------------------ its beginning

    @property
    def root(self) -> Root:
        """The real transaction. Raises `InvalidError` if this one is not open."""
        if self._ended:
            raise errors.InvalidError(
                f"{self!r} is not open any more, nor is what was begun in it (an iterator, an open file, store.using(tx)): "
                "use that within the block, or begin it outside; an answer that a framework streams is read after the block"
            )
        if self._root is None:
            raise errors.InvalidError(f"{self!r} is not open yet: enter it by `with` or `async with`")
        if self.is_parents:
            raise errors.TransactionScopeError("the transaction belongs to the process that this one was forked from")
        return self._root

    def check_form(self, blocking: bool) -> None:
        if self.root.encloses:
            return
        is_async = self.root.executor.is_async
        if is_async and blocking:
            raise errors.TransactionScopeError(
                "a blocking call inside an asynchronous transaction would stop the event loop; use `await ….aio(…)`"
            )
        if not is_async and not blocking:
            raise errors.TransactionScopeError(
                "an asynchronous call inside a blocking transaction; open it with `async with`, or call without `.aio`"
            )

    def _enter(self, *, blocking: bool) -> None:
        if self._owner is not None:
            raise errors.InvalidError("a transaction object is used once; call pgstore.transaction() again")
        if self._source is not None and self._source.is_async == blocking:
            raise errors.InvalidError(
                "the joined connection is asynchronous: use `async with`"
                if blocking
                else "the joined connection is blocking: use `with`"
            )
        outer = current(self._client, blocking=blocking) if self._source is None else None
        if outer is not None:
            self._root = outer._root
        if blocking and running_loop() is not None:
            warn_of_blocking()
        self._enter_scope(blocking=blocking)

    def attach(self, executor: ExecutorInterface, outer: Transaction | None, rank: int) -> None:
        """Make this a transaction that an operation opens for itself: not current for anything else."""
        self._root = Root(executor, rank=rank) if outer is None else outer.root

    def _open(self) -> Steps[None]:
        if self._source is not None:
            executor = self._client.executor(blocking=not self._source.is_async)
            self._root = Root(executor, self._source)
            yield from self._check_joined(self._root)
            if self._source.sets_savepoint_at_once:
                yield from self._root.set_block_savepoint()
        elif self._root is None:
            self._root = Root(self._client.executor(blocking=self._blocking))
        else:
            yield from self.savepoint()

    def _check_joined(self, root: Root) -> Steps[None]:
        """
        The caller's connection has to lead to a database with our schema, and to the one that the client uses.

        And its session must call what our statements mean (see `core.search_path`).
        """
        client = self._client
        if client.history is None:
            yield from self._see_to_schema(root)
        try:
            rows = yield from root.checked(root.connection.execute, Query(SCHEMA))
        except errors.SchemaMissing as exc:
            raise (yield from self._schema_missing(root)) from exc
        if rows and (fault := fault_of(rows[0][4])):
            raise errors.InvalidError(f"the connection to join has the {fault}")
        check_schema(rows)
        here = history_of(rows[0])
        if client.follows(here):
            return
        # Or what the client knows is out of date: its own connections may all be older than a restore.
        if _names_database(client):
            with contextlib.suppress(errors.Error):
                rows = yield from root.executor.query(Query(SCHEMA))
                client.follow(history_of(rows[0]))
        if not client.follows(here):
            raise errors.InvalidError(
                "the connection leads to another database than the client's other connections; "
                "make a pgstore.Client for it and pass client= to its stores"
            )

    def _see_to_schema(self, root: Root) -> Steps[None]:
        """
        Make the schema where it is missing, as on any other first use.

        To ask for tables that are not there would end the caller's transaction.
        """
        ((_, installed, _),) = yield from root.checked(root.connection.execute, Query(WHO_ANSWERS))
        connection = yield from root.connection.callers_connection()
        if not installed and (_names_database(self._client) or _is_embedded(connection)):
            yield from root.executor.query(Query(SCHEMA))  # on a connection of the client's, which makes it if it may
            ((_, installed, _),) = yield from root.checked(root.connection.execute, Query(WHO_ANSWERS))
        if not installed:
            raise (yield from self._schema_missing(root))

    def _schema_missing(self, root: Root) -> Steps[errors.SchemaMissing]:
        connection = yield from root.connection.callers_connection()
        ours = (self._client.installation or "").partition("/")[2]
        theirs = connection.info.dbname
        instead = f", or join a connection to {ours!r}, which the client uses" if ours not in ("", theirs) else ""
        return errors.SchemaMissing(
            f"the connection to join leads to the database {theirs!r}, which has no pgstore schema that this code knows: "
            f"run `pgstore migrate` with its URL{instead}"
        )

    def savepoint(self) -> Steps[None]:
        """Begin as a nested transaction."""
        root = self.root
        yield from root.begin()
        if root.joined:
            yield from root.set_block_savepoint()
        root.block_begins(self)
        root.savepoints += 1
        # Names come again, or each would be a text of its own where the server counts statements. The latest of a name is meant.
        self._savepoint = f"pgstore_{root.savepoints % SAVEPOINT_NAMES}"
        self._had_callers_settings = root.has_callers_settings
        yield from root.checked(root.connection.command, f"SAVEPOINT {self._savepoint}")
        self._marks = {key: hook.mark() for key, hook in root.hooks.items()}

    # --------------------------------------------------------------------------------------------------- statements

    def query(self, request: Query | Many) -> Steps[Any]:
        return self.root.query(request)

    def run(self, method: str, request: Any) -> Steps[Any]:
        return self.root.run(method, request)

    def hooked(self, request: BeforeCommit) -> Hooked:
        return self.root.hooked(request)

    # ------------------------------------------------------------------------------------------------------ its end

    def commit(self) -> Steps[None]:
        root = self.root
        try:
            if self._savepoint is not None:
                try:
                    yield from root.checked(root.connection.command, f"RELEASE SAVEPOINT {self._savepoint}")
                except errors.TransactionFailed:
                    yield from self._rollback_savepoint(root)  # the outer transaction may go on
                    raise
            elif root.joined:
                yield from root.release_block()
            else:
                yield from self._commit_root(root)
        except GeneratorExit:
            raise
        except BaseException:
            if self._savepoint is None and not root.joined:
                yield from root.rollback()
            raise
        finally:
            self._ended = True
            root.block_ends(self)

    def _commit_root(self, root: Root) -> Steps[None]:
        root.check_usable()
        last: list[Query] = []
        # In one order everywhere: what two transactions lock for their commits, they lock without waiting in a circle.
        for _, hook in sorted(root.hooks.items(), key=_commit_order):
            yield from root.executor.perform(hook.before_commit(), self)
        for _, hook in sorted(root.hooks.items(), key=_commit_order):  # some may just have come
            last.extend(hook.with_commit())
        if root.begun:
            yield from root.commit(last)
        for hook in root.hooks.values():
            hook.committed()

    def rollback(self) -> Steps[None]:
        root = self.root
        try:
            if self._savepoint is not None:
                yield from self._rollback_savepoint(root)
            elif root.joined:
                yield from root.undo_block()
            else:
                yield from root.rollback()
        finally:
            self._ended = True
            root.block_ends(self)

    def _rollback_savepoint(self, root: Root) -> Steps[None]:
        for key, hook in list(root.hooks.items()):
            hook.rewind(self._marks.get(key))
        if root.lost is None:
            with contextlib.suppress(errors.StoreUnavailable):
                yield from root.checked(root.connection.command, f"ROLLBACK TO SAVEPOINT {self._savepoint}")
                yield from root.checked(root.connection.command, f"RELEASE SAVEPOINT {self._savepoint}")
                if root.has_callers_settings and not self._had_callers_settings:  # the savepoint has brought ours back
                    yield from root.checked(root.connection.command, CALLERS_SETTINGS)


def check_nothing_written(client: ClientInterface, what: str) -> None:
    """
    Raise `InvalidError` where *what*, which waits for another process, is done in a transaction that has written something.

    That process could not see what was written, and may wait for its locks: for ever, as the transaction waits for it.
    """
    transaction = current(client, blocking=None)
    if transaction is not None and transaction.root.has_written:
        raise errors.InvalidError(
            f"{what} in a transaction that has written something: the worker could not see what you wrote, and may wait for your "
            "locks for ever. Call it before or after the transaction, or spawn() in it"
        )


def _names_database(client: ClientInterface) -> bool:
    """Whether the client has a database without a joined connection; the embedded server is not started for one."""
    return callable(client.settings.url) or client.settings.configured_url() is not None


def _is_embedded(connection: Any) -> bool:
    """Whether a caller's connection leads to the embedded server."""
    return bool(conninfo_to_dict(embedded.Server().url)["host"] == connection.info.host)


def _commit_order(item: tuple[object, CommitHook]) -> int:
    """By store, for commit hooks that belong to one."""
    key, _ = item
    return key[1] if isinstance(key, tuple) else 0
