"""What every part of Queue rests on: its options, partitions, and how items become bytes."""

from __future__ import annotations

import contextlib
import enum
import pickle
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final, Self

from pgstore import errors
from pgstore.client import Client
from pgstore.client.announcements import Announcements, in_transaction
from pgstore.client.listener import CHANNEL, SOMEONE_WAITS, announce
from pgstore.core.names import UNSTORABLE
from pgstore.core.numbers import as_int, as_seconds
from pgstore.core.operation import BeforeCommit, Op, Rows, Topic
from pgstore.handle import Store
from pgstore.queue.known import KnownQueue, household
from pgstore.registry import Facts
from pgstore.serializers import NOT_LOADED, check_size, dumps, load_json, loads
from pgstore.serializers.signing import SIGNATURE_BYTES, Signer

PARTITION_BYTES_MAX: Final = 64
# Whoever inserts into queue_item holds this lock from before the ids are drawn to the end of the transaction. It keeps nobody out:
# it tells `queue_advance` (sql/schema.sql) who may have ids that cannot be seen yet. "pgsi". Nor is it waited for, since
# every login may keep it from us: `queue_inserting` tells the same.
INSERT_LOCK_CLASS: Final = 0x70677369
INSERT_LOCK: Final = (
    f"CASE WHEN pg_try_advisory_xact_lock_shared({INSERT_LOCK_CLASS}, ($1 % 2147483648)::integer)"
    " THEN true ELSE pgstore.queue_inserting($1) END"
)
INSERTING: Final = f"inserting AS MATERIALIZED (SELECT {INSERT_LOCK})"
# Only if there is something to insert: `gone` has rows.
INSERTING_WHAT_IS_GONE: Final = (
    f"inserting AS MATERIALIZED (SELECT {INSERT_LOCK} FROM (SELECT FROM gone LIMIT 1) AS some_item)"
)
# The commit does not wait for the disk. As a part of the statement: the setting ends with it, and costs no trip of its own.
RELAX: Final = "set_config('synchronous_commit', 'off', true)"
RELAXED: Final = f"relaxed AS MATERIALIZED (SELECT {RELAX})"
NOT_DURABLE: Final = "would make all of it not durable"
SECONDS_MAX: Final = 10 * 365 * 86400
OPTION_MAX: Final = 2**31 - 1


class _Left(enum.Enum):
    """An argument that was not given: None is an item."""

    OUT = enum.auto()


LEFT_OUT: Final = _Left.OUT


class QueueBase(Store):
    """Options, partitions and items."""

    _kind: ClassVar = "queue"
    _noun: ClassVar = "Queue"
    _id_prefix: ClassVar = "qu"
    _name_space: ClassVar = "queue"

    @classmethod
    def from_name(
        cls,
        label: str | None = None,
        *,
        name: str | None = None,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        client: Client | None = None,
        maxsize: int | None = None,
        max_attempts: int | None = None,
    ) -> Self:
        """
        Return a handle on the Queue of this name; it is looked up on first use.

        Args:
            label: the name, 1 to 64 of A-Z a-z 0-9 . _ - (also accepted as *name*).
            environment_name: None: the client's.
            create_if_missing: create it on first use; else using it raises `NotFoundError`.
            client: None: the default client.
            maxsize: most items that wait in all partitions together; a put into a full Queue waits, or raises `queue.Full`. Items
                that are leased or delayed do not count, nor is there a bound for them when they come back.
            max_attempts: after so many leases that came to nothing an item becomes a dead letter.

        The last two are fixed when the Queue is created. None leaves them as they are, or without a bound.

        Raises:
            InvalidError: the name cannot be one; on first use, the Queue was created with other options.
        """
        store = super().from_name(
            label, name=name, environment_name=environment_name, create_if_missing=create_if_missing, client=client
        )
        store._options = _options(maxsize=maxsize, max_attempts=max_attempts)
        return store

    @classmethod
    def ephemeral(
        cls,
        client: Client | None = None,
        environment_name: str | None = None,
        *,
        maxsize: int | None = None,
        max_attempts: int | None = None,
    ) -> Self:
        """
        Return a nameless Queue that lives as long as this handle; the options are those of `from_name`.

        It is deleted at the end of its `with` or `async with` block, when the handle is collected, when the interpreter exits, and
        after a crash once its process has been silent for ten minutes.
        """
        store = super().ephemeral(client, environment_name)
        store._options = _options(maxsize=maxsize, max_attempts=max_attempts)
        return store

    @staticmethod
    def validate_partition_key(partition: str | None) -> bytes:
        """
        Return *partition* as bytes, empty for None, the default partition.

        Raises:
            InvalidError: it is not of 1 to 64 bytes of UTF-8.
        """
        return partition_name(partition).encode()

    def _open(self) -> Op[Facts]:
        facts = self._facts
        if facts is None or facts.history is not self._client.history:  # type: ignore[union-attr]
            facts = yield from self._know()
        return facts

    def _of(self, store_id: int) -> KnownQueue:
        """What the client knows of this Queue; asked for anew by each operation, for a forked child begins with nothing."""
        return household(self._runner).queue(store_id)

    def _announce(self, topics: Iterable[Topic]) -> Op[None]:
        """Wake those who wait for *topics*, when what was done commits."""
        enrolment = yield BeforeCommit(Announcements, Announcements)
        for topic in topics:
            if enrolment is None or enrolment.immediate:
                yield announce(topic)
            else:
                enrolment.participant.topics[topic] = None

    def _check_outside(self, what: str, why: str) -> Op[None]:
        """Raise `InvalidError` inside a transaction."""
        if (yield from in_transaction()):
            raise errors.InvalidError(f"{what} inside a transaction {why}")

    def _encode_all(self, items: Iterable[Any]) -> list[bytes]:
        payloads: list[bytes] = []
        try:
            payloads.extend(map(self._encode, items))
        except (errors.SerializationError, errors.ValueTooLarge) as exc:
            raise type(exc)(f"item {len(payloads)} of put_many: {exc}") from exc.__cause__
        return payloads

    def _encode(self, item: Any) -> bytes:
        payload = dumps(item, "item")
        check_size(len(payload) + self._signature_bytes, "an item for {!r}", self)
        return payload

    @property
    def _signature_bytes(self) -> int:
        return SIGNATURE_BYTES if self._runner.settings.signing_keys else 0

    @property
    def _signer(self) -> Signer:
        """For items of this Queue, which is known by now."""
        facts = self._facts
        assert facts is not None
        return Signer(self._runner.settings.signing_keys, facts.id, b"pgstore queue")

    def _sign(self, payload: bytes, partition: str) -> bytes:
        return self._signer.sign(partition, payload) + payload

    def _decode_all(self, rows: Rows, partition: str) -> list[Any]:
        """The items of *rows*, as `_decode` gives them."""
        if {row[2] for row in rows} == {"p"} and not self._runner.settings.signing_keys:
            # In one go: a call for each would take a quarter of the time. What fails is named below.
            with contextlib.suppress(*NOT_LOADED):
                return [pickle.loads(row[3]) for row in rows]
        return [self._decode(row, partition) for row in rows]

    def _decode(self, row: Sequence[Any], partition: str) -> Any:
        """The item of a row that starts with id, put_at, codec, payload."""
        if row[2] == "j":
            return load_json(row[3], "item {} of {!r}", row[0], self)
        if row[2] != "p" or self._runner.settings.signing_keys:
            return loads(self._checked(row, partition), "item {} of {!r}", row[0], self)
        return loads(row[3], "item {} of {!r}", row[0], self)

    def _checked(self, row: Sequence[Any], partition: str) -> bytes:
        """The pickle of a row, if this client may load it."""
        number, _, codec, payload = row[:4]
        has_keys = bool(self._runner.settings.signing_keys)
        if codec == "p":
            reason = "is not signed, and this client has signing keys"
        elif codec != "s":
            reason = f"is of codec {codec!r}, which this version does not know"
        elif has_keys and not self._signer.has_signed(payload[:SIGNATURE_BYTES], partition, payload[SIGNATURE_BYTES:]):
            reason = "is signed by none of this client's keys"
        else:
            return bytes(payload[SIGNATURE_BYTES:])
        raise errors.DeserializationError(f"item {number} of {self!r} {reason}", bytes(payload))


