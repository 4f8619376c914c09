"""Deadlines, and the clock that they and idle connections go by, which tests can set."""

from __future__ import annotations

import time

from pgstore.core.numbers import as_seconds
from pgstore.errors import InvalidError

monotonic = time.monotonic


class Deadline:
    """The instant at which a call gives up; never, for a timeout of None."""

    __slots__ = ("at",)

    def __init__(self, at: float | None) -> None:
        self.at = at

    @classmethod
    def after(cls, timeout: float | None, *, block: bool = True) -> Deadline:
        """*timeout* seconds from now; now, if not *block*."""
        if timeout is None:
            return cls(None if block else monotonic())
        seconds = as_seconds(timeout)
        if seconds is None or not seconds >= 0:
            raise InvalidError(f"timeout {timeout!r} is not a number of seconds, 0 or more, or None")
        return cls(monotonic() + (seconds if block else 0.0))

    def remaining(self) -> float:
        """Seconds left, 0 when passed, infinity without a limit."""
        return float("inf") if self.at is None else max(0.0, self.at - monotonic())

    def passed(self) -> bool:
        return self.at is not None and monotonic() >= self.at
