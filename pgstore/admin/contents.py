"""What Dicts and Queues hold, one by one: also what this process cannot load, which hides nothing else.

Values are unpickled, which runs code of whoever wrote them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pgstore
from pgstore import errors
from pgstore.core.operation import Op, PagedIterator, Rows
from pgstore.dict.base import READ
from pgstore.dict.codec import Codec
from pgstore.queue.dead_letters import DeadLetter

_PAGE_BYTES: Final = 8 * 1024 * 1024
_PAGE_ITEMS: Final = 1000
_FIRST_PAGE_ITEMS: Final = 8  # of at most 256 MiB each


@dataclass(frozen=True)
class Unloadable:
    """Stands for a key or a value that this process cannot load."""

    reason: str
    """Such as `ModuleNotFoundError: No module named 'shop'`."""
    size_bytes: int


@dataclass(frozen=True)
class Entry:
    """An entry of a Dict."""

    key: Any
    """The key, or an `Unloadable`."""
    value: Any
    """The value, or an `Unloadable`."""


@dataclass(frozen=True)
class Item:
    """An item that waits in a Queue."""

    put_at: datetime
    size_bytes: int
    item: Any
    """The item, or an `Unloadable`."""


@dataclass(frozen=True)
class Letter:
    """A dead letter of a Queue."""

    id: int
    partition: str | None
    put_at: datetime
    attempts: int
    reason: str | None
    item: Any
    """The item, or an `Unloadable`."""


def keys(store: pgstore.Dict[Any, Any], *, prefix: str | None = None) -> Iterator[Any]:
    """The keys of a Dict in their order, page by page, and an `Unloadable` for each that cannot be loaded."""
    return iter(PagedIterator(store, "iterate_keys", store._pages("", _key, prefix=prefix)))


def _key(codec: Codec, row: Sequence[Any]) -> Any:
    return _loaded(lambda: codec.decode_key(row[0], row[1]))


def entries(store: pgstore.Dict[Any, Any], *, prefix: str | None = None, limit: int | None = None) -> Iterator[Entry]:
    """The entries of a Dict in the order of their keys, page by page; *prefix* and *limit* are those of `iterate_items`."""
    pages = store._pages(f", {READ}", _entry, prefix=prefix, limit=limit)
    return iter(PagedIterator(store, "iterate_items", pages))


def _entry(codec: Codec, row: Sequence[Any]) -> Entry:
    text, _, *columns = row
    return Entry(_key(codec, row), _loaded(lambda: codec.decode(columns, text, text)))


def items(queue: pgstore.Queue[Any], *, partition: str | None = None, limit: int | None = None) -> Iterator[Item]:
    """The items that wait in a partition of a Queue, the oldest first, page by page; at most *limit*. They stay there."""
    name = queue.validate_partition_key(partition).decode()
    after, seen_due, page = 0, set[int](), _FIRST_PAGE_ITEMS
    left = 1 << 62 if limit is None else limit
    while left:
        # Those that are due and have not been moved back come again with each page, after all others.
        wanted = min(page, left) + len(seen_due)
        rows = queue._runner.run(_rows(queue, name, after, wanted), queue._bound)
        fresh = [row for row in rows if row[4] is None or row[0] not in seen_due]
        for row in fresh:
            item = _loaded(functools.partial(queue._decode, row, name))
            yield Item(row[1].astimezone(), len(row[3]), item)
        if len(rows) < wanted:
            return
        left -= len(fresh)
        after = max((row[0] for row in rows if row[4] is None), default=after)
        seen_due.update(row[0] for row in rows if row[4] is not None)
        page = max(1, min(_PAGE_ITEMS, _PAGE_BYTES * len(rows) // (1 + sum(len(row[3]) for row in rows))))


def _rows(queue: pgstore.Queue[Any], partition: str, after: int, wanted: int) -> Op[Rows]:
    record = yield from queue._resolve()
    rows = yield from queue._list(record, partition, after, wanted)
    if not rows:
        yield from queue._check_exists(record.id)
    return rows


def dead_letters(queue: pgstore.Queue[Any], limit: int | None = None) -> list[Letter]:
    """The oldest *limit* dead letters of a Queue; None: all."""
    if limit == 0:
        return []
    return [_letter(each) for each in queue.dead_letters(1 << 62 if limit is None else limit)]


def _letter(letter: DeadLetter[Any]) -> Letter:
    item = _loaded(lambda: letter.item)
    return Letter(letter.id, letter.partition, letter.put_at, letter.attempts, letter.reason, item)


def coming(queue: pgstore.Queue[Any], *, partition: str | None = None, timeout: float | None = None) -> Iterator[Any]:
    """The items that wait in a partition, then those that come, until none has for *timeout* seconds; None: for ever."""
    waiting = queue.iterate(float("inf") if timeout is None else timeout, partition=partition)
    end = object()
    while (item := _loaded(functools.partial(next, waiting, end))) is not end:
        yield item


def _loaded(load: Callable[[], Any]) -> Any:
    """What *load* returns, or an `Unloadable`."""
    try:
        return load()
    except errors.DeserializationError as exc:
        cause = exc.__cause__
        return Unloadable(str(exc) if cause is None else f"{type(cause).__name__}: {cause}", len(exc.raw))
