"""A hand of a worker, a thread or a task, which does one thing at a time; drills are written once for both.

Drills are coroutines. Those of a thread never suspend, for the calls that they await are blocking ones that are over by then.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psycopg

import pgstore
from pgstore import errors
from tests.chaos.journal import FOREIGN, OK, REFUSED, UNKNOWN, Journal


class OwnStatementFailed(Exception):
    """The worker's own SQL failed inside of a transaction, which is thereby rolled back."""


class Hand:
    """
    One thread or task, with everything that a drill needs.

    Of the hands that work at the same time each has another *place*: what belongs to a place has one writer. Its *name* no other
    hand ever has, not even the one that takes the place when the worker was killed.
    """

    def __init__(
        self, client: pgstore.Client, url: str, journal: Journal, place: str, name: str, *, is_async: bool
    ) -> None:
        self.client = client
        self.url = url
        self.place = place
        self.name = name
        self.is_async = is_async
        self.rng = random.Random(name)
        self._journal = journal
        self._tokens = 0

    def token(self) -> str:
        """A text that no other hand ever writes, and this one once."""
        self._tokens += 1
        return f"{self.name}-{self._tokens}"

    async def call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Call an operation of a store."""
        return await operation.aio(*args, **kwargs) if self.is_async else operation(*args, **kwargs)

    async def collect(self, iterator: Any) -> list[Any]:
        """What an iterator of a store gives."""
        return [each async for each in iterator] if self.is_async else list(iterator)

    def transaction(self, *, joined: bool = False) -> Block:
        """A transaction; *joined*: on a connection of the worker's own, who commits it."""
        return JoinedBlock(self) if joined else Block(self.client.transaction(), is_async=self.is_async)

    async def attempt(
        self, drill: str, what: str, facts: dict[str, Any], body: Callable[[], Awaitable[Any]]
    ) -> tuple[str, Any]:
        """Do *body* with a note before and after; return its outcome and its answer, which JSON must be able to hold."""
        number = self._journal.intend(drill, what, facts)
        outcome, answer = OK, None
        try:
            answer = await body()
        except errors.OutcomeUnknown as exc:
            outcome, answer = UNKNOWN, str(exc)
            print(f"#{number} {what}:", traceback.format_exc(), file=sys.stderr, flush=True)
        except (errors.Error, OwnStatementFailed) as exc:
            outcome, answer = REFUSED, f"{type(exc).__name__}: {exc}"
        except Exception:
            outcome, answer = FOREIGN, traceback.format_exc()
        self._journal.settle(number, outcome, answer)
        return outcome, answer

    async def do(self, drill: str, what: str, facts: dict[str, Any], operation: Any, *args: Any, **kwargs: Any) -> Any:
        """`attempt` with one operation of a store."""
        return await self.attempt(drill, what, facts, lambda: self.call(operation, *args, **kwargs))


class Block:
    """A transaction, in `async with` for both kinds of hand."""

    _transaction: pgstore.Transaction

    def __init__(self, transaction: pgstore.Transaction | None, *, is_async: bool) -> None:
        if transaction is not None:
            self._transaction = transaction
        self._is_async = is_async

    async def __aenter__(self) -> Block:
        if self._is_async:
            await self._transaction.__aenter__()
        else:
            self._transaction.__enter__()
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        if self._is_async:
            await self._transaction.__aexit__(*exc_info)
        else:
            self._transaction.__exit__(*exc_info)

    async def execute(self, sql: str, *values: Any) -> None:
        """Run SQL of the worker's own."""
        try:
            if self._is_async:
                await (await self._transaction.get_connection()).execute(sql, values)
            else:
                self._transaction.connection.execute(sql, values)
        except psycopg.Error as exc:
            raise OwnStatementFailed(f"{type(exc).__name__}: {exc}") from exc


class JoinedBlock(Block):
    """The same on a connection of the worker's own."""

    def __init__(self, hand: Hand) -> None:
        super().__init__(None, is_async=hand.is_async)
        self._hand = hand

    async def __aenter__(self) -> Block:
        connect: Any = psycopg.AsyncConnection.connect if self._is_async else psycopg.connect
        try:
            self._connection: Any = await self._done(connect(self._hand.url, connect_timeout=5))
        except psycopg.Error as exc:
            raise OwnStatementFailed(str(exc)) from exc
        try:
            self._transaction = self._hand.client.transaction(connection=self._connection)
            return await super().__aenter__()
        except BaseException:
            await self._done(self._connection.close())
            raise

    async def __aexit__(self, *exc_info: Any) -> None:
        try:
            await super().__aexit__(*exc_info)
            if exc_info[0] is None:
                await self._commit()
        finally:
            await self._done(self._connection.close())

    async def _commit(self) -> None:
        try:
            await self._done(self._connection.commit())
        except psycopg.errors.QueryCanceled as exc:
            raise OwnStatementFailed(str(exc)) from exc
        except psycopg.Error as exc:
            raise errors.OutcomeUnknown(f"the worker's own commit: {exc}") from exc

    async def _done(self, result: Any) -> Any:
        return await result if self._is_async else result


def finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a blocking hand was about to wait")
