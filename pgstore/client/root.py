"""The one real transaction under any number of nested ones: its connection, and the steps that are taken on that.

It is of pgstore's own (BEGIN is sent with its first statement), or joined: it rides on a connection of the caller's, who commits.
Nothing here knows of blocks and savepoints within it (`client.transaction`), but for the savepoint by which a joined block alone
can be undone.

A transaction that has written nothing may begin again on another connection, so one that breaks before the first statement was
answered costs nothing, and a wait holds no transaction open. Where the connection breaks during COMMIT the server is asked what
became of it: for that its number (`xid`) is learnt with the first statement that may write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

import psycopg
from psycopg import pq

from pgstore import errors
from pgstore.client.block_savepoint import BlockSavepoint
from pgstore.client.interfaces import ExecutorInterface
from pgstore.connection import CURRENT_XID, BrokenConnection, RetryBudget
from pgstore.connection.handshake import CALLERS_SETTINGS, settings
from pgstore.connection.joined import JoinedConnection, Source
from pgstore.connection.pool import LONG
from pgstore.core.operation import BeforeCommit, CommitHook, Hooked, Many, Query
from pgstore.core.statement import Statement
from pgstore.core.steps import Steps, run_async

T = TypeVar("T")
_LOG: Final = logging.getLogger("pgstore")

ISOLATION = Statement("SELECT current_setting('transaction_isolation')", read_only=True)
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"


class Root:
    """One real transaction. With *source* it is the caller's, who ends it."""

    block_savepoint: BlockSavepoint  # of a joined one: what undoes our block alone
    encloses = False  # whether all of the client's operations take part, of either form (`client.enclosing`)
    run_async = staticmethod(run_async)  # steps on an event loop

    def __init__(self, executor: ExecutorInterface, source: Source | None = None, *, rank: int = LONG) -> None:
        self.executor = executor
        self.connection: Any = None
        self.joined = source is not None
        if source is not None:
            self.connection = JoinedConnection(source)
            self.block_savepoint = BlockSavepoint(source, self.connection)
        self.begun = self.joined
        self.was_begun = False  # once, at least: a wait may have ended it since
        self.wrote = False  # something was, or may have been, changed
        self.lost: BaseException | None = None  # the connection broke
        self.hooks: dict[object, CommitHook] = {}
        self.savepoints = 0  # how many there were
        self.cursors: set[int] = set()  # numbers of those that may be open
        self.rank = rank  # among those who want a connection
        # One call at a time. Reentrant where it can be: what a call runs may call a store again (`__reduce__`, callbacks). Not
        # while the connection is at work, where only a signal handler or a finaliser can come in.
        self.lock = threading.RLock()
        self.is_at_work = False
        self.has_callers_settings = False  # in place of ours, since they have got hold of the connection
        self.async_lock = asyncio.Lock()

    # --------------------------------------------------------------------------------------------------- statements

    def begin(self) -> Steps[None]:
        self.check_not_ended()
        if not self.begun:
            yield from self._begin_on(lambda connection: connection.command(_BEGIN))

    def _begin_on(self, call: Callable[[Any], Any]) -> Steps[Any]:
        """Take a connection and begin on it by *call*. If it breaks nothing is lost: nothing had been done yet."""
        budget = RetryBudget()
        self.is_at_work = True
        try:
            while True:
                connection = self.connection = yield self.executor.pool.acquire(self.rank)
                self.begun = self.was_begun = True
                connection.xid = None
                try:
                    self.executor.client.check_server()
                    return (yield call(connection))
                except BrokenConnection as exc:
                    self.connection, self.begun = None, False
                    yield self.executor.pool.discard(connection)
                    yield self.executor.pool.purge()
                    budget.spend(exc)
                    _LOG.warning("a connection broke and is replaced, before its transaction had begun: %s", exc)
        finally:
            self.is_at_work = False

    def query(self, request: Query | Many) -> Steps[Any]:
        self.check_usable()
        if self.joined and not request.read_only and not self.block_savepoint.is_set:
            return (yield from self.checked(self.block_savepoint.set_with, request))
        if request.read_only or self.joined or (self.begun and self.connection.xid is not None):
            if self.begun:
                execute = self.connection.execute_many if isinstance(request, Many) else self.connection.execute
                return (yield from self.checked(execute, request))
            return (yield from self._begin_on(lambda connection: connection.begin_with(request)))
        # The first that may write tells whether it did, and the number by which a lost COMMIT can be looked up.
        wrote, self.wrote = self.wrote, True
        if self.begun:
            result = yield from self.checked(self.connection.tell_xid_with, request)
        else:
            result = yield from self._begin_on(lambda connection: connection.begin_with(request, tell_xid=True))
        if self.connection.xid is None:
            self.wrote = wrote
        return result

    def run(self, method: str, request: Any) -> Steps[Any]:
        """Any other call of the connection's."""
        self.check_usable()
        self.wrote = True
        yield from self.begin()
        if self.joined and method == "copy_in":
            yield from self.set_block_savepoint()
        return (yield from self.checked(getattr(self.connection, method), request))

    def set_block_savepoint(self) -> Steps[None]:
        """See that what a joined block does can be undone without the caller's own work before it."""
        if not self.block_savepoint.is_set:
            yield from self.checked(self.block_savepoint.set)

    def checked(self, call: Callable[..., Any], *args: Any) -> Steps[Any]:
        """Call the connection, noting when it breaks. The calls of a joined one are steps."""
        self.is_at_work = True
        try:
            return (yield from call(*args)) if self.joined else (yield call(*args))
        except BrokenConnection as exc:
            self.lost = exc
            if not self.joined:
                yield self.executor.pool.purge()  # what idles is hardly better
            raise _broke_in_transaction(exc) from exc
        finally:
            self.is_at_work = False

    def check_usable(self) -> None:
        if self.lost is not None:
            raise errors.TransactionFailed("the connection of this transaction broke; nothing of it was committed")
        self.check_not_ended()

    def check_not_ended(self) -> None:
        """Raise `TransactionScopeError` where SQL of the caller's has ended the transaction."""
        if self.was_ended_by_caller:
            raise errors.TransactionScopeError(
                "COMMIT or ROLLBACK on the connection of a pgstore.transaction() has ended it within its block: what was done "
                "before is committed or undone, and nothing more is done in it. The end of the block commits, an exception rolls "
                "back; for a savepoint open another block in it"
            )

    @property
    def was_ended_by_caller(self) -> bool:
        connection = self.connection
        return (
            self.begun
            and not self.joined
            and connection is not None
            and connection.exposed
            and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        )

    @property
    def is_unused(self) -> bool:
        """Whether nothing was done in it; False of a joined one, of which that is not known."""
        return not (self.was_begun or self.joined or self.hooks)

    @property
    def has_written(self) -> bool:
        """Whether it has changed something, or will with its commit. Of a joined one: by pgstore."""
        wrote = self.block_savepoint.is_set if self.joined else self.wrote
        return wrote or any(hook.has_changes for hook in self.hooks.values())

    def check_not_at_work(self) -> None:
        """Raise `TransactionScopeError` where a call of this thread is half done; with the lock."""
        if self.is_at_work:
            raise errors.TransactionScopeError(
                "a statement of the current transaction is under way on this very thread, so nothing more can be done in it here: "
                "this is a signal handler or a finaliser, which can leave the work to another thread, or to the main part"
            )

    def hooked(self, request: BeforeCommit) -> Hooked:
        """The commit hook that *request* asks for."""
        hook = self.hooks.get(request.key)
        if hook is None:
            hook = self.hooks[request.key] = request.factory()
        return Hooked(
            hook, self.joined or self.encloses
        )  # there is no commit of ours that could write what was kept back

    # ------------------------------------------------------------------------------------------- statements of the caller's

    def lend(self) -> Steps[None]:
        """Give the connection to the caller, with the settings that their database has."""
        if (
            not self.connection.exposed and self.connection.prepared is not None
        ):  # None: a pooler; the session is as it was
            yield from self.checked(self.connection.command, CALLERS_SETTINGS)
            self.has_callers_settings = True
        self.expose()

    def expose(self) -> None:
        self.connection.expose()
        self.wrote = True

    # ------------------------------------------------------------------------------------------------------- blocks

    def block_begins(self, block: object) -> None:
        """A block within it, a savepoint, is about to be opened."""

    def block_ends(self, block: object) -> None:
        """It was closed."""

    # ------------------------------------------------------------------------------------------------------ waiting

    def check_can_wait(self) -> Steps[None]:
        """Raise `InvalidError` where waiting would be for ever: nothing that is committed from now on can be seen."""
        if self.joined:
            ((level,),) = yield from self.query(Query(ISOLATION))
            if level not in ("read committed", "read uncommitted"):
                raise errors.InvalidError(
                    f"the joined transaction is {level}, so it cannot see what others put after its beginning: "
                    "wait outside of it, or use READ COMMITTED"
                )

    def restart_if_unused(self) -> Steps[bool]:
        """
        Give the connection up if the transaction has only read, so that waiting does not hold it open.

        True if no transaction is open now; it begins again with its next statement. Under READ COMMITTED the difference cannot be
        observed.
        """
        if self.joined or self.wrote or self.savepoints:
            return False
        if self.begun:
            yield from self._end()
        return True

    # ------------------------------------------------------------------------------------------------------ its end

    def commit(self, last: list[Query]) -> Steps[None]:
        """COMMIT, with *last* in the same round trip."""
        connection = self.connection
        if self.wrote and connection.xid is None:
            # By SQL of the caller's, or by COPY. Known before COMMIT is sent: its answer may be lost with everything else.
            ((connection.xid,),) = yield from self.checked(connection.execute, Query(CURRENT_XID))
            self.wrote = connection.xid is not None
        self.is_at_work = True  # to the end
        try:
            committed = yield connection.commit_with(last)
        except BrokenConnection as exc:
            self.lost = exc
            yield from self._find_outcome(exc)
            return
        yield from self._release()
        if not committed:
            raise errors.TransactionFailed("the transaction was rolled back: an earlier statement in it had failed")

    def _find_outcome(self, broken: BrokenConnection) -> Steps[None]:
        """The connection broke during COMMIT: ask the server what became of the transaction."""
        connection, self.connection = self.connection, None
        yield self.executor.pool.discard(connection)
        if not self.wrote:
            return
        status = None if broken.sent else "aborted"
        if status is None and connection.xid is not None and connection.identity is not None:
            with contextlib.suppress(errors.Error):
                status = yield from self.executor.outcome(connection.xid, connection.identity)
        if status == "committed":
            return
        if status == "aborted":
            raise errors.StoreUnavailable(
                f"the connection broke during the commit, and the transaction was rolled back: {broken}"
            ) from broken
        _LOG.warning("whether a transaction was committed is unknown: the connection broke in its commit: %s", broken)
        raise errors.OutcomeUnknown(
            f"the connection broke during the commit, and whether the transaction was committed cannot be found out: {broken}"
        ) from broken

    def rollback(self) -> Steps[None]:
        """ROLLBACK, if something was begun; of a joined one nothing."""
        self._rewind_hooks()
        if self.was_ended_by_caller:
            _LOG.warning("a transaction cannot be rolled back: SQL on its connection had ended it within its block")
        if self.begun and self.connection is not None:
            yield from self._end()

    def release_block(self) -> Steps[None]:
        """A joined block went well: what it did is a part of the caller's transaction."""
        try:
            yield from self.checked(self.block_savepoint.release)
        except errors.TransactionFailed:
            yield from self.undo_block()  # the caller's transaction may go on
            raise

    def undo_block(self) -> Steps[None]:
        """A joined block failed: undo what it did."""
        self._rewind_hooks()
        if self.lost is None:
            # InvalidError: the caller has closed the connection, which undoes all of it.
            with contextlib.suppress(errors.StoreUnavailable, errors.InvalidError):
                yield from self.checked(self.block_savepoint.undo)

    def abort_block(self) -> Steps[None]:
        """
        In a joined transaction: have the server refuse all that follows, until what this block did is undone.

        For what an interrupt has left of which nobody knows whether it took something: committed it might be lost.
        """
        if self.lost is None and self.connection is not None:
            with contextlib.suppress(errors.Error, BrokenConnection):
                yield from self.connection.command(
                    "ROLLBACK TO SAVEPOINT pgstore_interrupted"
                )  # there is none of that name

    def abandon_now(self) -> None:
        """Give the connection up, where nothing can be awaited any more. That undoes all, also what an outer block did."""
        self._rewind_hooks()
        if not self.joined and self.connection is not None:
            connection, self.connection = self.connection, None
            self.lost = BrokenConnection(None, sent=True)
            self.executor.pool.discard_now(connection)

    def _rewind_hooks(self) -> None:
        """What is kept on the client goes with all that was done."""
        for hook in self.hooks.values():
            hook.rewind(None)

    def _end(self) -> Steps[None]:
        """Roll everything back, and give the connection back."""
        self.is_at_work = True
        try:
            if self.lost is None:
                with contextlib.suppress(BrokenConnection):  # the server rolls back what it cannot commit
                    yield self.connection.command("ROLLBACK")
        except GeneratorExit:
            self.abandon_now()
            raise
        except BaseException:
            yield from self._release()
            raise
        yield from self._release()

    def _release(self) -> Steps[None]:
        connection, self.connection = self.connection, None
        self.begun = self.is_at_work = False
        if connection is None:
            return
        usable = connection.clean
        if connection.exposed and usable:
            try:
                yield from connection.recover(settings(connection))
            except (BrokenConnection, errors.Error, psycopg.Error):
                usable = False
        if usable:
            yield self.executor.pool.release(connection)
        else:
            yield self.executor.pool.discard(connection)


def _broke_in_transaction(exc: BrokenConnection) -> errors.StoreUnavailable:
    return errors.StoreUnavailable(f"the connection broke inside a transaction, nothing of which was committed: {exc}")
