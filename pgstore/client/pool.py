"""Who has which connection: sticky for threads, handed round on an event loop, never more than the limit.

A thread keeps its link between calls: taking it is one `list.pop`, which is atomic, and costs nothing that a pool's checkout
would. Whoever wants to take a link away — another thread at the limit, the housekeeper after five idle minutes — pops it from the
same list, so a link has one holder at any time.

At the limit callers queue, and what is given back goes to the first of them: a thread or task in a tight loop would otherwise have
its link again before anybody who waits has woken up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from pgstore import errors
from pgstore.client.links import AsyncLink, BlockingLink
from pgstore.core import limit
from pgstore.core.clock import monotonic

IDLE_SECONDS = 300.0
LOOK_SECONDS = 60.0  # between looks for idle links
TURN_SECONDS: Final = 60.0  # to wait for a link at the limit; whoever waits longer probably waits for itself


def _turn_seconds() -> float:
    """How long to wait for a link, by the bound of the call if it has one."""
    seconds = limit.patience()
    return TURN_SECONDS if seconds is None else min(TURN_SECONDS, seconds)


def _crowded(links_max: int) -> errors.Error:
    if limit.is_over():
        return errors.TimedOut(
            f"all {links_max} connections of the client were in use until the time of the call was over; transactions that stay "
            "open hold theirs: end them, or raise connections_max"
        )
    return errors.StoreUnavailable(
        f"all {links_max} connections of the client have been in use for {TURN_SECONDS:.0f} s; "
        "transactions that stay open hold theirs: end them, or raise connections_max"
    )


class _Seat:
    """A thread's place for its link: a list of one when the link is there and idle, else empty."""

    __slots__ = ("__weakref__", "free")

    def __init__(self) -> None:
        self.free: list[BlockingLink] = []


class _Place:
    """The right to have one link open. Goes with the link even where that is lost, by an interrupt between two lines."""

    __slots__ = ("__weakref__",)


class _Turn:
    """Someone who waits for a link, or for a place to open one."""

    __slots__ = ("come", "link", "place")

    def __init__(self) -> None:
        self.come = threading.Event()
        self.link: BlockingLink | None = None
        self.place: _Place | None = None


class BlockingPool:
    """The links of blocking calls."""

    def __init__(self, connect: Callable[[], BlockingLink], links_max: int) -> None:
        self._connect = connect
        self._links_max = links_max
        self._local = threading.local()
        self._lock = threading.RLock()  # reentrant: a signal handler may come in
        self._seats: weakref.WeakSet[_Seat] = weakref.WeakSet()
        self._places: weakref.WeakSet[_Place] = weakref.WeakSet()
        self._spare: list[BlockingLink] = []  # links whose thread has ended
        self._turns: deque[_Turn] = deque()
        self._closed = False
        self._epoch = 0
        self._housekeeper: threading.Thread | None = None
        self._ended = threading.Event()

    def acquire(self) -> BlockingLink:
        """This thread's link; else a new one; at the limit the one that was idle longest; else the next that is given back."""
        try:
            return self._local.seat.free.pop()  # type: ignore[no-any-return]
        except (AttributeError, IndexError):
            pass  # and not from here: what fails below has nothing to do with this
        return self._acquire_slowly()

    def release(self, link: BlockingLink) -> None:
        """Give *link* back: it stays with this thread, unless someone waits for one."""
        try:
            free = self._local.seat.free
        except AttributeError:
            free = self._take_seat().free
        link.used_at = monotonic()
        # This thread holds another already: a transaction and a call outside it overlapped. Or it leads to another history.
        if free or self._closed or link.epoch != self._epoch:
            self.discard(link)
            return
        free.append(link)
        if self._turns:
            with self._lock:
                self._serve()

    def discard(self, link: BlockingLink) -> None:
        """Close *link*, which is broken or not wanted any more."""
        link.close()
        self._vacate(link.place)

    discard_now = discard  # as the other kind calls it

    def purge(self) -> None:
        """Close what is idle: the server went away, so all of it is broken."""
        self._close_idle(before=float("inf"))

    def begin_epoch(self) -> None:
        """New links lead to another history: give up those that are older, the busy ones when they come back."""
        self._epoch += 1
        self.purge()

    def close_idle(self) -> None:
        """Close the links that nobody has used for long, and soon those whose thread has ended."""
        with self._lock:
            orphans = [spare for spare in self._spare if spare.used_at < monotonic() - LOOK_SECONDS]
            self._spare = [spare for spare in self._spare if spare not in orphans]
        for link in orphans:
            self.discard(link)
        self._close_idle(before=monotonic() - IDLE_SECONDS)

    def close(self) -> None:
        self._closed = True
        self._ended.set()
        self.purge()

    def _acquire_slowly(self) -> BlockingLink:
        self._take_seat()
        turn = _Turn()
        give_up = monotonic() + _turn_seconds()
        try:
            with self._lock:
                self._turns.append(turn)
                self._serve()
            # A finaliser cannot announce what it leaves, so we look now and then.
            while not turn.come.wait(min(0.5, max(0.0, give_up - monotonic()))):
                with self._lock:
                    self._serve()
                if monotonic() >= give_up and not turn.come.is_set():
                    raise _crowded(self._links_max)
            return turn.link if turn.link is not None else self._open(turn.place)
        except BaseException:
            self._give_up(turn)
            raise

    def _give_up(self, turn: _Turn) -> None:
        with self._lock:
            with contextlib.suppress(ValueError):
                self._turns.remove(turn)
            if turn.link is not None:
                self._spare.append(turn.link)
            self._vacate(turn.place)

    def _open(self, place: Any) -> BlockingLink:
        link = self._connect()
        link.place = place
        link.epoch = self._epoch
        if self._housekeeper is None:
            self._start_housekeeper()
        return link

    def _start_housekeeper(self) -> None:
        with self._lock:
            if self._housekeeper is None:
                self._housekeeper = threading.Thread(
                    target=_keep_house, args=(weakref.ref(self), self._ended), name="pgstore-idle", daemon=True
                )
                self._housekeeper.start()

    def _serve(self) -> None:
        """Give those who wait what there is. With the lock."""
        while self._turns:
            turn = self._turns[0]
            if self._spare:
                turn.link = self._spare.pop()
            elif len(self._places) < self._links_max:
                turn.place = _Place()
                self._places.add(turn.place)
            else:
                turn.link = self._steal(float("inf"))
                if turn.link is None:
                    return
            self._turns.popleft()
            turn.come.set()

    def _vacate(self, place: Any) -> None:
        with self._lock:
            if place is not None:
                self._places.discard(place)
            self._serve()

    def _take_seat(self) -> _Seat:
        try:
            return self._local.seat  # type: ignore[no-any-return]
        except AttributeError:
            seat = self._local.seat = _Seat()
            weakref.finalize(seat, self._leave, seat.free).atexit = False  # the thread has ended
            with self._lock:
                self._seats.add(seat)
            return seat

    def _leave(self, free: list[BlockingLink]) -> None:
        # Called from a finaliser, possibly inside any of the above on this very thread: it must not take the lock.
        if free:
            self._spare.append(free.pop())

    def _steal(self, before: float) -> BlockingLink | None:
        """The link that has been idle longest, if since before *before*. With the lock."""
        for seat in sorted(self._seats, key=_idle_since):
            if _idle_since(seat) >= before:
                return None
            try:
                return seat.free.pop()
            except IndexError:
                continue  # its thread was quicker
        return None

    def _close_idle(self, before: float) -> None:
        while True:
            with self._lock:
                link = next((spare for spare in self._spare if spare.used_at < before), None)
                if link is not None:
                    self._spare.remove(link)
                else:
                    link = self._steal(before)
            if link is None:
                return
            self.discard(link)


