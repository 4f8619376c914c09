"""A round of collection: how many transactions it may take, what it has deleted, and whether its store still exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

from pgstore.core.operation import Many, Op, Query, atomic
from pgstore.core.statement import Statement
from pgstore.fs.model import StoreGone

T = TypeVar("T")

# Whether the store still exists. The deletion of a store begins with this row: it waits for the lock that is taken here, and then
# sees what we have written. Once it has begun, the row is skipped, and we write nothing more.
STORE = Statement("SELECT 1 FROM pgstore.store WHERE id = $1 FOR KEY SHARE SKIP LOCKED", "int8")


@dataclass
class Collected:
    """What was deleted, in rows and bytes of file contents."""

    versions: int = 0
    names: int = 0
    inodes: int = 0
    blobs: int = 0
    chunks: int = 0
    size_bytes: int = 0

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))


class Round:
    """One round of collection in one file system; the arguments are those of `Collection`."""

    def __init__(self, store_id: int, *, grace_seconds: float, transactions_max: int | None) -> None:
        self.found = Collected()
        self._store_id = store_id
        self._grace_seconds = grace_seconds
        self._transactions_left = transactions_max

    def _atomic(self, body: Callable[[], Op[T]]) -> Op[T | None]:
        """Run *body* in a transaction. None: no more transactions are allowed."""
        if self._transactions_left == 0:
            return None
        if self._transactions_left is not None:
            self._transactions_left -= 1
        return (yield from atomic(body()))

    def _repeat(self, at_once: int, body: Callable[[], Op[int]]) -> Op[None]:
        """Run *body*, which returns how many rows it has handled, until they are fewer than *at_once*."""
        while ((yield from self._atomic(body)) or 0) >= at_once:
            pass

    def _walk(self, body: Callable[[int], Op[int | None]]) -> Op[None]:
        """Run *body* from one id to the next that it returns, to the end."""
        after: int | None = 0
        while after is not None:
            after = yield from self._atomic(partial(body, after))

    def _many(self, *queries: Query) -> Op[list[Any]]:
        """
        Run *queries*, the first ones of a transaction, in one round trip with the lock on the store's row.

        Raises:
            StoreGone: the store was deleted, or is being deleted.
        """
        store, *results = yield Many([Query(STORE, self._store_id), *queries])
        if not store:
            raise StoreGone
        return list(results)
