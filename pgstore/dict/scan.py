"""Going through a Dict in the order of its keys, whole or between bounds, with bounded memory.

Outside a transaction by pages: nothing is held between them, and entries may be changed meanwhile. Inside one by a server-side
cursor: one snapshot, whatever is changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from pgstore.core.operation import BeforeCommit, CommitHook, Cursor, Fetch, Op, OpenCursor, Query, iterated, operation
from pgstore.core.statement import Statement
from pgstore.dict.arguments import check_limit, check_prefix
from pgstore.dict.base import ALIVE, READ, DictBase, K, V
from pgstore.dict.codec import Codec
from pgstore.serializers import key_text

FIRST_PAGE_ENTRIES: Final = 50  # the first comes quickly, and shows how large entries are
PAGE_ENTRIES: Final = 1000
PAGE_BYTES: Final = 8 * 1024 * 1024
_SAMPLE_ENTRIES: Final = 16

Row = tuple[Any, ...]


@functools.cache
def page(columns: str, *, low: str, high: str, reverse: bool) -> Statement:
    """
    A page of entries: $2 the most rows, then the bounds that there are. *low*, *high*: `""`, or the operator of the bound.

    A statement for each form, since a bound that may be absent cannot be a condition on an index.
    """
    conditions = [f"AND key {operator} ${number}" for number, operator in enumerate(filter(None, (low, high)), 3)]
    return Statement(
        f"""
        SELECT key, key_pickle{columns}
          FROM pgstore.dict_entry
         WHERE store_id = $1
           {" ".join(conditions)}
           AND {ALIVE}
         ORDER BY key {"DESC" if reverse else ""}
         LIMIT $2
        """,
        "int8 int8" + " text" * len(conditions),
        read_only=True,
    )


class Scan(DictBase[K, V]):
    """Operations on all keys, or a range of them."""

    @operation
    def keys(self) -> Op[list[K]]:
        """Return all keys, in the order of their text."""
        return (yield from _all(self._pages("", self._key_of)))

    @operation
    def values(self) -> Op[list[V]]:
        """Return all values, in the order of the keys."""
        return (yield from _all(self._pages(f", {READ}", self._value_of)))

    @operation
    def items(self) -> Op[list[tuple[K, V]]]:
        """Return all pairs of key and value, in the order of the keys."""
        return (yield from _all(self._pages(f", {READ}", Codec.pair)))

    @iterated
    def iterate_keys(
        self,
        *,
        prefix: str | None = None,
        start: Any = None,
        end: Any = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Fetch[K]:
        """Iterate over keys, for `for` and `async for`; the arguments are those of `iterate_items`."""
        return self._pages("", self._key_of, prefix=prefix, start=start, end=end, reverse=reverse, limit=limit)

    @iterated
    def iterate_values(
        self,
        *,
        prefix: str | None = None,
        start: Any = None,
        end: Any = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Fetch[V]:
        """Iterate over values, for `for` and `async for`; the arguments are those of `iterate_items`."""
        return self._pages(
            f", {READ}", self._value_of, prefix=prefix, start=start, end=end, reverse=reverse, limit=limit
        )

    @iterated
    def iterate_items(
        self,
        *,
        prefix: str | None = None,
        start: Any = None,
        end: Any = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Fetch[tuple[K, V]]:
        """
        Iterate over pairs of key and value, for `for` and `async for`, in the order of the keys' text.

        str keys are in the order of their code points; others stand together before most of them. Inside a transaction it is one
        snapshot; else entries may be changed meanwhile.

        Args:
            prefix: only str keys that start so (at most 1,000 bytes; not those with NUL or surrogates); empty: all keys.
            start: from this key on, itself included.
            end: up to this key, itself excluded.
            reverse: from the last to the first.
            limit: at most so many.
        """
        return self._pages(f", {READ}", Codec.pair, prefix=prefix, start=start, end=end, reverse=reverse, limit=limit)

    def __iter__(self) -> Iterator[K]:
        return iter(self.iterate_keys())

    def __reversed__(self) -> Iterator[K]:
        return iter(self.iterate_keys(reverse=True))

    # ---------------------------------------------------------------------------------------------------------- rows

    def _key_of(self, codec: Any, row: Row) -> Any:
        return codec.decode_key(row[0], row[1])

    def _value_of(self, codec: Any, row: Row) -> Any:
        return codec.decode(row[2:], row[0], row[0])

    def _pages(self, columns: str, make: Callable[[Any, Row], Any], **bounds: Any) -> Fetch[Any]:
        return _Pages(self, columns, make, _Bounds(**bounds)).fetch


class _Bounds:
    """Which keys, in which order."""

    def __init__(
        self,
        *,
        prefix: str | None = None,
        start: Any = None,
        end: Any = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> None:
        self.low = None if start is None else key_text(start)
        self.low_operator = "" if start is None else ">="
        self.high = None if end is None else key_text(end)
        self.high_operator = "" if end is None else "<"
        if prefix is not None:
            self._narrow(check_prefix(prefix))
        self.reverse = reverse
        self.left = check_limit(limit)

    def _narrow(self, prefix: str) -> None:
        if self.low is None or prefix > self.low:
            self.low, self.low_operator = prefix, ">="
        above = _successor(prefix)
        if above is not None and (self.high is None or above < self.high):
            self.high, self.high_operator = above, "<"

    def go_on_after(self, key: str) -> None:
        """Leave out what has been seen, up to *key*."""
        if self.reverse:
            self.high, self.high_operator = key, "<"
        else:
            self.low, self.low_operator = key, ">"

    def query(self, columns: str, store_id: int, rows_max: int) -> Query:
        statement = page(columns, low=self.low_operator, high=self.high_operator, reverse=self.reverse)
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        return Query(statement, store_id, rows_max, *bounds)


def _successor(prefix: str) -> str | None:
    """The first text after all that start with *prefix*; None if there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index])
        if code < 0x10FFFF:
            following = 0xE000 if code + 1 == 0xD800 else code + 1
            return prefix[:index] + chr(following)
    return None


