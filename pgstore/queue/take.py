"""Taking: one statement finds the oldest items that nobody else has locked, and deletes them, or moves them to be leased.

It starts at the partition's mark, an id below which nothing is left and nothing will appear. Without one a get passes the dead row
of every item taken since the oldest snapshot that somebody in the database holds: with 50,000 of them it took 4.3 ms instead of
0.06. An old mark does no harm. It is raised after some thousand items and kept in `queue_head`, where a statement that is told
none looks it up. A busy client remembers it for a second, for under an old snapshot that row has a past of its own to be passed;
and forgets it when a connection leads to a server that may be another, for ids may then have gone back.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Final

from pgstore import errors
from pgstore.client.announcements import Announcements, in_transaction
from pgstore.client.listener import lock_key, waits
from pgstore.core.batches import BATCH_BYTES, batches
from pgstore.core.clock import Deadline, monotonic
from pgstore.core.limit import within
from pgstore.core.operation import Apart, BeforeCommit, Listen, Op, PutBack, Query, Rows, Topic, Wait, operation
from pgstore.core.statement import Statement
from pgstore.queue.base import (
    INSERTING,
    NOT_DURABLE,
    RELAXED,
    check_count,
    check_seconds,
    partition_name,
    room_topic,
    waking,
)
from pgstore.queue.known import FRESH_SECONDS, KnownPartition, KnownQueue, tally
from pgstore.queue.lease import LEASE_SECONDS_MIN, RENEWED_SECONDS_MIN, UNLEASE, Lease, Leasing, Renewal, one
from pgstore.registry import Facts

# With new ids, for the old ones may lie below a mark by now. Whoever went to sleep while they were taken is told.
PUT_BACK = Statement(
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
    SELECT pgstore.notify_if_awaited($1, $2)
      FROM (SELECT 1 FROM back LIMIT 1) AS some_item
    """,
    "int8 text int8[] float8[] char[] bytea[] int4[]",
)
ADVANCE = Statement("SELECT * FROM pgstore.queue_advance($1, $2, $3, $4, $5)", "int8 text int8 text[] text", reads=True)
# Where nothing else is committed with it: a mark that a crash takes back does no harm.
ADVANCE_ALONE = Statement(
    f"WITH {RELAXED} SELECT a.* FROM relaxed CROSS JOIN pgstore.queue_advance($1, $2, $3, $4, $5) AS a",
    "int8 text int8 text[] text",
    reads=True,
)
# As seconds, for a time with a zone takes Python longer to make than all the rest of a row.
COLUMNS: Final = "id, date_part('epoch', put_at), codec, payload, attempts"
MARK = Statement("SELECT low FROM pgstore.queue_head WHERE store_id = $1 AND partition = $2", "int8 text", reads=True)
# The mark that was told, or of 0 the one that is kept. Looked up once a statement, before its first row.
LOW: Final = """
    CASE WHEN {low} > 0
         THEN {low}
         ELSE coalesce((SELECT low FROM pgstore.queue_head WHERE store_id = $1 AND partition = $2), 0)
     END
"""
# Never `id IN (SELECT … LIMIT n)`: a plan may run the subquery more than once, and LIMIT 1 then takes everything. As an array it is
# run once. Rows come back in the order of the table, not of the ids.
_DELETE: Final = """
    DELETE FROM pgstore.queue_item
     WHERE ctid = ANY (ARRAY(SELECT ctid
                               FROM pgstore.queue_item
                              WHERE store_id = $1
                                AND partition = $2
                                AND id >= {low}
                              ORDER BY id
                                FOR UPDATE SKIP LOCKED
                              LIMIT {limit}))
"""
# Of large items a result holds no more than 2 GiB, or it would take the process with it: where more than fit for certain are asked
# for, the oldest are measured first. That costs a tenth of taking small ones, so not where all that this client has last taken from
# the partition were small.
FIT_FOR_CERTAIN: Final = 8
SMALL_BYTES: Final = 64 * 1024
_LOW: Final = LOW.format(low="$4")
_FITTING: Final = f"""
    CASE WHEN (SELECT sum(pg_catalog.octet_length(o.payload))
                 FROM (SELECT payload
                         FROM pgstore.queue_item
                        WHERE store_id = $1
                          AND partition = $2
                          AND id >= {_LOW}
                        ORDER BY id
                        LIMIT $3) AS o) > 2147483648
         THEN {FIT_FOR_CERTAIN}
         ELSE $3
     END
"""
_TAKE_FEW: Final = _DELETE.format(low=_LOW, limit="$3")
_TAKE_MANY: Final = _DELETE.format(low=_LOW, limit=_FITTING)
_UNSET: Final = f"SELECT {COLUMNS} FROM pgstore.queue_take($1, $2, $3, $4)"
TAKE = Statement(f"{_TAKE_FEW} RETURNING {COLUMNS}", "int8 text int8 int8", unset=_UNSET)
TAKE_MANY = Statement(f"{_TAKE_MANY} RETURNING {COLUMNS}", "int8 text int8 int8", unset=_UNSET)
# What a waiting taker asks: unlike TAKE it can be repeated when its answer is lost, so waiting outlives a restart of the server.
# No row: the queue does not exist any more.
PEEK = Statement(
    f"""
    SELECT EXISTS (SELECT
                     FROM pgstore.queue_item i
                    WHERE i.store_id = $1
                      AND i.partition = $2
                      AND i.id >= {LOW.format(low="$3")}),
           (SELECT extract(epoch FROM min(e.due_at) - statement_timestamp())::double precision
              FROM pgstore.queue_deferred e
             WHERE e.store_id = $1
               AND e.partition = $2
               AND e.due_at IS NOT NULL)
      FROM pgstore.store s
     WHERE s.id = $1
    """,
    "int8 text int8",
    reads=True,
)


