"""Putting: one statement inserts, and wakes someone if someone waits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pgstore.client.announcements import Announcements
from pgstore.client.listener import CHANNEL, SOMEONE_WAITS, lock_key
from pgstore.core.clock import Deadline
from pgstore.core.operation import BeforeCommit, Op, Query, Topic, atomic, operation
from pgstore.core.statement import Statement
from pgstore.queue.base import QueueBase, partition_name

BATCH_ITEMS: Final = 5000  # of one statement of `put_many`
BATCH_BYTES: Final = 16 * 1024 * 1024

_INSERT_ONE: Final = """
    INSERT INTO pgstore.queue_item (store_id, partition, payload)
    SELECT s.id, $2, $3
      FROM pgstore.store s
     WHERE s.id = $1
"""
_INSERT_MANY: Final = """
    INSERT INTO pgstore.queue_item (store_id, partition, payload)
    SELECT s.id, $2, u.payload
      FROM pgstore.store s
     CROSS JOIN unnest($3) WITH ORDINALITY AS u (payload, position)
     WHERE s.id = $1
     ORDER BY u.position
"""
# In one statement and one round trip: put, and wake someone if someone waits. No row: the queue does not exist any more.
_AND_WAKE: Final = f"""
    SELECT (SELECT pg_notify('{CHANNEL}', $5) WHERE {SOMEONE_WAITS.format(key="$4")})
      FROM (SELECT 1 FROM put LIMIT 1) AS some_item
"""
PUT = Statement(f"WITH put AS ({_INSERT_ONE} RETURNING 1) {_AND_WAKE}", "int8 text bytea int4 text")
PUT_MANY = Statement(f"WITH put AS ({_INSERT_MANY} RETURNING 1) {_AND_WAKE}", "int8 text bytea[] int4 text")
PUT_SILENTLY = Statement(_INSERT_ONE, "int8 text bytea")
PUT_MANY_SILENTLY = Statement(_INSERT_MANY, "int8 text bytea[]")


class Putting(QueueBase):
    """`put` and `put_many`."""

    @operation
    def put(
        self,
        item: Any,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: float | None = None,
    ) -> Op[None]:
        """
        Put *item* at the end of the queue. *block* and *timeout* are for a full queue, which this one never is.

        Args:
            partition_ttl: accepted as Modal's, without effect: nothing in a Queue expires.

        Raises:
            SerializationError: *item* cannot be pickled.
            ValueTooLarge: it is above 256 MiB.
        """
        Deadline.after(timeout)
        name = partition_name(partition)
        payload = self._encode(item)
        store_id = yield from self._locate()
        yield from self._insert(store_id, name, payload, PUT, PUT_SILENTLY)

    @operation
    def put_many(
        self,
        items: Iterable[Any],
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: float | None = None,
    ) -> Op[None]:
        """Put all *items*, in their order and all or nothing; see `put`."""
        Deadline.after(timeout)
        name = partition_name(partition)
        payloads = [self._encode(item) for item in items]
        store_id = yield from self._locate()
        batches = list(_batches(payloads))
        if len(batches) == 1:
            yield from self._insert(store_id, name, batches[0], PUT_MANY, PUT_MANY_SILENTLY)
        elif batches:
            yield from atomic(self._insert_batches(store_id, name, batches))

    def _insert_batches(self, store_id: int, partition: str, batches: list[list[bytes]]) -> Op[None]:
        for batch in batches:
            yield from self._insert(store_id, partition, batch, PUT_MANY, PUT_MANY_SILENTLY)

    def _insert(self, store_id: int, partition: str, payload: Any, aloud: Statement, silently: Statement) -> Op[None]:
        topic = Topic(store_id, partition)
        enrolment = yield BeforeCommit(Announcements, Announcements)
        if enrolment is None or enrolment.immediate:
            put = yield Query(aloud, store_id, partition, payload, lock_key(topic), topic.payload)
        else:
            put = yield Query(silently, store_id, partition, payload)
            enrolment.participant.topics[topic] = None
        if not put:
            raise self._missing()


def _batches(payloads: list[bytes]) -> Iterable[list[bytes]]:
    """*payloads* cut so that no statement is much larger than `BATCH_BYTES`."""
    batch: list[bytes] = []
    size = 0
    for payload in payloads:
        batch.append(payload)
        size += len(payload)
        if size >= BATCH_BYTES or len(batch) >= BATCH_ITEMS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
