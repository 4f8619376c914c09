"""Repairing Queues after a change of servers: items that no get finds, for they lie below the watermark of their partition.

Logical replication copies rows but no sequences. On a server that takes over in this way, the next id may be one that a Queue's
watermark has passed. `sql/checks/queue_watermarks.sql` finds what was put there.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.queue.watermark import insert_lock

# Whoever is about to put or take waits for us; we wait for whoever has done so and has not committed.
LOCK: Final = Statement("LOCK TABLE pgstore.queue_item IN SHARE ROW EXCLUSIVE MODE")
# As who puts does, before ids are drawn (see `watermark`).
INSERTING: Final = Statement(
    f"""
    SELECT {insert_lock("b.store_id")}
      FROM (SELECT DISTINCT h.store_id
              FROM pgstore.queue_head h
             WHERE EXISTS (SELECT
                             FROM pgstore.queue_item q
                            WHERE q.store_id = h.store_id
                              AND q.partition = h.partition
                              AND q.id < h.low)) b
    """
)
# Watermarks are only ever raised, and clients remember them for a second: so it is the items that move. They were put after all
# that is above the watermark, or they would not have got such ids, and so their place is at the end. Nobody puts or takes
# meanwhile.
MOVE: Final = Statement(
    """
    WITH below AS (
         DELETE FROM pgstore.queue_item q
          USING pgstore.queue_head h
          WHERE h.store_id = q.store_id
            AND h.partition = q.partition
            AND q.id < h.low
         RETURNING q.store_id, q.partition, q.id, q.put_at, q.codec, q.payload, q.attempts
    ), moved AS (
         INSERT INTO pgstore.queue_item (store_id, partition, put_at, codec, payload, attempts)
         SELECT b.store_id, b.partition, b.put_at, b.codec, b.payload, b.attempts
           FROM below b
          ORDER BY b.store_id, b.partition, b.id
         RETURNING store_id, partition
    )
    SELECT m.store_id, m.partition, count(*), pgstore.notify_if_awaited(m.store_id, m.partition)
      FROM moved m
     GROUP BY m.store_id, m.partition
     ORDER BY m.store_id, m.partition
    """
)


class Moved(NamedTuple):
    """Items of a partition that can be taken again."""

    store_id: int
    partition: str
    items: int


def lock_items() -> Op[None]:
    """Let nobody put or take before this transaction ends."""
    yield Query(LOCK)


def move_items() -> Op[list[Moved]]:
    """Give items below the watermark of their partition new ids. After `lock_items`, with a sequence beyond all watermarks."""
    yield Query(INSERTING)
    return [Moved(*row[:3]) for row in (yield Query(MOVE))]
