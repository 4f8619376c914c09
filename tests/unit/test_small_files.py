"""What is read ahead of small files: in order, bounded, and nothing where files are opened here and there."""

from __future__ import annotations

import pytest

from pgstore.fs.model import FILE, Node
from pgstore.fs.tree.small_files import BYTES_MAX, FILES_MAX, KEPT_BYTES_MAX, SmallFiles


def node(ino: int, size: int) -> Node:
    return Node(ino, FILE, 1, 0o644, size, 0, 0, 0, 0, 1, None, None, None, None)


def read(small: SmallFiles, inos: list[int], size: int, beside: range) -> list[list[int]]:
    """Open *inos* in turn; returns what was read together."""
    together = []
    for ino in inos:
        if small.get(ino) is None:
            together.append(small.to_read(ino, lambda _: beside))
            small.keep(node(each, size)._replace(inline_data=bytes(size)) for each in together[-1])
    return together


@pytest.mark.parametrize("size", [1, 4096, 60_000])
def test_in_order_fewer_and_fewer_reads_bring_more_and_more_within_bounds(size):
    small = SmallFiles(lambda ino: node(ino, size))
    inos = list(range(10, 2010))

    together = read(small, inos, size, range(10, 2010))

    assert [each for group in together for each in group] == inos
    assert max(map(len, together)) <= FILES_MAX
    assert max(map(len, together)) * size <= BYTES_MAX + size
    assert len(together) <= 5 + 2010 // min(FILES_MAX, BYTES_MAX // size)
    assert sum(small.get(ino) is not None for ino in inos) * size <= KEPT_BYTES_MAX


def test_here_and_there_each_is_read_by_itself():
    small = SmallFiles(lambda ino: node(ino, 100))

    together = read(small, [1000 - 7 * at for at in range(100)], 100, range(2000))

    assert {len(each) for each in together} == {1}


def test_what_is_asked_again_before_it_was_read_reads_no_more():
    small = SmallFiles(lambda ino: node(ino, 100))

    asked = [len(small.to_read(ino, lambda _: range(100))) for ino in (5, 5, 5, 6, 6, 6, 7, 7)]

    assert asked == [1, 1, 1, 4, 4, 4, 16, 16]


def test_what_is_forgotten_is_not_given_any_more():
    small = SmallFiles(lambda ino: node(ino, 100))
    read(small, list(range(50)), 100, range(50))

    small.forget([7])
    assert small.get(7) is None
    assert small.get(8) is not None

    small.forget()
    assert small.get(8) is None