def waking(rows: str, *, key: str, payload: str) -> str:
    """
    A SELECT that wakes those who wait for a topic if *rows* has any, and has one row then.

    *key* and *payload* are the names of the parameters with the topic's.
    """
    return f"""
        SELECT (SELECT pg_notify('{CHANNEL}', {payload}) WHERE {SOMEONE_WAITS.format(key=key)})
          FROM (SELECT 1 FROM {rows} LIMIT 1) AS some_item
    """


def partition_name(partition: str | None) -> str:
    """The name of *partition* in the table, if it can be one."""
    if partition is None:
        return ""
    if not isinstance(partition, str):
        raise errors.InvalidError(f"partition must be a str, not {type(partition).__name__}: {partition!r}")
    if not 1 <= len(partition.encode(errors="replace")) <= PARTITION_BYTES_MAX or UNSTORABLE.search(partition):
        raise errors.InvalidError(
            f"partition {partition!r} is not of 1 to {PARTITION_BYTES_MAX} bytes of UTF-8, without NUL and lone surrogates; "
            "leave it out for the default"
        )
    return partition


def one_of(given: Any, also: Any, operation: str, names: str) -> Any:
    """The one of two arguments that was given: ours, or Modal's for the same."""
    if (given is LEFT_OUT) == (also is LEFT_OUT):
        raise errors.InvalidError(f"{operation} takes one of {names}, which are the same")
    return also if given is LEFT_OUT else given


def check_count(n: object, noun: str) -> int:
    """Return *n* if it is a number of items."""
    items = as_int(n)
    if items is None or items < 1:
        raise errors.InvalidError(f"{noun} takes the number of items, 1 or more, not {n!r}")
    return min(items, 1 << 62)  # what LIMIT takes


def check_seconds(seconds: object, noun: str, *, above: float = 0.0) -> float:
    """Return *seconds* if it is a finite time, at least 0 or more than *above*."""
    checked = as_seconds(seconds)
    if checked is None or not 0 <= checked <= SECONDS_MAX:
        raise errors.InvalidError(f"{noun} {seconds!r} is not a number of seconds of at most {SECONDS_MAX}")
    if above and checked < above:
        raise errors.InvalidError(f"{noun} {seconds!r} is below {above} s")
    return checked


def room_topic(store_id: int) -> Topic:
    """What a put into a full Queue waits for."""
    return Topic(store_id, "room")


def _options(**given: int | None) -> dict[str, Any]:
    """What was given, checked."""
    options: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        checked = as_int(value)
        if checked is None or not 1 <= checked <= OPTION_MAX:
            raise errors.InvalidError(f"{name} {value!r} is not a number of 1 to {OPTION_MAX}")
        options[name] = checked
    return options
