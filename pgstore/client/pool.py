"""Who has which connection: sticky for threads, handed round on an event loop, never more than the limit.

A thread keeps its link between calls: taking it is one `list.pop`, which is atomic, and costs nothing that a pool's checkout
would. Whoever wants to take a link away — another thread at the limit, the housekeeper after five idle minutes — pops it from the
same list, so a link has one holder at any time.

At the limit callers queue, and what is given back goes to the first of them: a thread or task in a tight loop would otherwise have
its link again before anybody who waits has woken up.

Two links more than the limit are a reserve, for a pool whose links all wait for somebody who wants a link would stand still:

- `URGENT`: who holds a link already (a statement apart from its transaction, a signal handler, a callback) and what goes on in the
  background (the renewal of leases, the heartbeat). Either link of the reserve, at once. None of it keeps a link while it waits for
  another link or for anybody's rows but those of the like, so the second link of the reserve, which nobody else gets, always comes
  back: no transaction waits in vain for what it needs to end.
- `SHORT`: single statements, and the transactions that operations open for themselves. The first link of the reserve, after a
  moment without a turn: transactions may hold all the others, and wait for what this statement puts.
- `LONG`: transactions of the caller's. The same where all others are held by transactions that wait for something to be put; one
  that has a link of the reserve must not wait so itself.
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
from pgstore.client.links import AsyncLink, BlockingLink, Link
from pgstore.core import limit
from pgstore.core.clock import monotonic
from pgstore.core.threads import going_on, is_ending, start

IDLE_SECONDS = 300.0
LOOK_SECONDS = 60.0  # between looks for idle links
TURN_SECONDS: Final = 60.0  # to wait for a link at the limit; whoever waits longer probably waits for itself
RESERVE_SECONDS: Final = 0.25  # to wait before the reserve is touched by who can wait

LONG: Final = 0
SHORT: Final = 1
URGENT: Final = 2
_RESERVE: Final = (1, 2)  # the links of the reserve, by the least rank that may have them
_LOOK_AGAIN_SECONDS: Final = 0.5

_SEATS: Final = itertools.count(1)


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


def _held_here(links_max: int) -> errors.StoreUnavailable:
    return errors.StoreUnavailable(
        f"all {links_max} connections of the client and its reserve are in use, among others by calls that are half done on this "
        "very thread and cannot go on before this one ends: this is a signal handler, a finaliser or a callback, which can leave "
        "the work to another thread; or raise connections_max"
    )


def _ending() -> errors.StoreUnavailable:
    return errors.StoreUnavailable(
        "the interpreter is ending, and no connection can be opened any more: use stores before that, at the latest in a function "
        "registered with atexit"
    )


def _all_wait(links: Iterable[Link], links_max: int) -> bool:
    """Whether transactions that wait for something to be put hold all links but the reserve."""
    return sum(link.is_waiting for link in links) >= links_max


class _Seat:
    """A thread's place for its link: a list of one when the link is there and idle, else empty."""

    __slots__ = ("__weakref__", "free", "number", "turns")

    def __init__(self) -> None:
        self.free: list[BlockingLink] = []
        self.number = next(_SEATS)
        self.turns = 0  # how many calls of the thread wait for a link: more than one where a signal handler came in


class _Place:
    """A permit for one connection; freed with its link, also if an interrupt between two lines loses that."""

    __slots__ = ("__weakref__", "reserve")

    def __init__(self, reserve: int = 0) -> None:
        self.reserve = reserve  # which of the reserve; 0: none of it


class _Turn:
    """Someone who waits for a link, or for a place to open one."""

    __slots__ = ("come", "link", "place", "rank", "since")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.since = monotonic()
        self.come = threading.Event()
        self.link: BlockingLink | None = None
        self.place: _Place | None = None

    @property
    def is_served(self) -> bool:
        return self.link is not None or self.place is not None


def _may_have(reserve: int, rank: int, since: float, all_wait: Callable[[], bool]) -> bool:
    """Whether who has waited *since* then may have link *reserve* of the reserve."""
    if rank == URGENT:
        return True
    if reserve > SHORT or monotonic() < since + RESERVE_SECONDS:
        return False
    return rank == SHORT or all_wait()


