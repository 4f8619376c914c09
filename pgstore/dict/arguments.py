"""What the operations of Dict take, checked: each function returns the argument as it is used, or raises `InvalidError`."""

from __future__ import annotations

from typing import Any, Final

from pgstore import errors
from pgstore.core.checks import check_bool, check_int, check_seconds
from pgstore.core.numbers import as_int, as_real
from pgstore.serializers import key_text

SERIALIZERS: Final = ("pickle", "json", "cloudpickle")
TTL_SECONDS_MAX: Final = 1000 * 365 * 86400  # Python's calendar ends with the year 9999
PREFIX_BYTES_MAX: Final = 1000
_LIMIT_MAX: Final = 1 << 62  # what LIMIT takes


def check_ttl(ttl: object) -> float:
    """A time to live in seconds: above 0, infinity for never."""
    seconds = check_seconds(ttl, "ttl", above=0, also="float('inf') for ever")
    if seconds > TTL_SECONDS_MAX and ttl != float("inf"):
        raise errors.InvalidError(f"ttl is above {TTL_SECONDS_MAX:,} s, a thousand years; float('inf') is for ever")
    return seconds


def check_revision(if_revision: object) -> int:
    """The revision of an entry; 0: of one that is not there."""
    revision = as_int(if_revision)
    if revision is None or not 0 <= revision < 2**63:
        raise errors.InvalidError(
            f"if_revision {if_revision!r} is not a revision; take it from get_entry(key).revision"
        )
    return revision


def check_limit(limit: object) -> int:
    """A number of entries, 0 or more; None: all."""
    return _LIMIT_MAX if limit is None else min(check_int(limit, "limit", 0, also="None"), _LIMIT_MAX)


def check_prefix(prefix: object) -> str:
    """What the text of a str key begins with."""
    if (
        not isinstance(prefix, str)
        or len(prefix.encode(errors="replace")) > PREFIX_BYTES_MAX
        or key_text(prefix) != prefix
    ):
        raise errors.InvalidError(f"prefix {prefix!r} is not a str of at most 1,000 bytes that can begin a key's text")
    return prefix


def check_summand(by: object) -> int | float:
    """What is added: an int within 64 bits or a float."""
    try:
        number = as_real(by)
    except OverflowError:
        number = 1 << 64
    if number is None:
        raise errors.InvalidError(f"increment adds an int or a float, not {by!r}")
    if type(number) is int and not -(2**63) <= number < 2**63:
        raise errors.NumberOverflow(f"{by!r} does not fit into 64 bits")
    return number


def check_options(
    *, serializer: str | None, ttl: float | None, watch: bool | None, json_projection: bool | None
) -> dict[str, Any]:
    """Those options of a Dict that are given."""
    if serializer is not None and serializer not in SERIALIZERS:
        raise errors.InvalidError(f"serializer {serializer!r} is none of {', '.join(SERIALIZERS)}")
    for name, flag in ("watch", watch), ("json_projection", json_projection):
        if flag is not None:
            check_bool(flag, name, also="None")
    options: dict[str, Any] = {"serializer": serializer, "watch": watch, "json_projection": json_projection}
    if ttl is not None and check_ttl(ttl) != float("inf"):
        options["ttl"] = check_ttl(ttl)
    return {name: value for name, value in options.items() if value is not None}
