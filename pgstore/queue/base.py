"""What all parts of Queue share: options, and how items become bytes and back."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self

from pgstore import errors
from pgstore.client import Client
from pgstore.client.notifications import Notifications, in_transaction
from pgstore.client.waking import telling
from pgstore.core.operation import BeforeCommit, Op, Rows, Topic
from pgstore.queue.arguments import NOT_GIVEN, check_options, partition_name
from pgstore.queue.state import QueueState, client_queues
from pgstore.serializers import NOT_LOADED, check_size, dumps, load_json, loads
from pgstore.serializers.codecs import JSON, PICKLE, SIGNED_PICKLE
from pgstore.serializers.signing import SIGNATURE_BYTES, Signer
from pgstore.store.handle import Store

# The type of items, for type checkers: `Queue[Task]`. What is not said is Any.
if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")

BACKOFF_SECONDS: Final = 1.0
NOT_DURABLE: Final = "would make all of it not durable"


class QueueBase(Store, Generic[T]):
    """Options, partitions and items."""

    _kind: ClassVar = "queue"
    _display_name: ClassVar = "Queue"
    _id_prefix: ClassVar = "qu"
    _name_space: ClassVar = "queue"
    _option_defaults: ClassVar = {"backoff": BACKOFF_SECONDS}

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
        backoff: float | None = NOT_GIVEN,  # type: ignore[assignment]
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
            backoff: seconds after which an item comes again when the work on it has failed (`Lease.nack`); twice as many after each
                further attempt, up to a minute, or up to *backoff* if that is more. None: it comes at once. Default: 1.

        The last three are fixed when the Queue is created; left out, they are as they are. For the first two that is what None
        means, too: in a new Queue there is no bound.

        Raises:
            InvalidError: the name cannot be one; on first use, the Queue was created with other options.
        """
        store = super().from_name(
            label, name=name, environment_name=environment_name, create_if_missing=create_if_missing, client=client
        )
        store._options = check_options(maxsize=maxsize, max_attempts=max_attempts, backoff=backoff)
        return store

    @classmethod
    def ephemeral(
        cls,
        client: Client | None = None,
        environment_name: str | None = None,
        *,
        maxsize: int | None = None,
        max_attempts: int | None = None,
        backoff: float | None = NOT_GIVEN,  # type: ignore[assignment]
    ) -> Self:
        """
        Return a nameless Queue that lives as long as this handle; the options are those of `from_name`.

        It is deleted at the end of its `with` or `async with` block, when the handle is collected, when the interpreter exits, and
        after a crash once its process has been silent for ten minutes.
        """
        store = super().ephemeral(client, environment_name)
        store._options = check_options(maxsize=maxsize, max_attempts=max_attempts, backoff=backoff)
        return store

    @staticmethod
    def validate_partition_key(partition: str | None) -> bytes:
        """
        Return *partition* as bytes, empty for None, the default partition.

        Raises:
            InvalidError: it is not of 1 to 64 bytes of UTF-8.
        """
        return partition_name(partition).encode()

    def _state_of(self, store_id: int) -> QueueState:
        """What the client knows of this Queue; looked up by each operation, since a forked child begins with nothing."""
        return client_queues(self._runner).queue(store_id)

    def _tell(self, topics: Mapping[Topic, int]) -> Op[None]:
        """Tell so many of those who wait for each topic, when what was done commits."""
        hooked = yield BeforeCommit(Notifications, Notifications)
        for topic, count in topics.items():
            if hooked is None or hooked.immediate:
                yield telling(topic, count)
            else:
                hooked.hook.add(topic, count)

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
        record = self._record
        assert record is not None
        return Signer(self._runner.settings.signing_keys, record.id, b"pgstore queue")

    def _sign(self, payload: bytes, partition: str) -> bytes:
        return self._signer.sign(partition, payload) + payload

    def _decode_all(self, rows: Rows, partition: str) -> list[Any]:
        """The items of *rows*, as `_decode` gives them."""
        if {row[2] for row in rows} == {PICKLE} and not self._runner.settings.signing_keys:
            # In one go: a call for each would take a quarter of the time. What fails is named below.
            with contextlib.suppress(*NOT_LOADED):
                return [pickle.loads(row[3]) for row in rows]
        return [self._decode(row, partition) for row in rows]

    def _decode(self, row: Sequence[Any], partition: str) -> Any:
        """The item of a row that starts with id, put_at, codec, payload."""
        if row[2] == JSON:
            return load_json(row[3], "item {} of {!r}", row[0], self)
        if row[2] != PICKLE or self._runner.settings.signing_keys:
            return loads(self._checked(row, partition), "item {} of {!r}", row[0], self)
        return loads(row[3], "item {} of {!r}", row[0], self)

    def _checked(self, row: Sequence[Any], partition: str) -> bytes:
        """The pickle of a row, if this client may load it."""
        number, _, codec, payload = row[:4]
        has_keys = bool(self._runner.settings.signing_keys)
        if codec == PICKLE:
            reason = "is not signed, and this client has signing keys"
        elif codec != SIGNED_PICKLE:
            reason = f"is of codec {codec!r}, which this version does not know"
        elif has_keys and not self._signer.has_signed(payload[:SIGNATURE_BYTES], partition, payload[SIGNATURE_BYTES:]):
            reason = "is signed by none of this client's keys"
        else:
            return bytes(payload[SIGNATURE_BYTES:])
        raise errors.DeserializationError(f"item {number} of {self!r} {reason}", bytes(payload))


def room_topic(store_id: int) -> Topic:
    """What a put into a full Queue waits for."""
    return Topic(store_id, "room")
