"""Leases: items taken for a time, given back if nobody says that the work is done.

A leased item is moved to `queue_deferred`, as one that is put with a delay is: `queue_item` has inserts and deletes only, for the
dead row of an update is one more that each get has to pass. The id of the row there is used once and is the token of the lease,
so that a worker that was away for too long can neither end nor prolong what is another's by now.

What has become due moves back by the hands of those who take: a client looks at most once a second, for all partitions of a Queue,
and one that waits is told with each look when the next of its partition comes.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self

from pgstore import errors
from pgstore.client.announcements import announcing
from pgstore.client.undo import on_rollback
from pgstore.core.clock import monotonic
from pgstore.core.operation import Apart, Op, Query, Rows, Topic, operation
from pgstore.core.statement import Statement
from pgstore.queue.base import INSERTING, INSERTING_WHAT_IS_GONE, QueueBase, check_count, check_seconds
from pgstore.queue.known import KnownQueue, tally
from pgstore.registry import Facts

CHECK_SECONDS: Final = 1.0
LEASE_SECONDS_MIN: Final = 0.001
RENEWED_SECONDS_MIN: Final = 1.0
RENEWALS: Final = 3  # in the length of a lease
DUE_ITEMS: Final = 1000  # of one statement
_REASON_CHARS_MAX: Final = 1000

# Two clients that do this at once take different rows. A lease that is extended meanwhile is seen with its new end, or passed over.
BRING_BACK: Final = Statement(
    f"""
    WITH due AS MATERIALIZED (
             SELECT id, coalesce(kind = 'l' AND attempts >= $2, false) AS is_dead
               FROM pgstore.queue_deferred
              WHERE store_id = $1
                AND due_at <= statement_timestamp()
              ORDER BY due_at
                FOR UPDATE SKIP LOCKED
              LIMIT {DUE_ITEMS}),
         buried AS (
             UPDATE pgstore.queue_deferred AS e
                SET kind = 'x',
                    due_at = NULL,
                    reason = 'the lease ended'
               FROM due
              WHERE e.store_id = $1
                AND e.id = due.id
                AND due.is_dead),
         gone AS (
             DELETE FROM pgstore.queue_deferred AS e
              USING due
              WHERE e.store_id = $1
                AND e.id = due.id
                AND NOT due.is_dead
             RETURNING e.id, e.partition, e.due_at, e.put_at, e.codec, e.payload, e.attempts),
         {INSERTING_WHAT_IS_GONE},
         back AS (
             INSERT INTO pgstore.queue_item (store_id, partition, put_at, codec, payload, attempts)
             SELECT s.id, g.partition, g.put_at, g.codec, g.payload, g.attempts
               FROM pgstore.store s
              CROSS JOIN inserting
              CROSS JOIN gone g
              WHERE s.id = $1
              ORDER BY g.due_at, g.id
             RETURNING partition)
    SELECT d.items, d.lapses_in, pgstore.notify_if_awaited($1, b.partition)
      FROM (SELECT count(*) AS items,
                   (SELECT extract(epoch FROM min(l.lapses_at) - statement_timestamp())::double precision
                      FROM pgstore.queue_lapse l
                     WHERE l.store_id = $1) AS lapses_in
              FROM due) AS d
      LEFT JOIN (SELECT DISTINCT partition FROM back) AS b ON true
    """,
    "int8 int4",
    reads=True,  # repeating it does no harm
)
# Empty the partitions whose time is over, of what nobody is at work on: taken and leased items are passed over, and those that come
# back from a lease go with the next time. EXISTS is asked once: where nothing has lapsed, nothing is looked through.
SWEEP: Final = Statement(
    """
    WITH lapsed AS MATERIALIZED (
             SELECT partition, put_at
               FROM pgstore.queue_lapse
              WHERE store_id = $1
                AND lapses_at <= statement_timestamp()
              ORDER BY partition
                FOR UPDATE SKIP LOCKED),
         items AS (
             DELETE FROM pgstore.queue_item
              WHERE store_id = $1
                AND EXISTS (SELECT FROM lapsed)
                AND ctid = ANY (ARRAY(SELECT i.ctid
                                        FROM lapsed l
                                        JOIN pgstore.queue_item i ON i.store_id = $1
                                                                 AND i.partition = l.partition
                                                                 AND i.put_at <= l.put_at
                                         FOR UPDATE OF i SKIP LOCKED))
             RETURNING 1),
         deferred AS (
             DELETE FROM pgstore.queue_deferred
              WHERE store_id = $1
                AND id = ANY (ARRAY(SELECT e.id
                                      FROM lapsed l
                                      JOIN pgstore.queue_deferred e ON e.store_id = $1
                                                                   AND e.partition = l.partition
                                                                   AND e.put_at <= l.put_at
                                     WHERE EXISTS (SELECT FROM lapsed)
                                       AND (e.kind = 'd' OR (e.kind = 'l' AND e.due_at <= statement_timestamp()))
                                       FOR UPDATE OF e SKIP LOCKED))
             RETURNING 1),
         done AS (
             DELETE FROM pgstore.queue_lapse AS q
              USING lapsed l
              WHERE q.store_id = $1
                AND q.partition = l.partition
                AND NOT EXISTS (SELECT
                                  FROM pgstore.queue_deferred e
                                 WHERE e.store_id = $1
                                   AND e.partition = l.partition
                                   AND e.kind = 'l'
                                   AND e.due_at > statement_timestamp()
                                   AND e.put_at <= l.put_at))
    SELECT (SELECT count(*) FROM items) + (SELECT count(*) FROM deferred)
    """,
    "int8",
    reads=True,  # repeating it does no harm
)
# The lease number $2 on the item that was put at $3: after a restore, or a failover that lost something, the sequence gives numbers
# out again that workers still have in hand.
_MINE: Final = "store_id = $1 AND id = $2 AND put_at = to_timestamp($3) AND kind = 'l'"
ACK = Statement(f"DELETE FROM pgstore.queue_deferred WHERE {_MINE}", "int8 int8 float8")
EXTEND = Statement(
    f"""
    UPDATE pgstore.queue_deferred
       SET due_at = statement_timestamp() + $4 * interval '1 second'
     WHERE {_MINE}
    """,
    "int8 int8 float8 float8",
)
# Passes over what someone holds the lock of: it is being settled, by a transaction that may take long, or brought back. What is
# there but was not renewed may be the next time. The rows returned are all that were there when the statement began.
_MINE_OF_MANY: Final = """store_id = $1
       AND id = ANY ($2)
       AND put_at = to_timestamp(($4)[pg_catalog.array_position($2, id)])
       AND kind = 'l'"""
RENEW = Statement(
    f"""
    WITH mine AS MATERIALIZED (
             SELECT id
               FROM pgstore.queue_deferred
              WHERE {_MINE_OF_MANY}
                FOR UPDATE SKIP LOCKED),
         renewed AS (
             UPDATE pgstore.queue_deferred AS e
                SET due_at = statement_timestamp() + $3 * interval '1 second'
               FROM mine
              WHERE e.store_id = $1
                AND e.id = mine.id)
    SELECT id
      FROM pgstore.queue_deferred
     WHERE {_MINE_OF_MANY}
    """,
    "int8 int8[] float8 float8[]",
    reads=True,  # repeating it does no harm
)
POSTPONE = Statement(
    f"""
    UPDATE pgstore.queue_deferred
       SET kind = 'd',
           due_at = statement_timestamp() + $4 * interval '1 second',
           reason = $5
     WHERE {_MINE}
    """,
    "int8 int8 float8 float8 text",
)
BURY = Statement(
    f"""
    UPDATE pgstore.queue_deferred
       SET kind = 'x',
           due_at = NULL,
           reason = $4
     WHERE {_MINE}
    """,
    "int8 int8 float8 text",
)
_GIVE_BACK: Final = """
    INSERT INTO pgstore.queue_item (store_id, partition, put_at, codec, payload, attempts)
    SELECT s.id, $2, g.put_at, g.codec, g.payload, g.attempts - {uncounted}
      FROM pgstore.store s
     CROSS JOIN inserting
     CROSS JOIN gone g
     WHERE s.id = $1
     ORDER BY g.id
