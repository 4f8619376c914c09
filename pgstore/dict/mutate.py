"""Read, change, write back: as one step, with the entry locked in between."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Generic, cast

from pgstore import errors
from pgstore.client.transaction import Transaction
from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.dict.base import ALIVE, READ, K, V
from pgstore.dict.entries import Entries
from pgstore.serializers import key_text
from pgstore.serializers.codecs import INTEGER

_ABSENT: Final = object()


class Mutation(Generic[V]):
    """
    The value of one key, held by `with d.mutate(key) as entry:`; what `entry.value` is at the end of the block is stored.

    It is changed by assigning to `value` or by changing the value itself. `delete()` removes the key instead.
    """

    def __init__(self, store: Mutating[Any, V], key: Any, default: Any, ttl: float | None) -> None:
        self._store = store
        self._key = key
        self._text = key_text(key)
        self._default = default
        self._ttl = ttl
        self._transaction: Transaction | None = None
        self._deleted = False
        self.value: V = cast("V", None)
        self.existed = False

    def delete(self) -> None:
        """Remove the key at the end of the block."""
        self._deleted = True

    # Waits for whoever else changes the entry, then reads what they left.
    _LOCK_ENTRY: Final = Statement(
        f"""
        SELECT {READ}, {ALIVE}
          FROM pgstore.dict_entry
         WHERE store_id = $1
           AND key = $2
           FOR UPDATE
        """,
        "int8 text",
    )

    # A key that is not there has no row to lock: an expired one is made, which nobody sees and which the second to come waits for.
    _INSERT_PLACEHOLDER: Final = Statement(
        f"""
        INSERT INTO pgstore.dict_entry (store_id, key, key_pickle, codec, integer_value, expires_at)
        SELECT s.id, $2, $3, '{INTEGER}', 0, '-infinity'
          FROM pgstore.store s
         WHERE s.id = $1
        ON CONFLICT DO NOTHING
        """,
        "int8 text bytea",
    )

    def _begin(self) -> Op[None]:
        codec = yield from self._store._resolve_codec()
        while not (rows := (yield Query(self._LOCK_ENTRY, codec.store_id, self._text))):
            _, pickled = codec.encode_key(self._key)
            if not (yield Query(self._INSERT_PLACEHOLDER, codec.store_id, self._text, pickled)):
                yield from self._store._check_exists(codec.store_id)
        *columns, self.existed = rows[0]
        self.value = codec.decode(columns, self._key, self._text) if self.existed else self._default

    _DELETE_PLACEHOLDER: Final = Statement(
        "DELETE FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND expires_at = '-infinity'", "int8 text"
    )

    def _end(self) -> Op[None]:
        store = self._store
        codec = yield from store._resolve_codec()
        if not self._deleted:
            _, pickled = codec.encode_key(self._key)
            columns = codec.encode(self.value, self._key, self._text)
            seconds = store._ttl(self._ttl, codec.record.options)
            yield from store._write(store._PUT, codec.record, self._text, pickled, *columns, seconds)
        elif self.existed:
            yield from store._write(store._DELETE, codec.record, self._text)
        else:
            yield Query(self._DELETE_PLACEHOLDER, codec.store_id, self._text)

    # A transaction of its own, or a savepoint in the current one; bound explicitly, so that the body may do other things.

    def _start(self) -> Transaction:
        if self._transaction is not None:
            raise errors.InvalidError("a mutation is used once; call mutate() again")
        if self._store._bound is not None:
            raise errors.InvalidError(
                "mutate() opens a transaction; use it on the store itself, inside the transaction"
            )
        self._transaction = self._store._runner.transaction()
        return self._transaction

    def __enter__(self) -> Mutation[V]:
        transaction = self._start()
        transaction.__enter__()
        try:
            self._store._runner.run(self._begin(), transaction)
        except BaseException as exc:
            transaction.__exit__(type(exc), exc, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        transaction = self._transaction
        assert transaction is not None
        if exc is None:
            try:
                self._store._runner.run(self._end(), transaction)
            except BaseException as failure:
                transaction.__exit__(type(failure), failure, None)
                raise
        transaction.__exit__(kind, exc, trace)

    async def __aenter__(self) -> Mutation[V]:
        transaction = self._start()
        await transaction.__aenter__()
        try:
            await self._store._runner.run_async(self._begin(), transaction)
        except BaseException as exc:
            await transaction.__aexit__(type(exc), exc, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        transaction = self._transaction
        assert transaction is not None
        if exc is None:
            try:
                await self._store._runner.run_async(self._end(), transaction)
            except BaseException as failure:
                await transaction.__aexit__(type(failure), failure, None)
                raise
        await transaction.__aexit__(kind, exc, trace)


class Mutating(Entries[K, V]):
    """`mutate`."""

    def mutate(self, key: K, default: V | None = None, *, ttl: float | None = None) -> Mutation[V]:
        """
        Hold *key* locked while its value is changed: `with d.mutate("hits", []) as entry: entry.value.append(1)`.

        Others who mutate, put or delete the key wait until the block ends; reading goes on. An exception leaves the value as it
        was. Everything else done in the block commits with it, for the block is a transaction. Also for `async with`.

        Args:
            default: the value to start from where there is none.
            ttl: as in `put`.
        """
        return Mutation(self, key, default, ttl)
