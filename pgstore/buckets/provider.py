"""What the buckets of all providers have: a name, their failures, and how often a request is tried."""

from __future__ import annotations

from pgstore import errors
from pgstore.buckets.base import Bucket
from pgstore.buckets.failures import Failures
from pgstore.buckets.location import Location
from pgstore.buckets.retries import RetryPolicy


class ProviderBucket(Bucket):
    """A bucket that a provider keeps."""

    def __init__(self, location: Location) -> None:
        self._shown = location.shown

    def _begin(self, failures: Failures, policy: RetryPolicy) -> None:
        """Once there is a client."""
        self._failures = failures
        self._policy = policy

    @property
    def shown(self) -> str:
        return self._shown

    @property
    def was_denied(self) -> bool:
        return self._failures.was_denied

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown}>"

    def _ends_early(self, key: str, *, offset: int, end: int, found_end: int) -> errors.PositionInvalid:
        return errors.PositionInvalid(
            f"object {key!r} of {self._shown} ends at {found_end}, before {end}; it was asked for from {offset} on", key
        )
