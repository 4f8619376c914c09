"""Who has which connection: sticky for threads, handed round on an event loop, never more than the limit.

A thread keeps its connection between calls: taking it is one `list.pop`, which is atomic, and costs nothing that a pool's checkout
would. Whoever wants to take a connection away — another thread at the limit, the scheduler after five idle minutes — pops it
from the same list, so a connection has one holder at any time.

At the limit callers queue, and what is given back goes to the first of them: a thread or task in a tight loop would otherwise have
its connection again before anybody who waits has woken up.

Two connections more than the limit are a reserve, for a pool whose connections all wait for somebody who wants a connection would
stand still:

- `URGENT`: who holds a connection already (an autonomous statement, a signal handler, a callback) and what goes on
  in the background (the renewal of leases, the heartbeat). Either connection of the reserve, at once. None of it keeps a
  connection while it waits for another connection or for anybody's rows but those of the like, so the second connection of the
  reserve, which nobody else gets, always comes back: no transaction waits in vain for what it needs to end.
- `SHORT`: single statements, and the transactions that operations open for themselves. The first connection of the reserve, after
  a moment of waiting: transactions may hold all the others, and wait for what this statement puts.
- `LONG`: transactions of the caller's. The same where all others are held by transactions that wait for something to be put; one
  that has a connection of the reserve must not wait so itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, Final

from pgstore import errors
from pgstore.connection import AsyncConnection, BlockingConnection, Connection
from pgstore.core import clock, limit
from pgstore.core.threads import Signal, is_ending

IDLE_SECONDS = 300.0
LOOK_SECONDS = 60.0  # between looks for idle connections
ACQUIRE_SECONDS: Final = 60.0  # to wait for a connection at the limit; whoever waits longer probably waits for itself
RESERVE_SECONDS: Final = 0.25  # to wait before the reserve is touched by who can wait

LONG: Final = 0
SHORT: Final = 1
URGENT: Final = 2
_RESERVE: Final = (1, 2)  # the connections of the reserve, by the least rank that may have them
_LOOK_AGAIN_SECONDS: Final = 0.5

_SLOTS: Final = itertools.count(1)


def _queueing_seconds() -> float:
    """How long to wait for a connection, by the bound of the call if it has one."""
    seconds = limit.wait_seconds()
    return ACQUIRE_SECONDS if seconds is None else min(ACQUIRE_SECONDS, seconds)


def _none_was_free(connections_max: int) -> errors.Error:
    if limit.is_over():
        return errors.TimedOut(
            f"all {connections_max} connections of the client were in use until the time of the call was over; transactions that "
            "stay open hold theirs: end them, or raise connections_max"
        )
    return errors.StoreUnavailable(
        f"all {connections_max} connections of the client have been in use for {ACQUIRE_SECONDS:.0f} s; "
        "transactions that stay open hold theirs: end them, or raise connections_max"
    )


def _held_by_this_thread(connections_max: int) -> errors.StoreUnavailable:
    return errors.StoreUnavailable(
        f"all {connections_max} connections of the client and its reserve are in use, among others by calls that are half done on "
        "this very thread and cannot go on before this one ends: this is a signal handler, a finaliser or a callback, which can "
        "leave the work to another thread; or raise connections_max"
    )


def _interpreter_is_ending() -> errors.StoreUnavailable:
    return errors.StoreUnavailable(
        "the interpreter is ending, and no connection can be opened any more: use stores before that, at the latest in a function "
        "registered with atexit"
    )


def _all_wait(connections: Iterable[Connection], connections_max: int) -> bool:
    """Whether transactions that wait for something to be put hold all connections but the reserve."""
    return sum(connection.is_waiting for connection in connections) >= connections_max


class _Slot:
    """A thread's place for its connection: a list of one when the connection is there and idle, else empty."""

    __slots__ = ("__weakref__", "free", "number", "waiters")

    def __init__(self) -> None:
        self.free: list[BlockingConnection] = []
        self.number = next(_SLOTS)
        self.waiters = (
            0  # how many calls of the thread wait for a connection: more than one where a signal handler came in
        )


