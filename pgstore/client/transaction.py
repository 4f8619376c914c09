"""Transactions: everything that stores do inside commits together, or not at all.

A transaction is of pgstore's own (BEGIN is sent with its first statement), nested in another (a savepoint), or joined: it rides on
a connection of the caller's, who commits. What would make transactions wait for each other — the lock of a Volume's head, a
notification — is kept back by participants until the commit of an own transaction and written by the operation in a joined one.

Steps are written once for blocking and asynchronous links (`core.steps`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg

from pgstore import errors
from pgstore.client.borrowed import BorrowedAsyncLink, BorrowedLink, source_of
from pgstore.client.connect import CALLERS_SETTINGS, SCHEMA, check_schema, settings
from pgstore.client.generators import is_suspended, looped_over
from pgstore.client.guard import Guard
from pgstore.client.history import history_of
from pgstore.client.links import CURRENT_XID, BrokenLink, Patience
from pgstore.client.pool import LONG
from pgstore.core.operation import BeforeCommit, Enrolment, Many, Participant, Query
from pgstore.core.search_path import fault_of
from pgstore.core.statement import Statement
from pgstore.core.steps import Steps, run_async, run_blocking, shielded

if TYPE_CHECKING:
    from pgstore.client import Client
    from pgstore.client.world import World

T = TypeVar("T")

ISOLATION = Statement("SELECT current_setting('transaction_isolation')", reads=True)
_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

# How often this process was forked off: a transaction of the parent's must be left alone by the child.
_forks = 0

# The transactions that are open around the running code, innermost last. Copied into child tasks and threads like every context
# variable: an entry therefore knows whose it is, and ended ones are skipped rather than reset.
_AMBIENT: ContextVar[tuple[Transaction, ...]] = ContextVar("pgstore_transactions", default=())


SAVEPOINT_NAMES: Final = 64


class _Root:
    """The one real transaction under any number of nested ones."""

    def __init__(self, world: World, link: Any = None, *, joined: bool) -> None:
        self.world = world
        self.link = link
        self.joined = joined
        self.guard: Any = None  # of a joined one: what undoes it alone
        self.begun = joined
        self.wrote = False  # something was, or may have been, changed
        self.lost: BaseException | None = None  # the connection broke
        self.participants: dict[object, Participant] = {}
        self.savepoints = 0
        self.cursors: set[int] = set()  # numbers of those that may be open
        self.rank = LONG  # among those who want a connection
        # One call at a time. Reentrant where it can be: what a call runs may call a store again (`__reduce__`, callbacks). Not
        # while the connection is at work, where only a signal handler or a finaliser can come in.
        self.lock = threading.RLock()
        self.is_at_work = False
        self.lent = False  # the caller's settings were put in place of ours, since they have got hold of the connection
        self.async_lock = asyncio.Lock()


class Transaction:
    """
    A transaction over all stores of a client, and over the caller's own tables.

    Made by `pgstore.transaction()`; used with `with` or `async with`. Inside, every operation of the same thread and task takes
    part. Leaving the block normally commits; an exception undoes everything. A block inside another is a savepoint; so is one that
    joins a transaction of the caller's, from its first write on.

    `connection` gives the psycopg connection for SQL of one's own. `store.using(tx)` uses a store in this transaction from
    another thread or task, one call at a time.
    """

    def __init__(self, client: Client, connection: Any = None) -> None:
        self._client = client
        self._source = None if connection is None else source_of(connection)
        self._root: _Root | None = None
        self._savepoint: str | None = None
        self._marks: dict[object, Any] = {}
        self._was_lent = False  # at the savepoint
        self._owner: tuple[int, Any] | None = None
        self._opener: FrameType | None = None  # a generator that somebody loops over
        self._blocking = True
        self._ended = False
        self._forks = _forks

    # ------------------------------------------------------------------------------------------------- for the user

    @property
    def connection(self) -> Any:
        """
        The psycopg connection of this transaction, for SQL of the caller's: `tx.connection.execute("INSERT …")`.

        Do not commit, roll back or close it. In an asynchronous transaction use `await tx.get_connection()`: this cannot begin
        one, and leaves the settings of the planner as pgstore has them.
        """
        root = self._open_root()
        if root.world.is_async:
            if not root.begun:
                raise errors.InvalidError("nothing was done in this transaction yet; use `await tx.get_connection()`")
            if root.joined:
                raise errors.InvalidError("this transaction is joined; use the connection that you joined")
            self._expose(root)
        else:
            with root.lock:
                self.check_not_at_work()
                run_blocking(self._begin())
                if root.joined:
                    run_blocking(self._guard(root))
                    return root.link._source.get()
                run_blocking(self._lend(root))
        return root.link.connection

    async def get_connection(self) -> Any:
        """`connection`, for asynchronous transactions."""
        root = self._open_root()
        async with root.async_lock:
            await run_async(self._begin())
            if root.joined:
                await run_async(self._guard(root))
                return await root.link._source.get()
            await run_async(self._lend(root))
            return root.link.connection

    def _lend(self, root: _Root) -> Steps[None]:
        if not root.link.exposed and root.link.prepared is not None:  # None: a pooler; the session was left alone
            yield from self._checked(root.link.command, CALLERS_SETTINGS)
            root.lent = True
        self._expose(root)

    @staticmethod
    def _expose(root: _Root) -> None:
        root.link.expose()
        root.wrote = True

    def __enter__(self) -> Transaction:
        self._enter(blocking=True)
        try:
            if self._root is None:
                run_blocking(self._open())
            else:
                with self._root.lock:
                    self.check_not_at_work()
                    run_blocking(self._open())
        except BaseException:
            self._ended = True
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._forks == _forks:
                with self._open_root().lock:
                    self.check_not_at_work()
                    run_blocking(self.commit() if exc is None else self.rollback())
        finally:
            self._leave()

    async def __aenter__(self) -> Transaction:
        self._enter(blocking=False)
        try:
            if self._root is None:
                await run_async(self._open())
            else:
                async with self._root.async_lock:
                    await run_async(self._open())
        except BaseException:
            self._ended = True
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._forks != _forks:
                return
            if kind is GeneratorExit and not self._can_await():
                self._abandon_now()
            elif kind is None:
                try:
                    async with self._open_root().async_lock:
                        await run_async(self.commit())
                except GeneratorExit:
                    raise
                except BaseException:
                    if not self._ended:  # cancelled while another task was using the transaction
                        await shielded(self._roll_back_in_turn())
                    raise
            else:
                await shielded(self._roll_back_in_turn())
        except GeneratorExit:
            if not self._ended:
                self._abandon_now()
            raise
        finally:
            self._leave()

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
        async with self._open_root().async_lock:
            await run_async(self.rollback())

    def _abandon_now(self) -> None:
        """Give the connection up, where nothing can be awaited any more. That undoes all, also what an outer block did."""
        root = self._open_root()
        _rewind(root)
        if not root.joined and root.link is not None:
            link, root.link = root.link, None
            root.lost = BrokenLink(None, sent=True)
            root.world.links.discard_now(link)

    def __repr__(self) -> str:
        state = "ended" if self._ended else "new" if self._root is None else "open"
        kind = " joined" if self._source is not None else ""
        return f"<pgstore.Transaction{kind} {state}>"

    # ------------------------------------------------------------------------------------------------ whose it is

    @property
    def ended(self) -> bool:
        return self._ended

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
        self._owner = _who()
        self._opener = looped_over()
        self._blocking = blocking
        if outer is not None:
            self._root = outer._root
        try:
            _AMBIENT.set((*(tx for tx in _AMBIENT.get() if not tx._ended), self))
        except BaseException:  # Ctrl-C: nobody would end it
            self._ended = True
            raise

    def _leave(self) -> None:
        self._ended = True
        self._opener = None  # a frame keeps all that its code has in hand
        _AMBIENT.set(tuple(tx for tx in _AMBIENT.get() if not tx._ended))

    def check_scope(self, blocking: bool) -> None:
        """Raise `TransactionScopeError` if the running code is not this transaction's to use."""
        self.check_form(blocking)
        if self._owner != _who():
            raise errors.TransactionScopeError(
                "the current transaction belongs to another thread or task, which passed its context on to this one; "
                "use store.using(tx) to take part in it, or open a transaction here"
            )
        opener = self._opener
        if opener is not None and is_suspended(opener):
            raise errors.TransactionScopeError(
                f"the current transaction belongs to the generator {opener.f_code.co_name!r} ({opener.f_code.co_filename}:"
                f"{opener.f_lineno}), which is suspended in it: what the loop over it does would be undone with it. Take what it "
                "yields into a list first, or use store.using(tx) to take part"
            )

    def check_form(self, blocking: bool) -> None:
        root = self._open_root()
        if root.world.is_async and blocking:
            raise errors.TransactionScopeError(
                "a blocking call inside an asynchronous transaction would stop the event loop; use `await ….aio(…)`"
            )
        if not root.world.is_async and not blocking:
            raise errors.TransactionScopeError(
                "an asynchronous call inside a blocking transaction; open it with `async with`, or call without `.aio`"
            )

    def check_not_at_work(self) -> None:
        """Raise `TransactionScopeError` where a call of this thread is half done; with the lock."""
        if self._open_root().is_at_work:
            raise errors.TransactionScopeError(
                "a statement of the current transaction is under way on this very thread, so nothing more can be done in it here: "
                "this is a signal handler or a finaliser, which can leave the work to another thread, or to the main part"
            )

    def _open_root(self) -> _Root:
        if self._root is None or self._ended:
            raise errors.InvalidError(f"{self!r} is not open")
        if self._forks != _forks:
            raise errors.TransactionScopeError("the transaction belongs to the process that this one was forked from")
        return self._root

    @property
    def root(self) -> _Root:
        return self._open_root()

    # -------------------------------------------------------------------------------------------------------- steps

    def attach(self, world: World, outer: Transaction | None, rank: int) -> None:
        """Make this a transaction that an operation opens for itself: not ambient."""
        if outer is not None:
            self._root = outer._open_root()
        else:
            self._root = _Root(world, joined=False)
            self._root.rank = rank

    def _open(self) -> Steps[None]:
        if self._source is not None:
            world = self._client.world(blocking=not self._source.is_async)
            link = BorrowedAsyncLink(self._source) if self._source.is_async else BorrowedLink(self._source)
            self._root = _Root(world, link, joined=True)
            self._root.guard = Guard(self._source, link)
            yield from self._check_joined(link)
        elif self._root is None:
            self._root = _Root(self._client.world(blocking=self._blocking), joined=False)
        else:
            yield from self.savepoint()

    def _check_joined(self, link: Any) -> Steps[None]:
        """
        The caller's connection has to lead to a database with our schema, and to the one that the client uses.

        And its session must call what our statements mean (see `core.search_path`).
        """
        client = self._client
        rows = yield link.execute(Query(SCHEMA))
        if rows and (fault := fault_of(rows[0][4])):
            raise errors.InvalidError(f"the connection to join has the {fault}")
        check_schema(rows)
        here = history_of(rows[0])
        if client.meets(here):
            return
        # Or what the client knows is out of date: its own connections may all be older than a restore.
        if callable(client.settings.url) or client.settings.configured_url() is not None:
            with contextlib.suppress(errors.Error):
                rows = yield from self._open_root().world.query(Query(SCHEMA))
                client.met(history_of(rows[0]))
        if not client.meets(here):
            raise errors.InvalidError(
                "the connection leads to another database than the client's other connections; "
                "make a pgstore.Client for it and pass client= to its stores"
            )

    def savepoint(self) -> Steps[None]:
        """Begin as a nested transaction."""
        root = self._open_root()
        yield from self._begin()
        if root.joined:
            yield from self._guard(root)
        root.savepoints += 1
        # Names come again, or each would be a text of its own where the server counts statements. The latest of a name is meant.
        self._savepoint = f"pgstore_{root.savepoints % SAVEPOINT_NAMES}"
        self._was_lent = root.lent
        yield from self._checked(root.link.command, f"SAVEPOINT {self._savepoint}")
        self._marks = {key: participant.mark() for key, participant in root.participants.items()}

    def _begin(self) -> Steps[None]:
        if not self._open_root().begun:
            yield from self._begin_on(lambda link: link.command(_BEGIN))

    def _begin_on(self, call: Callable[[Any], Any]) -> Steps[Any]:
        """Take a connection and begin on it by *call*. If it breaks nothing is lost: nothing had been done yet."""
        root = self._open_root()
        patience = Patience()
        root.is_at_work = True
        try:
            while True:
                link = root.link = yield root.world.links.acquire(root.rank)
                root.begun = True
                link.xid = None
                try:
                    return (yield call(link))
                except BrokenLink as exc:
                    root.link, root.begun = None, False
                    yield root.world.links.discard(link)
                    yield root.world.links.purge()
                    patience.spend(exc)
        finally:
            root.is_at_work = False

    def query(self, request: Query | Many) -> Steps[Any]:
        root = self._open_root()
        self._check_usable(root)
        if root.joined and not request.reads and not root.guard.is_set:
            return (yield from self._checked_guard(root.guard.set_with(request)))
        if request.reads or root.joined or (root.begun and root.link.xid is not None):
            if root.begun:
                execute = root.link.execute_many if isinstance(request, Many) else root.link.execute
                return (yield from self._checked(execute, request))
            return (yield from self._begin_on(lambda link: link.begin_with(request)))
        # The first that may write tells whether it did, and the number by which a lost COMMIT can be looked up.
        wrote, root.wrote = root.wrote, True
        if root.begun:
            result = yield from self._checked(root.link.tell_xid_with, request)
        else:
            result = yield from self._begin_on(lambda link: link.begin_with(request, tell_xid=True))
        if root.link.xid is None:
            root.wrote = wrote
        return result

    def run(self, method: str, request: Any) -> Steps[Any]:
        """Any other call of the link's."""
        root = self._open_root()
        self._check_usable(root)
        root.wrote = True
        yield from self._begin()
        if root.joined and method == "copy_in":
            yield from self._guard(root)
        return (yield from self._checked(getattr(root.link, method), request))

    def _guard(self, root: _Root) -> Steps[None]:
        """See that what a joined block does can be undone without the caller's own work before it."""
        if not root.guard.is_set:
            yield from self._checked_guard(root.guard.set())

    def _checked(self, call: Callable[..., Any], *args: Any) -> Steps[Any]:
        root = self._open_root()
        root.is_at_work = True
        try:
            return (yield call(*args))
        except BrokenLink as exc:
            root.lost = exc
            if not root.joined:
                yield root.world.links.purge()  # what idles is hardly better
            raise _broke(exc) from exc
        finally:
            root.is_at_work = False

    def _checked_guard(self, steps: Steps[T]) -> Steps[T]:
        root = self._open_root()
        root.is_at_work = True
        try:
            return (yield from steps)
        except BrokenLink as exc:
            root.lost = exc
            raise _broke(exc) from exc
        finally:
            root.is_at_work = False

    def _check_usable(self, root: _Root) -> None:
        if root.lost is not None:
            raise errors.TransactionFailed("the connection of this transaction broke; nothing of it was committed")

    def spoil(self) -> Steps[None]:
        """
        In a joined transaction: have the server refuse all that follows, until what this block did is undone.

        For what an interrupt has left of which nobody knows whether it took something: committed it might be lost.
        """
        root = self._open_root()
        if root.lost is None and root.link is not None:
            with contextlib.suppress(errors.Error, BrokenLink):
                yield root.link.command("ROLLBACK TO SAVEPOINT pgstore_interrupted")  # there is none of that name

    def restart_if_unused(self) -> Steps[bool]:
        """
        Give the connection up if the transaction has only looked, so that waiting does not hold it open.

        True if no transaction is open now; it begins again with its next statement. Under READ COMMITTED the
        difference cannot be observed.
        """
        root = self._open_root()
        if root.joined or root.wrote or root.savepoints:
            return False
        if root.begun:
            yield from self._end(root)
        return True

    def check_can_wait(self) -> Steps[None]:
        """Raise `InvalidError` where waiting would be for ever: nothing that is committed from now on can be seen."""
        root = self._open_root()
        if root.joined:
            ((level,),) = yield from self.query(Query(ISOLATION))
            if level not in ("read committed", "read uncommitted"):
                raise errors.InvalidError(
                    f"the joined transaction is {level}, so it cannot see what others put after its beginning: "
                    "wait outside of it, or use READ COMMITTED"
                )

    def enrol(self, request: BeforeCommit) -> Enrolment:
        root = self._open_root()
        participant = root.participants.get(request.key)
        if participant is None:
            participant = root.participants[request.key] = request.factory()
        return Enrolment(participant, root.joined)

    # -------------------------------------------------------------------------------------------------- its end

    def commit(self) -> Steps[None]:
        root = self._open_root()
        try:
            if self._savepoint is not None:
                try:
                    yield from self._checked(root.link.command, f"RELEASE SAVEPOINT {self._savepoint}")
                except errors.TransactionFailed:
                    yield from self._rollback_savepoint(root)  # the outer transaction may go on
                    raise
            elif root.joined:
                yield from self._leave_joined(root)
            else:
                yield from self._commit_root(root)
        except GeneratorExit:
            raise
        except BaseException:
            if self._savepoint is None and not root.joined:
                yield from self._abandon(root)
            raise
        finally:
            self._ended = True

    def _leave_joined(self, root: _Root) -> Steps[None]:
        try:
            yield from self._checked_guard(root.guard.release())
        except errors.TransactionFailed:
            yield from self._undo_joined(root)  # the caller's transaction may go on
            raise

    def _undo_joined(self, root: _Root) -> Steps[None]:
        _rewind(root)
        if root.lost is None:
            # InvalidError: the caller has closed the connection, which undoes all of it.
            with contextlib.suppress(errors.StoreUnavailable, errors.InvalidError):
                yield from self._checked_guard(root.guard.undo())

    def _commit_root(self, root: _Root) -> Steps[None]:
        self._check_usable(root)
        last: list[Query] = []
        # In one order everywhere: what two transactions lock for their commits, they lock without waiting in a circle.
        for _, participant in sorted(root.participants.items(), key=_commit_order):
            yield from root.world.perform(participant.before_commit(), self)
            last.extend(participant.with_commit())
        if root.begun:
            yield from self._send_commit(root, last)
        for participant in root.participants.values():
            participant.committed()

    def _send_commit(self, root: _Root, last: list[Query]) -> Steps[None]:
        link = root.link
        if root.wrote and link.xid is None:
            # By SQL of the caller's, or by COPY. Known before COMMIT is sent: its answer may be lost with everything else.
            ((link.xid,),) = yield from self._checked(link.execute, Query(CURRENT_XID))
            root.wrote = link.xid is not None
        root.is_at_work = True  # to the end
        try:
            committed = yield link.commit_with(last)
        except BrokenLink as exc:
            root.lost = exc
            yield from self._find_outcome(root, exc)
            return
        yield from self._release(root)
        if not committed:
            raise errors.TransactionFailed("the transaction was rolled back: an earlier statement in it had failed")

    def _find_outcome(self, root: _Root, broken: BrokenLink) -> Steps[None]:
        """The connection broke during COMMIT: ask the server what became of the transaction."""
        link, root.link = root.link, None
        yield root.world.links.discard(link)
        if not root.wrote:
            return
        status = None if broken.sent else "aborted"
        if status is None and link.xid is not None and link.identity is not None:
            with contextlib.suppress(errors.Error):
                status = yield from root.world.outcome(link.xid, link.identity)
        if status == "committed":
            return
        if status == "aborted":
            raise errors.StoreUnavailable(
                "the connection broke during the commit, and the transaction was rolled back"
            ) from broken
        raise errors.OutcomeUnknown(
            f"the connection broke during the commit, and whether the transaction was committed cannot be found out: {broken}"
        ) from broken

    def rollback(self) -> Steps[None]:
        root = self._open_root()
        try:
            if self._savepoint is not None:
                yield from self._rollback_savepoint(root)
            elif root.joined:
                yield from self._undo_joined(root)
            else:
                yield from self._abandon(root)
        finally:
            self._ended = True

    def _rollback_savepoint(self, root: _Root) -> Steps[None]:
        for key, participant in list(root.participants.items()):
            participant.rewind(self._marks.get(key))
        if root.lost is None:
            with contextlib.suppress(errors.StoreUnavailable):
                yield from self._checked(root.link.command, f"ROLLBACK TO SAVEPOINT {self._savepoint}")
                yield from self._checked(root.link.command, f"RELEASE SAVEPOINT {self._savepoint}")
                if root.lent and not self._was_lent:  # which has brought our settings back
                    yield from self._checked(root.link.command, CALLERS_SETTINGS)

    def _abandon(self, root: _Root) -> Steps[None]:
        _rewind(root)
        if root.begun and root.link is not None:
            yield from self._end(root)

    def _end(self, root: _Root) -> Steps[None]:
        """Roll everything back, and give the connection back."""
        root.is_at_work = True
        try:
            if root.lost is None:
                with contextlib.suppress(BrokenLink):  # the server rolls back what it cannot commit
                    yield root.link.command("ROLLBACK")
        except GeneratorExit:
            self._abandon_now()
            raise
        except BaseException:
            yield from self._release(root)
            raise
        yield from self._release(root)

    def _release(self, root: _Root) -> Steps[None]:
        link, root.link = root.link, None
        root.begun = root.is_at_work = False
        if link is None:
            return
        usable = link.clean
        if link.exposed and usable:
            try:
                yield from link.recover(settings(link))
            except (BrokenLink, errors.Error, psycopg.Error):
                usable = False
        if usable:
            yield root.world.links.release(link)
        else:
            yield root.world.links.discard(link)


def forget_after_fork() -> None:
    """In the child: what is open is the parent's."""
    global _forks
    _forks += 1
    _AMBIENT.set(())


def _broke(exc: BrokenLink) -> errors.StoreUnavailable:
    return errors.StoreUnavailable(f"the connection broke inside a transaction, nothing of which was committed: {exc}")


def _rewind(root: _Root) -> None:
    """What is kept on the client goes with all that was done."""
    for participant in root.participants.values():
        participant.rewind(None)


def _commit_order(item: tuple[object, Participant]) -> int:
    """By store, for participants that belong to one."""
    key, _ = item
    return key[1] if isinstance(key, tuple) else 0


def _who() -> tuple[int, Any]:
    return threading.get_ident(), _task()


def _task() -> Any:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def current(client: Client, *, blocking: bool | None) -> Transaction | None:
    """
    The innermost open transaction of *client* around the running code.

    Raises `TransactionScopeError` if it is another's, or not of the form that *blocking* says (None: either).
    """
    stack = _AMBIENT.get()
    if not stack:
        return None
    for transaction in reversed(stack):
        if not transaction._ended and transaction._client is client:
            transaction.check_scope(transaction._blocking if blocking is None else blocking)
            return transaction
    return None
