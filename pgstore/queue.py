"""Queue: items put by some, taken by others, each by one.

One row of `queue_item` an item; taking is deleting. Two takers never get one item and never wait for each other: each passes
over what another has locked. A taker that finds nothing sleeps until a put wakes it (`client.listener`).

Order: items of one partition are taken in the order of their ids, which puts draw as they run. So the items of one producer come
out in its order, and a transaction that commits late brings its items in at their old place. An item that comes back, from a
rollback or an interrupted get, is taken next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

from pgstore import errors
from pgstore.client.announcements import Announcements
from pgstore.client.listener import CHANNEL, SOMEONE_WAITS, lock_key, waits
from pgstore.core.clock import Deadline
from pgstore.core.operation import BeforeCommit, Listen, Op, Query, Rows, Topic, Wait, atomic, operation
from pgstore.core.statement import Statement
from pgstore.handle import Store
from pgstore.serializers import check_size, dumps, loads
from pgstore.types import QueueInfo

PARTITION_BYTES_MAX: Final = 64
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
BATCH_ITEMS: Final = 5000  # of one statement of `put_many`
_ALL: Final = 1 << 62
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
PUT_BACK = Statement(
    """
    INSERT INTO pgstore.queue_item (store_id, partition, id, put_at, codec, payload)
    SELECT s.id, $2, u.id, u.put_at, u.codec, u.payload
      FROM pgstore.store s
     CROSS JOIN unnest($3, $4, $5, $6) AS u (id, put_at, codec, payload)
     WHERE s.id = $1
    """,
    "int8 text int8[] timestamptz[] char[] bytea[]",
)
# Never `id IN (SELECT … LIMIT n)`: a plan may run the subquery more than once, and LIMIT 1 then takes everything. As an array it is
# run once. Rows come back in the order of the table, not of the ids.
TAKE = Statement(
    """
    DELETE FROM pgstore.queue_item
     WHERE ctid = ANY (ARRAY(SELECT ctid
                               FROM pgstore.queue_item
                              WHERE store_id = $1
                                AND partition = $2
                              ORDER BY id
                                FOR UPDATE SKIP LOCKED
                              LIMIT $3))
    RETURNING id, put_at, codec, payload
    """,
    "int8 text int8",
)
# What a waiting taker asks: unlike TAKE it can be repeated when its answer is lost, so waiting outlives a restart of the server.
# No row: the queue does not exist any more.
PEEK = Statement(
    """
    SELECT EXISTS (SELECT FROM pgstore.queue_item i WHERE i.store_id = $1 AND i.partition = $2)
      FROM pgstore.store s
     WHERE s.id = $1
    """,
    "int8 text",
    reads=True,
)
LEN = Statement(
    "SELECT count(*) FROM pgstore.queue_item WHERE store_id = $1 AND partition = $2", "int8 text", reads=True
)
LEN_TOTAL = Statement("SELECT count(*) FROM pgstore.queue_item WHERE store_id = $1", "int8", reads=True)


class Queue(Store):
    """
    A persistent first-in, first-out queue of any picklable items.

    Outside a transaction a `get` takes the item for good. Inside `pgstore.transaction()` an item is given back, at its old
    place, if the transaction does not commit.

    >>> q = Queue.from_name("tasks", create_if_missing=True)
    >>> q.put("a")
    ... q.get()
    'a'
    """

    _kind: ClassVar = "queue"
    _noun: ClassVar = "Queue"
    _id_prefix: ClassVar = "qu"
    _name_space: ClassVar = "queue"

    @operation
    def info(self) -> Op[QueueInfo]:
        """Return the facts about this Queue that do not change."""
        facts = yield from self._described()
        return QueueInfo(self._name, facts.created_at, facts.created_by)

    # ------------------------------------------------------------------------------------------------------------ put

    @operation
    def put(
        self, item: Any, block: bool = True, timeout: float | None = None, *, partition: str | None = None
    ) -> Op[None]:
        """
        Put *item* at the end of the queue. *block* and *timeout* are for a full queue, which this one never is.

        Raises:
            SerializationError: *item* cannot be pickled.
            ValueTooLarge: it is above 256 MiB.
        """
        Deadline.after(timeout)
        name = _partition(partition)
        payload = self._encode(item)
        store_id = yield from self._locate()
        yield from self._insert(store_id, name, payload, PUT, PUT_SILENTLY)

    @operation
    def put_many(
        self, items: Iterable[Any], block: bool = True, timeout: float | None = None, *, partition: str | None = None
    ) -> Op[None]:
        """Put all *items*, in their order and all or nothing; see `put`."""
        Deadline.after(timeout)
        name = _partition(partition)
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

    # ------------------------------------------------------------------------------------------------------------ get

    @operation
    def get(self, block: bool = True, timeout: float | None = None, *, partition: str | None = None) -> Op[Any]:
        """
        Remove and return the oldest item.

        Args:
            block: wait for an item; else return None when there is none.
            timeout: wait at most so many seconds; None: for ever.

        Raises:
            queue.Empty: nothing arrived within *timeout*.
            DeserializationError: this process cannot load the item; its bytes are in the error's `raw`.
        """
        rows = yield from self._take(1, block, timeout, _partition(partition))
        return self._decode(rows[0]) if rows else None

    @operation
    def get_many(
        self,
        n: int | None = None,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        n_values: int | None = None,
    ) -> Op[list[Any]]:
        """
        Remove and return the oldest *n* items, or as many as there are as soon as there is one (also accepted as *n_values*).

        Returns:
            1 to *n* items; none if *block* is false and there are none.

        Raises:
            queue.Empty: nothing arrived within *timeout*.
            DeserializationError: this process cannot load one of them; all of them stay in the queue.
        """
        wanted = n if n_values is None else n_values
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            raise errors.InvalidError(f"get_many takes the number of items, 1 or more, not {wanted!r}")
        name = _partition(partition)
        rows = yield from self._take(min(wanted, _ALL), block, timeout, name)
        try:
            return [self._decode(row) for row in rows]
        except errors.DeserializationError:
            store_id = yield from self._locate()
            yield self._put_back(store_id, name, rows)
            raise

    def _take(self, n: int, block: bool, timeout: float | None, partition: str) -> Op[Rows]:
        deadline = Deadline.after(timeout)
        store_id = yield from self._locate()
        rows = yield from self._look(store_id, partition, n)
        if rows or not block:
            return rows
        yield from self._check_exists(store_id)
        if deadline.passed():
            raise self._empty(timeout, partition)
        # Listening comes before the second look: a put in between wakes us.
        ticket = yield Listen(Topic(store_id, partition))
        try:
            for seconds in waits():
                found = yield Query(PEEK, store_id, partition)
                if not found:
                    raise self._missing()
                if found[0][0]:
                    rows = yield from self._look(store_id, partition, n)
                    if rows:
                        return rows
                if deadline.passed():
                    raise self._empty(timeout, partition)
                yield Wait(ticket, min(seconds, deadline.remaining()))
        finally:
            ticket.close()
        raise AssertionError("unreachable")

    def _look(self, store_id: int, partition: str, n: int) -> Op[Rows]:
        rows: Rows = yield Query(
            TAKE, store_id, partition, n, undo=lambda rows: self._put_back(store_id, partition, rows)
        )
        if len(rows) > 1:
            rows.sort()
        return rows

    @staticmethod
    def _put_back(store_id: int, partition: str, rows: Rows) -> Query:
        return Query(PUT_BACK, store_id, partition, *zip(*rows, strict=True))

    def _empty(self, timeout: float | None, partition: str) -> errors.QueueEmpty:
        where = f" partition {partition!r}" if partition else ""
        return errors.QueueEmpty(f"no item in {self!r}{where} after {timeout} s")

    # ---------------------------------------------------------------------------------------------------------- other

    @operation
    def len(self, *, partition: str | None = None, total: bool = False) -> Op[int]:
        """Return the number of items in a partition, or of all with *total*; counted."""
        if total and partition is not None:
            raise errors.InvalidError("len takes partition= or total=True, not both")
        store_id = yield from self._locate()
        query = Query(LEN_TOTAL, store_id) if total else Query(LEN, store_id, _partition(partition))
        count: int = (yield query)[0][0]
        if count == 0:
            yield from self._check_exists(store_id)
        return count

    def __len__(self) -> int:
        return self.len()

    def __bool__(self) -> bool:
        # A Queue is a thing, not a collection: `if queue:` must not count rows.
        return True

    def _encode(self, item: Any) -> bytes:
        payload = dumps(item, "item")
        check_size(len(payload), f"an item for {self!r}")
        return payload

    def _decode(self, row: Sequence[Any]) -> Any:
        item_id, _, codec, payload = row
        if codec == "j":
            import json

            return json.loads(payload)
        return loads(payload, f"item {item_id} of {self!r}")


def _partition(partition: str | None) -> str:
    if partition is None:
        return ""
    if not isinstance(partition, str):
        raise errors.InvalidError(f"partition must be a str, not {type(partition).__name__}: {partition!r}")
    if not 1 <= len(partition.encode(errors="replace")) <= PARTITION_BYTES_MAX or _UNSTORABLE.search(partition):
        raise errors.InvalidError(
            f"partition {partition!r} is not of 1 to {PARTITION_BYTES_MAX} bytes of UTF-8, without NUL and lone surrogates; "
            "leave it out for the default"
        )
    return partition


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
