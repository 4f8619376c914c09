"""Checks of arguments, with one form of message: what was given, and what is expected.

Numbers are taken by what they say of themselves (`numbers`): an int of numpy is an int. A bool is no number here, for who writes
`limit=True` means something else.
"""

from __future__ import annotations

from pgstore.core.numbers import as_int, as_seconds
from pgstore.errors import InvalidError


def check_int(value: object, name: str, least: int | None = None, most: int | None = None, *, also: str = "") -> int:
    """
    Return the argument *name* as an int.

    Args:
        also: what else the caller takes, for the message, such as "None".

    Raises:
        InvalidError: it is no whole number, below *least* or above *most*.
    """
    number = as_int(value)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        raise _wrong(value, name, _bounded("a number", least, most), also)
    return number


def check_seconds(
    value: object,
    name: str,
    least: float = 0,
    most: float = float("inf"),
    *,
    above: float | None = None,
    also: str = "",
) -> float:
    """
    Return the argument *name*, a time in seconds, as a float; infinity where it is larger than one can be.

    Args:
        least, most: the bounds, both included.
        above: the lower bound, excluded, in place of *least*.
        also: what else the caller takes, for the message, such as "None".

    Raises:
        InvalidError: it is no number, not a number (NaN), or out of bounds.
    """
    seconds = as_seconds(value)
    is_enough = seconds is not None and (seconds >= least if above is None else seconds > above)
    if seconds is None or not is_enough or not seconds <= most:
        what = "a number of seconds"
        what = _bounded(what, least, most) if above is None else _bounded(f"{what}, above {above:g}", None, most)
        raise _wrong(value, name, what, also)
    return seconds


def check_bool(value: object, name: str, *, also: str = "") -> bool:
    """
    Return the argument *name*, which must be True or False itself: SQL looks for true, not for what Python takes for it.

    Raises:
        InvalidError: it is neither.
    """
    if not isinstance(value, bool):
        raise _wrong(value, name, "True or False", also)
    return value


def _bounded(what: str, least: float | None, most: float | None) -> str:
    if most == float("inf"):
        most = None
    if least is None:
        return what if most is None else f"{what}, at most {most:,}"
    return f"{what}, {least:,} or more" if most is None else f"{what}, {least:,} to {most:,}"


def _wrong(value: object, name: str, expected: str, also: str) -> InvalidError:
    return InvalidError(f"{name} is {value!r}, expected {expected}" + (f", or {also}" if also else ""))
