"""Who has which connection: what the pool of blocking calls and the pool of an event loop share.

Never more connections are open than the limit says. Whoever wants one is given an idle one, else a permit to open one. At the limit
callers queue, and what is given back goes to the first of them: a thread or task in a tight loop would otherwise have its
connection again before anybody who waits has woken up.

Two connections more than the limit are a reserve, for a pool whose connections all wait for somebody who wants a connection would
stand still:

- `URGENT`: who holds a connection already (an autonomous statement, a signal handler, a callback) and what goes on in the
  background (the renewal of leases and locks, the heartbeat). Either connection of the reserve, at once. Nobody else gets the
  second one, and it always comes back soon: who has it waits for no other connection, and for no rows but those that others of
  this rank have locked. So no transaction waits in vain for what it needs to end.
- `SHORT`: single statements, and the transactions that operations open for themselves. The first connection of the reserve, after
  a moment of waiting: transactions may hold all the others, and wait for what this statement puts.
- `LONG`: transactions of the caller's. The same where all others are held by transactions that wait for something to be put; one
  that has a connection of the reserve must not wait so itself.
"""

from __future__ import annotations

import abc
import contextlib
import weakref
from collections import deque
from typing import Final, Generic, TypeVar

from pgstore import errors
from pgstore.connection import Connection
from pgstore.core import clock, limit

C = TypeVar("C", bound=Connection)

IDLE_SECONDS = 300.0
LOOK_SECONDS = 60.0  # between looks for idle connections
REST_SECONDS = 30.0  # after which one that waits, and is told on the listening connection, has no other
ACQUIRE_SECONDS: Final = 60.0  # to wait for a connection at the limit; whoever waits longer probably waits for itself
RESERVE_SECONDS: Final = 0.25  # to wait before the reserve is touched by who can wait

LONG: Final = 0
SHORT: Final = 1
URGENT: Final = 2
_RESERVE: Final = (1, 2)  # the connections of the reserve, by the least rank that may have them


def queueing_seconds() -> float:
    """How long to wait for a connection, by the bound of the call if it has one."""
    seconds = limit.wait_seconds()
    return ACQUIRE_SECONDS if seconds is None else min(ACQUIRE_SECONDS, seconds)


class Permit:
    """A permit for one connection; freed with its connection, also if an interrupt between two lines loses that."""

    __slots__ = ("__weakref__", "reserve")

    def __init__(self, reserve: int = 0) -> None:
        self.reserve = reserve  # which of the reserve; 0: none of it


class Waiter(abc.ABC, Generic[C]):
    """Someone who waits for a connection, or for a permit to open one."""

    __slots__ = ("rank", "since")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.since = clock.monotonic()

    @property
    @abc.abstractmethod
    def is_served(self) -> bool:
        """Whether nothing is to be given any more."""

    @abc.abstractmethod
    def give(self, given: C | Permit) -> None:
        """Serve the waiter."""

    @abc.abstractmethod
    def tell(self) -> None:
        """Wake the waiter, who has been served."""


class Pool(abc.ABC, Generic[C]):
    """Base of both. What begins with an underscore is called with the pool's lock, if it has one."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._connections: weakref.WeakSet[C] = weakref.WeakSet()
        self._permits: weakref.WeakSet[Permit] = weakref.WeakSet()
        self._reserved: dict[int, weakref.WeakSet[Permit]] = {number: weakref.WeakSet() for number in _RESERVE}
        self._reserve_idle: list[C] = []
        self._waiters: deque[Waiter[C]] = deque()
        self._closed = False
        self._epoch = 0  # grows when new connections lead to another history: older ones are given up

    @abc.abstractmethod
    def _idle_one(self) -> C | None:
        """Take an idle connection, but none of the reserve."""

    def _serve(self) -> None:
        """Give those who wait what there is, in their order."""
        while self._waiters:
            waiter = self._waiters[0]
            if not waiter.is_served:  # else by what a signal handler has interrupted, or it has given up
                given = self._idle_one() or self._new_permit()
                if given is None:
                    return
                waiter.give(given)
            self._tell(waiter)

    def _serve_from_reserve(self) -> None:
        """Give of the reserve to those who may have it."""
        for waiter in tuple(self._waiters):
            if not waiter.is_served and (given := self._of_reserve(waiter)) is not None:
                waiter.give(given)
                self._tell(waiter)

    def _tell(self, waiter: Waiter[C]) -> None:
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)
        waiter.tell()

    def _new_permit(self) -> Permit | None:
        if len(self._permits) >= self._connections_max:
            return None
        permit = Permit()
        self._permits.add(permit)
        return permit

    def _of_reserve(self, waiter: Waiter[C]) -> C | Permit | None:
        for number, permits in self._reserved.items():
            if not self._may_have(waiter, number):
                continue
            for idle in self._reserve_idle:
                if idle.reserve == number:
                    self._reserve_idle.remove(idle)
                    return idle
            if not permits:
                permit = Permit(number)
                permits.add(permit)
                return permit
        return None

    def _may_have(self, waiter: Waiter[C], reserve: int) -> bool:
        """Whether *waiter* may have connection *reserve* of the reserve."""
        if waiter.rank == URGENT:
            return True
        if reserve > SHORT or clock.monotonic() < waiter.since + RESERVE_SECONDS:
            return False
        return waiter.rank == SHORT or self._all_wait()

    def _all_wait(self) -> bool:
        """Whether transactions that wait for something to be put hold all connections but the reserve."""
        return sum(connection.is_waiting for connection in self._connections) >= self._connections_max

    def _enter(self, connection: C, permit: Permit) -> None:
        """*connection* was opened by *permit*."""
        connection.permit = permit
        connection.reserve = permit.reserve
        connection.epoch = self._epoch
        self._connections.add(connection)

    def _free_permit(self, permit: Permit | None) -> None:
        """A connection less: whoever waits first, of those who may, opens one."""
        if permit is not None:
            self._permits.discard(permit)
            if permit.reserve:
                self._reserved[permit.reserve].discard(permit)
                self._serve_from_reserve()
        self._serve()

    def _none_was_free(self) -> errors.Error:
        if limit.is_over():
            return errors.TimedOut(
                f"all {self._connections_max} connections of the client were in use until the time of the call was over; "
                "transactions that stay open hold theirs: end them, or raise connections_max"
            )
        return errors.StoreUnavailable(
            f"all {self._connections_max} connections of the client have been in use for {ACQUIRE_SECONDS:.0f} s; "
            "transactions that stay open hold theirs: end them, or raise connections_max"
        )
