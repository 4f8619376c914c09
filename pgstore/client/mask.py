"""Masks: as long as a taker gets one item after another, nobody has to be told of more.

Telling has a price that grows with those who listen: PostgreSQL before 19 signals them all with each notification. Forty idle
workers would cost a Queue most of its puts, and each of them would be told of one item at a time. So a taker that finds items
faster than it could be told of them masks the topic (an advisory lock of the listening session): putters tell nobody, and it looks
every millisecond. Network drivers do so with interrupts. Source: https://docs.kernel.org/networking/napi.html

It lets go when it finds nothing for a while, or when its caller is at work for longer than a moment. After that the listener looks
until nobody is inserting who may have seen the mask. While it goes on without a miss, one more waiter is told every ten
milliseconds: one taker may not be enough. If the process is stopped the server ends the session, and with it the mask.
"""

from __future__ import annotations

from typing import Final

from pgstore.core import clock
from pgstore.core.statement import Statement

# The numbers were found by trying, with takers that do nothing between two gets.
ROW: Final = 2  # so many items without waiting, each soon after the other, are full swing
SOON_SECONDS: Final = 0.005
SIGNALS_MAX: Final = 5_000  # a second, to all who listen; so many take about 0.08 of a core
SPIN_SECONDS: Final = 0.001  # between two looks
SPIN_SECONDS_MAX: Final = (
    0.05  # without finding anything, until the mask ends; less if it was shorter and items come faster
)
BUSY_SECONDS: Final = 0.015  # the caller is at work for so long that another had better take
BEHIND_SECONDS: Final = 0.01  # without a miss, until another waiter is told
RETRY_SECONDS: Final = 0.05  # until masking is tried again: somebody else may have let go by then

MASK_BEGIN: Final = Statement("SELECT pgstore.mask_begin($1)", "int4")
MASK_END: Final = Statement("SELECT pgstore.mask_end($1, $2)", "int4 bool")


class Mask:
    """One topic that this client's takers mask, or are about to."""

    __slots__ = ("_gap", "began_at", "has_ended", "is_held", "taken_at", "told_at")

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self.is_held = False  # the server knows
        self.has_ended = False
        self.began_at = self.taken_at = clock.monotonic()
        self.told_at = self.began_at  # when another waiter was last told, or there was a miss, after which none need be

    def take(self) -> None:
        """Something was taken."""
        self.taken_at = clock.monotonic()

    def miss(self) -> None:
        """Nothing was there."""
        self.told_at = self.taken_at = clock.monotonic()

    def spin_seconds(self) -> float:
        """How long it is worth looking for more."""
        return min(SPIN_SECONDS_MAX, max(3 * self._gap, clock.monotonic() - self.began_at) + 2 * SPIN_SECONDS)

    @property
    def due(self) -> float:
        """When its listener should see to it again."""
        return min(self.taken_at + BUSY_SECONDS, self.told_at + BEHIND_SECONDS)


class Swing:
    """How fast a taker finds items."""

    __slots__ = ("_id", "_row", "_took_at", "gap")

    def __init__(self) -> None:
        self.gap = 0.0  # seconds between two items
        self._took_at = 0.0
        self._id = self._row = 0

    def is_full(self, last_id: int, listening: int, *, waited: bool) -> bool:
        """
        Note what was just taken. Returns whether telling so many, *listening* at least, would cost more than looking.

        *last_id*: of the items; ids are given in the order of puts, of all Queues together.
        """
        now = clock.monotonic()
        seconds, self._took_at = now - self._took_at, now
        passed, self._id = last_id - self._id, last_id
        self._row = 0 if waited else self._row + 1 if seconds < SOON_SECONDS else 1
        self.gap = seconds / max(passed, 1)
        return self.gap < SOON_SECONDS and (self._row >= ROW or self.gap * SIGNALS_MAX < listening)

    def is_recent(self, now: float) -> bool:
        """Whether something was taken a moment ago: the caller's work is short."""
        return now - self._took_at < SOON_SECONDS
