"""Repairing what a change of servers may have broken.

Logical replication carries rows over but no sequences. On a server that takes over so, the next id may be one that a Queue's mark
has passed, and what is put then would never be found; or one that a row has already. sql/checks/queue_sequence.sql finds both.
"""

from __future__ import annotations

from pgstore.core.operation import Op, Query, atomic
from pgstore.core.statement import Statement

# Nobody draws ids meanwhile: setting a sequence that others use could put it back.
LOCK = Statement("LOCK TABLE pgstore.queue_item, pgstore.queue_deferred IN SHARE ROW EXCLUSIVE MODE")
RAISE_ITEM_IDS = Statement(
    """
    SELECT setval('pgstore.queue_item_id_seq'::regclass, wanted.id)
      FROM (SELECT greatest((SELECT max(h.low) - 1 FROM pgstore.queue_head h),
                            (SELECT max(q.id) FROM pgstore.queue_item q)) AS id) AS wanted
     CROSS JOIN pgstore.queue_item_id_seq s
     WHERE wanted.id > s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END
    """
)
RAISE_DEFERRED_IDS = Statement(
    """
    SELECT setval('pgstore.queue_deferred_id_seq'::regclass, wanted.id)
      FROM (SELECT max(e.id) AS id FROM pgstore.queue_deferred e) AS wanted
     CROSS JOIN pgstore.queue_deferred_id_seq s
     WHERE wanted.id > s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END
    """
)


def repair_sequences() -> Op[int]:
    """
    Set the sequences of Queues beyond all ids that were used. Returns how many were behind, of two.

    Puts and leases wait for it meanwhile. It needs the rights of `pgstore_owner`.
    """
    return (yield from atomic(_repair()))


def _repair() -> Op[int]:
    yield Query(LOCK)
    items = yield Query(RAISE_ITEM_IDS)
    deferred = yield Query(RAISE_DEFERRED_IDS)
    return len(items) + len(deferred)