"""
_HELD: Final = """
    gone AS (DELETE FROM pgstore.queue_deferred
              WHERE store_id = $1
                AND {which}
                AND kind = 'l'
             RETURNING id, put_at, codec, payload, attempts)
"""
GIVE_BACK = Statement(
    f"""
    WITH {INSERTING},
         {_HELD.format(which="id = $3 AND put_at = to_timestamp($4)")}
    {_GIVE_BACK.format(uncounted=0)}
    """,
    "int8 text int8 float8",
)
# Leases that were interrupted before anybody had them: they count for no attempt. Whoever went to sleep meanwhile is told.
UNLEASE = Statement(
    f"""
    WITH {INSERTING}, {_HELD.format(which="id = ANY ($3)")}, back AS ({_GIVE_BACK.format(uncounted=1)} RETURNING 1)
    SELECT pgstore.notify_if_awaited($1, $2)
      FROM (SELECT 1 FROM back LIMIT 1) AS some_item
    """,
    "int8 text int8[]",
)
DEAD_LETTERS = Statement(
    """
    SELECT id, put_at, codec, payload, attempts, partition, reason
      FROM pgstore.queue_deferred
     WHERE store_id = $1
       AND kind = 'x'
     ORDER BY id
     LIMIT $2
    """,
    "int8 int8",
    reads=True,
)
# Those that nobody has moved yet: leases that have ended, and were the last.
DYING_LETTERS = Statement(
    """
    SELECT id, put_at, codec, payload, attempts, partition, 'the lease ended'
      FROM pgstore.queue_deferred
     WHERE store_id = $1
       AND due_at <= statement_timestamp()
       AND kind = 'l'
       AND attempts >= $3
     ORDER BY id
     LIMIT $2
    """,
    "int8 int8 int4",
    reads=True,
)
REVIVE = Statement(
    f"""
    WITH {INSERTING},
         gone AS (DELETE FROM pgstore.queue_deferred
                   WHERE store_id = $1
                     AND kind = 'x'
                     AND ($2 IS NULL OR id = ANY ($2))
                  RETURNING id, put_at, codec, payload, partition)
    INSERT INTO pgstore.queue_item (store_id, partition, put_at, codec, payload)
    SELECT s.id, g.partition, g.put_at, g.codec, g.payload
      FROM pgstore.store s
     CROSS JOIN inserting
     CROSS JOIN gone g
     WHERE s.id = $1
     ORDER BY g.id
    RETURNING partition
    """,
    "int8 int8[]",
)
DISCARD = Statement(
    "DELETE FROM pgstore.queue_deferred WHERE store_id = $1 AND kind = 'x' AND ($2 IS NULL OR id = ANY ($2))",
    "int8 int8[]",
)


class Lease:
    """
    An item that is this worker's until the lease ends; see `Queue.get`.

    In `with` and `async with` the item is acknowledged at the end of the block, and given back after an exception. In a transaction
    these take part in it, so that an item and its results are done together; if it is rolled back the lease goes on.

    With `get(lease=, renew=True)` it goes on as long as this object is there and is not settled, however long the work takes.
    """

    def __init__(self, store: Leasing, partition: str, seconds: float, row: tuple[Any, ...], facts: Facts) -> None:
        self._store = store
        self._partition = partition
        self._seconds = seconds
        self._row = row
        self._facts = facts
        self._done = False
        self._lost_it = False
        self._renewal: Renewal | None = None

    # What a runner wants to know.

    @property
    def _runner(self) -> Any:
        return self._store._runner

    @property
    def _bound(self) -> Any:
        return self._store._bound

    @property
    def item(self) -> Any:
        """
        The item; loaded with each access.

        Raises:
            DeserializationError: this process cannot load it; its bytes are in the error's `raw`.
        """
        return self._store._decode(self._row, self._partition)

    @property
    def is_lost(self) -> bool:
        """Whether a renewal has found that the lease ended, and the item went back. Without `renew=True` nobody looks."""
        return self._lost_it

    @property
    def attempt(self) -> int:
        """How often the item has been leased, this time included."""
        attempts: int = self._row[4]
        return attempts

    @operation
    def ack(self) -> Op[None]:
        """
        Say that the work is done: the item is gone for good. After the end of the lease too, as long as nobody else has the item.

        Raises:
            LeaseLost: the item went back, and the work is, or was, another's.
        """
        counting = yield from tally(self._store._of(self._facts.id))
        yield from self._settled((yield Query(ACK, self._facts.id, *self._row[:2])))
        counting.count(1)

    @operation
    def nack(self, delay: float = 0, *, reason: str | None = None) -> Op[None]:
        """
        Give the item back, to the end of the queue, in *delay* seconds; or to the dead letters if this was its last attempt.

        Args:
            reason: kept with a dead letter, up to 1,000 characters of it.

        Raises:
            LeaseLost: it went back already.
        """
        seconds = check_seconds(delay, "delay")
        why = _told(reason)
        store_id, mine, topic = self._facts.id, self._row[:2], Topic(self._facts.id, self._partition)
        if self.attempt >= self._facts.options.get("max_attempts", float("inf")):
            yield from self._settled((yield Query(BURY, store_id, *mine, why)))
        elif seconds > 0:
            later = Query(POSTPONE, store_id, *mine, seconds, why)
            yield from self._settled((yield from announcing(later, topic)))
        else:
            back = Query(GIVE_BACK, store_id, self._partition, *mine)
            yield from self._settled((yield from announcing(back, topic)))

    @operation
    def extend(self, seconds: float | None = None) -> Op[None]:
        """
        Let the lease end in *seconds* from now; None: as many as it was taken for.

        Raises:
            LeaseLost: it ended, and the item went back.
        """
        length = self._seconds if seconds is None else check_seconds(seconds, "lease", above=LEASE_SECONDS_MIN)
        if not (yield Query(EXTEND, self._facts.id, *self._row[:2], length)):
            raise self._lost()

    def _settled(self, rows: int) -> Op[None]:
        if not rows:
            raise self._lost()
        self._done = True
        yield from on_rollback(self._unsettle)

    def _unsettle(self) -> None:
        """What settled it was rolled back: the item is this worker's again, or goes back when the lease ends."""
        self._done = False
        if self._renewal is not None:
            self._renewal.go_on()

    def _lost(self) -> errors.LeaseLost:
        return errors.LeaseLost(f"{self!r} is not held any more: it ended, or was acknowledged or given back")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._done:
            return
        if exc is None:
            self.ack()
        else:
            with contextlib.suppress(errors.Error):  # the lease ends by itself; what went wrong is *exc*
                self.nack(reason=_said(exc))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._done:
            return
        if exc is None:
            await self.ack.aio()
        else:
            with contextlib.suppress(errors.Error):
                await self.nack.aio(reason=_said(exc))

    def __repr__(self) -> str:
        return f"<lease {self._row[0]} of {self._store!r}, attempt {self.attempt}>"


