"""Looking at items without taking them, counting them, and clearing them away."""

from __future__ import annotations

from typing import Any, Final

from pgstore import errors
from pgstore.client.listener import waits
from pgstore.core.clock import Deadline
from pgstore.core.limit import within
from pgstore.core.numbers import as_int
from pgstore.core.operation import Listen, Op, PagedIterator, Query, Rows, Topic, Wait, operation
from pgstore.core.statement import Statement
from pgstore.queue.base import QueueBase, check_count, partition_name, room_topic
from pgstore.queue.known import tally

LOOK = Statement(
    """
    SELECT id, put_at, codec, payload
      FROM pgstore.queue_item
     WHERE store_id = $1
       AND partition = $2
       AND id > $3
     ORDER BY id
     LIMIT $4
    """,
    "int8 text int8 int8",
    reads=True,
)
LEN = Statement(
    "SELECT count(*) FROM pgstore.queue_item WHERE store_id = $1 AND partition = $2", "int8 text", reads=True
)
LEN_TOTAL = Statement("SELECT count(*) FROM pgstore.queue_item WHERE store_id = $1", "int8", reads=True)

CLEAR_ITEMS: Final = 10_000  # of one statement
# No row: the queue does not exist any more.
NEWEST = Statement(
    """
    SELECT n.last_value
      FROM pgstore.store s
     CROSS JOIN pgstore.queue_item_id_seq n
     WHERE s.id = $1
    """,
    "int8",
    reads=True,
)
# What another has taken, and may yet give back, is passed over: clearing waits for nobody. Nothing that is put meanwhile goes.
_CLEAR: Final = """
    DELETE FROM pgstore.queue_item
     WHERE ctid = ANY (ARRAY(SELECT ctid
                               FROM pgstore.queue_item
                              WHERE store_id = $1
                                AND id <= $2
                                {of_partition}
                              ORDER BY partition, id
                                FOR UPDATE SKIP LOCKED
                              LIMIT {items}))
"""
CLEAR = Statement(_CLEAR.format(of_partition="AND partition = $3", items=CLEAR_ITEMS), "int8 int8 text")
CLEAR_ALL = Statement(_CLEAR.format(of_partition="", items=CLEAR_ITEMS), "int8 int8")

CLEAR_DELAYED = Statement(
    "DELETE FROM pgstore.queue_deferred WHERE store_id = $1 AND kind = 'd' AND ($2 IS NULL OR partition = $2)",
    "int8 text",
)


class ItemIterator(PagedIterator[Any]):
    """
    Items that stay where they are, for `for` and `async for`; see `Queue.iterate`.

    Each is looked up when it is asked for: what others have taken meanwhile is passed over.
    """

    def __init__(self, store: Looking, partition: str, patience: float, after: int) -> None:
        super().__init__(store._runner, store._bound, self._next)
        self._store = store
        self._partition = partition
        self._patience = patience
        self._position = after

    @property
    def position(self) -> int:
        """Where the iterator is: `iterate(after=position)` goes on from here."""
        return self._position

    def _next(self) -> Op[list[Any] | None]:
        deadline = Deadline.after(self._patience)
        with within(deadline if self._patience else Deadline.after(None)):
            store_id = yield from self._store._locate()
            rows = yield from self._look(store_id)
            if not rows:
                yield from self._store._check_exists(store_id)
                if not deadline.passed():
                    rows = yield from self._wait(store_id, deadline)
        if not rows:
            return None
        self._position = rows[0][0]
        return [self._store._decode(rows[0])]

    def _look(self, store_id: int) -> Op[Rows]:
        rows: Rows = yield Query(LOOK, store_id, self._partition, self._position, 1)
        return rows

    def _wait(self, store_id: int, deadline: Deadline) -> Op[Rows]:
        ticket = yield Listen(Topic(store_id, self._partition))
        try:
            for seconds in waits():
                rows = yield from self._look(store_id)
                if rows or deadline.passed():
                    return rows
                woken = yield Wait(ticket, min(seconds, deadline.remaining()))
                if not woken and seconds > 1:
                    yield from self._store._check_exists(store_id)
        finally:
            ticket.close()
        raise AssertionError("unreachable")


class Looking(QueueBase):
    """`peek`, `iterate`, `len` and `clear`."""

    @operation
    def peek(self, n: int = 1, *, partition: str | None = None) -> Op[list[Any]]:
        """
        Return the oldest *n* items, or as many as there are, and leave them in the queue.

        Those that an open transaction has taken are still among them; leased and delayed ones are not.
        """
        wanted = check_count(n, "peek")
        name = partition_name(partition)
        store_id = yield from self._locate()
        rows = yield Query(LOOK, store_id, name, 0, wanted)
        if not rows:
            yield from self._check_exists(store_id)
        return [self._decode(row) for row in rows]

    def iterate(
        self,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        item_poll_timeout: float | None = None,
        after: int | None = None,
    ) -> ItemIterator:
        """
        Iterate over the items from the oldest on and leave them in the queue, for `for` and `async for`.

        One look at the queue an item, so what was taken since the last is not among them. It ends when there is none left. An
        item of a transaction that commits late, at a place already passed, is not seen.

        Args:
            timeout: wait so many seconds for a further item before it ends (also accepted as *item_poll_timeout*); None: 0.
            after: start behind this `position` of an earlier iterator.
        """
        if timeout is not None and item_poll_timeout is not None:
            raise errors.InvalidError("iterate takes timeout= or item_poll_timeout=, which are the same, not both")
        patience = (timeout if item_poll_timeout is None else item_poll_timeout) or 0.0
        Deadline.after(patience)
        position = 0 if after is None else as_int(after)
        if position is None or abs(position) >= 1 << 63:
            raise errors.InvalidError(f"after is {after!r}, expected the position of an iterator")
        return ItemIterator(self, partition_name(partition), patience, position)

    @operation
    def len(self, *, partition: str | None = None, total: bool = False) -> Op[int]:
        """Return the number of items in a partition, or of all with *total*; counted."""
        if total and partition is not None:
            raise errors.InvalidError("len takes partition= or total=True, not both")
        store_id = yield from self._locate()
        query = Query(LEN_TOTAL, store_id) if total else Query(LEN, store_id, partition_name(partition))
        count: int = (yield query)[0][0]
        if count == 0:
            yield from self._check_exists(store_id)
        return count

    def __len__(self) -> int:
        return self.len()

    def __bool__(self) -> bool:
        # A Queue is a thing, not a collection: `if queue:` must not count rows.
        return True

    @operation
    def clear(self, *, partition: str | None = None, all: bool = False) -> Op[None]:  # noqa: A002
        """
        Delete the items of a partition, or with *all* of every one; delayed ones too.

        Items that are put meanwhile stay, and so do those that are leased, dead, or taken by an open transaction that then gives
        them back.
        """
        if all and partition is not None:
            raise errors.InvalidError("clear takes partition= or all=True, not both")
        name = None if all else partition_name(partition)
        facts = yield from self._open()
        queue = self._of(facts.id)
        counting = yield from tally(queue)
        found = yield Query(NEWEST, facts.id)
        if not found:
            yield from self._is_gone(facts.id)
        ((newest,),) = found
        query = Query(CLEAR_ALL, facts.id, newest) if name is None else Query(CLEAR, facts.id, newest, name)
        while cleared := (yield query):
            counting.count(cleared=cleared)
            queue.took(cleared)
        counting.count(cleared=(yield Query(CLEAR_DELAYED, facts.id, name)))
        if "maxsize" in facts.options:
            yield from self._announce([room_topic(facts.id)])
