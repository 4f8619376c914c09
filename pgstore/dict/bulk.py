"""Many entries in one statement: arrays go to the server, sorted by key, so that no two writers wait for each other in a circle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from pgstore.core.batches import BATCH_BYTES, batches
from pgstore.core.operation import Op, Query, atomic, operation
from pgstore.core.statement import Statement
from pgstore.dict.base import ALIVE, READ, VALUE, VALUE_TYPES, ChangeKind, K, V, Write
from pgstore.dict.entries import OVERWRITE, Entries
from pgstore.serializers import key_text
from pgstore.store.registry import StoreRecord


class Bulk(Entries[K, V]):
    """Operations on many keys."""

    @operation
    def update(
        self,
        other: Mapping[K, V] | Iterable[tuple[K, V]] | None = None,
        /,
        *,
        ttl: float | None = None,
        **kwargs: V,
    ) -> Op[None]:
        """
        Put all entries of a mapping (whatever has `keys`), or of pairs, and of the keyword arguments; all or nothing.

        *mapping* may also be given by that name, as long as it is a Mapping. *ttl*: as in `put`, for all of them.
        """
        if set(kwargs) == {"mapping"} and other is None and isinstance(kwargs["mapping"], Mapping):
            other, kwargs = kwargs["mapping"], {}
        given: Any = other
        if isinstance(given, Bulk) and given._runner is self._runner and given._bound in (None, self._bound):
            # As a part of this call: `items()` would block an event loop.
            pairs = yield from cast("Any", given).items.op()
        else:
            pairs = _pairs(given)
        codec = yield from self._resolve_codec()
        seconds = self._ttl(ttl, codec.record.options)
        entries: dict[str, tuple[Any, ...]] = {}
        for key, value in (*pairs, *kwargs.items()):
            text, pickled = codec.encode_key(key)
            entries[text] = (text, pickled, *codec.encode(value, key, text))
        # By code point, which is the order of the C collation.
        cut = list(batches([entries[text] for text in sorted(entries)], _size, bytes_max=BATCH_BYTES))
        if len(cut) == 1:
            yield from self._put_batches(codec.record, seconds, cut)
        elif cut:
            yield from atomic(self._put_batches(codec.record, seconds, cut))
        else:
            yield from self._check_exists(codec.record.id)

    # Sorted by key, as all who lock several entries do, so that no two wait for each other in a circle.
    _PUT_MANY: Final = Write(
        f"""
        INSERT INTO pgstore.dict_entry AS e (store_id, key, key_pickle, {VALUE}, expires_at)
        SELECT s.id, u.key, u.key_pickle, u.codec, u.value, u.integer_value, u.float_value, u.json_value,
               statement_timestamp() + $9 * interval '1 second'
          FROM pgstore.store s
         CROSS JOIN unnest($2, $3, $4, $5, $6, $7, $8)
                    WITH ORDINALITY AS u (key, key_pickle, codec, value, integer_value, float_value, json_value, position)
         WHERE s.id = $1
         ORDER BY u.position
        {OVERWRITE}
        """,
        f"int8 text[] bytea[] {' '.join(f'{name}[]' for name in VALUE_TYPES.split())} float8",
        kind=ChangeKind.PUT,
    )

    def _put_batches(self, record: StoreRecord, seconds: float | None, cut: list[list[tuple[Any, ...]]]) -> Op[None]:
        for batch in cut:
            if (yield from self._write(self._PUT_MANY, record, *zip(*batch, strict=True), seconds)) == 0:
                yield from self._check_exists(record.id)

    _GET_MANY: Final = Statement(
        f"SELECT key, {READ} FROM pgstore.dict_entry WHERE store_id = $1 AND key = ANY ($2) AND {ALIVE}",
        "int8 text[]",
        read_only=True,
    )

    @operation
    def get_many(self, keys: Iterable[K]) -> Op[dict[K, V]]:
        """Return the entries of those *keys* that are there."""
        wanted = {key_text(key): key for key in keys}
        codec = yield from self._resolve_codec()
        rows = (yield Query(self._GET_MANY, codec.store_id, list(wanted))) if wanted else []
        if not rows:
            yield from self._check_exists(codec.store_id)
        return {wanted[text]: codec.decode(columns, wanted[text], text) for text, *columns in rows}

    # In the order of the keys, or an `update` at the same time would be a deadlock. Counted: all are locked before any is deleted.
    _CLEAR: Final = Write(
        """
        WITH locked AS MATERIALIZED (SELECT count(*)
                                       FROM (SELECT 1
                                               FROM pgstore.dict_entry
                                              WHERE store_id = $1
                                              ORDER BY key
                                                FOR UPDATE) AS entry)
        DELETE FROM pgstore.dict_entry
         USING locked
         WHERE store_id = $1
        """,
        "int8",
        kind=ChangeKind.CLEAR,
    )

    @operation
    def clear(self) -> Op[None]:
        """Remove all entries."""
        record = (yield from self._resolve_codec()).record
        if (yield from self._write(self._CLEAR, record)) == 0:
            yield from self._check_exists(record.id)

    # All less the expired: both counts are read from indexes alone, where ALIVE would have every row looked at.
    _LEN: Final = Statement(
        """
        SELECT (SELECT count(*)
                  FROM pgstore.dict_entry
                 WHERE store_id = $1)
             - (SELECT count(*)
                  FROM pgstore.dict_entry
                 WHERE store_id = $1
                   AND expires_at <= statement_timestamp())
        """,
        "int8",
        read_only=True,
    )

    @operation
    def len(self) -> Op[int]:
        """Return the number of entries, counted."""
        store_id = yield from self._resolve_id()
        count: int = (yield Query(self._LEN, store_id))[0][0]
        if count == 0:
            yield from self._check_exists(store_id)
        return count

    def __len__(self) -> int:
        return self.len()

    _ANY: Final = Statement(
        f"SELECT 1 FROM pgstore.dict_entry WHERE store_id = $1 AND {ALIVE} LIMIT 1", "int8", read_only=True
    )

    @operation
    def _any(self) -> Op[bool]:
        store_id = yield from self._resolve_id()
        if (yield Query(self._ANY, store_id)):
            return True
        yield from self._check_exists(store_id)
        return False

    def __bool__(self) -> bool:
        return self._any()


def _pairs(given: Any) -> Iterable[tuple[Any, Any]]:
    """Keys and values of what `dict.update` takes: a mapping is what has `keys`."""
    if given is None:
        return
    if isinstance(given, Mapping) and hasattr(given, "items"):
        yield from given.items()
    elif hasattr(given, "keys"):
        for key in given.keys():  # noqa: SIM118  # it may be iterated over in another way
            yield key, given[key]
    else:
        for number, pair in enumerate(given):
            try:
                both = tuple(pair)
            except TypeError:
                raise TypeError(
                    f"cannot convert update sequence element #{number} to a pair of key and value"
                ) from None
            if len(both) != 2:
                raise ValueError(f"update sequence element #{number} has length {len(both)}; 2 is required")
            yield both


def _size(entry: tuple[Any, ...]) -> int:
    return 64 + len(entry[3] or b"") + len(entry[6] or "")
