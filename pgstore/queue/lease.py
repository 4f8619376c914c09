"""Leases: items taken for a time, given back if nobody says that the work is done.

A leased item is moved to `queue_deferred`, as one that is put with a delay is: `queue_item` has inserts and deletes only, for the
dead row of an update is one more that each get has to pass. The id of the row there is used once and is the token of the lease,
so that a worker that was away for too long can neither end nor prolong what is another's by now. What ends moves back by `due`.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Generic, Self

from pgstore import errors
from pgstore.client.notifications import notifying
from pgstore.client.undo import on_rollback
from pgstore.core.operation import Op, Query, Rows, Topic, operation
from pgstore.core.statement import Statement
from pgstore.queue.arguments import check_seconds, storable_reason
from pgstore.queue.base import BACKOFF_SECONDS, QueueBase, T
from pgstore.queue.sql import DEAD, DELAYED, LEASED
from pgstore.queue.state import counter_of
from pgstore.queue.watermark import INSERTING
from pgstore.store.registry import StoreRecord

LEASE_SECONDS_MIN: Final = 0.001
RENEWED_SECONDS_MIN: Final = 1.0
RENEWALS: Final = 3  # in the length of a lease
BACKOFF_SECONDS_MAX: Final = 60.0  # to which the delay of an item grows that fails again and again
_DOUBLINGS_MAX: Final = 16  # from the least that `backoff` can be to more than that
# With these in a block it is the process that ends, or the caller's loop, and the item has not failed. Not so a cancelled task:
# `asyncio.timeout` cancels what takes too long.
_NO_FAILURES: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)

# The lease number $2 on the item that was put at $3 (`Lease.token`): after a restore, or a failover that lost something, the
# sequence gives numbers out again that workers still have in hand. Of two statements that end or prolong one lease, the second
# waits for the first and then finds no row that is this: each item is done, given back or brought back by one of them.
THIS_LEASE: Final = f"store_id = $1 AND id = $2 AND put_at = to_timestamp($3) AND kind = '{LEASED}'"
# What gives leased items back: HELD takes them out of queue_deferred, INSERT_GONE puts them at the end of the queue.
INSERT_GONE: Final = """
    INSERT INTO pgstore.queue_item (store_id, partition, put_at, codec, payload, attempts)
    SELECT s.id, $2, g.put_at, g.codec, g.payload, g.attempts - {uncounted}
      FROM pgstore.store s
     CROSS JOIN inserting
     CROSS JOIN gone g
     WHERE s.id = $1
     ORDER BY g.id
"""
HELD: Final = f"""
    gone AS (DELETE FROM pgstore.queue_deferred
              WHERE store_id = $1
                AND {{which}}
                AND kind = '{LEASED}'
             RETURNING id, put_at, codec, payload, attempts)
