"""What an operation has moved and how long it has waited, seen from the requests that it yields and what they are answered with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from pgstore.core.operation import CopyIn, CopyOut, Many, Query, Wait


class Tally:
    """What one operation has moved, and how long it has waited."""

    __slots__ = ("is_waiting", "received", "rows", "sent", "statements", "waited")

    def __init__(self) -> None:
        self.rows = self.sent = self.received = self.statements = 0
        self.waited = 0.0
        self.is_waiting = False  # it has waited for others, if only for an instant

    def asked(self, request: Any) -> Any:
        """The *request*, or one in its place that tells what is read by it."""
        if type(request) is CopyOut:
            return replace(request, consume=partial(self._consumed, request.consume))
        return request

    def answered(self, request: Any, answer: Any, seconds: float) -> None:
        if type(request) is Query:
            self._query(request, answer)
        elif type(request) is Many:
            for query, rows in zip(request.queries, answer, strict=False):
                self._query(query, rows)
        elif type(request) is Wait:
            self.is_waiting = True
            self.waited += seconds
        elif type(request) is CopyIn:
            self.statements += 1
            self.rows += answer
            self.sent += sum(map(len, request.data))
        elif type(request) is CopyOut:
            self.statements += 1

    def attributes(self) -> dict[str, int | float]:
        """As those of a span."""
        found: dict[str, int | float] = {
            "pgstore.rows": self.rows,
            "pgstore.bytes.sent": self.sent,
            "pgstore.bytes.received": self.received,
            "pgstore.statements": self.statements,
        }
        if self.is_waiting:
            found["pgstore.wait_seconds"] = self.waited
        return found

    def _query(self, query: Query, answer: Any) -> None:
        self.statements += 1
        self.sent += _size(query.values)
        if isinstance(answer, int):
            self.rows += answer
        elif answer:
            self.rows += len(answer)
            self.received += sum(map(_size, answer))

    def _consumed(self, consume: Any, block: bytes | memoryview) -> object:
        self.rows += 1
        self.received += len(block)
        return consume(block)


def _size(values: Sequence[Any]) -> int:
    """The bytes, and characters, of *values*; numbers count for nothing."""
    size = 0
    for value in values:
        if isinstance(value, (bytes, str, bytearray)):
            size += len(value)
        elif isinstance(value, memoryview):
            size += value.nbytes
        elif isinstance(value, (list, tuple)):
            size += _size(value)
    return size