class Renewal:
    """
    Keeps the leases of one call from ending: from the background, every third of their length.

    On a thread, also for those of an event loop: work that does not give the loop a turn must not lose its lease. Leases that
    nobody refers to any more are not kept.
    """

    def __init__(self, leases: Iterable[Lease], client: Any, store_id: int, seconds: float) -> None:
        self._leases = weakref.WeakSet(leases)
        for lease in self._leases:
            lease._renewal = self
        self._client = client
        self._store_id = store_id
        self._seconds = seconds

    def go_on(self) -> None:
        self._client.renewals.leave(self, self._renew, self._seconds / RENEWALS)

    def _renew(self) -> Op[None]:
        held = {lease._row[0]: lease for lease in self._leases if not (lease._done or lease._lost_it)}
        if not held:
            return
        try:
            put_at = [held_lease._row[1] for held_lease in held.values()]
            rows: Rows = yield Query(RENEW, self._store_id, list(held), self._seconds, put_at)
            for number in held.keys() - {row[0] for row in rows}:
                held[number]._lost_it = not held[number]._done
        finally:
            del held  # else it would keep them until the next time
            self.go_on()


@dataclass(frozen=True)
class DeadLetter:
    """An item whose last lease came to nothing."""

    id: int
    partition: str | None
    put_at: datetime
    attempts: int
    reason: str | None
    """What was said of the last failure."""
    _row: tuple[Any, ...] = field(repr=False, compare=False)
    _store: Leasing = field(repr=False, compare=False)

    @property
    def item(self) -> Any:
        """The item. Raises `DeserializationError` if this process cannot load it."""
        return self._store._decode(self._row, self.partition or "")


