"""One entry: reading it, writing it, and the changes that must be one step.

Each operation is one statement, so two clients that do it at once come one after the other: an increment is never lost, a
compare-and-set never succeeds twice. Revisions are drawn from a sequence by every write and never used again, so a value that was
changed and changed back is not mistaken for one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from pgstore import errors
from pgstore.core.operation import Op, Query, Rows, operation
from pgstore.core.statement import Statement
from pgstore.dict.base import ALIVE, VALUE, VALUE_TYPES, DictBase, Write
from pgstore.registry import Facts
from pgstore.serializers import key_text

T = TypeVar("T")

GET = Statement(
    f"SELECT {VALUE} FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND {ALIVE}",
    "int8 text",
    reads=True,
)
GET_ENTRY = Statement(
    f"""
    SELECT {VALUE}, revision, updated_at, expires_at
      FROM pgstore.dict_entry
     WHERE store_id = $1
       AND key = $2
       AND {ALIVE}
    """,
    "int8 text",
    reads=True,
)
CONTAINS = Statement(
    f"SELECT 1 FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND {ALIVE}",
    "int8 text",
    reads=True,
)

# Reading the store's row finds out whether it still exists, in the same statement.
_INSERT: Final = f"""
    INSERT INTO pgstore.dict_entry AS e (store_id, key, key_pickle, {VALUE}, expires_at)
    SELECT s.id, $2, $3, $4, $5, $6, $7, $8, statement_timestamp() + $9 * interval '1 second'
      FROM pgstore.store s
     WHERE s.id = $1
"""
_INSERT_TYPES: Final = f"int8 text bytea {VALUE_TYPES} float8"
_IS_EXPIRED: Final = "e.expires_at <= excluded.updated_at"
# Of two equal keys, such as 1 and 1.0, a dict keeps the one it had. Not so if this client signs (the first byte, see `codec`): it
# must be able to load the key later, which may be signed by a key that was given up since, or by none.
_KEY_PICKLE: Final = f"""
           key_pickle = CASE WHEN {_IS_EXPIRED} OR get_byte(excluded.key_pickle, 0) = 1 THEN excluded.key_pickle
                             ELSE e.key_pickle
                        END,"""
OVERWRITE: Final = f"""
    ON CONFLICT (store_id, key) DO UPDATE
       SET {_KEY_PICKLE.strip()}
           codec = excluded.codec,
           value = excluded.value,
           integer_value = excluded.integer_value,
           float_value = excluded.float_value,
           json_value = excluded.json_value,
           revision = excluded.revision,
           updated_at = excluded.updated_at,
           expires_at = excluded.expires_at
