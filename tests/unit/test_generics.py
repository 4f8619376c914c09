"""`Dict[str, int]` and `Queue[Task]` at run time; what checkers make of them is in `tests/typing`."""

from __future__ import annotations

import pickle

import pytest

import pgstore


@pytest.mark.parametrize("kind", [pgstore.Dict[str, int], pgstore.Queue[bytes]], ids=str)
def test_a_class_with_types_makes_plain_handles(kind):
    """
    A program may name its types once, and use that name in place of the class.
    """
    store = kind.from_name("typed")

    assert type(store) is kind.__origin__
    assert isinstance(store, kind.__origin__)
    assert pickle.loads(pickle.dumps(kind)) == kind


def test_a_subclass_may_say_the_types():
    class Settings(pgstore.Dict[str, int]):
        pass

    assert isinstance(Settings.from_name("settings"), pgstore.Dict)


@pytest.mark.parametrize("kind", [pgstore.Dict, pgstore.Queue])
def test_no_two_parts_of_a_class_have_a_statement_of_one_name(kind):
    """
    The parts are mixed into one class, in which the first would silently stand for both.
    """
    owners: dict[str, type] = {}
    for part in kind.__mro__:
        for name in vars(part):
            if name.startswith("_") and name.strip("_").isupper():
                assert owners.setdefault(name, part) is part, name
