"""What the parts of a client know of each other, so that none of them has to import those that import it.

`Client` puts together an executor per kind of caller, a session and a scheduler. Each of these knows its client as
`ClientInterface`; a transaction knows what carries its statements out as `ExecutorInterface`.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from pgstore.client.history import HistoryFollower
from pgstore.client.scheduler import Scheduler
from pgstore.config import Settings
from pgstore.core.operation import Op, Query
from pgstore.core.steps import Steps

T = TypeVar("T")


class ExecutorInterface(Protocol):
    """What carries operations out, for blocking calls or on one event loop (`client.executor`)."""

    client: ClientInterface
    is_async: bool
    pool: Any

    def perform(self, op: Op[T], transaction: Any) -> Steps[T]: ...

    def query(self, query: Query) -> Steps[Any]: ...

    def run_uninterrupted(self, function: Callable[[], Any]) -> Any: ...

    def outcome(self, xid: str, identity: str) -> Steps[str | None]: ...


class ClientInterface(HistoryFollower, abc.ABC):
    """A client, as its parts see it."""

    settings: Settings
    scheduler: Scheduler
    is_closing: bool  # then a server that has gone away is not waited for
    has_said_where: bool  # the log says which database was chosen
    enclosing: Any  # the transaction that all take part in which have no other (`client.enclosing`)
    shared: dict[object, Any]  # what the stores of this client keep together, whichever handle is used

    @abc.abstractmethod
    def run(self, op: Op[T]) -> T:
        """Run *op* blocking."""

    @abc.abstractmethod
    def run_in_background(self, op: Op[T]) -> T:
        """Run *op* blocking, outside of any transaction, on a connection that is to be had even when all are busy."""

    @abc.abstractmethod
    def run_alone(self, op: Op[T]) -> T:
        """Run *op* blocking, outside of any transaction, whatever the context."""

    @abc.abstractmethod
    def executor(self, *, blocking: bool) -> ExecutorInterface:
        """The executor of blocking calls, or that of the running event loop."""

    @abc.abstractmethod
    def loop_closed(self, loop: Any) -> None:
        """The executor of *loop* was closed."""