class _Permit:
    """A permit for one connection; freed with its connection, also if an interrupt between two lines loses that."""

    __slots__ = ("__weakref__", "reserve")

    def __init__(self, reserve: int = 0) -> None:
        self.reserve = reserve  # which of the reserve; 0: none of it


class _Waiter:
    """Someone who waits for a connection, or for a permit to open one."""

    __slots__ = ("connection", "permit", "rank", "ready", "since")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.since = clock.monotonic()
        self.ready = Signal()
        self.connection: BlockingConnection | None = None
        self.permit: _Permit | None = None

    @property
    def is_served(self) -> bool:
        return self.connection is not None or self.permit is not None


def _may_have(reserve: int, rank: int, since: float, all_wait: Callable[[], bool]) -> bool:
    """Whether who has waited *since* then may have connection *reserve* of the reserve."""
    if rank == URGENT:
        return True
    if reserve > SHORT or clock.monotonic() < since + RESERVE_SECONDS:
        return False
    return rank == SHORT or all_wait()


class BlockingPool:
    """The connections of blocking calls."""

    def __init__(
        self,
        connect: Callable[[], BlockingConnection],
        connections_max: int,
        call_repeatedly: Callable[[object, Callable[[], bool], float], None],
    ) -> None:
        """
        Args:
            call_repeatedly: calls a function every so many seconds until it returns True; once only for one key.
        """
        self._connect = connect
        self._connections_max = connections_max
        self._call_repeatedly = call_repeatedly
        self._local = threading.local()
        self._lock = threading.RLock()  # reentrant: a signal handler may come in
        self._slots: weakref.WeakSet[_Slot] = weakref.WeakSet()
        self._permits: weakref.WeakSet[_Permit] = weakref.WeakSet()
        self._reserved: dict[int, weakref.WeakSet[_Permit]] = {number: weakref.WeakSet() for number in _RESERVE}
        self._connections: weakref.WeakSet[BlockingConnection] = weakref.WeakSet()
        self._spare: list[BlockingConnection] = []  # connections whose thread has ended, and idle ones of the reserve
        self._waiters: deque[_Waiter] = deque()
        self._closed = False
        self._epoch = 0
        self._idle_key = object()

    def acquire(self, rank: int = SHORT) -> BlockingConnection:
        """This thread's connection; else a new one; at the limit the one idle longest; else the next that is given back."""
        try:
            return self._local.slot.free.pop()  # type: ignore[no-any-return]
        except (AttributeError, IndexError):
            pass  # and not from here: what fails below has nothing to do with this
        return self._acquire_slowly(rank)

    def release(self, connection: BlockingConnection) -> None:
        """Give *connection* back: it stays with this thread, unless someone waits for one."""
        try:
            slot = self._local.slot
        except AttributeError:
            slot = self._take_slot()
        free = slot.free
        connection.used_at = clock.monotonic()
        # This thread holds another already: a transaction and a call outside it overlapped. Or it leads to another history.
        if free or self._closed or connection.epoch != self._epoch or connection.reserve:
            if connection.reserve and not self._closed and connection.epoch == self._epoch:
                self._give_up_connection(connection)
            else:
                self.discard(connection)
            return
        connection.slot = slot.number
        free.append(connection)
        if self._waiters:
            with self._lock:
                self._serve()

    def discard(self, connection: BlockingConnection) -> None:
        """Close *connection*, which is broken or not wanted any more."""
        connection.close()
        connection.slot = 0
        self._free_permit(connection.permit)

    discard_now = discard  # as the other kind calls it

    def purge(self) -> None:
        """Close what is idle: the server went away, so all of it is broken."""
        self._close_idle(before=float("inf"))

    def begin_epoch(self) -> None:
        """New connections lead to another history: give up those that are older, the busy ones when they come back."""
        self._epoch += 1
        self.purge()

    def close_idle(self) -> None:
        """Close the connections that nobody has used for long, and soon those whose thread has ended."""
        with self._lock:
            orphans = [spare for spare in self._spare if spare.used_at < clock.monotonic() - LOOK_SECONDS]
            self._spare = [spare for spare in self._spare if spare not in orphans]
        for connection in orphans:
            self.discard(connection)
        self._close_idle(before=clock.monotonic() - IDLE_SECONDS)

    def close(self) -> None:
        self._closed = True
        self.purge()

    def _acquire_slowly(self, rank: int) -> BlockingConnection:
        if is_ending():
            raise _interpreter_is_ending()  # locks may be held by threads that do not run any more
        slot = self._take_slot()
        held = self._held_by(slot)
        is_deep = slot.waiters > 0 or any(connection.reserve for connection in held)
        waiter = _Waiter(URGENT if held or is_deep else rank)
        give_up = waiter.since + _queueing_seconds()
        try:
            slot.waiters += 1
            try:
                with self._lock:
                    self._waiters.append(waiter)
                    self._serve()
                    if waiter.rank == URGENT:
                        self._serve_from_reserve()
                if is_deep and not waiter.ready.is_set():
                    raise _held_by_this_thread(self._connections_max)
                # A finaliser cannot announce what it leaves, so we look now and then.
                seconds = RESERVE_SECONDS
                while not waiter.ready.wait(min(seconds, max(0.0, give_up - clock.monotonic()))):
                    seconds = _LOOK_AGAIN_SECONDS
                    with self._lock:
                        self._serve()
                        self._serve_from_reserve()
                    if clock.monotonic() >= give_up and not waiter.ready.is_set():
                        raise _none_was_free(self._connections_max)
                connection = waiter.connection if waiter.connection is not None else self._open(waiter.permit)
                connection.slot = slot.number
                return connection
            finally:
                slot.waiters -= 1
        except BaseException:
            self._give_up(waiter)
            raise

    def _held_by(self, slot: _Slot) -> list[BlockingConnection]:
        """The connections that this thread has in use: calls that are half done further up its stack, or a transaction."""
        with self._lock:
            return [
                connection
                for connection in self._connections
                if connection.slot == slot.number and connection not in slot.free
            ]

    def _give_up(self, waiter: _Waiter) -> None:
        with self._lock:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
            if waiter.connection is not None:
                self._give_up_connection(waiter.connection)
            self._free_permit(waiter.permit)

    def _give_up_connection(self, connection: BlockingConnection) -> None:
        connection.slot = 0
        with self._lock:
            self._spare.append(connection)
            if self._waiters:
                self._serve()
                self._serve_from_reserve()

    def _open(self, permit: Any) -> BlockingConnection:
        connection = self._connect()
        connection.permit = permit
        connection.reserve = permit.reserve
        connection.epoch = self._epoch
        self._connections.add(connection)
        self._look_for_idle_ones()
        return connection

    def _look_for_idle_ones(self) -> None:
        """Have idle connections closed, as long as there are any."""
        pool = weakref.ref(self)  # which ends with its client, and not with a task of the scheduler

        def close_idle() -> bool:
            this = pool()
            if this is None:
                return True
            this.close_idle()
            return not (this._permits or any(this._reserved.values()))

        self._call_repeatedly(self._idle_key, close_idle, LOOK_SECONDS)

    def _serve(self) -> None:
        """Give those who wait what there is, in their order. With the lock."""
        while self._waiters:
            waiter = self._waiters[0]
            # Served already: by what a signal handler interrupted.
            if not waiter.is_served and not self._provide(waiter):
                return
            self._tell(waiter)

    def _serve_from_reserve(self) -> None:
        """Give of the reserve to those who may have it. With the lock."""
        for waiter in tuple(self._waiters):
            if not waiter.is_served and self._provide_from_reserve(waiter):
                self._tell(waiter)

    def _tell(self, waiter: _Waiter) -> None:
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)
        waiter.ready.set()

    def _provide(self, waiter: _Waiter) -> bool:
        spare = next((spare for spare in self._spare if not spare.reserve), None)
        if spare is not None:
            self._spare.remove(spare)
            waiter.connection = spare
        elif len(self._permits) < self._connections_max:
            waiter.permit = _Permit()
            self._permits.add(waiter.permit)
        else:
            waiter.connection = self._steal(float("inf"))
        return waiter.is_served

    def _provide_from_reserve(self, waiter: _Waiter) -> bool:
        for number, permits in self._reserved.items():
            if not _may_have(
                number, waiter.rank, waiter.since, lambda: _all_wait(self._connections, self._connections_max)
            ):
                continue
            spare = next((spare for spare in self._spare if spare.reserve == number), None)
            if spare is not None:
                self._spare.remove(spare)
                waiter.connection = spare
                return True
            if not permits:
                waiter.permit = _Permit(number)
                permits.add(waiter.permit)
                return True
        return False

    def _free_permit(self, permit: Any) -> None:
        with self._lock:
            if permit is not None:
                self._permits.discard(permit)
                if permit.reserve:
                    self._reserved[permit.reserve].discard(permit)
                    self._serve_from_reserve()
            self._serve()

    def _take_slot(self) -> _Slot:
        try:
            return self._local.slot  # type: ignore[no-any-return]
        except AttributeError:
            slot = self._local.slot = _Slot()
            weakref.finalize(slot, _leave, weakref.ref(self), slot.free).atexit = False  # the thread has ended
            with self._lock:
                self._slots.add(slot)
            return slot

    def _steal(self, before: float) -> BlockingConnection | None:
        """The connection that has been idle longest, if since before *before*. With the lock."""
        for slot in sorted(self._slots, key=_idle_since):
            if _idle_since(slot) >= before:
                return None
            try:
                connection = slot.free.pop()
            except IndexError:
                continue  # its thread was quicker
            connection.slot = 0
            return connection
        return None

    def _close_idle(self, before: float) -> None:
        while True:
            with self._lock:
                connection = next((spare for spare in self._spare if spare.used_at < before), None)
                if connection is not None:
                    self._spare.remove(connection)
                else:
                    connection = self._steal(before)
            if connection is None:
                return
            self.discard(connection)


