"""Retries: how often a call that failed is made again, and when."""

from __future__ import annotations

from dataclasses import dataclass

from pgstore.core.checks import check_int, check_seconds
from pgstore.core.numbers import as_seconds
from pgstore.errors import InvalidError

COEFFICIENT_MAX = 10
DELAY_MAX_SECONDS = 60


@dataclass(frozen=True, kw_only=True)
class Retries:
    """
    How often a call is made again after an exception, a timeout or the death of its worker, each time on a fresh worker.

    Args:
        max_retries: how often at most, beside the first attempt.
        backoff_coefficient: by how much each delay is longer than the one before, 1 to 10; 1: all are the same.
        initial_delay: seconds before the first repetition, up to 60.
        max_delay: seconds that no delay exceeds, 1 to 60.
    """

    max_retries: int
    backoff_coefficient: float = 2.0
    initial_delay: float = 1.0
    max_delay: float = 60.0

    def __post_init__(self) -> None:
        check_int(self.max_retries, "max_retries", 0)
        coefficient = as_seconds(self.backoff_coefficient)
        if coefficient is None or not 1 <= coefficient <= COEFFICIENT_MAX:
            raise InvalidError(
                f"backoff_coefficient is {self.backoff_coefficient!r}, expected a number, 1 to {COEFFICIENT_MAX}"
            )
        check_seconds(self.initial_delay, "initial_delay", 0, DELAY_MAX_SECONDS)
        check_seconds(self.max_delay, "max_delay", 1, DELAY_MAX_SECONDS)

    def delay(self, repetition: int) -> float:
        """Seconds to wait before the repetition of this number; the first is 1."""
        # A float overflows at large powers, and the delay has reached its maximum long before.
        factor = self.backoff_coefficient ** min(repetition - 1, 100)
        return min(self.initial_delay * factor, self.max_delay)

    @classmethod
    def of(cls, retries: object) -> Retries | None:
        """What `retries=` of a function means: a number is that many, one second apart. None, 0: none."""
        if retries is None or isinstance(retries, cls):
            return retries or None
        if isinstance(retries, bool) or not isinstance(retries, int):
            raise InvalidError(f"retries is {retries!r}, expected a number or pgstore.Retries(max_retries=…)")
        check_int(retries, "retries", 0)
        return cls(max_retries=retries, backoff_coefficient=1.0) if retries else None
