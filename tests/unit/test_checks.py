"""Checks of arguments: what they take, and what they say of what they do not."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

import pytest

from pgstore.core.checks import check_bool, check_int, check_seconds
from pgstore.errors import InvalidError


class Index:
    """As numpy's ints are."""

    def __index__(self):
        return 7


INFINITY = float("inf")


@pytest.mark.parametrize(
    ("check", "value", "result"),
    [
        (partial(check_int, name="n"), -5, -5),
        (partial(check_int, name="n"), Index(), 7),
        (partial(check_int, name="n", least=1, most=9), 9, 9),
        (partial(check_int, name="n", least=1, most=9), 1, 1),
        (partial(check_seconds, name="n"), 0, 0.0),
        (partial(check_seconds, name="n"), Fraction(1, 2), 0.5),
        (partial(check_seconds, name="n"), 10**400, INFINITY),
        (partial(check_seconds, name="n"), INFINITY, INFINITY),
        (partial(check_seconds, name="n", least=5), Index(), 7.0),
        (partial(check_seconds, name="n", above=0), 1e-9, 1e-9),
        (partial(check_bool, name="n"), False, False),
    ],
)
def test_a_right_argument_comes_back_in_its_type(check, value, result):
    checked = check(value)

    assert (type(checked), checked) == (type(result), result)


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (partial(check_int, name="n"), True, "n is True, expected a number"),
        (partial(check_int, name="n"), 1.0, "n is 1.0, expected a number"),
        (partial(check_int, name="n", least=1), 0, "n is 0, expected a number, 1 or more"),
        (partial(check_int, name="n", least=1, most=9000, also="None"), "5", "n is '5', expected a number, 1 to 9,000, or None"),
        (partial(check_int, name="n", most=9), 10, "n is 10, expected a number, at most 9"),
        (partial(check_seconds, name="n"), None, "n is None, expected a number of seconds, 0 or more"),
        (partial(check_seconds, name="n"), float("nan"), "n is nan, expected a number of seconds, 0 or more"),
        (partial(check_seconds, name="n", least=5, most=10), -1, "n is -1, expected a number of seconds, 5 to 10"),
        (partial(check_seconds, name="n", most=10), INFINITY, "n is inf, expected a number of seconds, 0 to 10"),
        (partial(check_seconds, name="n", above=0), 0, "n is 0, expected a number of seconds, above 0"),
        (partial(check_seconds, name="n", above=0, most=9), 10, "n is 10, expected a number of seconds, above 0, at most 9"),
        (partial(check_bool, name="n", also="None"), 1, "n is 1, expected True or False, or None"),
    ],
)  # fmt: skip
def test_a_wrong_one_is_named_with_what_is_expected(check, value, message):
    with pytest.raises(InvalidError) as caught:
        check(value)

    assert str(caught.value) == message
