"""The default client: that of stores that were given none, made on first use from `configure(…)` or the environment."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from pgstore.client.client import Client
from pgstore.client.transaction import Transaction
from pgstore.config import hidden
from pgstore.core import async_usage

T = TypeVar("T")

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
    telemetry: bool | None = None,
    async_warnings: bool | None = None,
) -> Client:
    """
    Set the default client up, in place of the environment's settings. Stores made before keep theirs.

    The arguments are those of `Client`, and one for all of the process.

    Args:
        async_warnings: whether a call that blocks a running event loop is warned of, once for each line, by an
            `exception.AsyncUsageWarning`. None: unless `PGSTORE_ASYNC_WARNINGS` is 0.
    """
    global _default
    url, listen_url, signing_keys = hidden(url), hidden(listen_url), hidden(signing_keys)
    client = Client(
        url,
        environment=environment,
        listen_url=listen_url,
        connections_max=connections_max,
        auto_migrate=auto_migrate,
        signing_keys=signing_keys,
        telemetry=telemetry,
    )
    async_usage.switch(async_warnings)
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


@contextlib.contextmanager
def replaced(client: Client) -> Iterator[None]:
    """Have *client* be the default one within the block."""
    global _default
    with _default_lock:
        before, _default = _default, client
    try:
        yield
    finally:
        with _default_lock:
            _default = before


def transaction(connection: Any = None) -> Transaction:
    """
    A transaction of the default client over everything done inside its block: all of it, or, after an exception, nothing.

    >>> with pgstore.transaction() as tx:
    ...     task = tasks.get()
    ...     results[task] = work(task)
    ...     _ = tx.connection.execute(
    ...         "INSERT INTO log (task) VALUES (%s)", [task]
    ...     )  # psycopg's connection, for your own SQL

    **Ambient.** Every operation of every store in the block takes part. It is READ COMMITTED, and as durable as the server
    makes its commits (`synchronous_commit`, which is on unless somebody changed it). Operations outside are transactions of
    their own.

    **One thread, one task.** The block is for the thread or asyncio task that opened it. A plain new thread has no transaction:
    what it does is committed at once, each operation by itself. A thread or task that got a copy of the context
    (`asyncio.create_task`, `asyncio.to_thread`) gets a `TransactionScopeError` instead of a surprise. `store.using(tx)` takes
    part from anywhere, one call at a time.

    **Nested.** A block in a block is a savepoint.

    **Joined.** `transaction(connection=x)` uses a transaction of yours: of a psycopg `Connection` or `AsyncConnection`, of a
    SQLAlchemy `Connection`, `Session`, `AsyncConnection` or `AsyncSession`, or of Django's `connection` within `atomic()`. You
    commit, and pgstore changes none of your settings. An exception undoes what was done since the block's first write, by a
    savepoint; what you did before stays, for you to commit. With Django the block is an `atomic()` itself.

    **Objects too.** What is rolled back is also undone in objects that you hold: a lease that was acknowledged goes on, an open
    file is where it was. (Not where you roll back a joined transaction after the block: pgstore does not hear of it.)

    **Generators.** A loop over a generator that is suspended in its block is outside of it: operations in the loop's body raise
    `TransactionScopeError`. Context managers made of generators (`contextlib.contextmanager`, fixtures) lend their transaction.
    Where a framework enters, uses and leaves one in copies of the context, the block would be empty and its operations would
    have been committed by themselves: it raises at its end, unless `store.using(tx)` was used in it.

    **Asynchronous.** `async with pgstore.transaction():` and `.aio`. A blocking call in it is an error, not a frozen event
    loop.

    **Repeated.** `run_transaction(function)` calls the function again where the server rolled it back or went away. By itself
    nothing is repeated after a lost connection but reads, writes that have certainly not happened, and those that do no harm
    twice, as a put with an `idempotency_key`.

    **Doubtful.** If the connection breaks in a COMMIT, pgstore asks the server what became of it. Where that cannot be known,
    and for a single write whose answer was lost, it raises `OutcomeUnknown`.

    Args:
        connection: whose transaction to join; None: a transaction of its own.
    """
    return default_client().transaction(connection)


def run_transaction(function: Callable[[Transaction], T] | Callable[[], T]) -> T:
    """
    Call *function* in a transaction of the default client; again after a deadlock, a serialization failure, a `ConflictError`
    or a lost connection.

    *function* receives the transaction, if it takes an argument, and may run several times; what it returns is returned after
    the commit. An `OutcomeUnknown` is not repeated.

    >>> pgstore.run_transaction(lambda: results.increment("done"))
    1
    """
    return default_client().run_transaction(function)


async def run_transaction_async(
    function: Callable[[Transaction], Coroutine[Any, Any, T]] | Callable[[], Coroutine[Any, Any, T]],
) -> T:
    """`run_transaction` for a coroutine function: `await pgstore.run_transaction_async(function)`."""
    return await default_client().run_transaction_async(function)


def _after_fork_in_child() -> None:
    global _default_lock
    _default_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