class BlockingPool:
    """The links of blocking calls."""

    def __init__(self, connect: Callable[[], BlockingLink], links_max: int) -> None:
        self._connect = connect
        self._links_max = links_max
        self._local = threading.local()
        self._lock = threading.RLock()  # reentrant: a signal handler may come in
        self._seats: weakref.WeakSet[_Seat] = weakref.WeakSet()
        self._places: weakref.WeakSet[_Place] = weakref.WeakSet()
        self._reserved: dict[int, weakref.WeakSet[_Place]] = {number: weakref.WeakSet() for number in _RESERVE}
        self._links: weakref.WeakSet[BlockingLink] = weakref.WeakSet()
        self._spare: list[BlockingLink] = []  # links whose thread has ended, and idle ones of the reserve
        self._turns: deque[_Turn] = deque()
        self._closed = False
        self._epoch = 0
        self._housekeeper: threading.Thread | None = None
        self._ended = threading.Event()

    def acquire(self, rank: int = SHORT) -> BlockingLink:
        """This thread's link; else a new one; at the limit the one that was idle longest; else the next that is given back."""
        try:
            return self._local.seat.free.pop()  # type: ignore[no-any-return]
        except (AttributeError, IndexError):
            pass  # and not from here: what fails below has nothing to do with this
        return self._acquire_slowly(rank)

    def release(self, link: BlockingLink) -> None:
        """Give *link* back: it stays with this thread, unless someone waits for one."""
        try:
            seat = self._local.seat
        except AttributeError:
            seat = self._take_seat()
        free = seat.free
        link.used_at = monotonic()
        # This thread holds another already: a transaction and a call outside it overlapped. Or it leads to another history.
        if free or self._closed or link.epoch != self._epoch or link.reserve:
            if link.reserve and not self._closed and link.epoch == self._epoch:
                self._give_up_link(link)
            else:
                self.discard(link)
            return
        link.seat = seat.number
        free.append(link)
        if self._turns:
            with self._lock:
                self._serve()

    def discard(self, link: BlockingLink) -> None:
        """Close *link*, which is broken or not wanted any more."""
        link.close()
        link.seat = 0
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

    def _acquire_slowly(self, rank: int) -> BlockingLink:
        if is_ending():
            raise _ending()  # locks may be held by threads that do not run any more
        seat = self._take_seat()
        held = self._held_by(seat)
        is_deep = seat.turns > 0 or any(link.reserve for link in held)
        turn = _Turn(URGENT if held or is_deep else rank)
        give_up = turn.since + _turn_seconds()
        try:
            seat.turns += 1
            try:
                with self._lock:
                    self._turns.append(turn)
                    self._serve()
                    if turn.rank == URGENT:
                        self._serve_from_reserve()
                if is_deep and not turn.come.is_set():
                    raise _held_here(self._links_max)
                # A finaliser cannot announce what it leaves, so we look now and then.
                seconds = RESERVE_SECONDS
                while not turn.come.wait(min(seconds, max(0.0, give_up - monotonic()))):
                    seconds = _LOOK_AGAIN_SECONDS
                    with self._lock:
                        self._serve()
                        self._serve_from_reserve()
                    if monotonic() >= give_up and not turn.come.is_set():
                        raise _crowded(self._links_max)
                link = turn.link if turn.link is not None else self._open(turn.place)
                link.seat = seat.number
                return link
            finally:
                seat.turns -= 1
        except BaseException:
            self._give_up(turn)
            raise

    def _held_by(self, seat: _Seat) -> list[BlockingLink]:
        """The links that this thread has in use: calls that are half done further up its stack, or a transaction."""
        with self._lock:
            return [link for link in self._links if link.seat == seat.number and link not in seat.free]

    def _give_up(self, turn: _Turn) -> None:
        with self._lock:
            with contextlib.suppress(ValueError):
                self._turns.remove(turn)
            if turn.link is not None:
                self._give_up_link(turn.link)
            self._vacate(turn.place)

    def _give_up_link(self, link: BlockingLink) -> None:
        link.seat = 0
        with self._lock:
            self._spare.append(link)
            if self._turns:
                self._serve()
                self._serve_from_reserve()

    def _open(self, place: Any) -> BlockingLink:
        link = self._connect()
        link.place = place
        link.reserve = place.reserve
        link.epoch = self._epoch
        self._links.add(link)
        if self._housekeeper is None:
            self._start_housekeeper()
        return link

    def _start_housekeeper(self) -> None:
        with self._lock:
            if self._housekeeper is None:
                self._housekeeper = threading.Thread(
                    target=_keep_house, args=(weakref.ref(self), self._ended), name="pgstore-idle", daemon=True
                )
                try:
                    start(self._housekeeper)
                except RuntimeError:
                    self._housekeeper = None

    def _serve(self) -> None:
        """Give those who wait what there is, in their order. With the lock."""
        while self._turns:
            turn = self._turns[0]
            # Served already: by what a signal handler interrupted.
            if not turn.is_served and not self._provide(turn):
                return
            self._end_turn(turn)

    def _serve_from_reserve(self) -> None:
        """Give of the reserve to those who may have it. With the lock."""
        for turn in tuple(self._turns):
            if not turn.is_served and self._provide_from_reserve(turn):
                self._end_turn(turn)

    def _end_turn(self, turn: _Turn) -> None:
        with contextlib.suppress(ValueError):
            self._turns.remove(turn)
        turn.come.set()

    def _provide(self, turn: _Turn) -> bool:
        spare = next((spare for spare in self._spare if not spare.reserve), None)
        if spare is not None:
            self._spare.remove(spare)
            turn.link = spare
        elif len(self._places) < self._links_max:
            turn.place = _Place()
            self._places.add(turn.place)
        else:
            turn.link = self._steal(float("inf"))
        return turn.is_served

    def _provide_from_reserve(self, turn: _Turn) -> bool:
        for number, places in self._reserved.items():
            if not _may_have(number, turn.rank, turn.since, lambda: _all_wait(self._links, self._links_max)):
                continue
            spare = next((spare for spare in self._spare if spare.reserve == number), None)
            if spare is not None:
                self._spare.remove(spare)
                turn.link = spare
                return True
            if not places:
                turn.place = _Place(number)
                places.add(turn.place)
                return True
        return False

    def _vacate(self, place: Any) -> None:
        with self._lock:
            if place is not None:
                self._places.discard(place)
                if place.reserve:
                    self._reserved[place.reserve].discard(place)
                    self._serve_from_reserve()
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
                link = seat.free.pop()
            except IndexError:
                continue  # its thread was quicker
            link.seat = 0
            return link
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
        with going_on("closing idle connections"):
            current.close_idle()
        del current


