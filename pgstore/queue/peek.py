"""Looking at items without taking them, counting them, and clearing them away."""

from __future__ import annotations

from typing import Any, Final

from pgstore import errors
from pgstore.client.notifications import in_transaction
from pgstore.client.pauses import waits
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import Listen, Op, PagedIterator, Query, Rows, Topic, Wait, operation
from pgstore.core.statement import Statement
from pgstore.queue.arguments import check_count, check_position, one_at_most, partition_name
from pgstore.queue.base import T, room_topic
from pgstore.queue.due import Returning
from pgstore.queue.sql import DELAYED, LEASED
from pgstore.queue.state import counter_of
from pgstore.store.registry import StoreRecord

# What is due and has not been moved back by those who take: see `due`.
_DUE: Final = f"""
      FROM pgstore.queue_deferred e
     WHERE e.store_id = $1
       AND e.due_at <= statement_timestamp()
       AND (e.kind = '{LEASED}' AND e.attempts >= {{max_attempts}}) IS NOT TRUE
       AND NOT EXISTS (SELECT
                         FROM pgstore.queue_lapse l
                        WHERE l.store_id = $1
                          AND l.partition = e.partition
                          AND l.lapses_at <= statement_timestamp()
                          AND l.put_at >= e.put_at)
"""
# What waits in partition $2 with an id above $3.
_ITEMS: Final = """
                  FROM pgstore.queue_item i
                 WHERE i.store_id = $1
                   AND i.partition = $2
                   AND i.id > $3
                   AND i.put_at > coalesce((SELECT l.put_at
                                              FROM pgstore.queue_lapse l
                                             WHERE l.store_id = $1
                                               AND l.partition = $2
                                               AND l.lapses_at <= statement_timestamp()), '-infinity')
"""
# How many items are in partitions whose time is over (`due`); all are counted from the index alone.
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

_MOVE_SECONDS: Final = 0.2  # in which what somebody is moving back has surely come
CLEAR_ITEMS: Final = 10_000  # of one statement
# What another has taken, and may yet give back, is passed over: clearing waits for nobody. Nothing that is put meanwhile goes.
# The sum: see `take`.
_DELETE_UP_TO: Final = """
    DELETE FROM pgstore.queue_item
     WHERE store_id + 0::bigint = $1
       AND ctid = ANY (ARRAY(SELECT ctid
                               FROM pgstore.queue_item
                              WHERE store_id = $1
                                AND id <= $2
                                {of_partition}
                              ORDER BY partition, id
                                FOR UPDATE SKIP LOCKED
                              LIMIT {items}))
"""


def _is_due(row: tuple[Any, ...]) -> bool:
    """Whether *row* of `Peeking._LIST` is an item that is still to be moved back."""
    return row[4] is not None


def _place(row: tuple[Any, ...]) -> tuple[bool, float, int]:
    """The place of *row* among those of `Peeking._LIST`."""
    return _is_due(row), row[4] or 0.0, row[0]


class ItemIterator(PagedIterator[T]):
    """
    Items that stay where they are, for `for` and `async for`; see `Queue.iterate`.

    Each is looked up when it is asked for: what others have taken meanwhile is passed over.
    """

    def __init__(self, store: Peeking[T], partition: str, wait_seconds: float, after: int) -> None:
        super().__init__(store, "iterate", self._next)
        self._store = store
        self._partition = partition
        self._wait_seconds = wait_seconds
        self._position = after
        self._seen_due: set[int] = set()  # items that were seen where they wait
        self._has_met_a_lock = False  # the last time, on an item that is due

    @property
    def position(self) -> int:
        """Where the iterator is: `iterate(after=position)` goes on from here."""
        return self._position

    def _next(self) -> Op[list[T] | None]:
        deadline = Deadline.after(self._wait_seconds)
        with bounded_by(deadline if self._wait_seconds else Deadline.after(None)):
            record = yield from self._store._resolve()
            row = yield from self._look(record)
            if row is None:
                yield from self._store._check_exists(record.id)
                if self._has_met_a_lock and not self._wait_seconds and not (yield from in_transaction()):
                    deadline = Deadline.after(_MOVE_SECONDS)
                if not deadline.passed():
                    row = yield from self._wait(record, deadline)
        return None if row is None else [self._store._decode(row, self._partition)]

    def _look(self, record: StoreRecord) -> Op[tuple[Any, ...] | None]:
        """The next item, if there is one. What is due is moved back first; a role that may not do that sees it where it is."""
        self._has_met_a_lock = has_moved_all = False
        while True:
            rows = yield from self._store._list(record, self._partition, self._position, 1 + len(self._seen_due))
            if rows and not _is_due(rows[0]):
                self._position = rows[0][0]
                return rows[0]
            fresh = next((row for row in rows if row[0] not in self._seen_due), None)
            if fresh is None:
                return None
            if has_moved_all:  # what is still due is locked: somebody is moving it back, or is about to acknowledge it
                self._has_met_a_lock = True
                return None
            try:
                has_moved_all = not (yield from self._store._bring_back(record))
            except errors.AccessDenied:
                self._seen_due.add(fresh[0])
                return fresh

    # Seconds until the next one of a partition is due.
    _DUE_IN: Final = Statement(
        """
        SELECT extract(epoch FROM min(e.due_at) - statement_timestamp())::double precision
          FROM pgstore.queue_deferred e
         WHERE e.store_id = $1
           AND e.partition = $2
           AND e.due_at > statement_timestamp()
        """,
        "int8 text",
        read_only=True,
    )

    def _wait(self, record: StoreRecord, deadline: Deadline) -> Op[tuple[Any, ...] | None]:
        ticket = yield Listen(Topic(record.id, self._partition), for_everybody=True)
        try:
            for seconds in waits():
                row = yield from self._look(record)
                if row is not None or deadline.passed():
                    return row
                ((due_in,),) = yield Query(self._DUE_IN, record.id, self._partition)
                pause = seconds if due_in is None else min(seconds, max(due_in, 0.001))
                woken = yield Wait(ticket, min(pause, deadline.remaining()))
                if not woken and seconds > 1:
                    yield from self._store._check_exists(record.id)
        finally:
            ticket.close()
        raise AssertionError("unreachable")


