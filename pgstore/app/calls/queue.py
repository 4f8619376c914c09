"""The calls of an App, as a Queue: to spawn is to put, a worker takes with a lease, what fails comes again after a delay.

An item is the id of a call, whose row (`spawned_call` in sql/schema.sql) has the rest. The App is the store: its kind is `app`, so
its name is none of the user's Queues.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, Self

from pgstore import errors
from pgstore.app.calls.ending import CANCELLED, KEPT, NOTE_FAILURE, ROW_KEPT, Ending, call_name, cancelling
from pgstore.app.calls.sealing import seal, unseal
from pgstore.client.notifications import Notifications
from pgstore.client.waking import lock_key
from pgstore.core.operation import BeforeCommit, Op, Query, Rows, Topic, atomic, operation
from pgstore.core.statement import Statement
from pgstore.queue import Lease, Queue
from pgstore.queue.sql import waking
from pgstore.queue.take import LEASING, Attempt
from pgstore.queue.watermark import INSERTING
from pgstore.serializers.values import loads

_PARTITION_BYTES_MAX: Final = 64  # of a Queue's
_ATTEMPTS_MAX: Final = 1_000_000_000
_COLLECTED: Final = 1000  # rows, of one statement
_COLLECT_SECONDS: Final = 60.0


def packed(arguments: bytes, parameters: bytes | None = None) -> bytes:
    """
    What a call is given, as one pickle.

    Args:
        arguments: the pickle of `(args, kwargs)`.
        parameters: of a class, as `WorkerSpec.parameters`.
    """
    return pickle.dumps((arguments, parameters))


@dataclass(frozen=True)
class StartedCall:
    """A call that this worker is to run now; *error*: it is to end with that instead. The last two: see `packed`."""

    ending: Ending
    attempts: int
    """How often it was begun, this time included."""
    lease: Lease[int]
    error: errors.Error | None
    arguments: bytes = b""
    parameters: bytes | None = None


class CallQueue(Queue[int]):
    """An App as the Queue of its spawned calls."""

    _kind: ClassVar = "app"
    _display_name: ClassVar = "App"
    _id_prefix: ClassVar = "ap"
    _name_space: ClassVar = "app"

    # The call, its item and the wake-up in one statement: all of it or nothing, and one round trip.
    _SPAWN: Final = f"""
        WITH {INSERTING},
             spawned AS (
                 INSERT INTO pgstore.spawned_call (store_id, function, session_id, codec, arguments)
                 SELECT s.id, $2, $3, $4, u.arguments
                   FROM pgstore.store s
                  CROSS JOIN inserting
                  CROSS JOIN pg_catalog.unnest($5) WITH ORDINALITY AS u (arguments, position)
                  WHERE s.id = $1
                  ORDER BY u.position
                 RETURNING id),
             put AS (
                 INSERT INTO pgstore.queue_item (store_id, partition, codec, payload)
                 SELECT $1, $6, 'j', convert_to(p.id::text, 'UTF8'::name)
                   FROM spawned p
                  ORDER BY p.id
                 RETURNING 1)
    """
    _SPAWN_TYPES: Final = "int8 text int8 char bytea[] text"
    # Not a join, which the planner leaves out if nothing of it is selected: then nobody would be woken.
    SPAWN: Final = Statement(
        f"{_SPAWN}, woken AS MATERIALIZED ({waking('put', key='$7', topic='$8')})"
        " SELECT p.id FROM spawned p WHERE (SELECT count(*) FROM woken) >= 0 ORDER BY p.id",
        f"{_SPAWN_TYPES} int4 text",
    )
    SPAWN_WITHOUT_NOTIFY: Final = Statement(f"{_SPAWN} SELECT p.id FROM spawned p ORDER BY p.id", _SPAWN_TYPES)

    @operation
    def spawn(self, function: str, arguments: Sequence[bytes], run: int | None = None) -> Op[list[str]]:
        """
        Spawn a call of *function* for each of *arguments*; all or none. Returns their ids.

        In a transaction they exist if that commits, with all else that it does.

        Args:
            run: the session of the run that is to take them; None: any worker of the App.

        Raises:
            ValueTooLarge: the arguments of one are above 256 MiB.
        """
        record = yield from self._resolve()
        keys = self._runner.settings.signing_keys
        sealed = [seal(keys, record.id, function, each, f"the arguments of {function}") for each in arguments]
        if not sealed:
            return []
        topic = Topic(record.id, partition_of(function, run))
        values = (record.id, function, run, sealed[0][0], [payload for _, payload in sealed], topic.name)
        hooked = yield BeforeCommit(Notifications, Notifications)
        if hooked is None or hooked.immediate:
            rows: Rows = yield Query(self.SPAWN, *values, lock_key(topic), topic.payload)
        else:
            rows = yield Query(self.SPAWN_WITHOUT_NOTIFY, *values)
            hooked.hook.add(topic, len(sealed))
        if not rows:
            yield from self._is_gone(record.id)
        self._collect_later(record.id)
        return [call_name(record.id, number) for (number,) in rows]

    # A call is begun with the lease of its item, in one statement: two workers never begin one. Of one that was cancelled meanwhile
    # there are NULLs. One that was begun as often as it may, of which nobody has told how it ended, is lost.
    _BEGIN: Final = Statement(
        f"""
        WITH {LEASING},
             begun AS (
                 UPDATE pgstore.spawned_call AS c
                    SET attempts = k.attempts + (k.attempts < $6)::integer,
                        lease_id = l.id,
                        started_at = statement_timestamp()
                   FROM leased l
                   JOIN pgstore.spawned_call k ON k.store_id = $1
                                              AND k.id = convert_from(l.payload::bytea, 'UTF8'::name)::bigint
                  WHERE c.store_id = $1
                    AND c.id = k.id
                    AND c.state = 'p'
                 RETURNING c.lease_id, c.attempts, k.attempts >= $6 AS is_lost, c.codec, c.arguments)
        SELECT l.id, date_part('epoch', l.put_at), l.codec, l.payload, l.attempts,
               b.attempts, b.is_lost, b.codec, b.arguments
          FROM leased l
          LEFT JOIN begun b ON b.lease_id = l.id
        """,
        "int8 text int8 int8 float8 int4",
    )
    # Of a `get` that was interrupted before anybody had the call. With the query that gives the lease back.
    _UNBEGIN: Final = Statement(
        "UPDATE pgstore.spawned_call SET attempts = attempts - 1 WHERE store_id = $1 AND lease_id = ANY ($2) AND state = 'p'",
        "int8 int8[]",
    )
    _attempts_max = _ATTEMPTS_MAX

    def with_attempts(self, attempts_max: int) -> Self:
        """A handle that begins a call so often at most."""
        return self._clone(_attempts_max=min(attempts_max, _ATTEMPTS_MAX))

    def _try_take_with_options(self, attempt: Attempt) -> Op[Rows]:
        store_id, partition = attempt.record.id, attempt.partition

        def undo(rows: Rows) -> list[Query]:
            begun = [row[0] for row in rows if row[6] is False]
            leased = [row[0] for row in rows]
            return [Query(self._UNBEGIN, store_id, begun), Query(self._UNLEASE, store_id, partition, leased)]

        assert attempt.lease is not None, "calls are taken with leases"
        values = (store_id, partition, attempt.n, attempt.watermark, attempt.lease, self._attempts_max)
        return (yield Query(self._BEGIN, *values, undo=undo))  # type: ignore[no-any-return]

    def begun(self, function: str, lease: Lease[int]) -> StartedCall | None:
        """The call that was taken with *lease*; None: it was cancelled."""
        record = self._record
        assert record is not None, "it was found, when the lease was taken"
        self._collect_later(record.id)
        attempts, is_lost, codec, payload = lease.more
        if attempts is None:
            return None
        number = lease.item
        name, keys = call_name(record.id, number), self._runner.settings.signing_keys
        ending = Ending(record.id, number, lease.token)
        if is_lost:
            why: errors.Error = errors.RemoteError(
                f"the worker of {function} was lost: it was killed, or its machine stopped, in attempt {attempts} of {name}"
            )
            return StartedCall(ending, attempts, lease, why)
        try:
            payload = unseal(keys, record.id, function, codec, payload, f"the arguments of {name}")
            arguments = loads(payload, f"the arguments of {name}")
        except errors.DeserializationError as exc:
            return StartedCall(ending, attempts, lease, exc)
        return StartedCall(ending, attempts, lease, None, *arguments)

    @operation
    def give_back(self, call: StartedCall, delay: float, error: str | None = None) -> Op[None]:
        """Let *call* be begun again, after *delay* seconds. *error*: what this attempt came to."""
        yield from atomic(self._give_back(call, delay, error))

    def _give_back(self, call: StartedCall, delay: float, error: str | None) -> Op[None]:
        yield from call.lease.nack.op(delay)
        yield Query(NOTE_FAILURE, call.ending.store_id, call.ending.number, error)

    # ---------------------------------------------------------------------------------------------------------- of a run

    UNENDED: Final = Statement(
        "SELECT count(*) FROM pgstore.spawned_call WHERE store_id = $1 AND session_id = $2 AND ended_at IS NULL",
        "int8 int8",
        read_only=True,
    )

    @operation
    def unended(self, run: int) -> Op[int]:
        """How many calls of *run* have not ended."""
        store_id = yield from self._resolve_id()
        ((number,),) = yield Query(self.UNENDED, store_id, run)
        return int(number)

    CANCEL_RUN: Final = Statement(
        cancelling("session_id = $2 AND ended_at IS NULL", f"'{CANCELLED}'", "cancelled with its run")
        + "SELECT function, count(*) FROM cancelled GROUP BY function",
        "int8 int8",
    )

    @operation
    def cancel_run(self, run: int) -> Op[int]:
        """Cancel the calls of *run* that have not ended. Returns how many."""
        store_id = yield from self._resolve_id()
        return (yield from self._cancel_run(store_id, run))

    def _cancel_run(self, store_id: int, run: int) -> Op[int]:
        rows: Rows = yield Query(self.CANCEL_RUN, store_id, run)
        for function, _ in rows:
            yield from self.clear.op(partition=partition_of(function, run))
        return sum(number for _, number in rows)

    # ----------------------------------------------------------------------------------------------------------- retention

    DEAD_RUNS: Final = Statement(
        """
        SELECT DISTINCT c.session_id
          FROM pgstore.spawned_call c
         WHERE c.store_id = $1
           AND c.session_id IS NOT NULL
           AND c.ended_at IS NULL
           AND NOT EXISTS (SELECT FROM pgstore.session s WHERE s.id = c.session_id)
        """,
        "int8",
        read_only=True,
    )
    # Both wait for nobody: what another collector has locked is passed over. The sums: see `pgstore.queue.take`.
    FORGET_OUTCOMES: Final = Statement(
        f"""
        UPDATE pgstore.spawned_call
           SET outcome = NULL
         WHERE store_id + 0::bigint = $1
           AND ctid = ANY (ARRAY(SELECT ctid
                                   FROM pgstore.spawned_call
                                  WHERE store_id = $1
                                    AND outcome IS NOT NULL
                                    AND ended_at < statement_timestamp() - interval '{KEPT}'
                                  LIMIT {_COLLECTED}
                                    FOR UPDATE SKIP LOCKED))
        """,
        "int8",
    )
    FORGET_CALLS: Final = Statement(
        f"""
        DELETE FROM pgstore.spawned_call
         WHERE store_id + 0::bigint = $1
           AND ctid = ANY (ARRAY(SELECT ctid
                                   FROM pgstore.spawned_call
                                  WHERE store_id = $1
                                    AND ended_at < statement_timestamp() - interval '{ROW_KEPT}'
                                  LIMIT {_COLLECTED}
                                    FOR UPDATE SKIP LOCKED))
        """,
        "int8",
    )

    def _collect_later(self, store_id: int) -> None:
        self._runner.scheduler.leave((CallQueue, store_id), partial(self.collect.op), _COLLECT_SECONDS, can_wait=True)

    @operation
    def collect(self) -> Op[None]:
        """Delete outcomes and rows that have been kept for long enough, and cancel calls of runs that died."""
        store_id = yield from self._resolve_id()
        for (run,) in (yield Query(self.DEAD_RUNS, store_id)):
            yield from self._cancel_run(store_id, run)
        for statement in (self.FORGET_OUTCOMES, self.FORGET_CALLS):
            while (yield Query(statement, store_id)) == _COLLECTED:
                pass


def partition_of(function: str, run: int | None) -> str:
    """Where the calls of *function* wait, those of a run apart from those that are any worker's."""
    name = function if run is None else f"{run:x}:{function}"
    if len(name.encode()) <= _PARTITION_BYTES_MAX:
        return name
    return "#" + hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
