"""What comes back: leases that have ended, delayed items whose time has come; and partitions whose `partition_ttl` is over.

Clients that take also move what is due from `queue_deferred` back to `queue_item`: each looks at most once a second, for all
partitions of a Queue. One that waits learns with each look when the next item of its partition is due.
"""

from __future__ import annotations

from typing import Any, Final

from pgstore.core import clock
from pgstore.core.operation import Autonomous, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.queue.base import QueueBase, T
from pgstore.queue.sql import DEAD, DELAYED, LEASED
from pgstore.queue.state import QueueState, counter_of
from pgstore.queue.watermark import INSERTING_WHAT_IS_GONE
from pgstore.store.registry import StoreRecord

CHECK_SECONDS: Final = 1.0
DUE_ITEMS: Final = 1000  # of one statement
LEASE_ENDED: Final = "the lease ended"  # the reason of a dead letter that nobody gave one


class Returning(QueueBase[T]):
    """Bringing back what is due."""

    def _check_due(self, record: StoreRecord, queue: QueueState) -> Op[None]:
        """Bring back what has become due, in any partition; the next time in a second, or soon if there is more."""
        queue.check_at = clock.monotonic() + CHECK_SECONDS
        if (yield from self._bring_back(record)):
            queue.check_at = 0.0

    # Two clients that do this at once move different rows, for each passes over what the other has locked. A lease that is extended
    # meanwhile is passed over, or seen with its new end.
    _BRING_BACK: Final = Statement(
        f"""
        WITH due AS MATERIALIZED (
                 SELECT id, coalesce(kind = '{LEASED}' AND attempts >= $2, false) AS is_dead
                   FROM pgstore.queue_deferred
                  WHERE store_id = $1
                    AND due_at <= statement_timestamp()
                  ORDER BY due_at
                    FOR UPDATE SKIP LOCKED
                  LIMIT {DUE_ITEMS}),
             died AS (
                 UPDATE pgstore.queue_deferred AS e
                    SET kind = '{DEAD}',
                        due_at = NULL,
                        reason = '{LEASE_ENDED}'
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
        repeatable=True,
    )

    def _bring_back(self, record: StoreRecord) -> Op[bool]:
        """
        Move what has become due, as much as one statement may, and empty what has had its time. Returns whether there may be more.
        """
        query = Query(self._BRING_BACK, record.id, record.options.get("max_attempts"))
        # Outside of a transaction: others would have to wait for its end to see what came back.
        rows: Rows = yield Autonomous(_only(query))
        lapses_in = rows[0][1]
        if lapses_in is not None:
            if lapses_in <= 0:
                yield Autonomous(self._sweep(record.id))
            else:
                queue = self._state_of(record.id)
                queue.check_at = min(queue.check_at, clock.monotonic() + lapses_in)
        return bool(rows[0][0] == DUE_ITEMS)

    # Deletes what nobody is at work on: items that are locked, because they are being taken, and leased ones are passed over. So it
    # waits for nobody, and what comes back from a lease goes the next time. EXISTS is asked once: where nothing has lapsed, nothing
    # is looked through.
    _SWEEP: Final = Statement(
        f"""
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
                                           AND (e.kind = '{DELAYED}'
                                                OR (e.kind = '{LEASED}' AND e.due_at <= statement_timestamp()))
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
                                       AND e.kind = '{LEASED}'
                                       AND e.due_at > statement_timestamp()
                                       AND e.put_at <= l.put_at))
        SELECT (SELECT count(*) FROM items) + (SELECT count(*) FROM deferred)
        """,
        "int8",
        repeatable=True,
    )

    def _sweep(self, store_id: int) -> Op[None]:
        """Empty the partitions whose time is over."""
        counter = yield from counter_of(self._state_of(store_id))
        ((swept,),) = yield Query(self._SWEEP, store_id)
        counter.count(cleared=swept)


def _only(query: Query) -> Op[Any]:
    return (yield query)
