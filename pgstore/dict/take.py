"""Taking entries: their values are loaded before they are removed, so one that this process cannot load was never gone.

An entry is read, loaded, and then removed if it is still the one that was read, which its revision tells. If somebody has written
it in between, it is read again, locked this time, in a transaction. Only what loads everywhere, such as a number, `pop` removes in
the statement that reads it. What an interrupted call has removed is put back as it was, with its revision and times, where nobody
has put the key anew meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from pgstore import errors
from pgstore.core.batches import BATCH_BYTES, batches
from pgstore.core.operation import Op, PutBack, Query, Rows, atomic, operation
from pgstore.core.overloads import operation_as
from pgstore.core.statement import Statement
from pgstore.core.steps import is_interrupt
from pgstore.dict.base import ALIVE, READ, VALUE, VALUE_TYPES, ChangeKind, DictBase, K, V, Write
from pgstore.dict.codec import Codec
from pgstore.dict.entries import OVERWRITE, Get
from pgstore.serializers import key_text
from pgstore.serializers.codecs import FLOAT, INTEGER, JSON, PICKLE
from pgstore.store.registry import StoreRecord

T = TypeVar("T")

# With all that it takes to put it back. Times in microseconds, which pass through a double as they are; NULL: never.
_COLUMNS: Final = f"""
    key, key_pickle, {READ}, revision, (extract(epoch FROM updated_at) * 1000000::numeric)::bigint,
    CASE WHEN isfinite(expires_at) THEN (extract(epoch FROM expires_at) * 1000000::numeric)::bigint END, {ALIVE}
"""
_SELECT_ONE: Final = f"SELECT {_COLUMNS} FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2"
_SELECT_MANY: Final = f"SELECT {_COLUMNS} FROM pgstore.dict_entry WHERE store_id = $1 AND key = ANY ($2)"
_SELECT_LAST: Final = f"SELECT {_COLUMNS} FROM pgstore.dict_entry WHERE store_id = $1 AND {ALIVE} ORDER BY key DESC"


def _one_or_taken(loads_everywhere: str) -> Statement:
    """One entry, removed already if it *loads_everywhere*, the last column says whether."""
    return Statement(
        f"""
        WITH taken AS (DELETE FROM pgstore.dict_entry
                        WHERE store_id = $1
                          AND key = $2
                          AND {ALIVE}
                          AND CASE codec {loads_everywhere} END
                       RETURNING {_COLUMNS})
        SELECT *, true
          FROM taken
         UNION ALL
        SELECT {_COLUMNS}, false
          FROM pgstore.dict_entry
         WHERE store_id = $1
           AND key = $2
           AND NOT EXISTS (SELECT FROM taken)
        """,
        "int8 text",
    )


# Small values of no class: numbers, short JSON, and pickles in which no name is looked up (0x93) and that have an end ('.'). Each
# takes a trip less so. One that does not load after all, written by something else or damaged, is put back.
_NO_PICKLE: Final = f"""
    WHEN '{INTEGER}' THEN true
    WHEN '{FLOAT}' THEN true
    WHEN '{JSON}' THEN pg_catalog.pg_column_size(json_value) <= 1024  -- without unpacking it
                  AND octet_length(json_value::text) <= 512
"""
_NO_CLASS: Final = f"""
    WHEN '{PICKLE}' THEN pg_catalog.octet_length(value) BETWEEN 4 AND 1024
                  AND position(decode('93', 'hex') IN value) = 0
                  AND pg_catalog.get_byte(value, pg_catalog.octet_length(value) - 1) = 46
