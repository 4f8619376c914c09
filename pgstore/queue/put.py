"""Putting: one statement inserts, and wakes someone if someone waits.

A put that says more than which item and where is made by `put_on_terms`, also one statement. Only a bounded Queue needs two, in a
transaction: what is counted has to be counted after the lock is taken, and a statement sees what was there when it began.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pgstore import errors
from pgstore.client.announcements import Announcements, in_transaction
from pgstore.client.listener import CHANNEL, SOMEONE_WAITS, lock_key, waits
from pgstore.core.batches import batches
from pgstore.core.clock import Deadline, monotonic
from pgstore.core.limit import within
from pgstore.core.names import UNSTORABLE
from pgstore.core.operation import BeforeCommit, Listen, Op, Query, Topic, Wait, atomic, operation
from pgstore.core.statement import Statement
from pgstore.queue.base import (
    INSERT_LOCK,
    INSERTING,
    LEFT_OUT,
    NOT_DURABLE,
    RELAX,
    RELAXED,
    check_seconds,
    one_of,
    partition_name,
    room_topic,
    waking,
)
from pgstore.queue.lease import Leasing
from pgstore.registry import Facts

# Of one statement of `put_many`. Not COPY, however many: at 5,000 and 100,000 items of 100 bytes, and at 2,000 of 10 kB, it had 0.8
# to 0.95 of the speed, and it can neither see whether the Queue exists nor wake anybody.
BATCH_ITEMS: Final = 5000

# In one statement and one round trip: put, and wake someone if someone waits. No row: the queue does not exist any more.
_AND_WAKE: Final = waking("put", key="$4", payload="$5")
_WAKING: Final = f"RETURNING CASE WHEN {SOMEONE_WAITS.format(key='$4')} THEN pg_notify('{CHANNEL}', $5) IS NULL END"


def _puts(*, signed: bool) -> tuple[Statement, ...]:
    """The statements of puts without terms. *signed*: of signed pickles, which have a codec of their own."""
    column, codec = (", codec", ", 's'") if signed else ("", "")
    # Of one row, so without WITH, which costs the server 5 % of a put. Conditions come before the columns, thus before the id.
    one = f"""
        INSERT INTO pgstore.queue_item (store_id, partition, payload{column})
        SELECT s.id, $2, $3{codec}
          FROM pgstore.store s
         WHERE s.id = $1
           AND {INSERT_LOCK} IS NOT NULL
    """
    many = f"""
        INSERT INTO pgstore.queue_item (store_id, partition, payload{column})
        SELECT s.id, $2, u.payload{codec}
          FROM pgstore.store s
         CROSS JOIN inserting
         CROSS JOIN pg_catalog.unnest($3) WITH ORDINALITY AS u (payload, position)
         WHERE s.id = $1
         ORDER BY u.position
    """
    return (
        Statement(f"{one} {_WAKING}", "int8 text bytea int4 text"),
        Statement(one, "int8 text bytea"),
        # Of this one `put_on_terms` would make a third more work for the server, and most puts that are not durable are such.
        Statement(f"{one} AND {RELAX} IS NOT NULL {_WAKING}", "int8 text bytea int4 text"),
        Statement(f"WITH {INSERTING}, put AS ({many} RETURNING 1) {_AND_WAKE}", "int8 text bytea[] int4 text"),
        Statement(f"WITH {INSERTING} {many}", "int8 text bytea[]"),
    )


PUT, PUT_SILENTLY, PUT_RELAXED, PUT_MANY, PUT_MANY_SILENTLY = _PLAIN = _puts(signed=False)
SIGNED: Final = dict(zip(_PLAIN, _puts(signed=True), strict=True))

LOCK_ROOM = Statement("SELECT pgstore.queue_take_turn($1, 'r', '')", "int8")

# From now on partition $2 is emptied in $3 seconds, of what was put until now.
LAPSE = Statement(
    """
    INSERT INTO pgstore.queue_lapse AS l (store_id, partition, lapses_at)
    SELECT s.id, $2, statement_timestamp() + $3 * interval '1 second'
      FROM pgstore.store s
     WHERE s.id = $1
    ON CONFLICT (store_id, partition) DO UPDATE
       SET put_at = excluded.put_at,
           lapses_at = excluded.lapses_at
    """,
    "int8 text float8",
)

KEY_BYTES_MAX: Final = 1024
HAS_KEY = Statement("SELECT 1 FROM pgstore.queue_key WHERE store_id = $1 AND key = $2", "int8 text", reads=True)
PARTITION_SECONDS_MIN: Final = 0.001
_COLLECT_EVERY: Final = 100  # puts with a key
FORGET_KEYS = Statement(
    """
    DELETE FROM pgstore.queue_key
     WHERE ctid = ANY (ARRAY(SELECT ctid
                               FROM pgstore.queue_key
                              WHERE store_id = $1
                                AND put_at < statement_timestamp() - interval '24 hours'
                              LIMIT 1000
                                FOR UPDATE SKIP LOCKED))
    """,
    "int8",
)


@functools.cache
def put_on_terms(
    *,
    delayed: bool,
    keyed: bool,
    ordered: bool,
    relaxed: bool,
    bounded: bool,
    aloud: bool,
    repeatable: bool,
    signed: bool = False,
) -> tuple[Statement, tuple[str, ...]]:
    """
    PUT_MANY in other forms, and the names of its parameters in order.

    No row, or 0 rows: there is no such queue, the key was used before, or there is no room.
    """
    names, types = ["store_id", "partition", "payloads"], ["int8", "text", "bytea[]"]

    def parameter(name: str, kind: str) -> str:
        names.append(name)
        types.append(kind)
        return f"${len(names)}"

    parts, sources, conditions = [], ["pgstore.store s"], ["s.id = $1"]
    if relaxed:
        parts.append(RELAXED)
        sources.append("relaxed")
    if ordered:
        # Taken before the ids are drawn and held until the commit, so that both come in one order.
        parts.append("in_turn AS MATERIALIZED (SELECT pgstore.queue_take_turn($1, 'o', $2))")
        sources.append("in_turn")
    if keyed:
        # Two puts with one key: the second waits for the end of the first, and then finds the key or does not.
        key = parameter("key", "text")
        parts.append(
            f"""
            fresh AS (INSERT INTO pgstore.queue_key (store_id, key)
                      SELECT s.id, {key}
                        FROM pgstore.store s
                       WHERE s.id = $1
                      ON CONFLICT DO NOTHING
                      RETURNING 1)
            """
        )
        sources.append("fresh")
    if bounded:
        maxsize, wanted = parameter("maxsize", "int8"), parameter("wanted", "int8")
        conditions.append(
            f"""
            (SELECT count(*)
               FROM (SELECT
                       FROM pgstore.queue_item q
                      WHERE q.store_id = $1
                      LIMIT {maxsize}) AS waiting) + {wanted} <= {maxsize}
            """
        )
    if delayed:
        target = "queue_deferred (store_id, partition, payload, codec, kind, due_at)"
        more = f", 'd', statement_timestamp() + {parameter('delay', 'float8')} * interval '1 second'"
    else:
        target, more = "queue_item (store_id, partition, payload, codec)", ""
        parts.append(INSERTING)
        sources.append("inserting")
    insert = f"""
        INSERT INTO pgstore.{target}
        SELECT s.id, $2, u.payload, '{"s" if signed else "p"}'{more}
          FROM {" CROSS JOIN ".join(sources)}
         CROSS JOIN pg_catalog.unnest($3) WITH ORDINALITY AS u (payload, position)
         WHERE {" AND ".join(conditions)}
         ORDER BY u.position
    """
    if not aloud:
        return Statement(f"WITH {', '.join(parts)} {insert}" if parts else insert, " ".join(types)), tuple(names)
    key, payload = parameter("wake_key", "int4"), parameter("wake_payload", "text")
    parts.append(f"put AS ({insert} RETURNING 1)")
    sql = f"WITH {', '.join(parts)} {waking('put', key=key, payload=payload)}"
    return Statement(sql, " ".join(types), reads=repeatable), tuple(names)


@dataclass(frozen=True)
class Terms:
    """What a put says beside the items and where."""

    delay: float
    key: str | None
    ordered: bool
    durable: bool


class Putting(Leasing):
    """`put` and `put_many`."""

    @operation
    def put(
        self,
        item: Any = LEFT_OUT,
        block: bool = True,
        timeout: float | None = None,
        *,
        v: Any = LEFT_OUT,
        partition: str | None = None,
        partition_ttl: float | None = None,
        delay: float = 0,
        idempotency_key: str | None = None,
        ordered: bool = False,
        durable: bool = True,
    ) -> Op[None]:
        """
        Put *item* at the end of the queue (also accepted as *v*).

        Args:
            block: wait for room in a Queue that was made with `maxsize` and is full; else raise at once.
            timeout: wait at most so many seconds, for room and for all else; None: for ever.
            partition_ttl: empty the partition so many seconds after its last put that said so; None: this put changes nothing in
                when, and what comes after such a put stays. Leased items are their worker's. Such puts into one partition wait for
                each other's commits.
            delay: seconds until the item can be taken; it is then put at the end. It does not count for `maxsize`.
            idempotency_key: do nothing if this Queue had a put with this key in the last 24 hours, or longer. Such a put is
                repeated by itself when the connection breaks.
            ordered: come after every ordered put into this partition that commits before. They wait for each other's commits.
            durable: False: do not wait until the server has the item on disk; if it crashes the last ones may be lost.

        Raises:
            queue.Full: there was no room within *timeout*, or what was waited for did not come, such as another's transaction; a
                server has a second for its answer even if *timeout* is less.
            OutcomeUnknown: the server had received the item and gave no answer.
            SerializationError: *item* cannot be pickled.
            ValueTooLarge: it is above 256 MiB.
        """
        if partition_ttl is not None:
            said = {"delay": delay, "idempotency_key": idempotency_key, "ordered": ordered, "durable": durable}
            yield from self._put_lapsing(self.put, partition_ttl, partition, said, item, block, timeout, v=v)
            return
        deadline = Deadline.after(timeout, block=block)
        name = partition_name(partition)
        payload = self._encode(one_of(item, v, "put", "item= and v="))
        with within(deadline, self._late_put):
            facts = self._facts
            if facts is None or facts.history is not self._client.history:  # type: ignore[union-attr]
                facts = yield from self._know()
            if self._runner.settings.signing_keys:
                payload = self._sign(payload, name)
            if delay or ordered or idempotency_key is not None or "maxsize" in facts.options:
                terms = _terms(delay, idempotency_key, ordered, durable)
                yield from self._put_on_terms(facts, name, [payload], terms, deadline)
            elif durable:
                yield from self._insert(facts.id, name, payload, PUT, PUT_SILENTLY)
            else:
                yield from self._check_outside("put(durable=False)", NOT_DURABLE)
                yield from self._insert(facts.id, name, payload, PUT_RELAXED, PUT_SILENTLY)

    @operation
    def put_many(
        self,
        items: Iterable[Any] = LEFT_OUT,  # type: ignore[assignment]
        block: bool = True,
        timeout: float | None = None,
        *,
        vs: Iterable[Any] = LEFT_OUT,  # type: ignore[assignment]
        partition: str | None = None,
        partition_ttl: float | None = None,
        delay: float = 0,
        idempotency_key: str | None = None,
        ordered: bool = False,
        durable: bool = True,
    ) -> Op[None]:
        """
        Put all *items*, in their order and all or nothing (also accepted as *vs*).

        The other arguments are those of `put`, for all of them together.
        """
        if partition_ttl is not None:
            said = {"delay": delay, "idempotency_key": idempotency_key, "ordered": ordered, "durable": durable}
            yield from self._put_lapsing(self.put_many, partition_ttl, partition, said, items, block, timeout, vs=vs)
            return
        deadline = Deadline.after(timeout, block=block)
        name = partition_name(partition)
        payloads = self._encode_all(one_of(items, vs, "put_many", "items= and vs="))
        with within(deadline, self._late_put):
            facts = yield from self._open()
            if self._runner.settings.signing_keys:
                payloads = [self._sign(payload, name) for payload in payloads]
            if not durable or delay or ordered or idempotency_key is not None or "maxsize" in facts.options:
                terms = _terms(delay, idempotency_key, ordered, durable)
                yield from self._put_on_terms(facts, name, payloads, terms, deadline)
                return
            cut = list(batches(payloads, len, rows_max=BATCH_ITEMS))
            if len(cut) == 1:
                yield from self._insert(facts.id, name, cut[0], PUT_MANY, PUT_MANY_SILENTLY)
            elif cut:
                yield from atomic(self._insert_batches(facts.id, name, cut))
            else:
                yield from self._check_exists(facts.id)

    def _put_lapsing(
        self, put: Any, partition_ttl: float, partition: str | None, said: dict[str, Any], *given: Any, **also: Any
    ) -> Op[None]:
        """*put* what was *given*, or *also*, as was *said*; after which the partition has so much time."""
        name = partition_name(partition)
        seconds = check_seconds(partition_ttl, "partition_ttl", above=PARTITION_SECONDS_MIN)
        facts = yield from self._open()

        def both() -> Op[None]:
            yield from self._sweep(facts.id)  # what has had its time does not get more by this put
            yield from put.op(*given, partition=partition, **said, **also)
            yield Query(LAPSE, facts.id, name, seconds)

        # Not in a transaction where the put may wait for room, or says something that goes for all of one.
        yield from (both() if "maxsize" in facts.options or not said["durable"] else atomic(both()))
        queue = self._of(facts.id)
        queue.check_at = min(queue.check_at, monotonic() + seconds)

    def _insert_batches(self, store_id: int, partition: str, cut: list[list[bytes]]) -> Op[None]:
        for batch in cut:
            yield from self._insert(store_id, partition, batch, PUT_MANY, PUT_MANY_SILENTLY)

    def _insert(self, store_id: int, partition: str, payload: Any, aloud: Statement, silently: Statement) -> Op[None]:
        if self._runner.settings.signing_keys:
            aloud, silently = SIGNED[aloud], SIGNED[silently]
        topic = Topic(store_id, partition)
        enrolment = yield BeforeCommit(Announcements, Announcements)
        if enrolment is None or enrolment.immediate:
            put = yield Query(aloud, store_id, partition, payload, lock_key(topic), topic.payload)
        else:
            put = yield Query(silently, store_id, partition, payload)
            enrolment.participant.topics[topic] = None
        if not put:
            yield from self._is_gone(store_id)

    # ------------------------------------------------------------------------------------------------------- on terms

    def _put_on_terms(
        self, facts: Facts, partition: str, payloads: list[bytes], terms: Terms, deadline: Deadline
    ) -> Op[None]:
        if not terms.durable:
            yield from self._check_outside("put(durable=False)", NOT_DURABLE)
        maxsize: int | None = None if terms.delay else facts.options.get("maxsize")
        cut = list(batches(payloads, len, rows_max=BATCH_ITEMS))
        if not cut:
            yield from self._check_exists(facts.id)
            return
        if maxsize is None:
            body = self._insert_on_terms(facts, partition, cut, terms)
            # A put whose time may be over while it waits for another's must not take the transaction that it is in along.
            alone = len(cut) == 1 and (deadline.at is None or not (yield from in_transaction()))
            yield from (body if alone else atomic(body))
        elif len(payloads) > maxsize:
            raise errors.InvalidError(
                f"{len(payloads)} items can never be in {self!r} at once, made with maxsize={maxsize}"
            )
        else:
            yield from self._insert_when_room(facts, partition, cut, terms, deadline)
        if terms.key is not None and random.random() * _COLLECT_EVERY < 1:
            yield Query(FORGET_KEYS, facts.id)

    def _insert_when_room(
        self, facts: Facts, partition: str, cut: list[list[bytes]], terms: Terms, deadline: Deadline
    ) -> Op[None]:
        if (yield from self._try(facts, partition, cut, terms)):
            return
        if deadline.passed():
            raise self._full(facts)
        ticket = yield Listen(room_topic(facts.id))
        try:
            for seconds in waits():
                if (yield from self._try(facts, partition, cut, terms)):
                    return
                if deadline.passed():
                    raise self._full(facts)
                yield Wait(ticket, min(seconds, deadline.remaining()))
        finally:
            ticket.close()

    def _try(self, facts: Facts, partition: str, cut: list[list[bytes]], terms: Terms) -> Op[bool]:
        try:
            yield from atomic(self._insert_if_room(facts, partition, cut, terms))
        except _NoRoomError:  # which has undone all, also the lock
            return False
        return True

    def _insert_if_room(self, facts: Facts, partition: str, cut: list[list[bytes]], terms: Terms) -> Op[None]:
        yield Query(LOCK_ROOM, facts.id)
        if terms.key is not None and (yield Query(HAS_KEY, facts.id, terms.key)):
            return
        yield from self._insert_on_terms(facts, partition, cut, terms, facts.options["maxsize"])

    def _insert_on_terms(
        self, facts: Facts, partition: str, cut: list[list[bytes]], terms: Terms, maxsize: int | None = None
    ) -> Op[None]:
        topic = Topic(facts.id, partition)
        enrolment = yield BeforeCommit(Announcements, Announcements)
        aloud = enrolment is None or enrolment.immediate
        values = {
            "store_id": facts.id,
            "partition": partition,
            "key": terms.key,
            "maxsize": maxsize,
            "wanted": sum(map(len, cut)),
            "delay": terms.delay,
            "wake_key": lock_key(topic),
            "wake_payload": topic.payload,
        }
        for number, batch in enumerate(cut):
            is_first = number == 0
            statement, names = put_on_terms(
                delayed=terms.delay > 0,
                keyed=is_first and terms.key is not None,
                ordered=is_first and terms.ordered,
                relaxed=is_first and not terms.durable,
                bounded=is_first and maxsize is not None,
                aloud=aloud,
                repeatable=terms.key is not None and enrolment is None,
                signed=bool(self._runner.settings.signing_keys),
            )
            values["payloads"] = batch
            if not (yield Query(statement, *[values[name] for name in names])):
                yield from self._check_exists(facts.id)
                if maxsize is not None:
                    raise _NoRoomError
                return  # the key was used before
        if not aloud:
            enrolment.participant.topics[topic] = None

    def _late_put(self, exc: errors.TimedOut) -> errors.QueueFull:
        return errors.QueueFull(f"nothing was put into {self!r}: {exc}")

    def _full(self, facts: Facts) -> errors.QueueFull:
        return errors.QueueFull(f"no room in {self!r}, made with maxsize={facts.options['maxsize']}")


class _NoRoomError(Exception):
    """Rolls back a put into a full queue."""


def _terms(delay: float, key: object, ordered: bool, durable: bool) -> Terms:
    if key is not None and (
        not isinstance(key, str)
        or not 1 <= len(key.encode(errors="replace")) <= KEY_BYTES_MAX
        or UNSTORABLE.search(key)
    ):
        raise errors.InvalidError(
            f"idempotency_key {key!r} is not a str of 1 to {KEY_BYTES_MAX} bytes of UTF-8, without NUL and lone surrogates"
        )
    return Terms(check_seconds(delay, "delay"), key, bool(ordered), bool(durable))
