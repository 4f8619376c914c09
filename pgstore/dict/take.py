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
from pgstore.core.statement import Statement
from pgstore.core.steps import is_interrupt
from pgstore.dict.base import ALIVE, READ, VALUE, VALUE_TYPES, DictBase, Write
from pgstore.dict.codec import Codec
from pgstore.dict.entries import OVERWRITE
from pgstore.registry import Facts
from pgstore.serializers import key_text

T = TypeVar("T")

# With all that it takes to put it back. Times in microseconds, which pass through a double as they are; NULL: never.
_COLUMNS: Final = f"""
    key, key_pickle, {READ}, revision, (extract(epoch FROM updated_at) * 1000000::numeric)::bigint,
    CASE WHEN isfinite(expires_at) THEN (extract(epoch FROM expires_at) * 1000000::numeric)::bigint END, {ALIVE}
"""
_ONE: Final = f"SELECT {_COLUMNS} FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2"
_MANY: Final = f"SELECT {_COLUMNS} FROM pgstore.dict_entry WHERE store_id = $1 AND key = ANY ($2)"
_LAST: Final = f"SELECT {_COLUMNS} FROM pgstore.dict_entry WHERE store_id = $1 AND {ALIVE} ORDER BY key DESC"
ONE = Statement(_ONE, "int8 text", reads=True)
MANY = Statement(_MANY, "int8 text[]", reads=True)
LAST = Statement(f"{_LAST} LIMIT 1", "int8", reads=True)


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
_NO_PICKLE: Final = """
    WHEN 'i' THEN true
    WHEN 'f' THEN true
    WHEN 'j' THEN pg_catalog.pg_column_size(json_value) <= 1024  -- without unpacking it
                  AND octet_length(json_value::text) <= 512
"""
_NO_CLASS: Final = """
    WHEN 'p' THEN pg_catalog.octet_length(value) BETWEEN 4 AND 1024
                  AND position(decode('93', 'hex') IN value) = 0
                  AND pg_catalog.get_byte(value, pg_catalog.octet_length(value) - 1) = 46
"""
ONE_OR_TAKEN = _one_or_taken(_NO_PICKLE + _NO_CLASS)
ONE_OR_TAKEN_IF_NO_PICKLE = _one_or_taken(_NO_PICKLE)
# Held until the transaction ends. Several in the order of the keys, so that no two wait for each other in a circle.
ONE_LOCKED = Statement(f"{_ONE} FOR UPDATE", "int8 text")
MANY_LOCKED = Statement(f"{_MANY} ORDER BY key FOR UPDATE", "int8 text[]")
LAST_LOCKED = Statement(f"{_LAST} FOR UPDATE SKIP LOCKED LIMIT 1", "int8")

