"""What the operations of Queue take, checked: each function returns the argument as it is used, or raises `InvalidError`."""

from __future__ import annotations

import enum
from typing import Any, Final

from pgstore import errors
from pgstore.core import checks
from pgstore.core.names import UNSTORABLE
from pgstore.core.numbers import as_int

PARTITION_BYTES_MAX: Final = 64
KEY_BYTES_MAX: Final = 1024
SECONDS_MAX: Final = 10 * 365 * 86400
BACKOFF_SECONDS_MIN: Final = 0.001
OPTION_MAX: Final = 2**31 - 1
_LIMIT_MAX: Final = 1 << 62  # what LIMIT takes
_REASON_CHARS_MAX: Final = 1000


class _NotGiven(enum.Enum):
    """An argument that was not given: None is an item."""

    NOT_GIVEN = enum.auto()


NOT_GIVEN: Final = _NotGiven.NOT_GIVEN


def one_of(given: Any, also: Any, operation: str, names: str) -> Any:
    """The one of two arguments that was given: ours, or Modal's for the same."""
    if (given is NOT_GIVEN) == (also is NOT_GIVEN):
        raise errors.InvalidError(f"{operation} takes one of {names}, which are the same")
    return also if given is NOT_GIVEN else given


def one_at_most(given: Any, also: Any, names: str) -> Any:
    """As `one_of`, of two that may both be None."""
    if given is not None and also is not None:
        raise errors.InvalidError(f"{names}, which are the same, not both")
    return also if given is None else given


def partition_name(partition: str | None) -> str:
    """The name of *partition* in the table; None is the default partition, whose name is empty."""
    if partition is None:
        return ""
    if not isinstance(partition, str):
        raise errors.InvalidError(f"partition must be a str, not {type(partition).__name__}: {partition!r}")
    if not _is_text(partition, PARTITION_BYTES_MAX):
        raise errors.InvalidError(
            f"partition {partition!r} is not of 1 to {PARTITION_BYTES_MAX} bytes of UTF-8, without NUL and lone surrogates; "
            "leave it out for the default"
        )
    return partition


def check_key(key: object) -> str | None:
    """An idempotency key."""
    if key is None or (isinstance(key, str) and _is_text(key, KEY_BYTES_MAX)):
        return key
    raise errors.InvalidError(
        f"idempotency_key {key!r} is not a str of 1 to {KEY_BYTES_MAX} bytes of UTF-8, without NUL and lone surrogates"
    )


def _is_text(text: str, bytes_max: int) -> bool:
    return 1 <= len(text.encode(errors="replace")) <= bytes_max and not UNSTORABLE.search(text)


def check_count(n: object, name: str) -> int:
    """A number of items, 1 or more."""
    return min(checks.check_int(n, name, 1), _LIMIT_MAX)


def check_seconds(seconds: object, name: str, least: float = 0) -> float:
    """A number of seconds, *least* to ten years."""
    return checks.check_seconds(seconds, name, least, SECONDS_MAX)


def check_position(after: object) -> int:
    """The position of an iterator; None: before the first item."""
    position = 0 if after is None else as_int(after)
    if position is None or abs(position) >= 1 << 63:
        raise errors.InvalidError(f"after is {after!r}, expected the position of an iterator")
    return position


def storable_reason(reason: object) -> str | None:
    """The reason of a failure as it can be stored, cut to 1,000 characters."""
    if reason is None:
        return None
    if not isinstance(reason, str):
        raise errors.InvalidError(f"reason must be a str, not {type(reason).__name__}: {reason!r}")
    return reason[:_REASON_CHARS_MAX].replace("\0", "").encode(errors="backslashreplace").decode()


def check_options(*, maxsize: int | None, max_attempts: int | None, backoff: object) -> dict[str, Any]:
    """Those options of a Queue that are given."""
    options: dict[str, Any] = {
        name: checks.check_int(value, name, 1, OPTION_MAX, also="None")
        for name, value in (("maxsize", maxsize), ("max_attempts", max_attempts))
        if value is not None
    }
    if backoff is not NOT_GIVEN:
        options["backoff"] = (
            None
            if backoff is None
            else checks.check_seconds(backoff, "backoff", BACKOFF_SECONDS_MIN, SECONDS_MAX, also="None")
        )
    return options