"""


class Lease(Generic[T]):
    """
    An item that is this worker's until the lease ends; see `Queue.get`.

    In `with` and `async with` the item is acknowledged at the end of the block, and given back after an exception, as by `nack()`;
    at once where only the process or the loop ends (KeyboardInterrupt, SystemExit, GeneratorExit). In a transaction these take part
    in it, so that an item and its results are done together; if it is rolled back the lease goes on.

    With `get(lease=, renew=True)` it goes on as long as this object is there and is neither acknowledged nor given back, however
    long the work takes.
    """

    def __init__(
        self, store: QueueBase[T], partition: str, seconds: float, row: tuple[Any, ...], record: StoreRecord
    ) -> None:
        self._store = store
        self._partition = partition
        self._seconds = seconds
        self._row = row
        self._record = record
        self._done = False
        self._lost_it = False
        self._renewal: Renewal | None = None
        self._pid: int | None = None  # that entered the block: a forked child leaves its parent's, too

    # What a runner wants to know.

    @property
    def _runner(self) -> Any:
        return self._store._runner

    @property
    def _bound(self) -> Any:
        return self._store._bound

    @property
    def item(self) -> T:
        """
        The item; loaded with each access.

        Raises:
            DeserializationError: this process cannot load it; its bytes are in the error's `raw`.
        """
        item: T = self._store._decode(self._row, self._partition)
        return item

    @property
    def token(self) -> tuple[int, float]:
        """The number of the lease, and when the item was put, as seconds: no other lease has both (`THIS_LEASE`)."""
        return self._row[0], self._row[1]

    @property
    def more(self) -> tuple[Any, ...]:
        """What the statement that took the item has returned beside it; nothing, unless it is a statement of another's."""
        return self._row[5:]

    @property
    def is_lost(self) -> bool:
        """Whether a renewal has found that the lease ended, and the item went back. Always False without `renew=True`."""
        return self._lost_it

    @property
    def attempt(self) -> int:
        """How often the item has been leased, this time included."""
        attempts: int = self._row[4]
        return attempts

    # Where somebody else ends this lease first, no row.
    _ACK: Final = Statement(f"DELETE FROM pgstore.queue_deferred WHERE {THIS_LEASE}", "int8 int8 float8")

    @operation
    def ack(self) -> Op[None]:
        """
        Say that the work is done: the item is gone for good. After the end of the lease too, as long as nobody else has the item.

        Raises:
            LeaseLost: the item went back, and the work is, or was, another's.
        """
        counter = yield from counter_of(self._store._state_of(self._record.id))
        yield from self._ended((yield Query(self._ACK, self._record.id, *self._row[:2])))
        counter.count(1)

    # To the dead letters, in some seconds, or at once. Where somebody else ends this lease first, no row.
    _BURY: Final = Statement(
        f"""
        UPDATE pgstore.queue_deferred
           SET kind = '{DEAD}',
               due_at = NULL,
               reason = $4
         WHERE {THIS_LEASE}
        """,
        "int8 int8 float8 text",
    )
    _POSTPONE: Final = Statement(
        f"""
        UPDATE pgstore.queue_deferred
           SET kind = '{DELAYED}',
               due_at = statement_timestamp() + $4 * interval '1 second',
               reason = $5
         WHERE {THIS_LEASE}
        """,
        "int8 int8 float8 float8 text",
    )
    _GIVE_BACK: Final = Statement(
        f"""
        WITH {INSERTING},
             {HELD.format(which="id = $3 AND put_at = to_timestamp($4)")}
        {INSERT_GONE.format(uncounted=0)}
        """,
        "int8 text int8 float8",
    )

    @operation
    def nack(self, delay: float | None = None, *, reason: str | None = None) -> Op[None]:
        """
        Say that the work has failed: the item goes to the end of the queue, or to the dead letters if this was its last attempt.

        Args:
            delay: seconds until it can be taken again; 0: at once. None: as many as the `backoff` of the Queue says, by default one
                after the first attempt, then two, four, up to a minute: so what fails each time does not use up its attempts, nor
                its workers' time, in a moment.
            reason: kept with a dead letter, up to 1,000 characters of it.

        Raises:
            LeaseLost: it went back already.
        """
        seconds = self._backoff() if delay is None else check_seconds(delay, "delay")
        why = storable_reason(reason)
        store_id, mine, topic = self._record.id, self._row[:2], Topic(self._record.id, self._partition)
        if self.attempt >= self._record.options.get("max_attempts", float("inf")):
            yield from self._ended((yield Query(self._BURY, store_id, *mine, why)))
        elif seconds > 0:
            later = Query(self._POSTPONE, store_id, *mine, seconds, why)
            yield from self._ended((yield from notifying(later, topic, 0)))
        else:
            back = Query(self._GIVE_BACK, store_id, self._partition, *mine)
            yield from self._ended((yield from notifying(back, topic)))

    def _backoff(self) -> float:
        """After how many seconds the item comes again if this attempt has failed."""
        first: float | None = self._record.options.get("backoff", BACKOFF_SECONDS)
        if first is None:
            return 0.0
        return min(first * 2.0 ** min(self.attempt - 1, _DOUBLINGS_MAX), max(first, BACKOFF_SECONDS_MAX))

    # Where the lease ended and the item is being brought back, waits for that, and finds no row.
    _EXTEND: Final = Statement(
        f"""
        UPDATE pgstore.queue_deferred
           SET due_at = statement_timestamp() + $4 * interval '1 second'
         WHERE {THIS_LEASE}
        """,
        "int8 int8 float8 float8",
    )

    @operation
    def extend(self, seconds: float | None = None) -> Op[None]:
        """
        Let the lease end in *seconds* from now; None: as many as it was taken for.

        Raises:
            LeaseLost: it ended, and the item went back.
        """
        length = self._seconds if seconds is None else check_seconds(seconds, "lease", LEASE_SECONDS_MIN)
        if not (yield Query(self._EXTEND, self._record.id, *self._row[:2], length)):
            raise self._lost()

    def _ended(self, rows: int) -> Op[None]:
        if not rows:
            raise self._lost()
        self._done = True
        yield from on_rollback(self._reopen)

    def _reopen(self) -> None:
        """What ended the lease was rolled back: the item is this worker's again, or goes back when the lease ends."""
        self._done = False
        if self._renewal is not None:
            self._renewal.go_on()

    def _lost(self) -> errors.LeaseLost:
        return errors.LeaseLost(f"{self!r} is not held any more: it ended, or was acknowledged or given back")

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._done or self._pid != os.getpid():
            return
        if exc is None:
            self.ack()
        else:
            with contextlib.suppress(errors.Error):  # the lease ends by itself; what went wrong is *exc*
                self.nack(0 if isinstance(exc, _NO_FAILURES) else None, reason=_described(exc))

    async def __aenter__(self) -> Self:
        self._pid = os.getpid()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._done or self._pid != os.getpid():
            return
        if exc is None:
            await self.ack.aio()
        else:
            with contextlib.suppress(errors.Error):
                await self.nack.aio(0 if isinstance(exc, _NO_FAILURES) else None, reason=_described(exc))

    def __repr__(self) -> str:
        return f"<lease {self._row[0]} of {self._store!r}, attempt {self.attempt}>"