class Leasing(QueueBase):
    """`dead_letters`, `revive` and `discard`; and what brings items back."""

    @operation
    def dead_letters(self, n: int = 100) -> Op[list[DeadLetter]]:
        """Return the oldest *n* dead letters, of all partitions; there are some only with `max_attempts`."""
        wanted = check_count(n, "dead_letters")
        facts = yield from self._open()
        rows: Rows = yield Query(DEAD_LETTERS, facts.id, wanted)
        if "max_attempts" in facts.options:
            rows += yield Query(DYING_LETTERS, facts.id, wanted, facts.options["max_attempts"])
            rows = sorted(rows, key=lambda row: int(row[0]))[:wanted]
        if not rows:
            yield from self._check_exists(facts.id)
        return [DeadLetter(row[0], row[5] or None, row[1].astimezone(), row[4], row[6], row, self) for row in rows]

    @operation
    def revive(self, letters: Iterable[DeadLetter] | DeadLetter | None = None) -> Op[int]:
        """Put dead letters back, to the end of their partitions and as if never leased; None: all. Returns how many."""
        ids = _ids(letters)
        store_id = yield from self._bury_all()
        rows: Rows = yield Query(REVIVE, store_id, ids)
        if not rows:
            yield from self._check_exists(store_id)
        yield from self._announce({Topic(store_id, partition): None for (partition,) in rows})
        return len(rows)

    @operation
    def discard(self, letters: Iterable[DeadLetter] | DeadLetter | None = None) -> Op[int]:
        """Delete dead letters; None: all. Returns how many."""
        ids = _ids(letters)
        store_id = yield from self._bury_all()
        counting = yield from tally(self._of(store_id))
        deleted: int = yield Query(DISCARD, store_id, ids)
        if not deleted:
            yield from self._check_exists(store_id)
        counting.count(cleared=deleted)
        return deleted

    def _bury_all(self) -> Op[int]:
        """Make dead letters of all that are to be some by now; the id of the Queue."""
        facts = yield from self._open()
        while "max_attempts" in facts.options and (yield from self._bring_back(facts)):
            pass
        return facts.id

    # ------------------------------------------------------------------------------------------------- coming back

    def _check_due(self, facts: Facts, queue: KnownQueue) -> Op[None]:
        """Bring back what has become due, in any partition; the next time in a second, or soon if there is more."""
        queue.check_at = monotonic() + CHECK_SECONDS
        if (yield from self._bring_back(facts)):
            queue.check_at = 0.0

    def _bring_back(self, facts: Facts) -> Op[bool]:
        """
        Move what has become due, as much as one statement may, and empty what has had its time. Returns whether there may be more.
        """
        query = Query(BRING_BACK, facts.id, facts.options.get("max_attempts"))
        # Apart from a transaction: others would have to wait for its end to see what came back.
        rows: Rows = yield Apart(one(query))
        lapses_in = rows[0][1]
        if lapses_in is not None:
            if lapses_in <= 0:
                yield Apart(self._sweep(facts.id))
            else:
                queue = self._of(facts.id)
                queue.check_at = min(queue.check_at, monotonic() + lapses_in)
        return bool(rows[0][0] == DUE_ITEMS)

    def _sweep(self, store_id: int) -> Op[None]:
        """Empty the partitions whose time is over."""
        counting = yield from tally(self._of(store_id))
        ((swept,),) = yield Query(SWEEP, store_id)
        counting.count(cleared=swept)


def one(query: Query) -> Op[Any]:
    """The operation of one query."""
    return (yield query)


def _said(exc: BaseException) -> str:
    try:
        return repr(exc)
    except Exception:  # noqa: BLE001  # what went wrong is *exc*, not that it cannot say so
        return type(exc).__name__


def _told(reason: object) -> str | None:
    """*reason* as it can be stored."""
    if reason is None:
        return None
    if not isinstance(reason, str):
        raise errors.InvalidError(f"reason must be a str, not {type(reason).__name__}: {reason!r}")
    return reason[:_REASON_CHARS_MAX].replace("\0", "").encode(errors="backslashreplace").decode()


def _ids(letters: Iterable[DeadLetter] | DeadLetter | None) -> list[int] | None:
    if letters is None:
        return None
    several = [letters] if isinstance(letters, DeadLetter) else list(letters)
    for letter in several:
        if not isinstance(letter, DeadLetter):
            raise errors.InvalidError(f"{letter!r} is not a dead letter")
    return [letter.id for letter in several]
