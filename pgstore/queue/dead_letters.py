"""Dead letters: items whose last lease, by `max_attempts`, came to nothing. They stay in `queue_deferred` until someone decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic

from pgstore import errors
from pgstore.core.numbers import as_int
from pgstore.core.operation import Op, Query, Rows, Topic, operation
from pgstore.core.statement import Statement
from pgstore.queue.arguments import check_count
from pgstore.queue.base import QueueBase, T
from pgstore.queue.due import LEASE_ENDED, Returning
from pgstore.queue.sql import DEAD, LEASED
from pgstore.queue.state import counter_of
from pgstore.queue.watermark import INSERTING


@dataclass(frozen=True)
class DeadLetter(Generic[T]):
    """An item whose last lease came to nothing."""

    id: int
    partition: str | None
    put_at: datetime
    attempts: int
    reason: str | None
    """What was said of the last failure."""
    _row: tuple[Any, ...] = field(repr=False, compare=False)
    _store: QueueBase[T] = field(repr=False, compare=False)

    @property
    def item(self) -> T:
        """The item. Raises `DeserializationError` if this process cannot load it."""
        item: T = self._store._decode(self._row, self.partition or "")
        return item


Letters = Iterable[DeadLetter[T] | int] | DeadLetter[T] | int


class DeadLetters(Returning[T]):
    """`dead_letters`, `revive` and `discard`."""

    # And those that nobody has made dead letters yet: leases that have ended, and were the last ($3). In one statement, of one
    # snapshot: what becomes a dead letter meanwhile is seen once.
    _DEAD_LETTERS: Final = Statement(
        f"""
        SELECT id, put_at, codec, payload, attempts, partition, reason
          FROM (SELECT *
                  FROM (SELECT id, put_at, codec, payload, attempts, partition, reason
                          FROM pgstore.queue_deferred
                         WHERE store_id = $1
                           AND kind = '{DEAD}'
                         ORDER BY id
                         LIMIT $2) AS dead
                 UNION ALL
                SELECT *
                  FROM (SELECT id, put_at, codec, payload, attempts, partition, '{LEASE_ENDED}'
                          FROM pgstore.queue_deferred
                         WHERE store_id = $1
                           AND due_at <= statement_timestamp()
                           AND kind = '{LEASED}'
                           AND attempts >= $3
                         ORDER BY id
                         LIMIT $2) AS dying) AS letter
         ORDER BY id
         LIMIT $2
        """,
        "int8 int8 int4",
        read_only=True,
    )

    @operation
    def dead_letters(self, n: int = 100) -> Op[list[DeadLetter[T]]]:
        """Return the oldest *n* dead letters, of all partitions; there are some only with `max_attempts`."""
        wanted = check_count(n, "n of dead_letters")
        record = yield from self._resolve()
        rows: Rows = yield Query(self._DEAD_LETTERS, record.id, wanted, record.options.get("max_attempts"))
        if not rows:
            yield from self._check_exists(record.id)
        return [DeadLetter(row[0], row[5] or None, row[1].astimezone(), row[4], row[6], row, self) for row in rows]

    # Of two who revive or discard one letter, the second waits for the first's commit and then finds it gone: it moves once.
    _REVIVE: Final = Statement(
        f"""
        WITH {INSERTING},
             gone AS (DELETE FROM pgstore.queue_deferred
                       WHERE store_id = $1
                         AND kind = '{DEAD}'
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

    @operation
    def revive(self, letters: Letters[T] | None = None) -> Op[int]:
        """
        Put dead letters, or those of these ids, back to the end of their partitions and as if never leased; None: all.

        Returns how many.
        """
        ids = _ids(letters)
        store_id = yield from self._bury_all()
        rows: Rows = yield Query(self._REVIVE, store_id, ids)
        if not rows:
            yield from self._check_exists(store_id)
        yield from self._tell(Counter(Topic(store_id, partition) for (partition,) in rows))
        return len(rows)

    # Waits for whoever is reviving one of them, and then finds it gone.
    _DISCARD: Final = Statement(
        f"DELETE FROM pgstore.queue_deferred WHERE store_id = $1 AND kind = '{DEAD}' AND ($2 IS NULL OR id = ANY ($2))",
        "int8 int8[]",
    )

    @operation
    def discard(self, letters: Letters[T] | None = None) -> Op[int]:
        """Delete dead letters, or those of these ids; None: all. Returns how many."""
        ids = _ids(letters)
        store_id = yield from self._bury_all()
        counter = yield from counter_of(self._state_of(store_id))
        deleted: int = yield Query(self._DISCARD, store_id, ids)
        if not deleted:
            yield from self._check_exists(store_id)
        counter.count(cleared=deleted)
        return deleted

    def _bury_all(self) -> Op[int]:
        """Make dead letters of all that are to be some by now; the id of the Queue."""
        record = yield from self._resolve()
        while "max_attempts" in record.options and (yield from self._bring_back(record)):
            pass
        return record.id


def _ids(letters: Letters[Any] | None) -> list[int] | None:
    if letters is None:
        return None
    several = [letters] if isinstance(letters, (DeadLetter, int)) else list(letters)
    return [_id(letter) for letter in several]


def _id(letter: DeadLetter[Any] | int) -> int:
    if isinstance(letter, DeadLetter):
        return letter.id
    number = as_int(letter)
    if number is None or not 0 <= number < 1 << 63:
        raise errors.InvalidError(f"{letter!r} is not a dead letter, nor the id of one")
    return number
