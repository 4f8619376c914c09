"""Putting: one statement inserts, and wakes someone if someone waits.

A put with options (a delay, a key …) is also one statement, made by `put_with_options`. Only a bounded Queue needs two, in a
transaction: items have to be counted after the lock is taken, and a statement sees what was there when it began.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from pgstore import errors
from pgstore.client.notifications import Notifications, in_transaction
from pgstore.client.waiting import WAITERS, until
from pgstore.client.waking import lock_key, waking_one
from pgstore.connection import RECONNECT_SECONDS
from pgstore.core import clock
from pgstore.core.batches import batches
from pgstore.core.clock import Deadline
from pgstore.core.limit import bounded_by
from pgstore.core.operation import BeforeCommit, Op, Query, Topic, atomic, operation
from pgstore.core.statement import Statement
from pgstore.queue.arguments import NOT_GIVEN, check_key, check_seconds, one_of, partition_name
from pgstore.queue.base import NOT_DURABLE, T, room_topic
from pgstore.queue.due import Returning
from pgstore.queue.sql import ASYNC_COMMIT, DELAYED, SET_ASYNC_COMMIT, waking
from pgstore.queue.watermark import INSERT_LOCK, INSERTING
from pgstore.serializers.codecs import PICKLE, SIGNED_PICKLE
from pgstore.store.registry import StoreRecord

# Of one statement of `put_many`. Not COPY, however many: at 5,000 and 100,000 items of 100 bytes, and at 2,000 of 10 kB, it had 0.8
# to 0.95 of the speed, and it can neither see whether the Queue exists nor wake anybody.
BATCH_ITEMS: Final = 5000

# In one statement and one round trip: put, and wake someone if someone waits. No row: the queue does not exist any more. Puts never
# wait for each other: all that they lock is shared (see `watermark`).
_AND_WAKE: Final = waking("put", key="$4", topic="$5")
# A condition that always holds. It wakes before the row is there: what it tells is heard after the commit.
_WAKING: Final = f"AND CASE WHEN {INSERT_LOCK} IS NULL THEN false {waking_one(key='$4', topic='$5')} END"


def _puts(*, signed: bool) -> tuple[Statement, ...]:
    """The statements of puts without options. *signed*: of signed pickles, which have a codec of their own."""
    column, codec = (", codec", f", '{SIGNED_PICKLE}'") if signed else ("", "")
    # Of one row, so without WITH, which costs the server 5 % of a put. Conditions come before the columns, thus before the id.
    one = f"""
        INSERT INTO pgstore.queue_item (store_id, partition, payload{column})
        SELECT s.id, $2, $3{codec}
          FROM pgstore.store s
         WHERE s.id = $1
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
        Statement(f"{one} AND {INSERT_LOCK} IS NOT NULL", "int8 text bytea"),
        # Of this one `put_with_options` would make a third more work for the server, and most puts that are not durable are such.
        Statement(f"{one} AND {SET_ASYNC_COMMIT} IS NOT NULL {_WAKING}", "int8 text bytea int4 text"),
        Statement(f"WITH {INSERTING}, put AS ({many} RETURNING 1) {_AND_WAKE}", "int8 text bytea[] int4 text"),
        Statement(f"WITH {INSERTING} {many}", "int8 text bytea[]"),
    )


PUT, PUT_WITHOUT_NOTIFY, PUT_ASYNC_COMMIT, PUT_MANY, PUT_MANY_WITHOUT_NOTIFY = _PLAIN = _puts(signed=False)
SIGNED: Final = dict(zip(_PLAIN, _puts(signed=True), strict=True))

PARTITION_SECONDS_MIN: Final = 0.001
_COLLECT_EVERY: Final = 100  # puts with a key
_FEATURE_NOT_SUPPORTED: Final = "0A000"
_ATTEMPTS: Final = 3  # of a put with a key, as of any statement that may be sent again


