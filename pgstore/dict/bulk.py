"""Many entries in one statement: arrays go to the server, sorted by key, so that no two writers wait for each other in a circle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from pgstore.core.operation import Op, Query, atomic, operation
from pgstore.core.statement import Statement
from pgstore.dict.base import ALIVE, VALUE, VALUE_TYPES, Write
from pgstore.dict.entries import OVERWRITE, TAKEN, Entries
from pgstore.registry import Facts
from pgstore.serializers import key_text

ANY = Statement(f"SELECT 1 FROM pgstore.dict_entry WHERE store_id = $1 AND {ALIVE} LIMIT 1", "int8", reads=True)
# All less the expired: both counts are read from indexes alone, where ALIVE would have every row looked at.
LEN = Statement(
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
    reads=True,
)
GET_MANY = Statement(
    f"SELECT key, {VALUE} FROM pgstore.dict_entry WHERE store_id = $1 AND key = ANY ($2) AND {ALIVE}",
    "int8 text[]",
    reads=True,
)
PUT_MANY = Write(
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
    kind="p",
)
# Locked in the order of the keys before any is deleted: a DELETE by itself takes them as it finds them.
POP_MANY = Write(
    """
    DELETE FROM pgstore.dict_entry
     USING (SELECT key AS wanted
              FROM pgstore.dict_entry
             WHERE store_id = $1
               AND key = ANY ($2)
             ORDER BY key
               FOR UPDATE) AS locked
     WHERE store_id = $1
       AND key = locked.wanted
    """,
    "int8 text[]",
    kind="d",
    returning=TAKEN,
)
# In the order of the keys, too, or an `update` at the same time would be a deadlock. Counted: all are locked before any is deleted.
CLEAR = Write(
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
    kind="c",
)

BATCH_BYTES: Final = 16 * 1024 * 1024  # of one statement of `update`


class Bulk(Entries):
    """Operations on many keys."""

    @operation
    def update(
        self,
        other: Mapping[Any, Any] | Iterable[tuple[Any, Any]] | None = None,
        /,
        *,
        ttl: float | None = None,
        **kwargs: Any,
    ) -> Op[None]:
        """
        Put all entries of a mapping, or of pairs, and of the keyword arguments; all or nothing.

        *mapping* may also be given by that name, as long as it is a Mapping. *ttl*: as in `put`, for all of them.
        """
        if set(kwargs) == {"mapping"} and other is None and isinstance(kwargs["mapping"], Mapping):
            other, kwargs = kwargs["mapping"], {}
        given: Any = other
        if isinstance(given, Bulk) and given._runner is self._runner and given._bound in (None, self._bound):
            # As a part of this call: `items()` would block an event loop.
            pairs = yield from cast("Any", given).items.op()
        else:
            pairs = given.items() if isinstance(given, Mapping) else () if given is None else given
        codec = yield from self._open()
        seconds = self._ttl(ttl, codec.facts.options)
        entries: dict[str, tuple[Any, ...]] = {}
        for key, value in (*pairs, *kwargs.items()):
            text, pickled = codec.encode_key(key)
            entries[text] = (text, pickled, *codec.encode(value, key, text))
        # By code point, which is the order of the C collation.
        batches = list(_batches([entries[text] for text in sorted(entries)]))
        if len(batches) == 1:
            yield from self._put_batches(codec.facts, seconds, batches)
        elif batches:
            yield from atomic(self._put_batches(codec.facts, seconds, batches))

    def _put_batches(self, facts: Facts, seconds: float | None, batches: list[list[tuple[Any, ...]]]) -> Op[None]:
        for batch in batches:
            if (yield from self._write(PUT_MANY, facts, *zip(*batch, strict=True), seconds)) == 0:
                yield from self._check_exists(facts.id)

    @operation
    def get_many(self, keys: Iterable[Any]) -> Op[dict[Any, Any]]:
        """Return the entries of those *keys* that are there."""
        wanted = {key_text(key): key for key in keys}
        codec = yield from self._open()
        rows = (yield Query(GET_MANY, codec.store_id, list(wanted))) if wanted else []
        if wanted and not rows:
            yield from self._check_exists(codec.store_id)
        return {wanted[text]: codec.decode(columns, wanted[text], text) for text, *columns in rows}

    @operation
    def pop_many(self, keys: Iterable[Any]) -> Op[dict[Any, Any]]:
        """
        Remove those *keys* that are there, all in one step, and return their entries.

        Raises:
            DeserializationError: this process cannot load one of the values; all entries stay.
        """
        wanted = {key_text(key): key for key in keys}
        codec = yield from self._open()
        if not wanted:
            return {}
        rows = yield from self._take(POP_MANY, codec.facts, sorted(wanted))

        def decode() -> dict[Any, Any]:
            return {wanted[row[0]]: codec.decode(row[2:7], wanted[row[0]], row[0]) for row in rows}

        return (yield from self._decoded(codec.facts, rows, decode))

    @operation
    def clear(self) -> Op[None]:
        """Remove all entries."""
        facts = (yield from self._open()).facts
        if (yield from self._write(CLEAR, facts)) == 0:
            yield from self._check_exists(facts.id)

    @operation
    def len(self) -> Op[int]:
        """Return the number of entries, counted."""
        store_id = yield from self._locate()
        count: int = (yield Query(LEN, store_id))[0][0]
        if count == 0:
            yield from self._check_exists(store_id)
        return count

    def __len__(self) -> int:
        return self.len()

    @operation
    def _any(self) -> Op[bool]:
        store_id = yield from self._locate()
        return bool((yield Query(ANY, store_id)))

    def __bool__(self) -> bool:
        return self._any()


def _batches(entries: list[tuple[Any, ...]]) -> Iterable[list[tuple[Any, ...]]]:
    """*entries* cut so that no statement is much larger than `BATCH_BYTES`."""
    batch: list[tuple[Any, ...]] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += 64 + len(entry[3] or b"") + len(entry[6] or "")
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