"""

PUT = Write(_INSERT + OVERWRITE, _INSERT_TYPES, kind="p")
# An expired entry counts as absent: it is overwritten.
PUT_IF_ABSENT = Write(f"{_INSERT} {OVERWRITE} WHERE {_IS_EXPIRED}", _INSERT_TYPES, kind="p")
PUT_IF_REVISION = Write(
    f"""
    UPDATE pgstore.dict_entry
       SET codec = $3,
           value = $4,
           integer_value = $5,
           float_value = $6,
           json_value = $7,
           revision = nextval('pgstore.dict_revision_seq'::regclass),
           updated_at = statement_timestamp(),
           expires_at = statement_timestamp() + $8 * interval '1 second'
     WHERE store_id = $1
       AND key = $2
       AND revision = $9
       AND {ALIVE}
    """,
    f"int8 text {VALUE_TYPES} float8 int8",
    kind="p",
)
# The common case, an integer that is there, by UPDATE: eight who increment one key get a sixth more done than by upsert.
ADD = Write(
    f"""
    UPDATE pgstore.dict_entry
       SET integer_value = integer_value + $3,
           revision = nextval('pgstore.dict_revision_seq'::regclass),
           updated_at = statement_timestamp()
     WHERE store_id = $1
       AND key = $2
       AND codec = 'i'
       AND {ALIVE}
    """,
    "int8 text int8",
    kind="p",
    returning="integer_value",
)
# An integer stays one as long as only integers are added. NULL from a store that is gone, or a value that is no number.
INCREMENT = Write(
    f"""
    {_INSERT}
    ON CONFLICT (store_id, key) DO UPDATE
       SET {_KEY_PICKLE.strip()}
           codec = CASE WHEN {_IS_EXPIRED} OR (e.codec = 'i' AND excluded.codec = 'i') THEN excluded.codec ELSE 'f' END,
           integer_value = CASE WHEN {_IS_EXPIRED} THEN excluded.integer_value
                                WHEN e.codec = 'i' AND excluded.codec = 'i' THEN e.integer_value + excluded.integer_value
                           END,
           float_value = CASE WHEN {_IS_EXPIRED} THEN excluded.float_value
                              WHEN e.codec = 'i' AND excluded.codec = 'i' THEN NULL
                              ELSE coalesce(e.float_value, e.integer_value)
                                   + coalesce(excluded.float_value, excluded.integer_value)
                         END,
           value = NULL,
           json_value = NULL,
           revision = excluded.revision,
           updated_at = excluded.updated_at,
           expires_at = CASE WHEN {_IS_EXPIRED} THEN excluded.expires_at ELSE e.expires_at END
     WHERE e.codec IN ('i', 'f')
        OR {_IS_EXPIRED}
    """,
    _INSERT_TYPES,
    kind="p",
    returning="integer_value, float_value",
)
# What is taken comes with all that it takes to put it back.
TAKEN: Final = (
    f"key AS name, key_pickle AS pickled, {VALUE}, {ALIVE} AS alive, "
    "CASE WHEN isfinite(expires_at) THEN extract(epoch FROM expires_at)::double precision END AS expiry"
)
POP = Write(
    "DELETE FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2",
    "int8 text",
    kind="d",
    returning=TAKEN,
)
POP_LAST = Write(
    f"""
    DELETE FROM pgstore.dict_entry
     WHERE ctid = ANY (ARRAY(SELECT ctid
                               FROM pgstore.dict_entry
                              WHERE store_id = $1
                                AND {ALIVE}
                              ORDER BY key DESC
                                FOR UPDATE SKIP LOCKED
                              LIMIT 1))
    """,
    "int8",
    kind="d",
    returning=TAKEN,
)
LAST = Statement(
    f"SELECT key FROM pgstore.dict_entry WHERE store_id = $1 AND {ALIVE} ORDER BY key DESC LIMIT 1", "int8", reads=True
)
# Only where nobody has put the key anew meanwhile.
PUT_BACK = Write(
    f"""
    INSERT INTO pgstore.dict_entry AS e (store_id, key, key_pickle, {VALUE}, expires_at)
    SELECT s.id, u.key, u.key_pickle, u.codec, u.value, u.integer_value, u.float_value, u.json_value, to_timestamp(u.expiry)
      FROM pgstore.store s
     CROSS JOIN unnest($2, $3, $4, $5, $6, $7, $8, $9)
                AS u (key, key_pickle, codec, value, integer_value, float_value, json_value, expiry)
     WHERE s.id = $1
     ORDER BY u.key COLLATE "C"
    {OVERWRITE}
     WHERE {_IS_EXPIRED}
    """,
    f"int8 text[] bytea[] {' '.join(f'{name}[]' for name in VALUE_TYPES.split())} float8[]",
    kind="p",
)
# One statement: insert, or find what is there. No row from either: it was inserted by another since our snapshot, or deleted.
SET_DEFAULT = Statement(
    f"""
    WITH made AS ({_INSERT} {OVERWRITE} WHERE {_IS_EXPIRED} RETURNING {VALUE}, true AS is_new)
    SELECT {VALUE}, is_new FROM made
     UNION ALL
    SELECT {VALUE}, false
      FROM pgstore.dict_entry
     WHERE store_id = $1
       AND key = $2
       AND {ALIVE}
     LIMIT 1
    """,
    _INSERT_TYPES,
)
TOUCH = Statement(
    f"""
    UPDATE pgstore.dict_entry
       SET expires_at = statement_timestamp() + $3 * interval '1 second'
     WHERE store_id = $1
       AND key = $2
       AND {ALIVE}
    """,
    "int8 text float8",
)


@dataclass(frozen=True)
class DictEntry:
    """A value with what the database knows of it."""

    value: Any
    revision: int
    """Changes with every write, and is never used again; for `put(if_revision=)`."""
    updated_at: datetime
    expires_at: datetime | None
    """None: never."""


class Entries(DictBase):
    """Operations on one key."""

    @operation
    def get(self, key: Any, default: Any = None) -> Op[Any]:
        """
        Return the value of *key*, or *default*.

        Raises:
            TypeError: *key* is of a type that cannot be a key.
            DeserializationError: this process cannot load the value.
        """
        text = key_text(key)
        codec = self._codec
        if codec is None or codec.facts is not self._facts:
            codec = yield from self._open()
        rows = yield Query(GET, codec.store_id, text)
        if rows:
            return codec.decode(rows[0], key, text)
        yield from self._check_exists(codec.store_id)
        return default

    @operation
    def get_entry(self, key: Any) -> Op[DictEntry | None]:
        """Return the value of *key* with its revision and times, or None."""
        text = key_text(key)
        codec = yield from self._open()
        rows = yield Query(GET_ENTRY, codec.store_id, text)
        if not rows:
            yield from self._check_exists(codec.store_id)
            return None
        *columns, revision, updated_at, expires_at = rows[0]
        return DictEntry(codec.decode(columns, key, text), revision, updated_at, expires_at)

    @operation
    def _getitem(self, key: Any) -> Op[Any]:
        text = key_text(key)
        codec = yield from self._open()
        rows = yield Query(GET, codec.store_id, text)
        if rows:
            return codec.decode(rows[0], key, text)
        yield from self._check_exists(codec.store_id)
        raise self._no_key(key)

    def __getitem__(self, key: Any) -> Any:
        return self._getitem(key)

    @operation
    def contains(self, key: Any) -> Op[bool]:
        """Return whether *key* is there."""
        store_id = yield from self._locate()
        if (yield Query(CONTAINS, store_id, key_text(key))):
            return True
        yield from self._check_exists(store_id)
        return False

    def __contains__(self, key: object) -> bool:
        return self.contains(key)

    @operation
    def put(
        self,
        key: Any,
        value: Any,
        *,
        skip_if_exists: bool = False,
        if_revision: int | None = None,
        ttl: float | None = None,
    ) -> Op[bool]:
        """
        Store *value* under *key*, in place of what is there.

        Args:
            skip_if_exists: only if there is nothing.
            if_revision: only if the entry still has this revision (see `get_entry`); 0: only if there is nothing.
            ttl: seconds until it expires, infinity for never; None: the Dict's default.

        Returns:
            True if it was written; False only if a condition was not met.

        Raises:
            TypeError: *key* is of a type that cannot be a key.
            SerializationError: *value* cannot be stored by the Dict's serializer.
            ValueTooLarge: it is above 256 MiB.
        """
        codec = yield from self._open()
        text, pickled = codec.encode_key(key)
        columns = codec.encode(value, key, text)
        seconds = self._ttl(ttl, codec.facts.options)
        if if_revision is not None and if_revision != 0:
            if isinstance(if_revision, bool) or not isinstance(if_revision, int):
                raise errors.InvalidError(
                    f"if_revision {if_revision!r} is not a revision; take it from get_entry(key).revision"
                )
            if skip_if_exists:
                raise errors.InvalidError("put takes skip_if_exists or if_revision, not both")
            count = yield from self._write(PUT_IF_REVISION, codec.facts, text, *columns, seconds, if_revision)
        else:
            write = PUT_IF_ABSENT if skip_if_exists or if_revision == 0 else PUT
            count = yield from self._write(write, codec.facts, text, pickled, *columns, seconds)
        if count == 0:
            yield from self._check_exists(codec.facts.id)
        return bool(count)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.put(key, value)

    @operation
    def compare_and_set(self, key: Any, expected: Any, value: Any, *, ttl: float | None = None) -> Op[bool]:
        """
        Store *value* under *key* if its value equals *expected*; None as *expected* also stands for a missing key.

        Returns:
            Whether it was written. Of several that compare with the same value, one succeeds.
        """
        while True:
            entry = yield from self.get_entry.op(key)
            if (None if entry is None else entry.value) != expected:
                return False
            revision = 0 if entry is None else entry.revision
            if (yield from self.put.op(key, value, if_revision=revision, ttl=ttl)):
                return True
            # Someone wrote in between; perhaps what we expect.

    @operation
    def setdefault(self, key: Any, default: Any = None, *, ttl: float | None = None) -> Op[Any]:
        """Return the value of *key*; where there is none, store *default* and return that."""
        codec = yield from self._open()
        text, pickled = codec.encode_key(key)
        columns = codec.encode(default, key, text)
        seconds = self._ttl(ttl, codec.facts.options)
        if codec.facts.options.get("watch"):
            # The log needs to know which of the two it was: two statements, of which the first decides.
            while True:
                if (yield from self._write(PUT_IF_ABSENT, codec.facts, text, pickled, *columns, seconds)):
                    return codec.decode(_as_read(columns), key, text)
                rows = yield Query(GET, codec.facts.id, text)
                if rows:
                    return codec.decode(rows[0], key, text)
                yield from self._check_exists(codec.facts.id)
        while not (rows := (yield Query(SET_DEFAULT, codec.facts.id, text, pickled, *columns, seconds))):
            yield from self._check_exists(codec.facts.id)
        return codec.decode(rows[0][:-1], key, text)

    @operation
    def increment(self, key: Any, by: float = 1, *, ttl: float | None = None) -> Op[Any]:
        """
        Add *by*, an int or a float, to the number under *key*, 0 if there is none; return the sum.

        Args:
            ttl: for an entry that this makes; one that exists keeps its own.

        Raises:
            InvalidError: the value is not an int or a float.
            OverflowError: the sum does not fit into 64 bits.
        """
        if type(by) not in (int, float):
            raise errors.InvalidError(f"increment adds an int or a float, not {by!r}")
        if type(by) is int and not -(2**63) <= by < 2**63:
            raise errors.NumberOverflow(f"{by} does not fit into 64 bits")
        codec = yield from self._open()
        text, pickled = codec.encode_key(key)
        seconds = self._ttl(ttl, codec.facts.options)
        try:
            if type(by) is int:
                rows = yield from self._write(ADD, codec.facts, text, by)
                if not rows:
                    rows = yield from self._write(
                        INCREMENT, codec.facts, text, pickled, "i", None, by, None, None, seconds
                    )
            else:
                rows = yield from self._write(INCREMENT, codec.facts, text, pickled, "f", None, None, by, None, seconds)
        except errors.StatementFailed as exc:
            if exc.sqlstate == "22003":
                raise errors.NumberOverflow(
                    f"adding {by!r} to the value of key {key!r} of {self!r} exceeds 64 bits"
                ) from exc
            raise
        if rows:
            integer, *real = rows[0]
            return real[0] if integer is None else integer
        yield from self._check_exists(codec.facts.id)
        raise errors.InvalidError(
            f"the value of key {key!r} of {self!r} is not an int or float, so it cannot be incremented"
        )

    @operation
    def touch(self, key: Any, ttl: float | None = None) -> Op[bool]:
        """Let *key* expire *ttl* seconds from now (None: the Dict's default). Returns False if it is not there."""
        facts = (yield from self._open()).facts
        count = yield Query(TOUCH, facts.id, key_text(key), self._ttl(ttl, facts.options))
        if count == 0:
            yield from self._check_exists(facts.id)
        return bool(count)

    @operation
    def pop(self, key: Any, default: Any = None) -> Op[Any]:
        """
        Remove *key* and return its value, or *default* if it is not there.

        Raises:
            DeserializationError: this process cannot load the value; it stays. `del` removes it.
        """
        text = key_text(key)
        codec = yield from self._open()
        rows = yield from self._take(POP, codec.facts, text)
        if not rows:
            return default
        return (yield from self._decoded(codec.facts, rows, lambda: codec.decode(rows[0][2:7], key, text)))

    @operation
    def _delitem(self, key: Any) -> Op[None]:
        facts = (yield from self._open()).facts
        if not (yield from self._take(POP, facts, key_text(key))):
            raise self._no_key(key)

    def __delitem__(self, key: Any) -> None:
        self._delitem(key)

    @operation
    def popitem(self) -> Op[tuple[Any, Any]]:
        """
        Remove the last entry in the order of the keys and return it as (key, value).

        Raises:
            KeyError: there is none.
            DeserializationError: this process cannot load it; it stays.
        """
        codec = yield from self._open()
        rows = yield from self._take(POP_LAST, codec.facts)
        while not rows:
            # What others are changing was passed over; where there is nothing else, wait for them.
            last = yield Query(LAST, codec.facts.id)
            if not last:
                raise errors.MissingKeyError(f"{self!r} is empty")
            rows = yield from self._take(POP, codec.facts, last[0][0])
        item: tuple[Any, Any] = yield from self._decoded(codec.facts, rows, lambda: codec.pair(rows[0][:7]))
        return item

    def _take(self, write: Write, facts: Facts, *values: Any) -> Op[Rows]:
        """Remove entries and return those that had not expired, as rows of `TAKEN`; an interrupt puts them back."""
        rows: Rows = yield from self._write(write, facts, *values, undo=lambda rows: self._put_back(facts, rows))
        if not rows:
            yield from self._check_exists(facts.id)
        return [row for row in rows if row[7]]

    def _decoded(self, facts: Facts, rows: Rows, decode: Callable[[], T]) -> Op[T]:
        """What *decode* makes of *rows*, which were taken; they are put back if it cannot."""
        try:
            return decode()
        except Exception:
            yield self._put_back(facts, rows)
            raise

    @staticmethod
    def _put_back(facts: Facts, rows: Rows) -> Query:
        entries = [(*row[:2], *_as_written(row[2:7]), row[8]) for row in rows if row[7]]
        columns = zip(*entries, strict=True) if entries else [()] * 8
        return Query(PUT_BACK.logged if facts.options.get("watch") else PUT_BACK.plain, facts.id, *columns)

    def _no_key(self, key: Any) -> errors.MissingKeyError:
        return errors.MissingKeyError(f"{key!r} is not in {self!r}")


def _as_written(columns: Sequence[Any]) -> list[Any]:
    """Columns that were read, as they are written: JSON is read as an object and written as text."""
    import json

    *others, document = columns
    return [*others, None if document is None and others[0] != "j" else json.dumps(document)]


def _as_read(columns: Sequence[Any]) -> list[Any]:
    import json

    *others, document = columns
    return [*others, None if document is None else json.loads(document)]