@functools.cache
def take_on_terms(*, leased: bool, relaxed: bool, aloud: bool, many: bool = False) -> Statement:
    """
    TAKE in other forms, with the same rows; with *many* TAKE_MANY.

    Parameters after those of TAKE: with *leased* the seconds; with *aloud*, which wakes those who wait for room, its lock key and
    payload.
    *relaxed*: the commit does not wait for the disk.
    """
    types = "int8 text int8 int8"
    parts = []
    delete = _TAKE_MANY if many else _TAKE_FEW
    if relaxed:
        parts.append(RELAXED)
        delete += " AND EXISTS (SELECT FROM relaxed)"
    if not leased and not aloud:
        return (
            Statement(f"WITH {', '.join(parts)} {delete} RETURNING {COLUMNS}", types)
            if parts
            else TAKE_MANY
            if many
            else TAKE
        )
    parts.append(f"taken AS ({delete} RETURNING id, put_at, codec, payload, attempts)")
    source = "taken"
    if leased:
        types += " float8"
        parts.append(
            """
            leased AS (
                INSERT INTO pgstore.queue_deferred (store_id, partition, kind, due_at, put_at, codec, payload, attempts)
                SELECT $1, $2, 'l', statement_timestamp() + $5 * interval '1 second', t.put_at, t.codec, t.payload,
                       least(t.attempts + 1, 32767)
                  FROM taken t
                 ORDER BY t.id
                RETURNING id, put_at, codec, payload, attempts)
            """
        )
        source = "leased"
    tail = ""
    if aloud:
        key, payload = ("$6", "$7") if leased else ("$5", "$6")
        types += " int4 text"
        parts.append(f"woken AS MATERIALIZED ({waking('taken', key=key, payload=payload)})")
        tail = "LEFT JOIN (SELECT count(*) FROM woken) AS w ON true"
    return Statement(f"WITH {', '.join(parts)} SELECT {COLUMNS} FROM {source} t {tail}", types)