REMOVE = Write(
    f"DELETE FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND revision = $3 AND {ALIVE}",
    "int8 text int8",
    kind="d",
)
# Passes over an entry that another is changing. Its key stands in both conditions, or a plan made while the table was small would
# go through the whole Dict for it.
REMOVE_IF_FREE = Write(
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
    kind="d",
)
# All or none. Locked in the order of the keys before any is deleted: a DELETE by itself takes them as it finds them.
REMOVE_ALL = Write(
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
    kind="d",
)
# In passing, so whatever is locked stays.
REMOVE_EXPIRED = Statement(
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
# Only where nobody has put the key anew meanwhile.
PUT_BACK = Write(
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
    kind="p",
)


class Taking(DictBase):
    """`pop`, `popitem` and `pop_many`."""

    @operation
    def pop(self, key: Any, default: Any = None) -> Op[Any]:
        """
        Remove *key* and return its value, or *default* if it is not there.

        Raises:
            DeserializationError: this process cannot load the value; it stays. `del` removes it.
        """
        text = key_text(key)
        codec = yield from self._open()
        yield from self._collect_in_passing(codec.facts)
        if codec.facts.options.get("watch") or not codec.pops_at_once:
            query = Query(ONE, codec.store_id, text)
        else:
            statement = ONE_OR_TAKEN if codec.loads_plainly else ONE_OR_TAKEN_IF_NO_PICKLE
            query = Query(statement, codec.store_id, text, undo=lambda rows: _putting_back(codec.facts, _taken(rows)))

        def load(rows: Rows) -> Any:
            value = codec.decode(rows[0][2:7], key, text)
            codec.pops_at_once = _goes_at_once(rows[0])  # the next is probably of its kind
            return value

        found = yield from self._take(codec, query, Query(ONE_LOCKED, codec.store_id, text), load)
        return default if found is None else found[0]

    @operation
    def popitem(self) -> Op[tuple[Any, Any]]:
        """
        Remove the last entry in the order of the keys and return it as (key, value).

        Raises:
            KeyError: there is none.
            DeserializationError: this process cannot load it; it stays.
        """
        codec = yield from self._open()
        last, locked = Query(LAST, codec.store_id), Query(LAST_LOCKED, codec.store_id)
        while True:
            item = yield from self._take(
                codec, last, locked, lambda rows: codec.pair(rows[0][:7]), remove=REMOVE_IF_FREE
            )
            if item is not None:
                return item[0]
            # What others are changing was passed over; where there is nothing else, wait for them.
            rows = yield Query(LAST, codec.store_id)
            if not rows:
                raise errors.MissingKeyError("popitem(): the Dict is empty", f"{self!r} is empty")
            last = Query(ONE, codec.store_id, rows[0][0])
            locked = Query(ONE_LOCKED, codec.store_id, rows[0][0])

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
            yield from self._check_exists(codec.store_id)
            return {}

        def load(rows: Rows) -> dict[Any, Any]:
            return {wanted[row[0]]: codec.decode(row[2:7], wanted[row[0]], row[0]) for row in rows}

        texts = sorted(wanted)
        query, locked = Query(MANY, codec.store_id, texts), Query(MANY_LOCKED, codec.store_id, texts)
        found = yield from self._take(codec, query, locked, load)
        return {} if found is None else found[0]

    def _take(
        self, codec: Codec, query: Query, locked: Query, load: Callable[[Rows], T], *, remove: Write = REMOVE
    ) -> Op[tuple[T] | None]:
        """Remove what *query* finds, or *locked*, which locks it; what *load* makes of its rows, None where there are none."""
        rows = yield from self._found(codec.facts, query)
        if not rows:
            return None
        if _taken(rows):
            try:
                return (load(rows),)
            except Exception:
                yield PutBack(_putting_back(codec.facts, rows))
                raise
        loaded = load(rows)
        if (yield from self._remove(codec.facts, rows, remove)):
            return (loaded,)
        return (yield from self._take_locked(codec, locked, load))

    def _take_locked(self, codec: Codec, locked: Query, load: Callable[[Rows], T]) -> Op[tuple[T] | None]:
        taken: Rows = []

        def body() -> Op[tuple[T] | None]:
            rows = yield from self._found(codec.facts, locked)
            if not rows:
                return None
            loaded = load(rows)
            yield from self._remove(codec.facts, rows, REMOVE)
            taken.extend(rows)  # not before: what an interrupt has rolled back may be in another's hands by then
            return (loaded,)

        try:
            return (yield from atomic(body()))
        except BaseException as exc:
            if is_interrupt(exc) and taken:  # perhaps after the commit; before it they are there, and nothing is done
                yield PutBack(_putting_back(codec.facts, taken))
            raise

    def _found(self, facts: Facts, query: Query) -> Op[Rows]:
        """The rows of *query* that have not expired; the others are removed."""
        found: Rows = yield query
        if not found:
            yield from self._check_exists(facts.id)
        rows = [row for row in found if row[10]]
        if len(rows) < len(found):
            yield Query(REMOVE_EXPIRED, facts.id, [row[0] for row in found if not row[10]])
        return rows

    def _remove(self, facts: Facts, rows: Rows, remove: Write) -> Op[bool]:
        """Remove the entries *rows*, one by *remove*, if all are there as they were read; an interrupt puts them back."""

        def undo(_: object) -> list[Query]:
            return _putting_back(facts, rows)

        if len(rows) == 1:
            return bool((yield from self._write(remove, facts, rows[0][0], rows[0][7], undo=undo)))
        keys, revisions = [row[0] for row in rows], [row[7] for row in rows]
        return bool((yield from self._write(REMOVE_ALL, facts, keys, revisions, undo=undo)))


def _goes_at_once(row: Sequence[Any]) -> bool:
    """Whether a value like that of *row* is removed by the statement that reads it."""
    kind, data, document = row[2], row[3], row[6]
    if kind == "p":
        return len(data) <= 1024 and b"\x93" not in data
    return len(document) <= 512 if kind == "j" else kind in "if"


def _taken(rows: Rows) -> Rows:
    """Those of *rows* that their statement has removed."""
    return [row for row in rows if len(row) > 11 and row[11]]


def _putting_back(facts: Facts, rows: Rows) -> list[Query]:
    """The queries that put entries back, in statements of a size that the server takes."""
    statement = PUT_BACK.logged if facts.options.get("watch") else PUT_BACK.plain
    return [
        Query(statement, facts.id, *zip(*(row[:10] for row in batch), strict=True))
        for batch in batches(rows, _size, bytes_max=BATCH_BYTES)
    ]


def _size(row: Sequence[Any]) -> int:
    return 64 + len(row[3] or b"") + len(row[6] or "")
