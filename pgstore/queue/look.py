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
from pgstore.queue.base import check_count, partition_name, room_topic
from pgstore.queue.known import tally
from pgstore.queue.lease import Leasing
from pgstore.registry import Facts

LOOK = Statement(
    """
    SELECT id, put_at, codec, payload
      FROM pgstore.queue_item
     WHERE store_id = $1
       AND partition = $2
       AND id > $3
       AND put_at > coalesce((SELECT l.put_at
                                FROM pgstore.queue_lapse l
                               WHERE l.store_id = $1
                                 AND l.partition = $2
                                 AND l.lapses_at <= statement_timestamp()), '-infinity')
     ORDER BY id
     LIMIT $4
    """,
    "int8 text int8 int8",
    reads=True,
)
# What is due and has not been moved back, which those do who take: see `lease.BRING_BACK`.
_DUE: Final = """
      FROM pgstore.queue_deferred e
     WHERE e.store_id = $1
       AND e.due_at <= statement_timestamp()
       AND (e.kind = 'l' AND e.attempts >= {max_attempts}) IS NOT TRUE
       AND NOT EXISTS (SELECT
                         FROM pgstore.queue_lapse l
                        WHERE l.store_id = $1
                          AND l.partition = e.partition
                          AND l.lapses_at <= statement_timestamp()
                          AND l.put_at >= e.put_at)
"""
# How many items are in partitions whose time is over (`lease.SWEEP`); all are counted from the index alone.
_LAPSED: Final = """
    SELECT coalesce(sum((SELECT count(*)
                           FROM pgstore.queue_item i
                          WHERE i.store_id = $1
                            AND i.partition = l.partition
                            AND i.put_at <= l.put_at)), 0)::bigint
      FROM pgstore.queue_lapse l
     WHERE l.store_id = $1
       AND l.lapses_at <= statement_timestamp()
"""
# The oldest $2 due items of partition $3.
LOOK_DUE = Statement(
    f"""
    SELECT e.id, e.put_at, e.codec, e.payload
    {_DUE.format(max_attempts="$4")}
       AND e.partition = $3
     ORDER BY e.due_at, e.id
     LIMIT $2
    """,
    "int8 int8 text int4",
    reads=True,
)
# Seconds until the next one of a partition is due.
DUE_IN = Statement(
    """
    SELECT extract(epoch FROM min(e.due_at) - statement_timestamp())::double precision
      FROM pgstore.queue_deferred e
     WHERE e.store_id = $1
       AND e.partition = $2
       AND e.due_at > statement_timestamp()
    """,
    "int8 text",
    reads=True,
)
LEN = Statement(
    f"""
    SELECT (SELECT count(*)
              FROM pgstore.queue_item
             WHERE store_id = $1
               AND partition = $2)
         - ({_LAPSED} AND l.partition = $2)
         + (SELECT count(*) {_DUE.format(max_attempts="$3")} AND e.partition = $2)
    """,
    "int8 text int4",
    reads=True,
)
LEN_TOTAL = Statement(
    f"""
    SELECT (SELECT count(*)
              FROM pgstore.queue_item
             WHERE store_id = $1)
         - ({_LAPSED})
         + (SELECT count(*) {_DUE.format(max_attempts="$2")})
    """,
    "int8 int4",
    reads=True,
)

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

# And what is due of leased items.
CLEAR_DELAYED = Statement(
    """
    DELETE FROM pgstore.queue_deferred
     WHERE store_id = $1
       AND ($2 IS NULL OR partition = $2)
       AND (kind = 'd'
            OR (kind = 'l' AND due_at <= statement_timestamp() AND (attempts >= $3) IS NOT TRUE))
    """,
    "int8 text int4",
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
        self._only_due = False  # the last item was seen where it waits
        self._seen_due: set[int] = set()

    @property
    def position(self) -> int:
        """Where the iterator is: `iterate(after=position)` goes on from here."""
        return self._position

    def _next(self) -> Op[list[Any] | None]:
        deadline = Deadline.after(self._patience)
        with within(deadline if self._patience else Deadline.after(None)):
            facts = yield from self._store._open()
            rows = yield from self._look(facts.id)
            if not rows:
                yield from self._store._check_exists(facts.id)
                rows = yield from self._look_for_due(facts)
                if not rows and not deadline.passed():
                    rows = yield from self._wait(facts, deadline)
        if not rows:
            return None
        if not self._only_due:
            self._position = rows[0][0]
        return [self._store._decode(rows[0], self._partition)]

    def _look_for_due(self, facts: Facts) -> Op[Rows]:
        """Move back what is due, at the end, and look again; who may not do that sees it where it is."""
        self._only_due = False
        due = yield from self._store._look_due(facts, self._partition, 1 + len(self._seen_due))
        if not due:
            return []
        try:
            yield from self._store._bring_back(facts)
        except errors.AccessDenied:
            self._only_due = True
            fresh = [row for row in due if row[0] not in self._seen_due][:1]
            self._seen_due.update(row[0] for row in fresh)
            return fresh
        return (yield from self._look(facts.id))

    def _look(self, store_id: int) -> Op[Rows]:
        rows: Rows = yield Query(LOOK, store_id, self._partition, self._position, 1)
        return rows

    def _wait(self, facts: Facts, deadline: Deadline) -> Op[Rows]:
        ticket = yield Listen(Topic(facts.id, self._partition))
        try:
            for seconds in waits():
                rows = (yield from self._look(facts.id)) or (yield from self._look_for_due(facts))
                if rows or deadline.passed():
                    return rows
                ((due_in,),) = yield Query(DUE_IN, facts.id, self._partition)
                pause = seconds if due_in is None else min(seconds, max(due_in, 0.001))
                woken = yield Wait(ticket, min(pause, deadline.remaining()))
                if not woken and seconds > 1:
                    yield from self._store._check_exists(facts.id)
        finally:
            ticket.close()
        raise AssertionError("unreachable")


class Looking(Leasing):
    """`peek`, `iterate`, `len` and `clear`."""

    def _look_due(self, facts: Facts, partition: str, wanted: int) -> Op[Rows]:
        """What is due comes at the end."""
        last = facts.options.get("max_attempts")
        rows: Rows = yield Query(LOOK_DUE, facts.id, wanted, partition, last)
        return rows

    @operation
    def peek(self, n: int = 1, *, partition: str | None = None) -> Op[list[Any]]:
        """
        Return the oldest *n* items, or as many as there are, and leave them in the queue.

        Those that an open transaction has taken are still among them; leased and delayed ones are not, until they are due.
        """
        wanted = check_count(n, "peek")
        name = partition_name(partition)
        facts = yield from self._open()
        rows = yield Query(LOOK, facts.id, name, 0, wanted)
        if len(rows) < wanted:
            rows += yield from self._look_due(facts, name, wanted - len(rows))
        if not rows:
            yield from self._check_exists(facts.id)
        return [self._decode(row, name) for row in rows]

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
        facts = yield from self._open()
        last = facts.options.get("max_attempts")
        query = Query(LEN_TOTAL, facts.id, last) if total else Query(LEN, facts.id, partition_name(partition), last)
        count: int = (yield query)[0][0]
        if count == 0:
            yield from self._check_exists(facts.id)
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
        counting.count(cleared=(yield Query(CLEAR_DELAYED, facts.id, name, facts.options.get("max_attempts"))))
        if "maxsize" in facts.options:
            yield from self._announce([room_topic(facts.id)])
