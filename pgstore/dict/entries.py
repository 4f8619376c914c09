"""One entry: reading it, writing it, and the changes that must be one step.

Each operation is one statement, so two clients that do it at once come one after the other: an increment is never lost, a
compare-and-set never succeeds twice. Revisions are drawn from a sequence by every write and never used again, so a value that was
changed and changed back is not mistaken for one that was not.
"""

from __future__ import annotations

import reprlib
import sys
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf, isfinite, nextafter
from typing import Any, Final, Generic, Protocol, TypeVar, overload

from pgstore import errors
from pgstore.core.operation import Op, Query, Rows, operation
from pgstore.core.overloads import operation_as
from pgstore.core.statement import Statement
from pgstore.dict.arguments import check_revision, check_summand
from pgstore.dict.base import ALIVE, READ, VALUE, VALUE_TYPES, ChangeKind, DictBase, K, V, Write
from pgstore.dict.codec import Codec
from pgstore.serializers import key_text
from pgstore.serializers.codecs import FLOAT, INTEGER
from pgstore.store.registry import StoreRecord

T = TypeVar("T")
K_contra = TypeVar("K_contra", contravariant=True)
V_co = TypeVar("V_co", covariant=True)


# Reading the store's row finds out whether it still exists, in the same statement.
_INSERT: Final = f"""
    INSERT INTO pgstore.dict_entry AS e (store_id, key, key_pickle, {VALUE}, expires_at)
    SELECT s.id, $2, $3, $4, $5, $6, $7, $8, statement_timestamp() + $9 * interval '1 second'
      FROM pgstore.store s
     WHERE s.id = $1
"""
_INSERT_TYPES: Final = f"int8 text bytea {VALUE_TYPES} float8"
IS_EXPIRED: Final = "e.expires_at <= excluded.updated_at"
# Of two equal keys, such as 1 and 1.0, a dict keeps the one it had. A client that signs (the
# first byte, see `codec`) replaces it, so that it can load the key later: the old one may be signed by a key that is no longer in
# use, or not at all.
_KEY_PICKLE: Final = f"""
           key_pickle = CASE WHEN {IS_EXPIRED} OR get_byte(excluded.key_pickle, 0) = 1 THEN excluded.key_pickle
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

# By upsert, for what is not there, has expired, or is a double. No row from a store that is gone, a value that is no number, and a
# sum that does not fit, which is asked in a way that cannot fail.
_INCREMENT_TEMPLATE: Final = f"""
    {_INSERT}
    ON CONFLICT (store_id, key) DO UPDATE
       SET {_KEY_PICKLE.strip()}
           codec = CASE WHEN {IS_EXPIRED} THEN excluded.codec ELSE {{codec}} END,
           integer_value = CASE WHEN {IS_EXPIRED} THEN excluded.integer_value ELSE {{integer}} END,
           float_value = CASE WHEN {IS_EXPIRED} THEN excluded.float_value ELSE {{float}} END,
           value = NULL,
           json_value = NULL,
           revision = excluded.revision,
           updated_at = excluded.updated_at,
           expires_at = CASE WHEN {IS_EXPIRED} THEN excluded.expires_at ELSE e.expires_at END
     WHERE ({{fits}})
        OR {IS_EXPIRED}