class Taking(Leasing):
    """`get` and `get_many`."""

    @operation
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
            with within(deadline, self._late_get):
                rows = yield from self._take(1, block, timeout, deadline, name, durable=durable)
            return self._decode(rows[0], name) if rows else None
        leases = yield from self._lease(1, block, timeout, name, lease, renew, durable)
        return leases[0] if leases else None

    @operation
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
        if n is not None and n_values is not None:
            raise errors.InvalidError("get_many takes n= or n_values=, which are the same, not both")
        wanted = check_count(n if n_values is None else n_values, "get_many")
        name = partition_name(partition)
        if lease is not None:
            return (yield from self._lease(wanted, block, timeout, name, lease, renew, durable))
        _check_no_renewal(renew)
        deadline = Deadline.after(timeout, block=block)
        with within(deadline, self._late_get):
            rows = yield from self._take(wanted, block, timeout, deadline, name, durable=durable)
        try:
            return self._decode_all(rows, name)
        except errors.DeserializationError:
            store_id = yield from self._locate()
            counting = yield from tally(self._of(store_id))
            yield PutBack(self._put_back(store_id, name, rows))
            counting.count(-len(rows))
            raise

    def _lease(
        self, n: int, block: bool, timeout: float | None, partition: str, lease: float, renew: bool, durable: bool
    ) -> Op[list[Any]]:
        seconds = check_seconds(lease, "lease", above=RENEWED_SECONDS_MIN if renew else LEASE_SECONDS_MIN)
        deadline = Deadline.after(timeout, block=block)
        with within(deadline, self._late_get):
            facts = yield from self._open()
            if renew:
                yield from self._check_outside(
                    "get(renew=True)", "has a lease that nobody can prolong before the commit"
                )
            rows = yield from self._take(n, block, timeout, deadline, partition, seconds, durable)
        leases = [Lease(self, partition, seconds, row, facts) for row in rows]
        if renew and leases:
            Renewal(leases, self._runner, facts.id, seconds).go_on()
        return leases

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
        facts = self._facts
        if facts is None or facts.history is not self._client.history:  # type: ignore[union-attr]
            facts = yield from self._know()
        if not durable:
            yield from self._check_outside("get(durable=False)", NOT_DURABLE)
        queue = self._of(facts.id)
        if monotonic() >= queue.check_at:
            yield from self._check_due(facts, queue)
        known = queue.partition(partition, self._runner.servers_seen)
        if known.may_rise:
            yield from self._advance(facts, partition, known)
        elif known.is_busy:
            yield from self._learn(facts, partition, known)
        rows = yield from self._look(facts, partition, queue, known, n, lease, durable)
        if not rows and known.servers_seen != self._runner.servers_seen:
            # The connection was the first to another server, whose items may lie below the mark.
            queue = self._of(facts.id)
            known = queue.partition(partition, self._runner.servers_seen)
            rows = yield from self._look(facts, partition, queue, known, n, lease, durable)
        if not rows:
            # Is there still a Queue, and has anything become due since the last check?
            found = yield Query(PEEK, facts.id, partition, _low(known))
            if not found:
                yield from self._is_gone(facts.id)
            due_in = found[0][1]
            if due_in is not None and due_in <= 0:
                yield from self._bring_back(facts)
                rows = yield from self._look(facts, partition, queue, known, n, lease, durable)
        if rows or not block:
            return rows
        if deadline.passed():
            raise self._empty(timeout, partition)
        # Listening comes before the second look: a put in between wakes us.
        ticket = yield Listen(Topic(facts.id, partition))
        try:
            woken = False
            for seconds in waits():
                known = queue.partition(partition, self._runner.servers_seen)
                if woken:  # there most probably is something, so that asking first would only take longer
                    rows = yield from self._look(facts, partition, queue, known, n, lease, durable)
                    if rows:
                        return rows
                found = yield Query(PEEK, facts.id, partition, _low(known))
                if not found:
                    yield from self._is_gone(facts.id)
                there_are_some, due_in = found[0]
                more_due = False
                if due_in is not None and due_in <= 0:
                    more_due = yield from self._bring_back(facts)
                    there_are_some = True
                if there_are_some:
                    rows = yield from self._look(facts, partition, queue, known, n, lease, durable)
                    if rows:
                        return rows
                if deadline.passed():
                    raise self._empty(timeout, partition)
                if more_due:
                    continue
                if due_in is not None and due_in > 0:
                    seconds = min(seconds, due_in)
                woken = yield Wait(ticket, min(seconds, deadline.remaining()))
        finally:
            ticket.close()
        raise AssertionError("unreachable")

    def _look(
        self,
        facts: Facts,
        partition: str,
        queue: KnownQueue,
        known: KnownPartition,
        n: int,
        lease: float | None,
        durable: bool,
    ) -> Op[Rows]:
        store_id = facts.id
        counting = yield from tally(queue)
        known.looks += 1
        many = n > FIT_FOR_CERTAIN and known.has_large
        if lease is None and durable and "maxsize" not in facts.options:
            rows: Rows = yield Query(
                TAKE_MANY if many else TAKE,
                store_id,
                partition,
                n,
                _low(known),
                undo=lambda rows: self._put_back(store_id, partition, rows),
            )
        else:
            rows = yield from self._look_on_terms(facts, partition, _low(known), n, lease, durable, many)
        if rows:
            known.note(len(rows))
            if n > FIT_FOR_CERTAIN:
                known.has_large = any(len(row[3]) > SMALL_BYTES for row in rows)
            queue.took(len(rows))
            if lease is None:
                counting.count(len(rows))
            if len(rows) > 1:
                rows.sort()
        return rows

    def _advance(self, facts: Facts, partition: str, known: KnownPartition) -> Op[None]:
        """
        Raise the mark below which nothing is left; not before those are through who were inserting at the first attempt.

        Before items are taken, for an interrupt puts back only what the last query took. Apart from a transaction, to which what it
        has taken, and may yet give back, is invisible.
        """
        known.taken = 0
        statement = ADVANCE if (yield from in_transaction()) else ADVANCE_ALONE
        ((low, *advancing),) = yield Apart(one(Query(statement, facts.id, partition, *known.advancing)))
        if low is None:
            known.advancing = tuple(advancing)
            return
        known.advancing = (None, None, None)
        self._trust(known, low)

    def _learn(self, facts: Facts, partition: str, known: KnownPartition) -> Op[None]:
        """Ask for the mark that is kept, once for the gets of a second."""
        rows: Rows = yield Apart(one(Query(MARK, facts.id, partition)))
        self._trust(known, rows[0][0] if rows else 0)

    def _trust(self, known: KnownPartition, low: int) -> None:
        """Use *low* for a second, without looking."""
        known.looks = 0
        # Behind a pooler the server may be replaced unnoticed, and the mark be of another.
        if not self._runner.is_pooled:
            known.low = max(known.low, low)
            known.fresh_until = monotonic() + FRESH_SECONDS

    def _look_on_terms(
        self, facts: Facts, partition: str, low: int, n: int, lease: float | None, durable: bool, many: bool
    ) -> Op[Rows]:
        values: list[Any] = [facts.id, partition, n, low]
        if lease is not None:
            values.append(lease)
        aloud = False
        if "maxsize" in facts.options:
            # Before the items are taken, or in the same statement: an interrupt puts back only what the last query took.
            room = room_topic(facts.id)
            enrolment = yield BeforeCommit(Announcements, Announcements)
            aloud = enrolment is None or enrolment.immediate
            if aloud:
                values += [lock_key(room), room.payload]
            else:
                enrolment.participant.topics[room] = None
        statement = take_on_terms(leased=lease is not None, relaxed=not durable, aloud=aloud, many=many)

        def undo(rows: Rows) -> Sequence[Query]:
            if lease is None:
                return self._put_back(facts.id, partition, rows)
            return [Query(UNLEASE, facts.id, partition, [row[0] for row in rows])]

        rows: Rows = yield Query(statement, *values, undo=undo)
        return rows

    @staticmethod
    def _put_back(store_id: int, partition: str, rows: Rows) -> list[Query]:
        """The queries that put *rows* back, in their order and in statements of a size that the server takes."""
        return [
            Query(PUT_BACK, store_id, partition, *zip(*batch, strict=True))
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


def _low(known: KnownPartition) -> int:
    """The mark to tell the server, 0 if it had better look."""
    return known.low if monotonic() < known.fresh_until else 0
