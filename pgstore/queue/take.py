"""Taking: one statement finds the oldest items that nobody else has locked, and deletes them, or moves them to be leased.

It starts at the partition's low watermark, an id below which there is nothing (`watermark`).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pgstore import errors
from pgstore.client.mask import RETRY_SECONDS, SPIN_SECONDS
from pgstore.client.notifications import Notifications, in_transaction
from pgstore.client.pauses import due_pause_seconds, pause_seconds, waits
from pgstore.client.waking import lock_key
from pgstore.core import clock
from pgstore.core.batches import BATCH_BYTES, batches
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import BeforeCommit, Listen, Look, Op, PutBack, Query, Rows, Topic, Wait
from pgstore.core.overloads import operation_as
from pgstore.core.statement import Statement
from pgstore.queue.arguments import check_count, check_seconds, one_at_most, partition_name
from pgstore.queue.base import NOT_DURABLE, T, room_topic
from pgstore.queue.due import Returning
from pgstore.queue.lease import HELD, INSERT_GONE, LEASE_SECONDS_MIN, RENEWED_SECONDS_MIN, Lease, Renewal
from pgstore.queue.overloads import Get, GetMany
from pgstore.queue.sql import ASYNC_COMMIT, LEASED, waking
from pgstore.queue.state import PartitionState, QueueState, counter_of
from pgstore.queue.watermark import INSERTING, WATERMARK
from pgstore.store.registry import StoreRecord

# As seconds, for a time with a zone takes Python longer to make than all the rest of a row.
COLUMNS: Final = "id, date_part('epoch', put_at), codec, payload, attempts"
# Two takers never get one item, and never wait for each other: each locks what it takes, and SKIP LOCKED makes the other look
# further. Never `id IN (SELECT … LIMIT n)`: a plan may run the subquery more than once, and LIMIT 1 then takes everything. As an
# array it is run once. Rows come back in the order of the table, not of the ids. The sum keeps the planner from using an index for
# the store: the rows are fetched by ctid, also by a plan that was made while there were few.
_DELETE: Final = """
    DELETE FROM pgstore.queue_item
     WHERE store_id + 0::bigint = $1
       AND ctid = ANY (ARRAY(SELECT ctid
                               FROM pgstore.queue_item
                              WHERE store_id = $1
                                AND partition = $2
                                AND id >= {watermark}
                              ORDER BY id
                                FOR UPDATE SKIP LOCKED
                              LIMIT {limit}))
"""
# Of large items a result holds no more than 2 GiB, or it would take the process with it: where more than fit for certain are asked
# for, the oldest are measured first. That costs a tenth of taking small ones, so not where all that this client has last taken from
# the partition were small.
FIT_FOR_CERTAIN: Final = 8
SMALL_BYTES: Final = 64 * 1024
_PAYLOAD_OF: Final = operator.itemgetter(3)
_WATERMARK: Final = WATERMARK.format(watermark="$4")
_FITTING: Final = f"""
    CASE WHEN (SELECT sum(pg_catalog.octet_length(o.payload))
                 FROM (SELECT payload
                         FROM pgstore.queue_item
                        WHERE store_id = $1
                          AND partition = $2
                          AND id >= {_WATERMARK}
                        ORDER BY id
                        LIMIT $3) AS o) > 2147483648
         THEN {FIT_FOR_CERTAIN}
         ELSE $3
     END
"""
_TAKE_FEW: Final = _DELETE.format(watermark=_WATERMARK, limit="$3")
_TAKE_MANY: Final = _DELETE.format(watermark=_WATERMARK, limit=_FITTING)
_TAKEN: Final = "taken AS ({delete} RETURNING id, put_at, codec, payload, attempts)"
_LEASED: Final = f"""
    leased AS (
        INSERT INTO pgstore.queue_deferred (store_id, partition, kind, due_at, put_at, codec, payload, attempts)
        SELECT $1, $2, '{LEASED}', statement_timestamp() + $5 * interval '1 second', t.put_at, t.codec, t.payload,
               least(t.attempts + 1, 32767)
          FROM taken t
         ORDER BY t.id
        RETURNING id, put_at, codec, payload, attempts)