class _Pages:
    """Entries, a page a call."""

    def __init__(
        self, store: DictBase[Any, Any], columns: str, make: Callable[[Any, Row], Any], bounds: _Bounds
    ) -> None:
        self._store = store
        self._columns = columns
        self._make = make
        self._bounds = bounds
        self._rows_max = FIRST_PAGE_ENTRIES
        self._cursor: OpenCursor | None = None
        self._cursors: _Cursors | None = None
        self._seen = False

    def fetch(self) -> Op[Iterable[Any] | None]:
        codec = yield from self._store._resolve_codec()
        bounds = self._bounds
        if bounds.left == 0:
            return None
        rows_max = min(self._rows_max, bounds.left)
        hooked = yield BeforeCommit(_Cursors, _Cursors)
        if hooked is not None:
            rows = yield from self._from_cursor(hooked.hook, codec.store_id, rows_max)
        else:
            rows = yield bounds.query(self._columns, codec.store_id, rows_max)
        if not rows:
            if not self._seen:
                yield from self._store._check_exists(codec.store_id)
            return None
        self._seen = True
        self._rows_max = _rows_of(rows)
        bounds.left -= len(rows)
        bounds.go_on_after(rows[-1][0])
        # Decoded one by one: a value that cannot be loaded must not hide the rest. A list of them all would make the garbage
        # collector go through it.
        return map(functools.partial(self._make, codec), rows)

    def forget_cursor(self, cursors: _Cursors) -> None:
        """The cursor that was declared in *cursors*' transaction is gone; another goes on from where we are."""
        if self._cursors is cursors:
            self._cursor = None

    def _from_cursor(self, cursors: _Cursors, store_id: int, rows_max: int) -> Op[list[Row]]:
        # An iterator that was made outside of transactions may be used in several, each of which ends its cursors.
        if self._cursor is None or self._cursors is not cursors:
            self._cursors = cursors
            cursors.of.append(self)  # before it is declared: that may be interrupted
            self._cursor = yield Cursor(self._bounds.query(self._columns, store_id, self._bounds.left))
        # A power of two, or the text of the statement would be another each time.
        rows_max = rows_max if rows_max == PAGE_ENTRIES else 1 << (rows_max.bit_length() - 1)
        rows: list[Row] = yield self._cursor.fetch(rows_max)
        if len(rows) < rows_max or rows_max == self._bounds.left:
            yield self._cursor.close()
            self._bounds.left = len(rows)
        return rows


def _rows_of(rows: list[Row]) -> int:
    """How many entries make a page, if they are like *rows*: memory is bounded for large values too."""
    sample = rows[:: 1 + len(rows) // _SAMPLE_ENTRIES]
    size = sum(len(part) for row in sample for part in row if isinstance(part, (bytes, str)))
    return max(1, min(PAGE_ENTRIES, PAGE_BYTES * len(sample) // max(size, 1)))


class _Cursors(CommitHook):
    """Whose cursors a transaction has, in the order in which they were declared: a rolled back savepoint ends those since."""

    def __init__(self) -> None:
        self.of: list[_Pages] = []

    def mark(self) -> int:
        return len(self.of)

    def rewind(self, mark: int | None) -> None:
        while len(self.of) > (mark or 0):
            self.of.pop().forget_cursor(self)


def _all(fetch: Fetch[Any]) -> Op[list[Any]]:
    values: list[Any] = []
    while (found := (yield from fetch())) is not None:
        values.extend(found)
    return values
