"""Sets of byte ranges: which bytes of a file are staged, which of them are newer than the database's.

Ranges that touch are one. So what is written in order stays one range, and adding to it looks at the last one alone.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]  # where it begins, and where it ends


class Ranges:
    """A set of offsets, as ranges [start, end) in order, which neither overlap nor touch."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Range]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __repr__(self) -> str:
        return f"Ranges({list(self)})"

    @property
    def total(self) -> int:
        """How many bytes the ranges have together."""
        return sum(self._ends) - sum(self._starts)

    @property
    def end(self) -> int:
        """Where the last range ends; 0 if there is none."""
        return self._ends[-1] if self._ends else 0

    def add(self, start: int, end: int) -> int:
        """Add [*start*, *end*). Returns how many of these bytes are new."""
        if start >= end:
            return 0
        starts, ends = self._starts, self._ends
        if not ends or start > ends[-1]:
            starts.append(start)
            ends.append(end)
            return end - start
        if start >= starts[-1]:
            new = max(0, end - ends[-1])
            ends[-1] += new
            return new
        first, last = bisect_left(ends, start), bisect_right(starts, end)  # those from first to before last touch it
        if first == last:
            starts.insert(first, start)
            ends.insert(first, end)
            return end - start
        there = sum(ends[first:last]) - sum(starts[first:last])
        start, end = min(start, starts[first]), max(end, ends[last - 1])
        starts[first:last] = [start]
        ends[first:last] = [end]
        return end - start - there

    def remove(self, start: int, end: int) -> int:
        """Remove [*start*, *end*). Returns how many of these bytes were there."""
        starts, ends = self._starts, self._ends
        first, last = bisect_right(ends, start), bisect_left(starts, end)  # those from first to before last overlap it
        if start >= end or first >= last:
            return 0
        left = [(starts[first], start)] if starts[first] < start else []
        right = [(end, ends[last - 1])] if ends[last - 1] > end else []
        kept = left + right
        there = sum(ends[first:last]) - sum(starts[first:last]) - sum(stop - begin for begin, stop in kept)
        starts[first:last] = [begin for begin, _ in kept]
        ends[first:last] = [stop for _, stop in kept]
        return there

    def clear(self) -> None:
        self._starts.clear()
        self._ends.clear()

    def first(self, start: int = 0) -> Range | None:
        """The first range that ends behind *start*."""
        at = bisect_right(self._ends, start)
        return None if at == len(self._ends) else (self._starts[at], self._ends[at])

    def within(self, start: int, end: int) -> list[Range]:
        """What the set has of [*start*, *end*)."""
        starts, ends = self._starts, self._ends
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        return [(max(starts[at], start), min(ends[at], end)) for at in range(first, last)] if start < end else []

    def gaps(self, start: int, end: int) -> list[Range]:
        """What the set lacks of [*start*, *end*)."""
        result: list[Range] = []
        for begin, stop in self.within(start, end):
            if start < begin:
                result.append((start, begin))
            start = stop
        if start < end:
            result.append((start, end))
        return result

    def covers(self, start: int, end: int) -> bool:
        """Whether all of [*start*, *end*) is in the set."""
        at = bisect_right(self._starts, start) - 1
        return start >= end or (at >= 0 and self._ends[at] >= end)

    def overlaps(self, start: int, end: int) -> bool:
        """Whether some of [*start*, *end*) is in the set."""
        return start < end and bisect_right(self._ends, start) < bisect_left(self._starts, end)


def ranges_of(ranges: Iterable[Range]) -> Ranges:
    """The set of *ranges*."""
    result = Ranges()
    for start, end in ranges:
        result.add(start, end)
    return result
