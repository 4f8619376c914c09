"""A transaction around all that a client does, which is never committed: for tests (`pgstore.pytest_plugin`).

Blocking and asynchronous operations, of whatever thread and task, take part in it, one at a time. It rides on one connection that
blocks, also where an operation is awaited: a statement then holds the event loop up for its fraction of a millisecond, but whoever
waits lets the others go on.

To the code inside it looks as if there were none: what is done outside of a block is a savepoint for each statement, so that an
error undoes that statement alone, and a block is a savepoint. Two blocks that overlap cannot be told apart by one connection, so
while one is open no other thread or task may do anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from pgstore import errors
from pgstore.client.root import Root
from pgstore.client.scope import who
from pgstore.client.transaction import Transaction
from pgstore.core.operation import Many, Query
from pgstore.core.steps import Steps, run_blocking, run_either

if TYPE_CHECKING:
    from pgstore.client.client import Client

_SAVEPOINT: Final = "SAVEPOINT pgstore_statement"
_RELEASE: Final = "RELEASE SAVEPOINT pgstore_statement"
_UNDO: Final = "ROLLBACK TO SAVEPOINT pgstore_statement; RELEASE SAVEPOINT pgstore_statement"


@contextlib.contextmanager
def enclosed(client: Client) -> Iterator[Transaction]:
    """Have all that *client* does within the block take part in one transaction, and roll that back at its end."""
    if client.enclosing is not None:
        raise errors.InvalidError("there is a transaction around all that this client does already; end that first")
    client.run(client.session.current())  # whose row is to stay
    enclosing = _Enclosing(client)
    root = enclosing.root
    run_blocking(root.begin())
    client.enclosing = enclosing
    try:
        yield enclosing
    finally:
        client.enclosing = None
        with root.lock:
            run_blocking(enclosing.rollback())


class _Enclosing(Transaction):
    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._root = _EnclosingRoot(client.executor(blocking=True))

    def check_scope(self, blocking: bool) -> None:
        """Everybody takes part."""


class _EnclosingRoot(Root):
    encloses = True
    run_async = staticmethod(run_either)

    def __init__(self, executor: Any) -> None:
        super().__init__(executor)
        self.wrote = True  # so that no wait takes it for unused, and begins it anew
        self._blocks: list[tuple[object, Any]] = []  # that are open, and who has opened them

    def query(self, request: Query | Many) -> Steps[Any]:
        with self._alone():
            return (yield from self._by_itself(lambda: super(_EnclosingRoot, self).query(request)))

    def run(self, method: str, request: Any) -> Steps[Any]:
        with self._alone():
            return (yield from self._by_itself(lambda: super(_EnclosingRoot, self).run(method, request)))

    def checked(self, call: Callable[..., Any], *args: Any) -> Steps[Any]:
        with self.lock:  # also of what a coroutine does, which has the other lock: a thread may be at work
            return (yield from super().checked(call, *args))

    def _by_itself(self, statement: Callable[[], Steps[Any]]) -> Steps[Any]:
        """Outside of a block an error undoes what it is the error of, and nothing else."""
        if self._blocks:
            return (yield from statement())
        yield from self.checked(self.connection.command, _SAVEPOINT)
        try:
            result = yield from statement()
        except GeneratorExit:
            raise
        except BaseException:
            if self.lost is None:
                yield from self.checked(self.connection.command, _UNDO)
            raise
        yield from self.checked(self.connection.command, _RELEASE)
        return result

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """With the connection, which only who has opened the innermost block may use."""
        with self.lock:
            self._check_turn()
            yield

    def _check_turn(self) -> None:
        if self._blocks and self._blocks[-1][1] != who():
            raise errors.TransactionScopeError(
                "another thread or task has a transaction open. In a test with the fixture `pgstore_transaction` all share one "
                "connection, so only one of them can have a block at a time; use the fixture `pgstore_client` for this test"
            )

    def block_begins(self, block: object) -> None:
        self._check_turn()
        self._blocks.append((block, who()))

    def block_ends(self, block: object) -> None:
        # Those that were opened in it and not ended have gone with it.
        while any(open_block is block for open_block, _ in self._blocks):
            self._blocks.pop()

    def give_way(self, sleep: Callable[[], Any], is_async: bool) -> Steps[None]:
        """Let others have the transaction for the length of *sleep*, unless a block is open."""
        lock: Any = self.async_lock if is_async else self.lock
        if self._blocks:
            yield sleep()
            return
        lock.release()
        try:
            yield sleep()
        finally:
            acquired = lock.acquire()
            if is_async:
                yield acquired

    def restart_if_unused(self) -> Steps[bool]:
        yield from ()
        return False
