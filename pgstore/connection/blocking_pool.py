"""The connections of blocking calls: a thread keeps its own between calls.

Taking it is one `list.pop`, which is atomic, and costs nothing that a pool's checkout would. Whoever wants to take a connection
away, as another thread does at the limit and the scheduler after five idle minutes, pops it from the same list, so a connection has
one holder at any time.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Final

from pgstore import errors
from pgstore.connection import BlockingConnection
from pgstore.connection import pool as common
from pgstore.connection.pool import RESERVE_SECONDS, SHORT, URGENT, Permit, Pool, Waiter, queueing_seconds
from pgstore.core import clock
from pgstore.core.threads import Signal, is_ending

_LOOK_AGAIN_SECONDS: Final = 0.5

_SLOTS: Final = itertools.count(1)


class _Slot:
    """A thread's place for its connection: a list of one when the connection is there and idle, else empty."""

    __slots__ = ("__weakref__", "free", "number", "waiters")

    def __init__(self) -> None:
        self.free: list[BlockingConnection] = []
        self.number = next(_SLOTS)
        # How many calls of the thread wait for a connection: more than one where a signal handler came in.
        self.waiters = 0


class _Waiter(Waiter[BlockingConnection]):
    """A thread that waits."""

    __slots__ = ("given", "ready")

    def __init__(self, rank: int) -> None:
        super().__init__(rank)
        self.ready = Signal()
        self.given: BlockingConnection | Permit | None = None

    @property
    def is_served(self) -> bool:
        return self.given is not None

    def give(self, given: BlockingConnection | Permit) -> None:
        self.given = given

    def tell(self) -> None:
        self.ready.set()


class BlockingPool(Pool[BlockingConnection]):
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
        super().__init__(connections_max)
        self._connect = connect
        self._call_repeatedly = call_repeatedly
        self._local = threading.local()
        self._lock = threading.RLock()  # reentrant: a signal handler may come in
        self._slots: weakref.WeakSet[_Slot] = weakref.WeakSet()
        # Of threads that have ended or had two, and of those who were given one when they had stopped waiting.
        self._spare: list[BlockingConnection] = []
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
        if self._closed or connection.epoch != self._epoch:  # or it leads to another history
            self.discard(connection)
            return
        # This thread has another already: a transaction and a call outside it, such as one that finds a store, overlapped.
        if free or connection.reserve:
            self._leave(connection)
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
        with self._lock:
            self._free_permit(connection.permit)

    discard_now = discard  # as the other kind calls it

    def purge(self) -> None:
        """Close what is idle: the server went away, so all of it is broken."""
        self._close_idle(before=float("inf"))

    def begin_epoch(self) -> None:
        """New connections lead to another history: give up those that are older, the busy ones when they come back."""
        self._epoch += 1
        self.purge()

    def rest(self) -> None:
        """This thread waits to be told: close its connection, if that has not been used for long."""
        slot = self._take_slot()
        if slot.free and _idle_since(slot) < clock.monotonic() - common.REST_SECONDS:
            try:
                connection = slot.free.pop()
            except IndexError:
                return  # another thread was quicker
            self.discard(connection)

    def close_idle(self) -> None:
        """Close the connections that nobody has used for long, and soon those whose thread has ended."""
        with self._lock:
            before = clock.monotonic() - common.LOOK_SECONDS
            orphans = [spare for spare in (*self._spare, *self._reserve_idle) if spare.used_at < before]
            for connection in orphans:
                (self._reserve_idle if connection.reserve else self._spare).remove(connection)
        for connection in orphans:
            self.discard(connection)
        self._close_idle(before=clock.monotonic() - common.IDLE_SECONDS)

    def close(self) -> None:
        self._closed = True
        self.purge()

    def _acquire_slowly(self, rank: int) -> BlockingConnection:
        if is_ending():
            raise _interpreter_is_ending()  # locks may be held by threads that do not run any more
        slot = self._take_slot()
        held = self._held_by(slot)
        # Further up the stack a call of this thread waits for a connection, or has one of the reserve. It cannot go on before this
        # one ends, so this one does not wait.
        is_deep = slot.waiters > 0 or any(connection.reserve for connection in held)
        waiter = _Waiter(URGENT if held or is_deep else rank)
        give_up = waiter.since + queueing_seconds()
        try:
            slot.waiters += 1
            try:
                with self._lock:
                    self._waiters.append(waiter)
                    self._serve()
                    if waiter.rank == URGENT:
                        self._serve_from_reserve()
                if is_deep and not waiter.is_served:
                    raise _held_by_this_thread(self._connections_max)
                # A finaliser cannot announce what it leaves, so we look now and then.
                seconds = RESERVE_SECONDS
                while not (waiter.ready.wait(min(seconds, max(0.0, give_up - clock.monotonic()))) or waiter.is_served):
                    seconds = _LOOK_AGAIN_SECONDS
                    with self._lock:
                        self._serve()
                        self._serve_from_reserve()
                    if clock.monotonic() >= give_up and not waiter.is_served:
                        raise self._none_was_free()
                given = waiter.given
                connection = self._open(given) if isinstance(given, Permit) else given
                assert connection is not None
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
            if isinstance(waiter.given, Permit):
                self._free_permit(waiter.given)
            elif waiter.given is not None:
                self._leave(waiter.given)
            else:
                self._serve()

    def _leave(self, connection: BlockingConnection) -> None:
        """Leave *connection* to whoever wants it."""
        connection.slot = 0
        with self._lock:
            (self._reserve_idle if connection.reserve else self._spare).append(connection)
            if self._waiters:
                self._serve()
                self._serve_from_reserve()

    def _open(self, permit: Permit) -> BlockingConnection:
        connection = self._connect()
        self._enter(connection, permit)
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

        self._call_repeatedly(self._idle_key, close_idle, common.LOOK_SECONDS)

    def _idle_one(self) -> BlockingConnection | None:
        if self._spare:
            return self._spare.pop(0)
        return self._steal(float("inf")) if len(self._permits) >= self._connections_max else None

    def _take_slot(self) -> _Slot:
        try:
            return self._local.slot  # type: ignore[no-any-return]
        except AttributeError:
            slot = self._local.slot = _Slot()
            thread_ends = weakref.finalize(slot, _leave_to_others, weakref.ref(self), slot.free)
            thread_ends.atexit = False
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
                spare = next((each for each in (*self._spare, *self._reserve_idle) if each.used_at < before), None)
                if spare is not None:
                    (self._reserve_idle if spare.reserve else self._spare).remove(spare)
                connection = spare or self._steal(before)
            if connection is None:
                return
            self.discard(connection)


def _leave_to_others(pool: weakref.ref[BlockingPool], free: list[BlockingConnection]) -> None:
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