def _leave(pool: weakref.ref[BlockingPool], free: list[BlockingConnection]) -> None:
    """Leave the connection of a thread that has ended to the others. The finaliser must not keep the pool alive."""
    # Called possibly inside any method of the pool on this very thread: it must not take the lock.
    this = pool()
    if this is not None and free:
        this._spare.append(free.pop())


def _idle_since(slot: _Slot) -> float:
    """When the slot's connection was put there; infinity without one."""
    try:
        return slot.free[0].used_at
    except IndexError:
        return float("inf")


class _AsyncWaiter:
    """A task that waits for a connection, or for a permit to open one."""

    __slots__ = ("rank", "ready", "since")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.since = clock.monotonic()
        # A connection, or the number of the reserve's connection that may be opened; 0: an ordinary one.
        self.ready: asyncio.Future[AsyncConnection | int] = asyncio.get_running_loop().create_future()


class AsyncPool:
    """The connections of one event loop. A task has a connection while a call or a transaction of its needs one."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, AsyncConnection]], connections_max: int) -> None:
        self._connect = connect
        self._connections_max = connections_max
        self._idle: list[AsyncConnection] = []
        self._waiters: deque[_AsyncWaiter] = deque()
        self._count = 0  # without the reserve
        self._reserved: dict[
            int, AsyncConnection | None
        ] = {}  # the connections of the reserve that are open, or being opened
        self._reserve_idle: dict[int, AsyncConnection] = {}
        self._connections: weakref.WeakSet[AsyncConnection] = weakref.WeakSet()
        self._closed = False
        self._epoch = 0
        self._reaper: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None

    async def acquire(self, rank: int = SHORT) -> AsyncConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.epoch == self._epoch:
                return connection
            self.discard_now(connection)
        reserve = 0
        if self._count < self._connections_max:
            self._count += 1
        else:
            given = await self._wait_in_line(rank)
            if not isinstance(given, int):
                return given
            reserve = given
        try:
            connection = await self._connect()
        except BaseException:
            self._free_permit(reserve)
            raise
        connection.epoch = self._epoch
        connection.reserve = reserve
        self._connections.add(connection)
        return connection

    async def _wait_in_line(self, rank: int) -> AsyncConnection | int:
        waiter = _AsyncWaiter(rank)
        self._waiters.append(waiter)
        if rank == URGENT:
            self._serve_from_reserve()
        if self._looking is None:
            self._look_again_in(RESERVE_SECONDS)
        try:
            async with asyncio.timeout(_queueing_seconds()):
                return await waiter.ready
        except BaseException as exc:
            if waiter.ready.done() and not waiter.ready.cancelled():  # we were served: pass it on
                given = waiter.ready.result()
                if isinstance(given, int):
                    self._free_permit(given)
                else:
                    self.release_now(given)
            if isinstance(exc, TimeoutError):
                raise _none_was_free(self._connections_max) from None
            raise

    def _look_again_in(self, seconds: float) -> None:
        self._looking = asyncio.get_running_loop().call_later(seconds, self._look_again, context=Context())

    def _look_again(self) -> None:
        """Somebody waits: see whether for so long that the reserve is theirs."""
        self._looking = None
        self._serve_from_reserve()
        if self._waiters:
            self._look_again_in(RESERVE_SECONDS)

    def _serve_from_reserve(self) -> None:
        """Give of the reserve to those who may have it."""
        for waiter in tuple(self._waiters):
            if waiter.ready.done() or waiter.ready.get_loop().is_closed():
                continue
            for number in _RESERVE:
                idle = self._reserve_idle.get(number)
                if (number in self._reserved and idle is None) or not _may_have(
                    number, waiter.rank, waiter.since, lambda: _all_wait(self._connections, self._connections_max)
                ):
                    continue
                if idle is not None:
                    del self._reserve_idle[number]
                else:
                    self._reserved[number] = None
                waiter.ready.set_result(number if idle is None else idle)
                self._waiters.remove(waiter)
                break

    def begin_epoch(self) -> None:
        """New connections lead to another history: older ones are given up when they are met. Safe from any thread."""
        self._epoch += 1

    async def release(self, connection: AsyncConnection) -> None:
        self.release_now(connection)

    def release_now(self, connection: AsyncConnection) -> None:
        if self._closed or connection.epoch != self._epoch:
            self.discard_now(connection)
            return
        connection.used_at = clock.monotonic()
        if connection.reserve:
            self._reserve_idle[connection.reserve] = connection
            self._serve_from_reserve()
        elif self._waiters and (waiter := self._next_waiter()) is not None:
            waiter.set_result(connection)
            return
        else:
            self._idle.append(connection)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._reap, context=Context())

    async def discard(self, connection: AsyncConnection) -> None:
        self.discard_now(connection)

    def discard_now(self, connection: AsyncConnection) -> None:
        connection.close()
        self._free_permit(connection.reserve)

    async def purge(self) -> None:
        while self._idle:
            self.discard_now(self._idle.pop())
        while self._reserve_idle:
            self.discard_now(self._reserve_idle.popitem()[1])

    async def close(self) -> None:
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        if self._looking is not None and not self._waiters:
            self._looking.cancel()
            self._looking = None
        await self.purge()

    def abandon(self) -> None:
        """The event loop was closed before its connections."""
        self._closed = True
        self._reaper = self._looking = None
        self._waiters.clear()
        self._idle.clear()
        self._reserve_idle.clear()

    def _reap(self) -> None:
        self._reaper = None
        now = clock.monotonic()
        for connection in [connection for connection in self._idle if connection.used_at <= now - IDLE_SECONDS]:
            self._idle.remove(connection)
            self.discard_now(connection)
        for connection in [
            connection for connection in self._reserve_idle.values() if connection.used_at <= now - IDLE_SECONDS
        ]:
            del self._reserve_idle[connection.reserve]
            self.discard_now(connection)
        if self._idle or self._reserve_idle:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS / 2, self._reap, context=Context())

    def _free_permit(self, reserve: int) -> None:
        """A connection less: whoever waits first, of those who may, opens one."""
        if reserve:
            self._reserved.pop(reserve, None)
            self._serve_from_reserve()
        elif (waiter := self._next_waiter()) is not None:
            waiter.set_result(0)
        else:
            self._count -= 1

    def _next_waiter(self) -> asyncio.Future[AsyncConnection | int] | None:
        while self._waiters:
            waiter = self._waiters.popleft().ready
            if not waiter.done() and not waiter.get_loop().is_closed():
                return waiter
        return None
