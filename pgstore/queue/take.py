"""Taking: one statement finds the oldest items that nobody else has locked, and deletes them."""

from __future__ import annotations

from typing import Any

from pgstore import errors
from pgstore.client.listener import waits
from pgstore.core.clock import Deadline
from pgstore.core.operation import Listen, Op, Query, Rows, Topic, Wait, operation
from pgstore.core.statement import Statement
from pgstore.queue.base import QueueBase, check_count, partition_name

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


class Taking(QueueBase):
    """`get` and `get_many`."""

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
        rows = yield from self._take(1, block, timeout, partition_name(partition))
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
        wanted = check_count(n if n_values is None else n_values, "get_many")
        name = partition_name(partition)
        rows = yield from self._take(wanted, block, timeout, name)
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