def _idle_since(seat: _Seat) -> float:
    """When the seat's link was put there; infinity without one."""
    try:
        return seat.free[0].used_at
    except IndexError:
        return float("inf")


class _AsyncTurn:
    """A task that waits for a link, or for a place to open one."""

    __slots__ = ("come", "rank", "since")

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.since = monotonic()
        # A link, or the number of the reserve's link that may be opened; 0: an ordinary one.
        self.come: asyncio.Future[AsyncLink | int] = asyncio.get_running_loop().create_future()


class AsyncPool:
    """The links of one event loop. A task has a link while a call or a transaction of its needs one."""

    def __init__(self, connect: Callable[[], Coroutine[Any, Any, AsyncLink]], links_max: int) -> None:
        self._connect = connect
        self._links_max = links_max
        self._idle: list[AsyncLink] = []
        self._turns: deque[_AsyncTurn] = deque()
        self._count = 0  # without the reserve
        self._reserved: dict[int, AsyncLink | None] = {}  # the links of the reserve that are open, or being opened
        self._reserve_idle: dict[int, AsyncLink] = {}
        self._links: weakref.WeakSet[AsyncLink] = weakref.WeakSet()
        self._closed = False
        self._epoch = 0
        self._reaper: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None

    async def acquire(self, rank: int = SHORT) -> AsyncLink:
        while self._idle:
            link = self._idle.pop()
            if link.epoch == self._epoch:
                return link
            self.discard_now(link)
        reserve = 0
        if self._count < self._links_max:
            self._count += 1
        else:
            given = await self._wait_for_turn(rank)
            if not isinstance(given, int):
                return given
            reserve = given
        try:
            link = await self._connect()
        except BaseException:
            self._vacate(reserve)
            raise
        link.epoch = self._epoch
        link.reserve = reserve
        self._links.add(link)
        return link

    async def _wait_for_turn(self, rank: int) -> AsyncLink | int:
        turn = _AsyncTurn(rank)
        self._turns.append(turn)
        if rank == URGENT:
            self._serve_from_reserve()
        if self._looking is None:
            self._look_again_in(RESERVE_SECONDS)
        try:
            async with asyncio.timeout(_turn_seconds()):
                return await turn.come
        except BaseException as exc:
            if turn.come.done() and not turn.come.cancelled():  # our turn had come: pass it on
                given = turn.come.result()
                if isinstance(given, int):
                    self._vacate(given)
                else:
                    self.release_now(given)
            if isinstance(exc, TimeoutError):
                raise _crowded(self._links_max) from None
            raise

    def _look_again_in(self, seconds: float) -> None:
        self._looking = asyncio.get_running_loop().call_later(seconds, self._look_again, context=Context())

    def _look_again(self) -> None:
        """Somebody waits: see whether for so long that the reserve is theirs."""
        self._looking = None
        self._serve_from_reserve()
        if self._turns:
            self._look_again_in(RESERVE_SECONDS)

    def _serve_from_reserve(self) -> None:
        """Give of the reserve to those who may have it."""
        for turn in tuple(self._turns):
            if turn.come.done() or turn.come.get_loop().is_closed():
                continue
            for number in _RESERVE:
                idle = self._reserve_idle.get(number)
                if (number in self._reserved and idle is None) or not _may_have(
                    number, turn.rank, turn.since, lambda: _all_wait(self._links, self._links_max)
                ):
                    continue
                if idle is not None:
                    del self._reserve_idle[number]
                else:
                    self._reserved[number] = None
                turn.come.set_result(number if idle is None else idle)
                self._turns.remove(turn)
                break

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
        if link.reserve:
            self._reserve_idle[link.reserve] = link
            self._serve_from_reserve()
        elif self._turns and (turn := self._next_turn()) is not None:
            turn.set_result(link)
            return
        else:
            self._idle.append(link)
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._reap, context=Context())

    async def discard(self, link: AsyncLink) -> None:
        self.discard_now(link)

    def discard_now(self, link: AsyncLink) -> None:
        link.close()
        self._vacate(link.reserve)

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
        if self._looking is not None and not self._turns:
            self._looking.cancel()
            self._looking = None
        await self.purge()

    def abandon(self) -> None:
        """The event loop was closed before its links."""
        self._closed = True
        self._reaper = self._looking = None
        self._turns.clear()
        self._idle.clear()
        self._reserve_idle.clear()

    def _reap(self) -> None:
        self._reaper = None
        now = monotonic()
        for link in [link for link in self._idle if link.used_at <= now - IDLE_SECONDS]:
            self._idle.remove(link)
            self.discard_now(link)
        for link in [link for link in self._reserve_idle.values() if link.used_at <= now - IDLE_SECONDS]:
            del self._reserve_idle[link.reserve]
            self.discard_now(link)
        if self._idle or self._reserve_idle:
            self._reaper = asyncio.get_running_loop().call_later(IDLE_SECONDS / 2, self._reap, context=Context())

    def _vacate(self, reserve: int) -> None:
        """A link less: whoever waits first, of those who may, opens one."""
        if reserve:
            self._reserved.pop(reserve, None)
            self._serve_from_reserve()
        elif (turn := self._next_turn()) is not None:
            turn.set_result(0)
        else:
            self._count -= 1

    def _next_turn(self) -> asyncio.Future[AsyncLink | int] | None:
        while self._turns:
            turn = self._turns.popleft().come
            if not turn.done() and not turn.get_loop().is_closed():
                return turn
        return None