"""
# The parts of a statement that leases items and does more with them: `leased` has their rows.
LEASING: Final = f"{_TAKEN.format(delete=_TAKE_FEW)}, {_LEASED}"
_PORTABLE_SQL: Final = f"SELECT {COLUMNS} FROM pgstore.queue_take($1, $2, $3, $4)"
TAKE = Statement(f"{_TAKE_FEW} RETURNING {COLUMNS}", "int8 text int8 int8", portable=_PORTABLE_SQL)
TAKE_MANY = Statement(f"{_TAKE_MANY} RETURNING {COLUMNS}", "int8 text int8 int8", portable=_PORTABLE_SQL)


@functools.cache
def take_with_options(*, leased: bool, async_commit: bool, notify: bool, many: bool = False) -> Statement:
    """
    TAKE in other forms, with the same rows; with *many* TAKE_MANY.

    Parameters after those of TAKE: with *leased* the seconds; with *notify*, which wakes those who wait for room, its lock key and
    payload. *async_commit*: the commit does not wait for the disk.
    """
    types = "int8 text int8 int8"
    parts = []
    delete = _TAKE_MANY if many else _TAKE_FEW
    if async_commit:
        parts.append(ASYNC_COMMIT)
        delete += " AND EXISTS (SELECT FROM async_commit)"
    if not leased and not notify:
        return (
            Statement(f"WITH {', '.join(parts)} {delete} RETURNING {COLUMNS}", types)
            if parts
            else TAKE_MANY
            if many
            else TAKE
        )
    parts.append(_TAKEN.format(delete=delete))
    source = "taken"
    if leased:
        types += " float8"
        parts.append(_LEASED)
        source = "leased"
    tail = ""
    if notify:
        key, topic = ("$6", "$7") if leased else ("$5", "$6")
        types += " int4 text"
        parts.append(f"woken AS MATERIALIZED ({waking('taken', key=key, topic=topic)})")
        # Not a join, which the planner leaves out if nothing of it is selected: then nobody would be woken.
        tail = "WHERE (SELECT count(*) FROM woken) >= 0"
    return Statement(f"WITH {', '.join(parts)} SELECT {COLUMNS} FROM {source} t {tail}", types)


@dataclass(frozen=True, slots=True)
class Attempt:
    """To take up to *n* items, from those of the *watermark* on; *many*: some of them may be large."""

    record: StoreRecord
    partition: str
    watermark: int
    n: int
    lease: float | None
    durable: bool
    many: bool


class Taking(Returning[T]):
    """`get` and `get_many`."""

    @operation_as[Get[T]]
    def get(
        self,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        lease: float | None = None,
        renew: bool = False,
        durable: bool = True,
    ) -> Op[Any]:
        """
        Remove and return the oldest item.

        Args:
            block: wait for an item; else return None when there is none.
            timeout: wait at most so many seconds, for an item and for all else; None: for ever.
            lease: return a `Lease` of so many seconds instead: the item comes back, at the end, unless it is acknowledged by then.
            renew: prolong the lease by itself, as long as the `Lease` is there and this process lives. Not in transactions.
            durable: False: do not wait until the server has the removal on disk; if it crashes the item may come again.

        Raises:
            queue.Empty: nothing arrived within *timeout*; or, also with *block* false, what was waited for did not come, such as a
                lock on the table. A server has a second for its answer even if *timeout* is less.
            DeserializationError: this process cannot load the item, which is taken all the same, or the queue would stand still;
                its bytes are in the error's `raw`. In a transaction that is rolled back, and with *lease*, it stays.

        >>> with queue.get(lease=60) as lease:
        ...     work(lease.item)
        """
        name = partition_name(partition)
        if lease is None:
            _check_no_renewal(renew)
            deadline = Deadline.after(timeout, block=block)
            with bounded_by(deadline, self._late_get):
                rows = yield from self._take(1, block, timeout, deadline, name, durable=durable)
            return self._decode(rows[0], name) if rows else None
        leases = yield from self._lease(1, block, timeout, name, lease, renew, durable)
        return leases[0] if leases else None

    @operation_as[GetMany[T]]
    def get_many(
        self,
        n: int | None = None,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        n_values: int | None = None,
        lease: float | None = None,
        renew: bool = False,
        durable: bool = True,
    ) -> Op[list[Any]]:
        """
        Remove and return the oldest *n* items, or as many as there are as soon as there is one (also accepted as *n_values*).

        *lease*, *renew* and *durable* are those of `get`.

        Returns:
            1 to *n* items, or with *lease* as many leases; none if *block* is false and there are none. Of more than eight that
            would make up more than 2 GiB only eight.

        Raises:
            queue.Empty: nothing arrived within *timeout*; or, also with *block* false, what was waited for did not come, such as a
                lock on the table. A server has a second for its answer even if *timeout* is less.
            DeserializationError: this process cannot load one of them; its bytes are in the error's `raw`. All of them are put
                back, in one step and in their order, at the end of the queue, so a process that asks again and again turns the
                queue round; with *lease* each is loaded, or not, by itself.
        """
        wanted = check_count(one_at_most(n, n_values, "get_many takes n= or n_values="), "n of get_many")
        name = partition_name(partition)
        if lease is not None:
            return (yield from self._lease(wanted, block, timeout, name, lease, renew, durable))
        _check_no_renewal(renew)
        deadline = Deadline.after(timeout, block=block)
        with bounded_by(deadline, self._late_get):
            rows = yield from self._take(wanted, block, timeout, deadline, name, durable=durable)
        try:
            return self._decode_all(rows, name)
        except errors.DeserializationError:
            store_id = yield from self._resolve_id()
            counter = yield from counter_of(self._state_of(store_id))
            yield PutBack(self._put_back(store_id, name, rows))
            counter.count(-len(rows))
            raise

    def _lease(
        self, n: int, block: bool, timeout: float | None, partition: str, lease: float, renew: bool, durable: bool
    ) -> Op[list[Any]]:
        seconds = check_seconds(lease, "lease", RENEWED_SECONDS_MIN if renew else LEASE_SECONDS_MIN)
        deadline = Deadline.after(timeout, block=block)
        with bounded_by(deadline, self._late_get):
            record = yield from self._resolve()
            if renew:
                yield from self._check_outside(
                    "get(renew=True)", "has a lease that nobody can prolong before the commit"
                )
            rows = yield from self._take(n, block, timeout, deadline, partition, seconds, durable)
        leases: list[Lease[T]] = [Lease(self, partition, seconds, row, record) for row in rows]
        if renew and leases:
            Renewal(leases, self._runner, record.id, seconds).go_on()
        return leases

    # Unlike TAKE they can be repeated when their answer is lost, so waiting outlives a restart of the server.
    _LOOK: Final = Statement(
        "SELECT * FROM pgstore.queue_look($1, $2, $3, $4, $5, $6)", "int8 text int8 int4 int4 bool", repeatable=True
    )
    # Its first three parameters are the listener's (see `Listen`).
    _WAIT_BEGIN: Final = Statement(
        "SELECT * FROM pgstore.queue_wait_begin($1, $2, $3, $4, $5, $6)", "int4 int4 bool int8 text int8"
    )

    def _take(
        self,
        n: int,
        block: bool,
        timeout: float | None,
        deadline: Deadline,
        partition: str,
        lease: float | None = None,
        durable: bool = True,
    ) -> Op[Rows]:
        record = self._record
        if record is None or record.history is not self._client.history:  # type: ignore[union-attr]
            record = yield from self._resolve()
        if not durable:
            yield from self._check_outside("get(durable=False)", NOT_DURABLE)
        queue = self._state_of(record.id)
        if clock.monotonic() >= queue.check_at:
            yield from self._check_due(record, queue)
        state = queue.partition(partition, self._runner.servers_seen)
        if state.should_advance:
            yield from state.advance(self._runner, record.id, partition)
        elif state.should_learn:
            yield from state.learn(self._runner, record.id, partition)
        if state.is_full and block and state.masking is None:
            yield from self._mask(record.id, partition, state)
        if (
            state.is_awaited
            and state.masking is None
            and block
            and not deadline.passed()
            and not (yield from in_transaction())
        ):
            # The last one had to wait, so this one most probably will; beginning to looks as well.
            return (yield from self._wait_and_take(record, partition, queue, n, timeout, deadline, lease, durable))
        rows = yield from self._try_take(record, partition, queue, state, n, lease, durable)
        if not rows and state.servers_seen != self._runner.servers_seen:
            # The connection was the first to another server, whose items may lie below the watermark.
            queue = self._state_of(record.id)
            state = queue.partition(partition, self._runner.servers_seen)
            rows = yield from self._try_take(record, partition, queue, state, n, lease, durable)
        if rows:
            if block and state.has_waited:
                state.note_take(rows, 1, waited=False)
            return rows
        if block and state.masking is not None and not (yield from in_transaction()):
            rows = yield from self._spin(record, partition, queue, state, n, deadline, lease, durable)
            if rows:
                return rows
        if block and not deadline.passed():
            return (yield from self._wait_and_take(record, partition, queue, n, timeout, deadline, lease, durable))
        # Is there still a Queue, and has anything become due since the last check?
        ((is_there, _, due_in, *_),) = yield Query(self._LOOK, record.id, partition, state.known(), None, None, False)
        if is_there is None:
            yield from self._is_gone(record.id)
        if due_in is not None and due_in <= 0:
            yield from self._bring_back(record)
            rows = yield from self._try_take(record, partition, queue, state, n, lease, durable)
        if not rows and block:
            raise self._empty(timeout, partition)
        return rows

    def _wait_and_take(
        self,
        record: StoreRecord,
        partition: str,
        queue: QueueState,
        n: int,
        timeout: float | None,
        deadline: Deadline,
        lease: float | None,
        durable: bool,
    ) -> Op[Rows]:
        """Take as soon as there is something; how it is known is said in `client.waiters`."""
        store_id = record.id
        state = queue.partition(partition, self._runner.servers_seen)
        state.has_waited = True
        listen = self._listening(store_id, partition, state)
        ticket: Any = yield listen
        try:
            pauses = waits()
            is_unasked = False  # a look that nobody asked for; what it finds somebody else was told of
            while True:
                state = queue.partition(partition, self._runner.servers_seen)
                looked, ticket.looked = ticket.looked, None
                if looked is None and not ticket.is_told:
                    look = Query(self._LOOK, store_id, partition, state.known(), ticket.key, ticket.slot, is_unasked)
                    rows = (yield Look(ticket, look)) if is_unasked else None
                    (looked,) = rows or (yield look)
                is_there, is_settled, due_in, waiting, before = looked or (True, False, None, None, None)
                if is_there is None:
                    yield from self._is_gone(store_id)
                if is_settled:
                    ticket.settle()
                more_due = False
                if due_in is not None and due_in <= 0:
                    more_due = yield from self._bring_back(record)
                    is_there, is_unasked = True, False
                if is_there:
                    was_told = ticket.is_told  # what it is told while it tries is for another
                    rows = yield from self._try_take(record, partition, queue, state, n, lease, durable)
                    is_chained = was_told and ticket.spend()
                    if rows:
                        state.is_awaited = was_told
                        if is_chained or is_unasked:
                            ticket.tell_another()
                        state.note_take(rows, ticket.listening, waited=was_told)
                        return rows
                    if was_told:  # somebody was faster
                        ticket.close()
                        ticket = yield listen
                        if not deadline.passed():
                            continue
                if deadline.passed():
                    raise self._empty(timeout, partition)
                if more_due:
                    continue
                seconds = pause_seconds(ticket.waiting(waiting))
                if is_there or not ticket.is_settled:
                    # Until it is settled, or who has locked what is there gives it back, of which nobody is told.
                    seconds = min(seconds, next(pauses))
                if due_in is not None and due_in > 0:
                    seconds = min(seconds, due_pause_seconds(due_in, before or 0))
                woken = yield Wait(ticket, min(seconds, deadline.remaining()))
                is_unasked = not woken and ticket.is_settled and not is_there
        finally:
            ticket.close()

    def _listening(self, store_id: int, partition: str, state: PartitionState, mask_gap: float | None = None) -> Listen:
        known = state.known()
        return Listen(
            Topic(store_id, partition),
            begin=Query(self._WAIT_BEGIN, store_id, partition, known),
            look=Query(self._LOOK, store_id, partition, known, None, None, False),
            mask_gap=mask_gap,
        )

    def _mask(self, store_id: int, partition: str, state: PartitionState) -> Op[None]:
        """
        Let nobody be told, since items come faster than that (`client.mask`).

        Before an item is taken, for an interrupt puts back only what the last request took.
        """
        now = clock.monotonic()
        if now >= state.mask_at and state.swing.is_recent(now) and not (yield from in_transaction()):
            state.mask_at = now + RETRY_SECONDS
            ticket = yield self._listening(store_id, partition, state, state.swing.gap)
            state.masking = ticket if ticket.mask is not None else None

    def _spin(
        self,
        record: StoreRecord,
        partition: str,
        queue: QueueState,
        state: PartitionState,
        n: int,
        deadline: Deadline,
        lease: float | None,
        durable: bool,
    ) -> Op[Rows]:
        """As long as nobody is told: look again soon, until it is hardly worth it."""
        # A ticket of the caller's own: the mask may have been begun by a thread, or by tasks of an event loop, and ended since.
        masking = yield self._listening(record.id, partition, state, state.swing.gap)
        if masking.mask is None:
            state.masking = None
            return []
        give_up = clock.monotonic() + masking.mask.spin_seconds()
        while not masking.mask.has_ended and clock.monotonic() < give_up and not deadline.passed():
            masking.mask.miss()
            yield Wait(masking, min(SPIN_SECONDS, deadline.remaining()))
            rows = yield from self._try_take(record, partition, queue, state, n, lease, durable)
            if rows:
                state.note_take(rows, 1, waited=False)
                return rows
        masking.close()
        state.masking = None
        return []

    def _try_take(
        self,
        record: StoreRecord,
        partition: str,
        queue: QueueState,
        state: PartitionState,
        n: int,
        lease: float | None,
        durable: bool,
    ) -> Op[Rows]:
        store_id = record.id
        counter = yield from counter_of(queue)
        state.takes += 1
        many = n > FIT_FOR_CERTAIN and state.has_large
        if lease is None and durable and "maxsize" not in record.options:
            rows: Rows = yield Query(
                TAKE_MANY if many else TAKE,
                store_id,
                partition,
                n,
                state.known(),
                undo=lambda rows: self._put_back(store_id, partition, rows),
            )
        else:
            rows = yield from self._try_take_with_options(
                Attempt(record, partition, state.known(), n, lease, durable, many)
            )
        if rows:
            state.note(len(rows))
            if n > FIT_FOR_CERTAIN:
                state.has_large = max(map(len, map(_PAYLOAD_OF, rows))) > SMALL_BYTES
            queue.note_dead_rows(len(rows))
            if lease is None:
                counter.count(len(rows))
            if len(rows) > 1:
                rows.sort()
        return rows

    # Leases that were interrupted before anybody had them: they count for no attempt. Whoever went to sleep meanwhile is told.
    # Waits for whoever brings one of them back, and then finds it gone.
    _UNLEASE: Final = Statement(
        f"""
        WITH {INSERTING}, {HELD.format(which="id = ANY ($3)")}, back AS ({INSERT_GONE.format(uncounted=1)} RETURNING 1)
        SELECT pgstore.wake_if_awaited($1, $2, b.number)
          FROM (SELECT count(*) AS number FROM back) AS b
         WHERE b.number > 0
        """,
        "int8 text int8[]",
    )

    def _try_take_with_options(self, attempt: Attempt) -> Op[Rows]:
        record, lease = attempt.record, attempt.lease
        values: list[Any] = [record.id, attempt.partition, attempt.n, attempt.watermark]
        if lease is not None:
            values.append(lease)
        notify = False
        if "maxsize" in record.options:
            # Before the items are taken, or in the same statement: an interrupt puts back only what the last query took.
            room = room_topic(record.id)
            hooked = yield BeforeCommit(Notifications, Notifications)
            notify = hooked is None or hooked.immediate
            if notify:
                values += [lock_key(room), room.payload]
            else:
                hooked.hook.add(room, attempt.n)
        statement = take_with_options(
            leased=lease is not None, async_commit=not attempt.durable, notify=notify, many=attempt.many
        )

        def undo(rows: Rows) -> Sequence[Query]:
            if lease is None:
                return self._put_back(record.id, attempt.partition, rows)
            return [Query(self._UNLEASE, record.id, attempt.partition, [row[0] for row in rows])]

        rows: Rows = yield Query(statement, *values, undo=undo)
        return rows

    # Inserts, so it waits for nobody. With new ids, for the old ones may lie below a watermark by now. Whoever went to sleep while
    # they were taken is told.
    _PUT_BACK: Final = Statement(
        f"""
        WITH {INSERTING},
             back AS (
                 INSERT INTO pgstore.queue_item (store_id, partition, put_at, codec, payload, attempts)
                 SELECT s.id, $2, to_timestamp(u.put_at), u.codec, u.payload, u.attempts
                   FROM pgstore.store s
                  CROSS JOIN inserting
                  CROSS JOIN unnest($3, $4, $5, $6, $7) AS u (id, put_at, codec, payload, attempts)
                  WHERE s.id = $1
                  ORDER BY u.id
                 RETURNING 1)
        SELECT pgstore.wake_if_awaited($1, $2, b.number)
          FROM (SELECT count(*) AS number FROM back) AS b
         WHERE b.number > 0
        """,
        "int8 text int8[] float8[] char[] bytea[] int4[]",
    )

    def _put_back(self, store_id: int, partition: str, rows: Rows) -> list[Query]:
        """The queries that put *rows* back, in their order and in statements of a size that the server takes."""
        return [
            Query(self._PUT_BACK, store_id, partition, *zip(*batch, strict=True))
            for batch in batches(sorted(rows), lambda row: len(row[3]), bytes_max=BATCH_BYTES)
        ]

    def _late_get(self, exc: errors.TimedOut) -> errors.QueueEmpty:
        return errors.QueueEmpty(f"nothing was taken from {self!r}: {exc}")

    def _empty(self, timeout: float | None, partition: str) -> errors.QueueEmpty:
        where = f" partition {partition!r}" if partition else ""
        return errors.QueueEmpty(f"no item in {self!r}{where} after {timeout} s")


def _check_no_renewal(renew: bool) -> None:
    if renew:
        raise errors.InvalidError("renew=True prolongs a lease: say how long one is with lease=")