"""


@dataclass(frozen=True)
class DictEntry(Generic[V]):
    """A value with what the database knows of it."""

    value: V
    revision: int
    """Changes with every write, and is never used again; for `put(if_revision=)`."""
    updated_at: datetime
    expires_at: datetime | None
    """None: never."""


class Get(Protocol[K_contra, V_co]):
    """`get` and `pop`, for type checkers."""

    @overload
    def __call__(self, key: K_contra) -> V_co | None: ...
    @overload
    def __call__(self, key: K_contra, default: V_co | T) -> V_co | T: ...

    @overload
    def aio(self, key: K_contra) -> Coroutine[Any, Any, V_co | None]: ...
    @overload
    def aio(self, key: K_contra, default: V_co | T) -> Coroutine[Any, Any, V_co | T]: ...

    def op(self, key: K_contra, default: Any = None) -> Op[Any]: ...


class Entries(DictBase[K, V]):
    """Operations on one key."""

    _GET: Final = Statement(
        f"SELECT {READ} FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND {ALIVE}",
        "int8 text",
        read_only=True,
    )

    @operation_as[Get[K, V]]
    def get(self, key: K, default: Any = None) -> Op[Any]:
        """
        Return the value of *key*, or *default*.

        Raises:
            TypeError: *key* is of a type that cannot be a key.
            DeserializationError: this process cannot load the value.
        """
        text = key_text(key)
        codec = self._codec
        if codec is None or codec.record is not self._record or codec.history is not self._client.history:  # type: ignore[union-attr]
            codec = yield from self._resolve_codec()
        rows = yield Query(self._GET, codec.store_id, text)
        if rows:
            return codec.decode(rows[0], key, text)
        yield from self._check_exists(codec.store_id)
        return default

    _GET_ENTRY: Final = Statement(
        f"""
        SELECT {READ}, revision, updated_at, expires_at
          FROM pgstore.dict_entry
         WHERE store_id = $1
           AND key = $2
           AND {ALIVE}
        """,
        "int8 text",
        read_only=True,
    )

    @operation
    def get_entry(self, key: K) -> Op[DictEntry[V] | None]:
        """Return the value of *key* with its revision and times, or None."""
        text = key_text(key)
        codec = yield from self._resolve_codec()
        rows = yield Query(self._GET_ENTRY, codec.store_id, text)
        if not rows:
            yield from self._check_exists(codec.store_id)
            return None
        *columns, revision, updated_at, expires_at = rows[0]
        return DictEntry(codec.decode(columns, key, text), revision, updated_at, expires_at)

    @operation
    def _getitem(self, key: K) -> Op[V]:
        text = key_text(key)
        codec = yield from self._resolve_codec()
        rows = yield Query(self._GET, codec.store_id, text)
        if rows:
            value: V = codec.decode(rows[0], key, text)
            return value
        yield from self._check_exists(codec.store_id)
        raise self._no_key(key)

    def __getitem__(self, key: K) -> V:
        return self._getitem(key)

    _CONTAINS: Final = Statement(
        f"SELECT 1 FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND {ALIVE}",
        "int8 text",
        read_only=True,
    )

    @operation
    def contains(self, key: object) -> Op[bool]:
        """Return whether *key* is there."""
        store_id = yield from self._resolve_id()
        if (yield Query(self._CONTAINS, store_id, key_text(key))):
            return True
        yield from self._check_exists(store_id)
        return False

    def __contains__(self, key: object) -> bool:
        return self.contains(key)

    # Each locks one entry. Of two at once, the second waits for the first's commit, then sees what it has left: puts follow each
    # other, and of several with one condition one succeeds.
    _PUT: Final = Write(_INSERT + OVERWRITE, _INSERT_TYPES, kind=ChangeKind.PUT)
    # An expired entry counts as absent: it is overwritten.
    _PUT_IF_ABSENT: Final = Write(f"{_INSERT} {OVERWRITE} WHERE {IS_EXPIRED}", _INSERT_TYPES, kind=ChangeKind.PUT)
    _PUT_IF_REVISION: Final = Write(
        f"""
        UPDATE pgstore.dict_entry
           SET codec = $3,
               value = $4,
               integer_value = $5,
               float_value = $6,
               json_value = $7,
               revision = DEFAULT,
               updated_at = statement_timestamp(),
               expires_at = statement_timestamp() + $8 * interval '1 second'
         WHERE store_id = $1
           AND key = $2
           AND revision = $9
           AND {ALIVE}
        """,
        f"int8 text {VALUE_TYPES} float8 int8",
        kind=ChangeKind.PUT,
    )

    @operation
    def put(
        self,
        key: K,
        value: V,
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
        codec = yield from self._resolve_codec()
        text, pickled = codec.encode_key(key)
        columns = codec.encode(value, key, text)
        seconds = self._ttl(ttl, codec.record.options)
        if if_revision is not None and if_revision != 0:
            if_revision = check_revision(if_revision)
            if skip_if_exists:
                raise errors.InvalidError("put takes skip_if_exists or if_revision, not both")
            count = yield from self._write(self._PUT_IF_REVISION, codec.record, text, *columns, seconds, if_revision)
        else:
            write = self._PUT_IF_ABSENT if skip_if_exists or if_revision == 0 else self._PUT
            count = yield from self._write(write, codec.record, text, pickled, *columns, seconds)
        if count == 0:
            yield from self._check_exists(codec.record.id)
        return bool(count)

    def __setitem__(self, key: K, value: V) -> None:
        self.put(key, value)

    @operation
    def compare_and_set(self, key: K, expected: V | None, value: V, *, ttl: float | None = None) -> Op[bool]:
        """
        Store *value* under *key* if its value equals *expected*; None as *expected* also stands for a missing key.

        Returns:
            Whether it was written. Of several that compare with the same value, one succeeds.
        """
        while True:
            entry = yield from self.get_entry.op(key)
            if _differ(None if entry is None else entry.value, expected, key):
                return False
            revision = 0 if entry is None else entry.revision
            if (yield from self.put.op(key, value, if_revision=revision, ttl=ttl)):
                return True
            # Someone wrote in between; perhaps what we expect.

    # One statement: insert, or find what is there. Of two at once, the second waits for the first's commit and inserts nothing. No
    # row from either: another has inserted the key since our snapshot, or deleted it.
    _SET_DEFAULT: Final = Statement(
        f"""
        WITH made AS ({_INSERT} {OVERWRITE} WHERE {IS_EXPIRED} RETURNING {VALUE}, true AS is_new)
        SELECT {READ}, is_new FROM made
         UNION ALL
        SELECT {READ}, false
          FROM pgstore.dict_entry
         WHERE store_id = $1
           AND key = $2
           AND {ALIVE}
         LIMIT 1
        """,
        _INSERT_TYPES,
    )

    @operation
    def setdefault(self, key: K, default: V | None = None, *, ttl: float | None = None) -> Op[V]:
        """Return the value of *key*; where there is none, store *default* and return that."""
        codec = yield from self._resolve_codec()
        text, pickled = codec.encode_key(key)
        columns = codec.encode(default, key, text)
        seconds = self._ttl(ttl, codec.record.options)
        if codec.record.options.get("watch"):
            # The log needs to know which of the two it was: two statements, of which the first decides.
            while True:
                if (yield from self._write(self._PUT_IF_ABSENT, codec.record, text, pickled, *columns, seconds)):
                    value: V = codec.decode(columns, key, text)
                    return value
                rows = yield Query(self._GET, codec.record.id, text)
                if rows:
                    value = codec.decode(rows[0], key, text)
                    return value
                yield from self._check_exists(codec.record.id)
        values = (text, pickled, *columns, seconds)
        while True:
            rows = yield from self._guarded(codec.record, values, self._insert_or_find(codec.record, *values))
            if rows:
                value = codec.decode(rows[0][:-1], key, text)
                return value
            yield from self._check_exists(codec.record.id)

    def _insert_or_find(self, record: StoreRecord, *values: Any) -> Op[Rows]:
        rows: Rows = yield Query(self._SET_DEFAULT, record.id, *values)
        return rows

    # Of two at once, the second waits for the first's commit and adds to its sum: none is lost.
    # The common case, an integer that is there, by UPDATE: eight who increment one key get a sixth more done than by upsert. $4 and
    # $5: between which the sum fits. A statement that failed over it would take a transaction with it.
    _ADD: Final = Write(
        f"""
        UPDATE pgstore.dict_entry
           SET integer_value = integer_value + $3,
               revision = DEFAULT,
               updated_at = statement_timestamp()
         WHERE store_id = $1
           AND key = $2
           AND codec = '{INTEGER}'
           AND integer_value BETWEEN $4 AND $5
           AND {ALIVE}
        """,
        "int8 text int8 int8 int8",
        kind=ChangeKind.PUT,
        returning="integer_value",
    )
    # An integer to a number, which stays what it is. $10 and $11 as $4 and $5 of _ADD; no integer makes a double overflow.
    _INCREMENT: Final = Write(
        _INCREMENT_TEMPLATE.format(
            codec="e.codec",
            integer="e.integer_value + excluded.integer_value",
            float="e.float_value + excluded.integer_value::float8",
            fits=f"e.codec = '{FLOAT}' OR (e.codec = '{INTEGER}' AND e.integer_value BETWEEN $10 AND $11)",
        ),
        f"{_INSERT_TYPES} int8 int8",
        kind=ChangeKind.PUT,
        returning="integer_value, float_value",
    )
    # A double to a number, which becomes one. $10 and $11: from what to what the sum does not fit.
    _INCREMENT_BY_FLOAT: Final = Write(
        _INCREMENT_TEMPLATE.format(
            codec="excluded.codec",
            integer="NULL",
            float="coalesce(e.float_value, e.integer_value) + excluded.float_value",
            fits=f"e.codec IN ('{INTEGER}', '{FLOAT}') AND coalesce(e.float_value, e.integer_value) NOT BETWEEN $10 AND $11",
        ),
        f"{_INSERT_TYPES} float8 float8",
        kind=ChangeKind.PUT,
        returning="integer_value, float_value",
    )

    @operation
    def increment(self, key: K, by: float = 1, *, ttl: float | None = None) -> Op[Any]:
        """
        Add *by*, an int or a float, to the number under *key*, 0 if there is none; return the sum.

        Args:
            ttl: for an entry that this makes; one that exists keeps its own.

        Raises:
            InvalidError: the value is not an int or a float.
            OverflowError: the sum does not fit into 64 bits.
        """
        if type(by) is not int or by.bit_length() > 63:
            by = check_summand(by)
        codec = yield from self._resolve_codec()
        text, pickled = codec.encode_key(key)
        seconds = self._ttl(ttl, codec.record.options)
        rows: Rows = []
        values: tuple[Any, ...]
        if type(by) is int:
            low, high = (-(2**63), 2**63 - 1 - by) if by >= 0 else (-(2**63) - by, 2**63 - 1)
            rows = yield from self._write(self._ADD, codec.record, text, by, low, high)
            write, values = self._INCREMENT, (INTEGER, None, by, None, None, seconds, low, high)
        else:
            write, values = self._INCREMENT_BY_FLOAT, (FLOAT, None, None, by, None, seconds, *_not_addable(by))
        while not rows:
            rows = yield from self._write(write, codec.record, text, pickled, *values)
            if not rows:
                found: Rows = yield Query(self._GET, codec.record.id, text)
                if not found:
                    yield from self._check_exists(codec.record.id)
                elif found[0][0] not in (INTEGER, FLOAT):
                    raise self._no_number(codec, found[0], key, text)
                elif not _fits(found[0], by):
                    raise errors.NumberOverflow(
                        f"adding {by!r} to the value of key {key!r} of {self!r} exceeds 64 bits"
                    )
                # Someone wrote in between.
        integer, *real = rows[0]
        return real[0] if integer is None else integer

    def _no_number(self, codec: Codec, columns: Sequence[Any], key: Any, text: str) -> errors.Error:
        """Why what is in *columns* cannot be incremented."""
        what = f"the value of key {key!r} of {self!r}"
        try:
            value = codec.decode(columns, key, text)
        except errors.Error:
            value = None
        if type(value) is int:
            return errors.NumberOverflow(
                f"{what} is beyond 64 bits, so it cannot be incremented: {reprlib.repr(value)}"
            )
        return errors.InvalidError(f"{what} is not an int or float, so it cannot be incremented")

    # Waits for whoever is changing the entry, then prolongs what they have left.
    _TOUCH: Final = Statement(
        f"""
        UPDATE pgstore.dict_entry
           SET expires_at = statement_timestamp() + $3 * interval '1 second'
         WHERE store_id = $1
           AND key = $2
           AND {ALIVE}
        """,
        "int8 text float8",
    )

    @operation
    def touch(self, key: K, ttl: float | None = None) -> Op[bool]:
        """Let *key* expire *ttl* seconds from now (None: the Dict's default). Returns False if it is not there."""
        record = (yield from self._resolve_codec()).record
        count = yield Query(self._TOUCH, record.id, key_text(key), self._ttl(ttl, record.options))
        if count == 0:
            yield from self._check_exists(record.id)
        return bool(count)

    # Waits for whoever is changing the entry, then deletes what they have left. Of two who delete it, one finds it.
    _DELETE: Final = Write(
        f"DELETE FROM pgstore.dict_entry WHERE store_id = $1 AND key = $2 AND {ALIVE}",
        "int8 text",
        kind=ChangeKind.DELETE,
    )

    @operation
    def _delitem(self, key: K) -> Op[None]:
        record = (yield from self._resolve_codec()).record
        if not (yield from self._write(self._DELETE, record, key_text(key))):
            yield from self._check_exists(record.id)
            raise self._no_key(key)

    def __delitem__(self, key: K) -> None:
        self._delitem(key)

    def _no_key(self, key: Any) -> errors.MissingKeyError:
        return errors.MissingKeyError(key, f"{key!r} is not in {self!r}")


def _differ(value: Any, expected: Any, key: Any) -> bool:
    try:
        return bool(value != expected)
    except Exception as exc:
        raise errors.InvalidError(
            f"the value of key {key!r}, a {type(value).__name__}, cannot be compared with a {type(expected).__name__}: {exc}; "
            "compare by revision: get_entry, then put(if_revision=)"
        ) from exc


def _fits(columns: Sequence[Any], by: float) -> bool:
    """Whether the sum of the number in *columns* and *by* fits into its column, as the statements see it."""
    codec, _, integer, real, _ = columns
    if type(by) is int:
        return codec == FLOAT or -(2**63) <= int(integer) + by < 2**63
    low, high = _not_addable(by)
    return not low <= float(integer if codec == INTEGER else real) <= high


def _not_addable(by: float) -> tuple[float, float]:
    """The least and the greatest double whose sum with *by* is rounded to infinity, though both are finite; if none, 1 and 0."""
    if not isfinite(by) or abs(by) < _ROUNDED_UP:
        return 1.0, 0.0
    missing = int(sys.float_info.max) + int(_ROUNDED_UP) - int(abs(by))
    least = float(missing)
    if int(least) < missing:
        least = nextafter(least, inf)
    return (least, sys.float_info.max) if by > 0 else (-sys.float_info.max, -least)


# Half of the distance of the largest doubles: a sum so much above the largest is rounded to infinity.
_ROUNDED_UP: Final = 2.0**970
