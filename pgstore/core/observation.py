"""Observation: who is told of public operations, if anybody is.

As long as `observer` is None, which is all that an operation looks at, that costs nothing to speak of. `client.telemetry` sets it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Ended: TypeAlias = Callable[[BaseException | str | None], None]
"""Told of the end of what is observed, with the error that ended it, or what its type is called."""


class Observer(Protocol):
    """What is told of operations (`client.telemetry`)."""

    def operation(
        self, op: Generator[Any, Any, T], owner: Any, name: str, runner: Any = None
    ) -> Generator[Any, Any, T]:
        """*op* while it is looked at: that of the method *name* of *owner*; *runner*: what carries it out, if not the owner's."""

    def block(self, transaction: Any) -> Ended | None:
        """A block of *transaction* begins."""

    def call(self, function: str) -> tuple[dict[str, str], Ended] | None:
        """A worker is to be given a call of *function*, and with it what continues the trace there."""

    def job(self, function: str, trace: dict[str, str] | None) -> Ended | None:
        """This worker begins a call of *function*; *trace*: what `call` has given."""


observer: Observer | None = None


def observed(op: Generator[Any, Any, T], owner: Any, name: str, runner: Any = None) -> Generator[Any, Any, T]:
    """*op* as it is to be carried out: the same, unless somebody observes."""
    return op if observer is None else observer.operation(op, owner, name, runner)