class Renewal:
    """
    Keeps the leases of one call from ending: from the background, every third of their length.

    On a thread, also for those of an event loop: work that does not give the loop a turn must not lose its lease. Leases that
    nobody refers to any more are not kept.
    """

    def __init__(self, leases: Iterable[Lease[Any]], client: Any, store_id: int, seconds: float) -> None:
        self._leases = weakref.WeakSet(leases)
        for lease in self._leases:
            lease._renewal = self
        self._client = client
        self._store_id = store_id
        self._seconds = seconds

    def go_on(self) -> None:
        self._client.scheduler.urgent.leave(self, self._renew, self._seconds / RENEWALS)

    # Passes over what someone has locked: it is being acknowledged, by a transaction that may take long, or brought back. What is
    # there but was not renewed may be the next time. So renewing waits for nobody, and prolongs nothing that is done or another's.
    # The rows returned are all that were there when the statement began.
    _THESE_LEASES: Final = f"""
        store_id = $1
        AND id = ANY ($2)
        AND put_at = to_timestamp(($4)[pg_catalog.array_position($2, id)])
        AND kind = '{LEASED}'
    """
    _RENEW: Final = Statement(
        f"""
        WITH mine AS MATERIALIZED (SELECT id FROM pgstore.queue_deferred WHERE {_THESE_LEASES} FOR UPDATE SKIP LOCKED),
             renewed AS (UPDATE pgstore.queue_deferred AS e
                            SET due_at = statement_timestamp() + $3 * interval '1 second'
                           FROM mine
                          WHERE e.store_id = $1
                            AND e.id = mine.id)
        SELECT id FROM pgstore.queue_deferred WHERE {_THESE_LEASES}
        """,
        "int8 int8[] float8 float8[]",
        repeatable=True,
    )

    def _renew(self) -> Op[None]:
        held = {lease._row[0]: lease for lease in self._leases if not (lease._done or lease._lost_it)}
        if not held:
            return
        try:
            put_at = [held_lease._row[1] for held_lease in held.values()]
            rows: Rows = yield Query(self._RENEW, self._store_id, list(held), self._seconds, put_at)
            for number in held.keys() - {row[0] for row in rows}:
                held[number]._lost_it = not held[number]._done
        finally:
            del held  # else it would keep them until the next time
            self.go_on()


def _described(exc: BaseException) -> str:
    try:
        return repr(exc)
    except Exception:  # noqa: BLE001  # what went wrong is *exc*, not that it cannot say so
        return type(exc).__name__