"""


class Taking(DictBase[K, V]):
    """`pop`, `popitem` and `pop_many`."""

    # What is there, or was taken. Of two who take one entry, the second waits for the first, and then finds none.
    _ONE: Final = Statement(_SELECT_ONE, "int8 text", read_only=True)

    _ONE_OR_TAKEN: Final = _one_or_taken(_NO_PICKLE + _NO_CLASS)

    _ONE_OR_TAKEN_IF_NO_PICKLE: Final = _one_or_taken(_NO_PICKLE)

    # Waits for whoever is changing the entry, then holds it until the transaction ends.
    _ONE_LOCKED: Final = Statement(f"{_SELECT_ONE} FOR UPDATE", "int8 text")

    @operation_as[Get[K, V]]
    def pop(self, key: K, default: Any = None) -> Op[Any]:
        """
        Remove *key* and return its value, or *default* if it is not there.

        Raises:
            DeserializationError: this process cannot load the value; it stays. `del` removes it.
        """
        text = key_text(key)
        codec = yield from self._resolve_codec()
        yield from self._collect_in_passing(codec.record)
        if codec.record.options.get("watch") or not codec.pops_at_once:
            query = Query(self._ONE, codec.store_id, text)
        else:
            statement = self._ONE_OR_TAKEN if codec.loads_plainly else self._ONE_OR_TAKEN_IF_NO_PICKLE
            query = Query(statement, codec.store_id, text, undo=lambda rows: _putting_back(codec.record, _taken(rows)))

        def load(rows: Rows) -> Any:
            value = codec.decode(rows[0][2:7], key, text)
            codec.pops_at_once = _goes_at_once(rows[0])  # the next is probably of its kind
            return value

        found = yield from self._take(codec, query, Query(self._ONE_LOCKED, codec.store_id, text), load)
        return default if found is None else found[0]

    # Passes over entries that others are changing, so it waits for nobody. One that was passed over for ever would be missed, so
    # `popitem` waits where there is nothing else.
    _LAST: Final = Statement(f"{_SELECT_LAST} LIMIT 1", "int8", read_only=True)

    _LAST_LOCKED: Final = Statement(f"{_SELECT_LAST} FOR UPDATE SKIP LOCKED LIMIT 1", "int8")

    # Passes over an entry that another is changing, so it waits for nobody; only the one that was read is removed. The key stands
    # in both conditions, or a plan made while the table was small would go through the whole Dict for it.
    _REMOVE_IF_FREE: Final = Write(
        f"""
        DELETE FROM pgstore.dict_entry
         WHERE store_id = $1
           AND key = $2
           AND ctid = ANY (ARRAY(SELECT ctid
                                   FROM pgstore.dict_entry
                                  WHERE store_id = $1
                                    AND key = $2
                                    AND revision = $3
                                    AND {ALIVE}
                                    FOR UPDATE SKIP LOCKED))
        """,
        "int8 text int8",
        kind=ChangeKind.DELETE,
    )

    @operation
    def popitem(self) -> Op[tuple[K, V]]:
        """
        Remove the last entry in the order of the keys and return it as (key, value).

        Raises:
            KeyError: there is none.
            DeserializationError: this process cannot load it; it stays.
        """
        codec = yield from self._resolve_codec()
        last, locked = Query(self._LAST, codec.store_id), Query(self._LAST_LOCKED, codec.store_id)
        while True:
            item = yield from self._take(
                codec, last, locked, lambda rows: codec.pair(rows[0][:7]), remove=self._REMOVE_IF_FREE
            )
            if item is not None:
                return item[0]
            # What others are changing was passed over; where there is nothing else, wait for them.
            rows = yield Query(self._LAST, codec.store_id)
            if not rows:
                raise errors.MissingKeyError("popitem(): the Dict is empty", f"{self!r} is empty")
            last = Query(self._ONE, codec.store_id, rows[0][0])
            locked = Query(self._ONE_LOCKED, codec.store_id, rows[0][0])

    # Locks in the order of the keys, as all who lock several do, so that no two wait for each other in a circle.
    _MANY: Final = Statement(_SELECT_MANY, "int8 text[]", read_only=True)

    _MANY_LOCKED: Final = Statement(f"{_SELECT_MANY} ORDER BY key FOR UPDATE", "int8 text[]")

    @operation
    def pop_many(self, keys: Iterable[K]) -> Op[dict[K, V]]:
        """
        Remove those *keys* that are there, all in one step, and return their entries.

        Raises:
            DeserializationError: this process cannot load one of the values; all entries stay.
        """
        wanted = {key_text(key): key for key in keys}
        codec = yield from self._resolve_codec()
        if not wanted:
            yield from self._check_exists(codec.store_id)
            return {}

        def load(rows: Rows) -> dict[K, V]:
            return {wanted[row[0]]: codec.decode(row[2:7], wanted[row[0]], row[0]) for row in rows}

        texts = sorted(wanted)
        query, locked = Query(self._MANY, codec.store_id, texts), Query(self._MANY_LOCKED, codec.store_id, texts)
        found = yield from self._take(codec, query, locked, load)
        return {} if found is None else found[0]

    # Waits for whoever is changing the entry, and then removes it only if it is still the one that was read.
    _REMOVE: Final = Write(
        f"DELETE FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND revision = $3 AND {ALIVE}",
        "int8 text int8",
        kind=ChangeKind.DELETE,
    )

    def _take(
        self, codec: Codec, query: Query, locked: Query, load: Callable[[Rows], T], *, remove: Write = _REMOVE
    ) -> Op[tuple[T] | None]:
        """Remove what *query* finds, or *locked*, which locks it; what *load* makes of its rows, None where there are none."""
        rows = yield from self._found(codec.record, query)
        if not rows:
            return None
        if _taken(rows):
            try:
                return (load(rows),)
            except Exception:
                yield PutBack(_putting_back(codec.record, rows))
                raise
        loaded = load(rows)
        if (yield from self._remove(codec.record, rows, remove)):
            return (loaded,)
        return (yield from self._take_locked(codec, locked, load))

    def _take_locked(self, codec: Codec, locked: Query, load: Callable[[Rows], T]) -> Op[tuple[T] | None]:
        taken: Rows = []

        def body() -> Op[tuple[T] | None]:
            rows = yield from self._found(codec.record, locked)
            if not rows:
                return None
            loaded = load(rows)
            yield from self._remove(codec.record, rows, self._REMOVE)
            taken.extend(rows)  # not before: what an interrupt has rolled back may be in another's hands by then
            return (loaded,)

        try:
            return (yield from atomic(body()))
        except BaseException as exc:
            if is_interrupt(exc) and taken:  # perhaps after the commit; before it they are there, and nothing is done
                yield PutBack(_putting_back(codec.record, taken))
            raise

    # In passing: whatever is locked stays, so this waits for nobody.
    _REMOVE_EXPIRED: Final = Statement(
        """
        DELETE FROM pgstore.dict_entry
         WHERE store_id = $1
           AND key = ANY ($2)
           AND ctid = ANY (ARRAY(SELECT ctid
                                   FROM pgstore.dict_entry
                                  WHERE store_id = $1
                                    AND key = ANY ($2)
                                    AND expires_at <= statement_timestamp()
                                    FOR UPDATE SKIP LOCKED))
        """,
        "int8 text[]",
    )

    def _found(self, record: StoreRecord, query: Query) -> Op[Rows]:
        """The rows of *query* that have not expired; the others are removed."""
        found: Rows = yield query
        if not found:
            yield from self._check_exists(record.id)
        rows = [row for row in found if row[10]]
        if len(rows) < len(found):
            yield Query(self._REMOVE_EXPIRED, record.id, [row[0] for row in found if not row[10]])
        return rows

    # All or none. Locked in the order of the keys before any is deleted, so that no two wait for each other in a circle: a DELETE
    # by itself takes them as it finds them.
    _REMOVE_ALL: Final = Write(
        f"""
        WITH locked AS MATERIALIZED (SELECT e.key AS wanted
                                       FROM pgstore.dict_entry e
                                       JOIN unnest($2, $3) AS u (key, revision) ON u.key = e.key AND u.revision = e.revision
                                      WHERE e.store_id = $1
                                        AND {ALIVE}
                                      ORDER BY e.key
                                        FOR UPDATE OF e)
        DELETE FROM pgstore.dict_entry
         USING locked
         WHERE store_id = $1
           AND key = locked.wanted
           AND (SELECT count(*) FROM locked) = pg_catalog.cardinality($2)
        """,
        "int8 text[] int8[]",
        kind=ChangeKind.DELETE,
    )

    def _remove(self, record: StoreRecord, rows: Rows, remove: Write) -> Op[bool]:
        """Remove the entries *rows*, one by *remove*, if all are there as they were read; an interrupt puts them back."""

        def undo(_: object) -> list[Query]:
            return _putting_back(record, rows)

        if len(rows) == 1:
            return bool((yield from self._write(remove, record, rows[0][0], rows[0][7], undo=undo)))
        keys, revisions = [row[0] for row in rows], [row[7] for row in rows]
        return bool((yield from self._write(self._REMOVE_ALL, record, keys, revisions, undo=undo)))


def _goes_at_once(row: Sequence[Any]) -> bool:
    """Whether a value like that of *row* is removed by the statement that reads it."""
    kind, data, document = row[2], row[3], row[6]
    if kind == PICKLE:
        return len(data) <= 1024 and b"\x93" not in data
    return len(document) <= 512 if kind == JSON else kind in (INTEGER, FLOAT)


def _taken(rows: Rows) -> Rows:
    """Those of *rows* that their statement has removed."""
    return [row for row in rows if len(row) > 11 and row[11]]


# Only where nobody has put the key anew meanwhile: of a put at the same time, the second waits for the first. Sorted by key, so
# that no two statements of many keys wait for each other in a circle.
_PUT_BACK: Final = Write(
    f"""
    INSERT INTO pgstore.dict_entry AS e (store_id, key, key_pickle, {VALUE}, revision, updated_at, expires_at)
    SELECT s.id, u.key, u.key_pickle, u.codec, u.value, u.integer_value, u.float_value, u.json_value, u.revision,
           timestamptz 'epoch' + u.updated::float8 * interval '1 microsecond',
           timestamptz 'epoch' + u.expiry::float8 * interval '1 microsecond'
      FROM pgstore.store s
     CROSS JOIN unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                AS u (key, key_pickle, codec, value, integer_value, float_value, json_value, revision, updated, expiry)
     WHERE s.id = $1
     ORDER BY u.key COLLATE "C"
    {OVERWRITE}
     WHERE e.expires_at <= statement_timestamp()
    """,
    f"int8 text[] bytea[] {' '.join(f'{name}[]' for name in VALUE_TYPES.split())} int8[] int8[] int8[]",
    kind=ChangeKind.PUT,
)


def _putting_back(record: StoreRecord, rows: Rows) -> list[Query]:
    """The queries that put entries back, in statements of a size that the server takes."""
    statement = _PUT_BACK.logged if record.options.get("watch") else _PUT_BACK.plain
    return [
        Query(statement, record.id, *zip(*(row[:10] for row in batch), strict=True))
        for batch in batches(rows, _size, bytes_max=BATCH_BYTES)
    ]


def _size(row: Sequence[Any]) -> int:
    return 64 + len(row[3] or b"") + len(row[6] or "")
