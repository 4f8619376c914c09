"""What a rollback undoes in this process: a lease that was acknowledged, the position of an open file.

The server takes its rows back by itself; objects that a program holds have to be told. An operation that changes one notes how
to undo that; a savepoint that is rolled back undoes what was noted since, a transaction all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pgstore.core.operation import BeforeCommit, CommitHook, Op


class _Undo(CommitHook):
    """What one transaction has to undo, oldest first; a commit hook that writes nothing."""

    def __init__(self) -> None:
        self.steps: list[tuple[object, Callable[[], object]]] = []
        self.marked_at = 0  # how many there were at the latest savepoint

    def mark(self) -> int:
        self.marked_at = len(self.steps)
        return self.marked_at

    def rewind(self, mark: int | None) -> None:
        while len(self.steps) > (mark or 0):
            _, step = self.steps.pop()
            step()
        self.marked_at = min(self.marked_at, len(self.steps))

    def committed(self) -> None:
        self.steps = []


def on_rollback(step: Callable[[], object], *, of: object = None) -> Op[None]:
    """
    Have *step* called if what the operation does is rolled back; outside a transaction nothing can be.

    Args:
        of: what changes. Steps of one object that follow each other are one: the first leads back to where it was.
    """
    hooked = yield BeforeCommit(_KEY, _Undo)
    if hooked is None:
        return
    undo: _Undo = hooked.hook
    if of is not None and len(undo.steps) > undo.marked_at and undo.steps[-1][0] is of:
        return
    undo.steps.append((of, step))


_KEY: Final = _Undo
