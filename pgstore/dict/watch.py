"""Watching a Dict: every change, in the order of the transactions, nothing missed.

Dicts made with `watch=True` log each change in the statement that makes it (`base.Write`). A watcher reads the log up to the oldest
transaction that is still running (`pg_snapshot_xmin`): below that nothing can appear any more, so a cursor never passes over a
change that commits late. It follows that a transaction left open anywhere in the database holds watchers back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

from pgstore import errors
from pgstore.client.pauses import waits
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Listen, Op, Query, Rows, Wait
from pgstore.core.statement import Statement
from pgstore.dict.base import ChangeKind, DictBase, K, V, changes_topic

KEPT_SECONDS: Final = 3600.0  # the log's memory
_MARGIN_SECONDS: Final = 60.0
_AFTER_ALL: Final = (1 << 63) - 1
_SEES_NOTHING: Final = "1:1:"

_ROWS_MAX: Final = 1000
_NOTE_SECONDS: Final = 10.0
_KINDS: Final[dict[str, Literal["put", "delete", "clear"]]] = {
    ChangeKind.PUT: "put",
    ChangeKind.DELETE: "delete",
    ChangeKind.CLEAR: "clear",
}


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
    """Iterates over changes, for `for` and `async for`; ends by its timeout or by `close()`. Leaving `with` closes it."""

    def __init__(self, store: DictBase[Any, Any], since: str | None, timeout: float | None) -> None:
        self._store = store
        self._timeout = timeout
        self._position: tuple[str, int] | None = None  # of the last change seen
        self._snapshot = ""
        # By the server's clock: whatever is still unread was logged after this. The log forgets by the time of logging, however
        # late a transaction commits.
        self._unread_since = 0.0
        self._noted: list[tuple[float, int]] = []  # times, and the number that the next transaction would have got then
        self._ready: list[tuple[Any, ...]] = []  # kind, text and pickle of the key, revision, cursor
        self._history: object = None  # of the client, of which the position is
        self._ticket: Any = None
        self._closed = False
        if since is not None:
            self._resume(since)

    def _resume(self, since: str) -> None:
        try:
            transaction_id, change_id, unread_since = since.split("-")
            position = int(transaction_id), int(change_id)
            self._unread_since = int(unread_since)
            if not (0 <= position[0] < 1 << 64 and 0 <= position[1] <= _AFTER_ALL):
                raise ValueError
            self._position = (str(position[0]), position[1])
        except (ValueError, AttributeError, TypeError):
            raise errors.InvalidError(f"since {since!r} is not the cursor of a change") from None
        self._snapshot = _SEES_NOTHING  # all changes after the cursor are new

    def _next(self) -> Op[DictChange | None]:
        """The next change, None after the timeout."""
        deadline = Deadline.after(self._timeout)
        with bounded_by(deadline):
            return (yield from self._next_by(deadline))

    def _next_by(self, deadline: Deadline) -> Op[DictChange | None]:
        for seconds in waits():
            codec = yield from self._store._resolve_codec()
            if not codec.record.options.get("watch"):
                raise errors.InvalidError(
                    f"{self._store!r} was not made with watch=True, so its changes are not logged"
                )
            topic = changes_topic(codec.store_id)
            if self._ticket is not None and self._ticket.topic != topic:  # made anew, in another history
                self._ticket.close()
                self._ticket = None
            if self._ticket is None and not self._closed:
                self._ticket = yield Listen(topic)
            ticket = self._ticket
            if self._position is None:
                yield from self._begin()
            elif self._history not in (None, codec.history):
                yield from self._begin()
                self._ready.append(self._reset())
            self._history = codec.history
            if self._closed:
                break
            if self._ready:
                kind, text, pickled, revision, cursor = self._ready.pop(0)
                key = codec.decode_key(text, pickled) if kind in ("put", "delete") else None
                return DictChange(kind, key, revision, cursor)
            yield from self._read(codec.store_id)
            if self._ready:
                continue
            if deadline.passed():
                yield from self._store._check_exists(codec.store_id)
                break
            woken = yield Wait(ticket, min(seconds, deadline.remaining()))
            if not woken and seconds > 1:
                yield from self._store._check_exists(codec.store_id)
        return None

    _NOW: Final = Statement(
        """
        SELECT pg_snapshot_xmin(s)::text, s::text, extract(epoch FROM statement_timestamp())::double precision
          FROM pg_current_snapshot() AS s
        """,
        read_only=True,
    )

    def _begin(self) -> Op[None]:
        """From now on."""
        ((oldest, self._snapshot, self._unread_since),) = yield Query(self._NOW)
        self._position, self._noted = (str(int(oldest) - 1), 0), []

    # Not what was committed when the watcher came: that is the Dict it starts from. One row at least:
    # the oldest transaction, and how many have a number since (not xmax: what runs may lie beyond).
    _CHANGES: Final = Statement(
        """
        SELECT n.now, n.oldest::text, age(n.oldest::xid), c.transaction_id::text, c.id, c.kind, c.key, c.revision, c.key_pickle
          FROM (SELECT extract(epoch FROM statement_timestamp())::double precision, pg_snapshot_xmin(s)
                  FROM pg_current_snapshot() AS s) AS n (now, oldest)
          LEFT JOIN (SELECT transaction_id, id, kind, key, revision, key_pickle
                       FROM pgstore.dict_change
                      WHERE store_id = $1
                        AND (transaction_id, id) > ($2::xid8, $3)
                        AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
                        AND NOT pg_visible_in_snapshot(transaction_id, $4::pg_snapshot)
                      ORDER BY transaction_id, id
                      LIMIT 1000) AS c ON true
         ORDER BY c.transaction_id, c.id
        """,
        "int8 text int8 text",
        read_only=True,
    )

    def _read(self, store_id: int) -> Op[None]:
        assert self._position is not None
        rows: Rows = yield Query(self._CHANGES, store_id, *self._position, self._snapshot)
        now, oldest = rows[0][0], int(rows[0][1])
        following = oldest + rows[0][2]
        if int(self._position[0]) >= following:  # of another cluster, before a restore or a failover
            self._position, self._snapshot = (str(oldest - 1), _AFTER_ALL), _SEES_NOTHING
            self._noted, self._unread_since = [], now
            self._ready.append(self._reset())
            return
        found = [row[3:] for row in rows if row[3] is not None]
        before = self._unread_since
        for number, (transaction_id, change_id, kind, text, revision, pickled) in enumerate(found, 1):
            self._position = (transaction_id, change_id)
            if number == len(found) < _ROWS_MAX:
                self._note(now, oldest, following)
            self._ready.append((_KINDS[kind], text, pickled, revision, self._cursor()))
        if not found:
            self._note(now, oldest, following)
        if self._unread_since > before and now - before > KEPT_SECONDS - _MARGIN_SECONDS:
            self._ready.insert(0, self._reset())

    def _note(self, now: float, oldest: int, following: int) -> None:
        """All changes of transactions before *oldest* are read: those of later ones were logged after these had begun."""
        if not self._noted or now - self._noted[-1][0] > _NOTE_SECONDS or following == oldest:
            self._noted.append((now, following))
        while self._noted and self._noted[0][1] <= oldest:
            self._unread_since = self._noted.pop(0)[0]

    def _reset(self) -> tuple[Any, ...]:
        return ("reset", "", None, 0, self._cursor())

    def _cursor(self) -> str:
        assert self._position is not None
        return f"{self._position[0]}-{self._position[1]}-{int(self._unread_since)}"

    def close(self) -> None:
        """Stop watching; also from another thread than the one that waits."""
        self._closed = True
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            ticket.close()
            ticket.wake()

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


class Watching(DictBase[K, V]):
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
