"""Numbers that callers give, by what they say of themselves: ints of numpy and fractions will do where an int or a float does."""

from __future__ import annotations

import numbers
import operator
from typing import Any


def as_int(given: Any) -> int | None:
    """*given* as an int; None if it is none, such as a bool."""
    if type(given) is int:
        return given
    if isinstance(given, bool) or not hasattr(type(given), "__index__"):
        return None
    return operator.index(given)


def as_real(given: Any) -> int | float | None:
    """*given* as an int or float; None if it is neither. An OverflowError is a number above all floats."""
    if type(given) is float:
        return given
    whole = as_int(given)
    if whole is not None:
        return whole
    if isinstance(given, bool) or not (isinstance(given, numbers.Real) or hasattr(type(given), "__float__")):
        return None
    try:
        return float(given)
    except (TypeError, ValueError):  # as of an array of several numbers
        return None


def as_seconds(given: Any) -> float | None:
    """*given* as a float, infinity if it is too large for one; None if it is no number."""
    try:
        real = as_real(given)
        return None if real is None else float(real)
    except OverflowError:
        return float("inf") if given > 0 else float("-inf")