@functools.cache
def put_with_options(
    *,
    delayed: bool,
    keyed: bool,
    ordered: bool,
    async_commit: bool,
    bounded: bool,
    notify: bool,
    repeatable: bool,
    signed: bool = False,
    timed: bool = False,
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
    if async_commit:
        parts.append(ASYNC_COMMIT)
        sources.append("async_commit")
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
        more = f", '{DELAYED}', statement_timestamp() + {parameter('delay', 'float8')} * interval '1 second'"
    else:
        target, more = "queue_item (store_id, partition, payload, codec)", ""
        parts.append(INSERTING)
        sources.append("inserting")
    if timed:
        # From now on the partition is emptied in so many seconds, of what was put until now. Two such puts into one partition wait
        # for each other's commits, so the time is that of the later one. Where nothing is put, for the key was used, none changes.
        parts.append(
            f"""
            timed AS (INSERT INTO pgstore.queue_lapse AS l (store_id, partition, lapses_at)
                      SELECT s.id, $2, statement_timestamp() + {parameter("partition_ttl", "float8")} * interval '1 second'
                        FROM pgstore.store s
                       {"CROSS JOIN fresh" if keyed else ""}
                       WHERE s.id = $1
                      ON CONFLICT (store_id, partition) DO UPDATE
                         SET put_at = excluded.put_at,
                             lapses_at = excluded.lapses_at)
            """
        )
    insert = f"""
        INSERT INTO pgstore.{target}
        SELECT s.id, $2, u.payload, '{SIGNED_PICKLE if signed else PICKLE}'{more}
          FROM {" CROSS JOIN ".join(sources)}
         CROSS JOIN pg_catalog.unnest($3) WITH ORDINALITY AS u (payload, position)
         WHERE {" AND ".join(conditions)}
         ORDER BY u.position
    """
    if not notify:
        return Statement(f"WITH {', '.join(parts)} {insert}" if parts else insert, " ".join(types)), tuple(names)
    key, topic = parameter("topic_key", "int4"), parameter("topic", "text")
    parts.append(f"put AS ({insert} RETURNING 1)")
    sql = f"WITH {', '.join(parts)} {waking('put', key=key, topic=topic, to_come=delayed)}"
    return Statement(sql, " ".join(types), repeatable=repeatable), tuple(names)


@dataclass(frozen=True)
class PutOptions:
    """What a put says beside the items and where."""

    delay: float
    key: str | None
    ordered: bool
    durable: bool
    partition_ttl: float | None


class Putting(Returning[T]):
    """`put` and `put_many`."""

    @operation
    def put(
        self,
        item: T = NOT_GIVEN,  # type: ignore[assignment]
        block: bool = True,
        timeout: float | None = None,
        *,
        v: T = NOT_GIVEN,  # type: ignore[assignment]
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
            InvalidError: the Queue was made with `maxsize`, and the put joins a REPEATABLE READ or SERIALIZABLE transaction, which
                cannot count what is there.
            OutcomeUnknown: the server had received the item and gave no answer.
            SerializationError: *item* cannot be pickled.
            ValueTooLarge: it is above 256 MiB.
        """
        deadline = Deadline.after(timeout, block=block)
        name = partition_name(partition)
        payload = self._encode(one_of(item, v, "put", "item= and v="))
        with bounded_by(deadline, self._late_put):
            record = self._record
            if record is None or record.history is not self._client.history:  # type: ignore[union-attr]
                record = yield from self._resolve()
            if self._runner.settings.signing_keys:
                payload = self._sign(payload, name)
            if (
                delay
                or ordered
                or idempotency_key is not None
                or partition_ttl is not None
                or "maxsize" in record.options
            ):
                options = _put_options(delay, idempotency_key, ordered, durable, partition_ttl)
                yield from self._put_with_options(record, name, [payload], options, deadline)
            elif durable:
                yield from self._insert(record.id, name, payload, PUT, PUT_WITHOUT_NOTIFY)
            else:
                yield from self._check_outside("put(durable=False)", NOT_DURABLE)
                yield from self._insert(record.id, name, payload, PUT_ASYNC_COMMIT, PUT_WITHOUT_NOTIFY)

    @operation
    def put_many(
        self,
        items: Iterable[T] = NOT_GIVEN,  # type: ignore[assignment]
        block: bool = True,
        timeout: float | None = None,
        *,
        vs: Iterable[T] = NOT_GIVEN,  # type: ignore[assignment]
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
        deadline = Deadline.after(timeout, block=block)
        name = partition_name(partition)
        payloads = self._encode_all(one_of(items, vs, "put_many", "items= and vs="))
        with bounded_by(deadline, self._late_put):
            record = yield from self._resolve()
            if self._runner.settings.signing_keys:
                payloads = [self._sign(payload, name) for payload in payloads]
            has_options = not durable or delay or ordered or idempotency_key is not None or partition_ttl is not None
            if has_options or "maxsize" in record.options:
                options = _put_options(delay, idempotency_key, ordered, durable, partition_ttl)
                yield from self._put_with_options(record, name, payloads, options, deadline)
                return
            cut = list(batches(payloads, len, rows_max=BATCH_ITEMS))
            if len(cut) == 1:
                yield from self._insert(record.id, name, cut[0], PUT_MANY, PUT_MANY_WITHOUT_NOTIFY)
            elif cut:
                yield from atomic(self._insert_batches(record.id, name, cut))
            else:
                yield from self._check_exists(record.id)

    def _insert_batches(self, store_id: int, partition: str, cut: list[list[bytes]]) -> Op[None]:
        for batch in cut:
            yield from self._insert(store_id, partition, batch, PUT_MANY, PUT_MANY_WITHOUT_NOTIFY)

    def _insert(
        self, store_id: int, partition: str, payload: Any, notify: Statement, without_notify: Statement
    ) -> Op[None]:
        if self._runner.settings.signing_keys:
            notify, without_notify = SIGNED[notify], SIGNED[without_notify]
        topic = Topic(store_id, partition)
        hooked = yield BeforeCommit(Notifications, Notifications)
        if hooked is None or hooked.immediate:
            put = yield Query(notify, store_id, partition, payload, lock_key(topic), topic.payload)
        else:
            put = yield Query(without_notify, store_id, partition, payload)
            hooked.hook.add(topic, len(payload) if isinstance(payload, list) else 1)
        if not put:
            yield from self._is_gone(store_id)

    # -------------------------------------------------------------------------------------------------- with options

    # Waits for nobody: keys that others are deleting or asking for are passed over. The sum: see `take`.
    _FORGET_KEYS: Final = Statement(
        """
        DELETE FROM pgstore.queue_key
         WHERE store_id + 0::bigint = $1
           AND ctid = ANY (ARRAY(SELECT ctid
                                   FROM pgstore.queue_key
                                  WHERE store_id = $1
                                    AND put_at < statement_timestamp() - interval '24 hours'
                                  LIMIT 1000
                                    FOR UPDATE SKIP LOCKED))
        """,
        "int8",
    )

    def _put_with_options(
        self,
        record: StoreRecord,
        partition: str,
        payloads: list[bytes],
        options: PutOptions,
        deadline: Deadline,
    ) -> Op[None]:
        if not options.durable:
            yield from self._check_outside("put(durable=False)", NOT_DURABLE)
        maxsize: int | None = None if options.delay else record.options.get("maxsize")
        cut = list(batches(payloads, len, rows_max=BATCH_ITEMS))
        if not cut:
            yield from self._check_exists(record.id)
            return
        if options.partition_ttl is not None:
            yield from self._sweep(record.id)  # what has had its time does not get more by this put
        if maxsize is not None and len(payloads) > maxsize:
            raise errors.InvalidError(
                f"{len(payloads)} items can never be in {self!r} at once, made with maxsize={maxsize}"
            )

        def put() -> Op[None]:
            if maxsize is None:
                yield from atomic(self._insert_with_options(record, partition, cut, options))
            else:
                yield from self._insert_when_room(record, partition, cut, options, deadline)

        has_one_statement = maxsize is None and len(cut) == 1
        if has_one_statement and (deadline.at is None or not (yield from in_transaction())):
            yield from self._insert_with_options(record, partition, cut, options)
        elif options.key is None or (yield from in_transaction()):
            # Atomic also if it is one statement: a put whose time is over while it waits for another's must not take the
            # transaction that it is in along.
            yield from put()
        else:
            yield from _repeated(put, deadline)
        if options.partition_ttl is not None:
            queue = self._state_of(record.id)
            queue.check_at = min(queue.check_at, clock.monotonic() + options.partition_ttl)
        if options.key is not None and random.random() * _COLLECT_EVERY < 1:
            yield Query(self._FORGET_KEYS, record.id)

    def _insert_when_room(
        self,
        record: StoreRecord,
        partition: str,
        cut: list[list[bytes]],
        options: PutOptions,
        deadline: Deadline,
    ) -> Op[None]:
        def attempt() -> Op[bool | None]:
            return (yield from self._try(record, partition, cut, options)) or None

        if (yield from attempt()):
            return
        if deadline.passed() or not (
            yield from until(
                room_topic(record.id),
                attempt,
                deadline,
                functools.partial(Query, WAITERS),
                for_everybody=sum(map(len, cut)) > 1,  # the room for one is no use to it, but may be to another
            )
        ):
            raise self._full(record)

    def _try(self, record: StoreRecord, partition: str, cut: list[list[bytes]], options: PutOptions) -> Op[bool]:
        try:
            yield from atomic(self._insert_if_room(record, partition, cut, options))
        except _NoRoomError:  # which has undone all, also the lock
            return False
        return True

    # Held to the end of the transaction by whoever puts into a bounded Queue, who counts after taking it: so nobody puts in
    # between. Refused where a snapshot would be counted that was taken before.
    _LOCK_ROOM: Final = Statement("SELECT pgstore.queue_take_turn($1, 'r', '')", "int8")
    _IS_KEY_USED: Final = Statement(
        "SELECT 1 FROM pgstore.queue_key WHERE store_id = $1 AND key = $2", "int8 text", read_only=True
    )

    def _insert_if_room(
        self, record: StoreRecord, partition: str, cut: list[list[bytes]], options: PutOptions
    ) -> Op[None]:
        try:
            yield Query(self._LOCK_ROOM, record.id)
        except errors.StatementFailed as exc:
            if exc.sqlstate != _FEATURE_NOT_SUPPORTED:
                raise
            raise errors.InvalidError(
                f"the transaction is not READ COMMITTED, so it does not see what others have put into {self!r}, made with "
                "maxsize: put outside of it"
            ) from exc
        if options.key is not None and (yield Query(self._IS_KEY_USED, record.id, options.key)):
            return
        yield from self._insert_with_options(record, partition, cut, options, record.options["maxsize"])

    def _insert_with_options(
        self,
        record: StoreRecord,
        partition: str,
        cut: list[list[bytes]],
        options: PutOptions,
        maxsize: int | None = None,
    ) -> Op[None]:
        topic = Topic(record.id, partition)
        hooked = yield BeforeCommit(Notifications, Notifications)
        notify = hooked is None or hooked.immediate
        values = {
            "store_id": record.id,
            "partition": partition,
            "key": options.key,
            "maxsize": maxsize,
            "wanted": sum(map(len, cut)),
            "delay": options.delay,
            "partition_ttl": options.partition_ttl,
            "topic_key": lock_key(topic),
            "topic": topic.payload,
        }
        for number, batch in enumerate(cut):
            is_first = number == 0
            statement, names = put_with_options(
                delayed=options.delay > 0,
                keyed=is_first and options.key is not None,
                ordered=is_first and options.ordered,
                async_commit=is_first and not options.durable,
                bounded=is_first and maxsize is not None,
                notify=notify,
                repeatable=options.key is not None and hooked is None,
                signed=bool(self._runner.settings.signing_keys),
                timed=number == len(cut) - 1 and options.partition_ttl is not None,
            )
            values["payloads"] = batch
            if not (yield Query(statement, *[values[name] for name in names])):
                yield from self._check_exists(record.id)
                if maxsize is not None:
                    raise _NoRoomError
                return  # the key was used before
        if not notify:
            hooked.hook.add(topic, 0 if options.delay else values["wanted"])

    def _late_put(self, exc: errors.TimedOut) -> errors.QueueFull:
        return errors.QueueFull(f"nothing was put into {self!r}: {exc}")

    def _full(self, record: StoreRecord) -> errors.QueueFull:
        return errors.QueueFull(f"no room in {self!r}, made with maxsize={record.options['maxsize']}")


class _NoRoomError(Exception):
    """Rolls back a put into a full queue."""


def _repeated(put: Callable[[], Op[None]], deadline: Deadline) -> Op[None]:
    """Run *put*, a transaction of its own; again where the connection broke, for its key tells whether it was done."""
    give_up = clock.monotonic() + RECONNECT_SECONDS
    for attempt in range(_ATTEMPTS):
        try:
            return (yield from put())
        except errors.StoreUnavailable:
            if attempt == _ATTEMPTS - 1 or clock.monotonic() > give_up or deadline.passed():
                raise
    raise AssertionError("unreachable")


def _put_options(delay: float, key: object, ordered: bool, durable: bool, partition_ttl: float | None) -> PutOptions:
    seconds = None if partition_ttl is None else check_seconds(partition_ttl, "partition_ttl", PARTITION_SECONDS_MIN)
    return PutOptions(check_seconds(delay, "delay"), check_key(key), bool(ordered), bool(durable), seconds)
