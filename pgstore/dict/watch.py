"""Watching a Dict: every change, in the order of the transactions, nothing missed.

Dicts made with `watch=True` log each change in the statement that makes it (`base.Write`). A watcher reads the log up to the oldest
transaction that is still running (`pg_snapshot_xmin`): below that nothing can appear any more, so a cursor never passes over a
change that commits late. It follows that a transaction left open anywhere in the database holds watchers back.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

from pgstore import errors
from pgstore.client.listener import waits
from pgstore.core.clock import Deadline
from pgstore.core.operation import Listen, Op, Query, Rows, Topic, Wait
from pgstore.core.statement import Statement
from pgstore.dict.base import WATCHED, DictBase

KEPT_SECONDS: Final = 3600.0  # the log's memory
_MARGIN_SECONDS: Final = 60.0

NOW = Statement("SELECT pg_snapshot_xmin(s)::text, s::text FROM pg_current_snapshot() AS s", reads=True)
# Not what was committed when the watcher came: that is the Dict it starts from.
CHANGES = Statement(
    """
    SELECT transaction_id::text, id, kind, key, revision, key_pickle
      FROM pgstore.dict_change
     WHERE store_id = $1
       AND (transaction_id, id) > ($2::xid8, $3)
       AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
       AND NOT pg_visible_in_snapshot(transaction_id, $4::pg_snapshot)
     ORDER BY transaction_id, id
     LIMIT 1000
    """,
    "int8 text int8 text",
    reads=True,
)
_KINDS: Final[dict[str, Literal["put", "delete", "clear"]]] = {"p": "put", "d": "delete", "c": "clear"}


@dataclass(frozen=True)
class DictChange:
    """A change of a Dict. `reset`: changes may have been missed; read the Dict again."""

    kind: Literal["put", "delete", "clear", "reset"]
    key: Any
    """None for `clear` and `reset`."""
    revision: int
    """Of the entry that was put, or that was deleted; 0 for `clear` and `reset`."""
    cursor: str
    """For `watch(since=)`: what comes after this change."""


class Watcher:
    """Iterates over changes, for `for` and `async for`; ends only by its timeout. `close()` or `with` lets the place go."""

    def __init__(self, store: Watching, since: str | None, timeout: float | None) -> None:
        self._store = store
        self._timeout = timeout
        self._position: tuple[str, int] | None = None  # of the last change seen
        self._snapshot = ""
        self._looked_at = time.time()
        self._ready: list[DictChange] = []
        self._ticket: Any = None
        if since is not None:
            self._resume(since)

    def _resume(self, since: str) -> None:
        try:
            transaction_id, change_id, seen_at = since.split("-")
            self._position = (str(int(transaction_id)), int(change_id))
            self._looked_at = int(seen_at)
        except ValueError:
            raise errors.InvalidError(f"since {since!r} is not the cursor of a change") from None
        self._snapshot = "1:1:"  # sees nothing: all changes after the cursor are new

    def _next(self) -> Op[DictChange | None]:
        """The next change, None after the timeout."""
        deadline = Deadline.after(self._timeout)
        codec = yield from self._store._open()
        if not codec.facts.options.get("watch"):
            raise errors.InvalidError(f"{self._store!r} was not made with watch=True, so its changes are not logged")
        if self._ticket is None:
            self._ticket = yield Listen(Topic(codec.store_id, WATCHED))
        if self._position is None:
            ((oldest, self._snapshot),) = yield Query(NOW)
            self._position = (str(int(oldest) - 1), 0)
        for seconds in waits():
            if self._ready:
                return self._ready.pop(0)
            yield from self._read(codec)
            if self._ready:
                continue
            if deadline.passed():
                return None
            woken = yield Wait(self._ticket, min(seconds, deadline.remaining()))
            if not woken and seconds > 1:
                yield from self._store._check_exists(codec.store_id)
        raise AssertionError("unreachable")

    def _read(self, codec: Any) -> Op[None]:
        assert self._position is not None
        now = time.time()
        rows: Rows = yield Query(CHANGES, codec.store_id, *self._position, self._snapshot)
        if now - self._looked_at > KEPT_SECONDS - _MARGIN_SECONDS:
            self._ready.append(DictChange("reset", None, 0, self._cursor(now)))
        self._looked_at = now
        for transaction_id, change_id, kind, text, revision, pickled in rows:
            self._position = (transaction_id, change_id)
            key = None if kind == "c" else codec.decode_key(text, pickled)
            self._ready.append(DictChange(_KINDS[kind], key, revision, self._cursor(now)))

    def _cursor(self, now: float) -> str:
        assert self._position is not None
        return f"{self._position[0]}-{self._position[1]}-{int(now)}"

    def close(self) -> None:
        """Stop watching."""
        if self._ticket is not None:
            self._ticket.close()
            self._ticket = None

    def __iter__(self) -> Iterator[DictChange]:
        return self

    def __next__(self) -> DictChange:
        change = self._store._runner.run(self._next(), self._store._bound)
        if change is None:
            raise StopIteration
        return change

    def __aiter__(self) -> AsyncIterator[DictChange]:
        return self

    async def __anext__(self) -> DictChange:
        change = await self._store._runner.run_async(self._next(), self._store._bound)
        if change is None:
            raise StopAsyncIteration
        return change

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Watching(DictBase):
    """`watch`."""

    def watch(self, *, since: str | None = None, timeout: float | None = None) -> Watcher:
        """
        Iterate over the changes of this Dict, for `for` and `async for`, from the first call of `next` on.

        Changes come in the order of their transactions, those of one transaction together. Nothing is missed, also across
        lost connections; after more than about an hour without looking a change of kind `reset` says that some may have been.
        The Dict must have been made with `watch=True`. An entry that expires is no change.

        Args:
            since: the `cursor` of a change, to go on after it, perhaps in another process.
            timeout: end after so many seconds without a change; None: never.
        """
        Deadline.after(timeout)
        return Watcher(self, since, timeout)
