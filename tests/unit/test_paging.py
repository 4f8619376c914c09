"""Iterators over pages: each value once and in order, however they are gone through."""

import asyncio
from typing import Any

import pytest

from pgstore.core.operation import PagedIterator


class Runner:
    """Carries out operations that ask for nothing."""

    def run(self, op: Any, bound: Any = None) -> Any:
        try:
            next(op)
        except StopIteration as done:
            return done.value
        raise AssertionError("the operation asked for something")

    async def run_async(self, op: Any, bound: Any = None) -> Any:
        return self.run(op)

    def pin(self, bound: Any = None) -> Any:
        return bound


class Owner:
    """Whose method gives the pages."""

    _runner = Runner()
    _bound = None


@pytest.fixture
def paged():
    """Make an iterator over these pages."""

    def make(*pages: Any) -> PagedIterator[Any]:
        left = list(pages)

        def fetch() -> Any:
            yield from ()
            return left.pop(0) if left else None

        return PagedIterator(Owner(), "pages", fetch)

    return make


def test_all_pages_are_gone_through(paged):
    assert list(paged([1, 2], [], [3])) == [1, 2, 3]
    assert list(paged()) == []


def test_a_loop_goes_on_where_another_stopped(paged):
    """
    As with any iterator of Python's: break, look, and go on.
    """
    values = paged([1, 2, 3], [4, 5])

    for value in values:
        if value == 2:
            break

    assert next(values) == 3
    assert list(values) == [4, 5]


def test_two_loops_share_the_values(paged):
    """
    One that comes to the end of a page must not skip the page that the other has begun.
    """
    values = paged([1, 2, 3], [4, 5, 6], [7, 8])

    assert list(zip(values, values, strict=True)) == [(1, 2), (3, 4), (5, 6), (7, 8)]


def test_a_value_that_fails_keeps_nobody_from_the_next(paged):
    values = paged(map(int, ["1", "two", "3"]), [4])

    assert next(values) == 1
    with pytest.raises(ValueError, match="two"):
        next(values)
    assert list(values) == [3, 4]


def test_async_loops_see_the_same(paged):
    async def gather() -> list[Any]:
        return [value async for value in paged([1, 2], [3])]

    assert asyncio.run(gather()) == [1, 2, 3]
