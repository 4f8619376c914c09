"""Rows cut into statements of a bounded size: a message to the server may not reach a gibibyte, and is held in memory twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

T = TypeVar("T")
BATCH_BYTES: Final = 16 * 1024 * 1024


def batches(
    rows: Iterable[T], size_of: Callable[[T], int], *, bytes_max: int = BATCH_BYTES, rows_max: int = 1 << 62
) -> Iterator[list[T]]:
    """*rows* in lists of at most *rows_max*, none much larger than *bytes_max* by *size_of*: by one row at most."""
    batch: list[T] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += size_of(row)
        if size >= bytes_max or len(batch) >= rows_max:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