def _keep_house(pool: weakref.ref[BlockingPool], ended: threading.Event) -> None:
    """Close idle links of *pool* now and then, until it is closed or gone."""
    while not ended.wait(LOOK_SECONDS):
        current = pool()
        if current is None:
            return
        current.close_idle()
        del current


def _idle_since(seat: _Seat) -> float:
    """When the seat's link was put there; infinity without one."""
    try:
        return seat.free[0].used_at
    except IndexError:
        return float("inf")


class AsyncPool:
    """The links of one event loop. A task has a link while a call or a transaction of its needs one."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, AsyncLink]], links_max: int) -> None:
        self._connect = connect
        self._links_max = links_max
        self._idle: list[AsyncLink] = []
        self._turns: deque[asyncio.Future[AsyncLink | None]] = deque()  # given a link, or None: a place to open one
        self._count = 0
        self._closed = False
        self._epoch = 0
        self._reaper: asyncio.TimerHandle | None = None

    async def acquire(self) -> AsyncLink:
        while self._idle:
            link = self._idle.pop()
            if link.epoch == self._epoch:
                return link
            self.discard_now(link)
        if self._count < self._links_max:
            self._count += 1
        elif (given := await self._wait_for_turn()) is not None:
            return given
        try:
            link = await self._connect()
        except BaseException:
            self._vacate()
            raise
        link.epoch = self._epoch
        return link

    async def _wait_for_turn(self) -> AsyncLink | None:
        turn: asyncio.Future[AsyncLink | None] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            async with asyncio.timeout(_turn_seconds()):
                return await turn
        except BaseException as exc:
            if turn.done() and not turn.cancelled():  # our turn had come: pass it on
                link = turn.result()
                if link is not None:
                    self.release_now(link)
                else:
                    self._vacate()
            if isinstance(exc, TimeoutError):
                raise _crowded(self._links_max) from None
            raise

    def begin_epoch(self) -> None:
        """New links lead to another history: older ones are given up when they are met. Safe from any thread."""
        self._epoch += 1

    async def release(self, link: AsyncLink) -> None:
        self.release_now(link)

    def release_now(self, link: AsyncLink) -> None:
        if self._closed or link.epoch != self._epoch:
            self.discard_now(link)
            return
        link.used_at = monotonic()
        if self._turns and (turn := self._next_turn()) is not None:
            turn.set_result(link)
            return
        self._idle.append(link)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._reap, context=Context())

    async def discard(self, link: AsyncLink) -> None:
        self.discard_now(link)

    def discard_now(self, link: AsyncLink) -> None:
        link.close()
        self._vacate()

    async def purge(self) -> None:
        while self._idle:
            self.discard_now(self._idle.pop())

    async def close(self) -> None:
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        await self.purge()

    def abandon(self) -> None:
        """The event loop was closed before its links."""
        self._closed = True
        self._reaper = None
        self._turns.clear()
        self._idle.clear()

    def _reap(self) -> None:
        self._reaper = None
        now = monotonic()
        for link in [link for link in self._idle if link.used_at <= now - IDLE_SECONDS]:
            self._idle.remove(link)
            self.discard_now(link)
        if self._idle:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS / 2, self._reap, context=Context())

    def _vacate(self) -> None:
        """A link less: whoever waits first may open one."""
        if (turn := self._next_turn()) is not None:
            turn.set_result(None)
        else:
            self._count -= 1

    def _next_turn(self) -> asyncio.Future[AsyncLink | None] | None:
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done() and not turn.get_loop().is_closed():
                return turn
        return None