class Peeking(Returning[T]):
    """`peek`, `iterate`, `len`, `qsize`, `empty`, `full` and `clear`."""

    # The oldest $4 items of partition $2 whose ids are above $3, then what is due, which will come after them, as far as it is
    # among the $4. In one statement, of one snapshot: what another moves meanwhile, because it is due or leased, is seen once.
    _LIST: Final = Statement(
        f"""
        SELECT *
          FROM (SELECT i.id, i.put_at, i.codec, i.payload, NULL::double precision AS due_at
                  {_ITEMS}
                 ORDER BY i.id
                 LIMIT $4) AS there
         UNION ALL
        SELECT *
          FROM (SELECT e.id, e.put_at, e.codec, e.payload, date_part('epoch', e.due_at)
                {_DUE.format(max_attempts="$5")}
                   AND e.partition = $2
                 ORDER BY e.due_at, e.id
                 LIMIT $4 - (SELECT count(*) FROM (SELECT {_ITEMS} LIMIT $4) AS there)) AS due
        """,
        "int8 text int8 int8 int4",
        read_only=True,
    )

    def _list(self, record: StoreRecord, partition: str, after: int, wanted: int) -> Op[Rows]:
        """The oldest *wanted* items whose ids are above *after*, and then what is due: see `_is_due`."""
        last = record.options.get("max_attempts")
        rows: Rows = yield Query(self._LIST, record.id, partition, after, wanted, last)
        rows.sort(key=_place)
        return rows

    @operation
    def peek(self, n: int = 1, *, partition: str | None = None) -> Op[list[T]]:
        """
        Return the oldest *n* items, or as many as there are, and leave them in the queue.

        Those that an open transaction has taken are still among them; leased and delayed ones are not, until they are due.
        """
        wanted = check_count(n, "n of peek")
        name = partition_name(partition)
        record = yield from self._resolve()
        rows = yield from self._list(record, name, 0, wanted)
        if not rows:
            yield from self._check_exists(record.id)
        return [self._decode(row, name) for row in rows]

    def iterate(
        self,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        item_poll_timeout: float | None = None,
        after: int | None = None,
    ) -> ItemIterator[T]:
        """
        Iterate over the items from the oldest on and leave them in the queue, for `for` and `async for`.

        It reads the queue for each item, so what was taken meanwhile is not among them. It ends when there is none left. An item of
        a transaction that commits late, at a place already passed, is not seen.

        Args:
            timeout: wait so many seconds for a further item before it ends (also accepted as *item_poll_timeout*); None: 0.
            after: start behind this `position` of an earlier iterator.
        """
        wait_seconds = one_at_most(timeout, item_poll_timeout, "iterate takes timeout= or item_poll_timeout=") or 0.0
        Deadline.after(wait_seconds)
        return ItemIterator(self, partition_name(partition), wait_seconds, check_position(after))

    _LEN: Final = Statement(
        f"""
        SELECT (SELECT count(*)
                  FROM pgstore.queue_item
                 WHERE store_id = $1
                   AND partition = $2)
             - ({_LAPSED} AND l.partition = $2)
             + (SELECT count(*) {_DUE.format(max_attempts="$3")} AND e.partition = $2)
        """,
        "int8 text int4",
        read_only=True,
    )

    _LEN_TOTAL: Final = Statement(
        f"""
        SELECT (SELECT count(*)
                  FROM pgstore.queue_item
                 WHERE store_id = $1)
             - ({_LAPSED})
             + (SELECT count(*) {_DUE.format(max_attempts="$2")})
        """,
        "int8 int4",
        read_only=True,
    )

    @operation
    def len(self, *, partition: str | None = None, total: bool = False) -> Op[int]:
        """Return the number of items in a partition, or of all with *total*; counted."""
        return (yield from self._count(partition, total))

    @operation
    def qsize(self, *, partition: str | None = None) -> Op[int]:
        """`len`, by the name that `queue.Queue` of the standard library has for it."""
        return (yield from self._count(partition))

    def _count(self, partition: str | None, total: bool = False) -> Op[int]:
        if total and partition is not None:
            raise errors.InvalidError("len takes partition= or total=True, not both")
        record = yield from self._resolve()
        last = record.options.get("max_attempts")
        query = (
            Query(self._LEN_TOTAL, record.id, last)
            if total
            else Query(self._LEN, record.id, partition_name(partition), last)
        )
        count: int = (yield query)[0][0]
        if count == 0:
            yield from self._check_exists(record.id)
        return count

    @operation
    def empty(self, *, partition: str | None = None) -> Op[bool]:
        """Return whether a partition has no item, as `peek` sees it. Looks for one, and counts none."""
        name = partition_name(partition)
        record = yield from self._resolve()
        rows = yield from self._list(record, name, 0, 1)
        if not rows:
            yield from self._check_exists(record.id)
        return not rows

    # As a put counts them: see `put`.
    _IS_FULL: Final = Statement(
        """
        SELECT (SELECT count(*)
                  FROM (SELECT
                          FROM pgstore.queue_item q
                         WHERE q.store_id = $1
                         LIMIT $2) AS waiting) >= $2
        """,
        "int8 int8",
        read_only=True,
    )

    @operation
    def full(self) -> Op[bool]:
        """Return whether a put of one item would find no room: never in a Queue that was made without `maxsize`."""
        record = yield from self._resolve()
        if "maxsize" not in record.options:
            yield from self._check_exists(record.id)
            return False
        ((is_full,),) = yield Query(self._IS_FULL, record.id, record.options["maxsize"])
        if not is_full:
            yield from self._check_exists(record.id)
        return bool(is_full)

    def __len__(self) -> int:
        return self.len()

    def __bool__(self) -> bool:
        # A Queue is a thing, not a collection: `if queue:` must not count rows.
        return True

    # No row: the queue does not exist any more.
    _NEWEST: Final = Statement(
        """
        SELECT n.last_value
          FROM pgstore.store s
         CROSS JOIN pgstore.queue_item_id_seq n
         WHERE s.id = $1
        """,
        "int8",
        read_only=True,
    )

    _CLEAR: Final = Statement(
        _DELETE_UP_TO.format(of_partition="AND partition = $3", items=CLEAR_ITEMS), "int8 int8 text"
    )

    _CLEAR_ALL: Final = Statement(_DELETE_UP_TO.format(of_partition="", items=CLEAR_ITEMS), "int8 int8")

    # And what is due of leased items. Before the items, and before it is asked which is the newest: what somebody is moving back
    # meanwhile is found at one place or the other. Waits for whoever is bringing some of them back, and then finds them gone.
    _CLEAR_DELAYED: Final = Statement(
        f"""
        DELETE FROM pgstore.queue_deferred
         WHERE store_id = $1
           AND ($2 IS NULL OR partition = $2)
           AND (kind = '{DELAYED}'
                OR (kind = '{LEASED}' AND due_at <= statement_timestamp() AND (attempts >= $3) IS NOT TRUE))
        """,
        "int8 text int4",
    )

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
        record = yield from self._resolve()
        queue = self._state_of(record.id)
        counter = yield from counter_of(queue)
        counter.count(cleared=(yield Query(self._CLEAR_DELAYED, record.id, name, record.options.get("max_attempts"))))
        found = yield Query(self._NEWEST, record.id)
        if not found:
            yield from self._is_gone(record.id)
        ((newest,),) = found
        query = (
            Query(self._CLEAR_ALL, record.id, newest) if name is None else Query(self._CLEAR, record.id, newest, name)
        )
        room = 0
        while cleared := (yield query):
            counter.count(cleared=cleared)
            queue.note_dead_rows(cleared)
            room += cleared
        if "maxsize" in record.options:
            yield from self._tell({room_topic(record.id): room})
