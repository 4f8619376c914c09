"""Dict: a table of values by key, shared by every client of the database.

One row of `dict_entry` an entry. Keys that Python holds equal are one key (`serializers.keys`); int and float values stand in
columns of their own, all others are pickles (`serializers.values`). An entry that has expired exists for no statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from pgstore import errors
from pgstore.core.operation import Op, Query, Rows, atomic, iterated, operation
from pgstore.core.statement import Statement
from pgstore.handle import Store
from pgstore.serializers import check_size, decode_key, decode_value, encode_key, encode_value, key_text
from pgstore.types import DictInfo

_ALIVE: Final = "(expires_at IS NULL OR expires_at > statement_timestamp())"
_VALUE: Final = "codec, value, integer_value, float_value"

GET = Statement(
    f"SELECT {_VALUE} FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND {_ALIVE}",
    "int8 text",
    reads=True,
)
CONTAINS = Statement(
    f"SELECT 1 FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND {_ALIVE}",
    "int8 text",
    reads=True,
)
ANY = Statement(f"SELECT 1 FROM pgstore.dict_entry WHERE store_id = $1 AND {_ALIVE} LIMIT 1", "int8", reads=True)
LEN = Statement(f"SELECT count(*) FROM pgstore.dict_entry WHERE store_id = $1 AND {_ALIVE}", "int8", reads=True)
# Reading the store's row finds out whether it still exists, in the same statement.
PUT = Statement(
    """
    INSERT INTO pgstore.dict_entry AS e (store_id, key, key_pickle, codec, value, integer_value, float_value)
    SELECT s.id, $2, $3, $4, $5, $6, $7
      FROM pgstore.store s
     WHERE s.id = $1
    ON CONFLICT (store_id, key) DO UPDATE
       SET codec = excluded.codec,
           value = excluded.value,
           integer_value = excluded.integer_value,
           float_value = excluded.float_value,
           json_value = NULL,
           revision = excluded.revision,
           updated_at = excluded.updated_at,
           expires_at = NULL
    """,
    "int8 text bytea char bytea int8 float8",
)
# An expired entry counts as absent: it is overwritten.
PUT_IF_ABSENT = Statement(
    PUT.sql.decode()
    + """
     WHERE e.expires_at <= excluded.updated_at
    """,
    "int8 text bytea char bytea int8 float8",
)
# Sorted by the client: two writers of the same keys lock them in the same order, so neither waits for the other in a circle.
PUT_MANY = Statement(
    """
    INSERT INTO pgstore.dict_entry AS e (store_id, key, key_pickle, codec, value, integer_value, float_value)
    SELECT s.id, u.key, u.key_pickle, u.codec, u.value, u.integer_value, u.float_value
      FROM pgstore.store s
     CROSS JOIN unnest($2, $3, $4, $5, $6, $7)
                WITH ORDINALITY AS u (key, key_pickle, codec, value, integer_value, float_value, position)
     WHERE s.id = $1
     ORDER BY u.position
    ON CONFLICT (store_id, key) DO UPDATE
       SET codec = excluded.codec,
           value = excluded.value,
           integer_value = excluded.integer_value,
           float_value = excluded.float_value,
           json_value = NULL,
           revision = excluded.revision,
           updated_at = excluded.updated_at,
           expires_at = NULL
    """,
    "int8 text[] bytea[] char[] bytea[] int8[] float8[]",
)
POP = Statement(
    f"""
    DELETE FROM pgstore.dict_entry
     WHERE store_id = $1
       AND key = $2
    RETURNING {_VALUE}, {_ALIVE}, key_pickle
    """,
    "int8 text",
)
CLEAR = Statement("DELETE FROM pgstore.dict_entry WHERE store_id = $1", "int8")


def _page(columns: str, *, after: bool) -> Statement:
    """A page of entries by key: nothing is held between pages, and entries may be changed meanwhile. $2: rows, $3: the last key."""
    return Statement(
        f"""
        SELECT key, key_pickle{columns}
          FROM pgstore.dict_entry
         WHERE store_id = $1
           {"AND key > $3" if after else ""}
           AND {_ALIVE}
         ORDER BY key
         LIMIT $2
        """,
        "int8 int8 text" if after else "int8 int8",
        reads=True,
    )


FIRST_KEYS, NEXT_KEYS = _page("", after=False), _page("", after=True)
FIRST_ITEMS, NEXT_ITEMS = _page(f", {_VALUE}", after=False), _page(f", {_VALUE}", after=True)

FIRST_PAGE_ENTRIES: Final = 100  # the first comes quickly
PAGE_ENTRIES: Final = 1000
BATCH_BYTES: Final = 16 * 1024 * 1024  # of one statement of `update`


class Dict(Store):
    """
    A persistent mapping from keys to any picklable values.

    Keys: str, bytes, numbers, None, tuples and frozensets of keys, enums, UUIDs, dates and times, paths, frozen dataclasses.
    Values come back as copies: change one and put it again. Iteration is in the order of the keys' text.

    >>> d = Dict.from_name("settings", create_if_missing=True)
    >>> d["limit"] = 10
    >>> d.get("limit")
    10
    """

    _kind: ClassVar = "dict"
    _noun: ClassVar = "Dict"
    _id_prefix: ClassVar = "di"
    _name_space: ClassVar = "dict"

    @operation
    def info(self) -> Op[DictInfo]:
        """Return the facts about this Dict that do not change."""
        facts = yield from self._described()
        return DictInfo(self._name, facts.created_at, facts.created_by)

    # -------------------------------------------------------------------------------------------------------- one key

    @operation
    def get(self, key: Any, default: Any = None) -> Op[Any]:
        """
        Return the value of *key*, or *default*.

        Raises:
            TypeError: *key* is of a type that cannot be a key.
            DeserializationError: this process cannot load the value.
        """
        facts = self._facts
        store_id = facts.id if facts is not None else (yield from self._locate())
        rows = yield Query(GET, store_id, key_text(key))
        if rows:
            return self._decode(rows[0], key)
        yield from self._check_exists(store_id)
        return default

    @operation
    def _getitem(self, key: Any) -> Op[Any]:
        store_id = yield from self._locate()
        rows = yield Query(GET, store_id, key_text(key))
        if rows:
            return self._decode(rows[0], key)
        yield from self._check_exists(store_id)
        raise self._no_key(key)

    def __getitem__(self, key: Any) -> Any:
        return self._getitem(key)

    @operation
    def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> Op[bool]:
        """
        Store *value* under *key*, in place of what is there.

        Returns:
            True; False if *skip_if_exists* and there was a value, which stays.

        Raises:
            TypeError: *key* is of a type that cannot be a key.
            SerializationError: *value* cannot be pickled.
            ValueTooLarge: it is above 256 MiB.
        """
        text, key_pickle = encode_key(key)
        encoded = self._encode(value, key)
        facts = self._facts
        store_id = facts.id if facts is not None else (yield from self._locate())
        count = yield Query(PUT_IF_ABSENT if skip_if_exists else PUT, store_id, text, key_pickle, *encoded)
        if count == 0:
            yield from self._check_exists(store_id)
        return bool(count)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.put(key, value)

    @operation
    def pop(self, key: Any, default: Any = None) -> Op[Any]:
        """Remove *key* and return its value, or *default* if it is not there."""
        row = yield from self._take(key)
        return default if row is None else self._decode(row, key)

    @operation
    def _delitem(self, key: Any) -> Op[None]:
        if (yield from self._take(key)) is None:
            raise self._no_key(key)

    def __delitem__(self, key: Any) -> None:
        self._delitem(key)

    def _take(self, key: Any) -> Op[tuple[Any, ...] | None]:
        text = key_text(key)
        store_id = yield from self._locate()

        def put_back(rows: Rows) -> Query:
            codec, value, integer, real, _, key_pickle = rows[0]
            return Query(PUT_IF_ABSENT, store_id, text, key_pickle, codec, value, integer, real)

        rows = yield Query(POP, store_id, text, undo=put_back)
        if not rows:
            yield from self._check_exists(store_id)
        return rows[0][:4] if rows and rows[0][4] else None

    @operation
    def contains(self, key: Any) -> Op[bool]:
        """Return whether *key* is there."""
        text = key_text(key)
        store_id = yield from self._locate()
        if (yield Query(CONTAINS, store_id, text)):
            return True
        yield from self._check_exists(store_id)
        return False

    def __contains__(self, key: object) -> bool:
        return self.contains(key)

    # ------------------------------------------------------------------------------------------------------- all keys

    @operation
    def update(self, other: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = (), /, **kwargs: Any) -> Op[None]:
        """
        Put all entries of a mapping, or of pairs, and of the keyword arguments; all or nothing.

        *mapping* may also be given by that name, as long as it is a Mapping.
        """
        if set(kwargs) == {"mapping"} and not other and isinstance(kwargs["mapping"], Mapping):
            other, kwargs = kwargs["mapping"], {}
        pairs = other.items() if isinstance(other, Mapping) else other
        entries = {}
        for key, value in (*pairs, *kwargs.items()):
            text, key_pickle = encode_key(key)
            entries[text] = (text, key_pickle, *self._encode(value, key))
        store_id = yield from self._locate()
        batches = list(_batches([entries[text] for text in sorted(entries, key=str.encode)]))
        if len(batches) == 1:
            yield from self._put_batch(store_id, batches[0])
        elif batches:
            yield from self._put_batches(store_id, batches)

    def _put_batches(self, store_id: int, batches: list[list[tuple[Any, ...]]]) -> Op[None]:
        def put_all() -> Op[None]:
            for batch in batches:
                yield from self._put_batch(store_id, batch)

        yield from atomic(put_all())

    def _put_batch(self, store_id: int, batch: list[tuple[Any, ...]]) -> Op[None]:
        if (yield Query(PUT_MANY, store_id, *zip(*batch, strict=True))) == 0:
            yield from self._check_exists(store_id)

    @operation
    def clear(self) -> Op[None]:
        """Remove all entries."""
        store_id = yield from self._locate()
        if (yield Query(CLEAR, store_id)) == 0:
            yield from self._check_exists(store_id)

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

    @operation
    def keys(self) -> Op[list[Any]]:
        """Return all keys, in the order of their text."""
        return (yield from _all(self._key_pages()))

    @operation
    def values(self) -> Op[list[Any]]:
        """Return all values, in the order of the keys."""
        return (yield from _all(self._value_pages()))

    @operation
    def items(self) -> Op[list[tuple[Any, Any]]]:
        """Return all pairs of key and value, in the order of the keys."""
        return (yield from _all(self._item_pages()))

    @iterated
    def iterate_keys(self) -> Any:
        """Iterate over the keys, for `for` and `async for`, a page at a time. Entries may be changed meanwhile."""
        return self._key_pages()

    @iterated
    def iterate_values(self) -> Any:
        """Iterate over the values, like `iterate_keys`."""
        return self._value_pages()

    @iterated
    def iterate_items(self) -> Any:
        """Iterate over the pairs of key and value, like `iterate_keys`."""
        return self._item_pages()

    def __iter__(self) -> Any:
        return iter(self.iterate_keys())

    def _key_pages(self) -> Any:
        return _Pages(self, FIRST_KEYS, NEXT_KEYS, lambda row: self._decode_key(row[0], row[1])).fetch

    def _value_pages(self) -> Any:
        return _Pages(self, FIRST_ITEMS, NEXT_ITEMS, lambda row: self._decode(row[2:], row[0])).fetch

    def _item_pages(self) -> Any:
        def pair(row: tuple[Any, ...]) -> tuple[Any, Any]:
            key = self._decode_key(row[0], row[1])
            return key, self._decode(row[2:], key)

        return _Pages(self, FIRST_ITEMS, NEXT_ITEMS, pair).fetch

    # -------------------------------------------------------------------------------------------------------- values

    def _encode(self, value: Any, key: Any) -> tuple[str, bytes | None, int | None, float | None]:
        encoded = encode_value(value)
        if encoded[1] is not None and len(encoded[1]) > _SIZE_UNCHECKED:
            check_size(len(encoded[1]), f"the value of key {key!r} of {self!r}")
        return encoded

    def _decode(self, row: Sequence[Any], key: Any) -> Any:
        codec, value, integer, real = row
        try:
            return decode_value(codec, value, integer, real, "value")
        except errors.DeserializationError as exc:
            raise errors.DeserializationError(f"key {key!r} of {self!r}: {exc}", exc.raw) from exc.__cause__

    def _decode_key(self, text: str, key_pickle: bytes | None) -> Any:
        return text if key_pickle is None else decode_key(text, key_pickle)

    def _no_key(self, key: Any) -> errors.MissingKeyError:
        return errors.MissingKeyError(f"{key!r} is not in {self!r}")


_SIZE_UNCHECKED: Final = 1 << 20


class _Pages:
    """Entries in the order of their keys, a page a call."""

    def __init__(
        self, store: Dict, first: Statement, following: Statement, make: Callable[[tuple[Any, ...]], Any]
    ) -> None:
        self._store = store
        self._first = first
        self._following = following
        self._make = make
        self._after: str | None = None

    def fetch(self) -> Op[list[Any] | None]:
        store_id = yield from self._store._locate()
        if self._after is None:
            rows = yield Query(self._first, store_id, FIRST_PAGE_ENTRIES)
            if not rows:
                yield from self._store._check_exists(store_id)
        else:
            rows = yield Query(self._following, store_id, PAGE_ENTRIES, self._after)
        if not rows:
            return None
        self._after = rows[-1][0]
        return [self._make(row) for row in rows]


def _all(fetch: Any) -> Op[list[Any]]:
    values: list[Any] = []
    while (page := (yield from fetch())) is not None:
        values.extend(page)
    return values


def _batches(entries: list[tuple[Any, ...]]) -> Iterable[list[tuple[Any, ...]]]:
    """*entries* cut so that no statement is much larger than `BATCH_BYTES`."""
    batch: list[tuple[Any, ...]] = []
    size = 0
    for entry in entries:
        batch.append(entry)
        size += 64 + len(entry[3] or b"")
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
