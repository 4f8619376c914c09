"""Who waits for which topic, and what the session that listens for them holds at the server.

Of those who wait for items one is enough for each. So each has a *slot* of the topic: an advisory lock that nobody else has, and
a channel on which it alone is told. One with many topics, or for which no slot is free, is told with everybody. What the locks are
is said at `pgstore.wake` in sql/schema.sql.

No wake-up is lost, which takes five things:

1. A waiter registers, then looks, then waits. Whoever commits after its look either has seen it, or was looking for waiters before
   it had registered.
2. The look shows those of the second kind: it says whether anybody was still inserting just before (`is_settled`). As long as
   somebody was, it is repeated, soon at first. A waiter that finds others leaves that to them, so only the first to come needs it.
   If that one goes before it is settled, its listener goes on looking, and tells another what it finds.
3. What arrives for a waiter that has gone is passed on; also what was handed to one that fails before it could take something, or
   that was taking something else just then.
4. Whoever was told may be killed or stopped. So all who wait for a topic also look unasked, about five times a second together,
   but each at most once a second. Whoever finds something so passes on what the dead one would have.
5. After a new connection everybody looks.

And a taker that masked the topic (`mask`) answers for what was put meanwhile, as the first to come does: its listener looks until
it is settled.

A slot is kept for a moment after its waiter was woken: most come back, and find themselves registered.
"""

from __future__ import annotations

import collections
import functools
import itertools
import re
import threading
from collections.abc import Callable
from typing import Any, Final

from pgstore.client.mask import BEHIND_SECONDS, BUSY_SECONDS, MASK_BEGIN, MASK_END, Mask
from pgstore.client.pauses import waits
from pgstore.client.tickets import NEVER, Entry, Ticket
from pgstore.client.waking import CHANNEL, EVERYBODY_CLASS, SOMEONE_WAITS
from pgstore.connection import Connection
from pgstore.core import clock
from pgstore.core.operation import Listen, Query
from pgstore.core.statement import Statement
from pgstore.core.steps import Steps

SLOTTED_TOPICS_MAX: Final = 100  # a client that waits for more has one lock for each and is told with everybody
_KEPT_SECONDS: Final = 0.002  # a slot, after its last waiter was woken
_FORGOTTEN_SECONDS: Final = 1.0  # after which nothing is remembered of a topic that nobody waits for
_ANSWER_SECONDS: Final = 1.0  # at most, between looks for those who rely on us
_LOCK_ATTEMPTS: Final = 20  # in a row
_LOCK_SECONDS: Final = 0.05  # between such rows


# ------------------------------------------------------------------------------------ what the session tells the server

LISTEN: Final = Query(Statement(f"LISTEN {CHANNEL}"))
# How one is registered (`pgstore.wait_begin`).
_WITH_SLOT: Final = "s"
_FOR_EVERYBODY: Final = "e"  # it hears of everything
_WITHOUT_SLOT: Final = "t"
# Locks of the session, counted by the server: none of these may be sent again.
_WAIT_BEGIN: Final = Statement("SELECT * FROM pgstore.wait_begin($1, $2, $3)", "int4 int4 text")
_WAIT_END: Final = Statement("SELECT pgstore.wait_end($1, $2, $3)", "int4 int4 text")
_LOCK: Final = Statement("SELECT pg_try_advisory_lock_shared($1, $2)", "int4 int4")
_UNLOCK: Final = Statement("SELECT pg_advisory_unlock_shared($1, $2)", "int4 int4")
# Only if another session waits: our own lock does not keep us from trying it.
_WAKE: Final = Statement(
    f"SELECT pgstore.wake($1, $2, 1, $3, $4) WHERE {SOMEONE_WAITS.format(key='$1')}", "int4 text bool bool"
)


# See `pgstore.wake`, and `fs.notifications`.
_NOTICE: Final = re.compile(r"([-?]|\d{1,2}) (\d{1,9}) ([01]) (.+)|\* (\S+) (.+)", re.DOTALL)


@functools.cache
def _channel(verb: str, number: int) -> Query:
    return Query(Statement(f"{verb} {CHANNEL}_{number}", once=True))


class Registry:
    """All that one session listens for. Both listeners keep one; what they do on their connection are its steps."""

    def __init__(self, wake_listener: Callable[[], object]) -> None:
        self.lock = threading.RLock()  # reentrant: a signal handler may come in
        self.is_elsewhere = False  # the listening connection leads to another history than the client's others
        self._wake_listener = wake_listener
        self._entries: dict[tuple[str, bool], Entry] = {}
        self._unused: dict[Entry, None] = {}  # for which nobody waits
        self._to_tell: list[tuple[Entry, bool]] = []  # what is to be passed on
        self._answering: dict[Entry, None] = {}  # for which the listener is to look
        self._masked: dict[Entry, None] = {}
        self._channels: collections.Counter[int] = collections.Counter()
        self._is_crowded = False  # there are so many topics that none has a slot
        self._is_locked_for_everybody = False
        self._swept_at = 0.0

    @property
    def topics(self) -> int:
        """For how many this client waits, or has just waited."""
        return len(self._entries)

    # ------------------------------------------------------------------------------------------------- for waiters

    def add(self, ticket: Ticket, request: Listen) -> bool:
        """Note *ticket*. Returns whether the server knows already that this client waits; else `register` is to tell it."""
        topic = request.topic
        name = topic.payload, request.for_everybody or topic.for_everybody
        with self.lock:
            entry = self._entries.get(name)
            if entry is None:
                entry = self._entries[name] = Entry(topic, for_everybody=name[1])
            entry.begin, entry.look = request.begin, request.look
            ticket.entry = entry
            if request.mask_gap is not None:
                if entry.mask is None:
                    entry.mask = Mask(request.mask_gap)
                    self._masked[entry] = None
                    self._wake_listener()
                ticket.mask = entry.mask
                return True
            self._use(entry)
            if entry.is_registered:
                pending, entry.pending = entry.pending, None
                if pending is None:
                    entry.idle[id(ticket)] = ticket
                else:  # so that it is passed on, should this one fail before it has looked
                    ticket.tell(is_chained=pending)
                    if not entry.idle:
                        self._leave(entry)
            return entry.is_registered

    def remove(self, ticket: Ticket) -> None:
        """Nobody waits with *ticket* any more."""
        ticket.closed = True
        entry = ticket.entry
        if entry is None:
            return
        if ticket.mask is not None:
            ticket.mask.has_ended = True
            self._wake_listener()
            return
        with self.lock:
            was_idle = entry.idle.pop(id(ticket), None) is not None
            if ticket.is_told:  # it could not take what it was told of
                ticket.is_told = False
                self._pass_on(entry, is_chained=ticket.is_chained)
            if was_idle and not entry.idle:
                self._leave(entry)
                self._wake_listener()

    def tell_another(self, ticket: Ticket) -> None:
        """Tell somebody that there may be more than *ticket*'s owner took, who is to do the same."""
        if ticket.entry is not None:
            with self.lock:
                self._pass_on(ticket.entry, is_chained=True)

    def _pass_on(self, entry: Entry, *, is_chained: bool) -> None:
        if not self._tell(entry, 1, is_chained=is_chained):
            self._to_tell.append((entry, is_chained))
        self._wake_listener()

    def _tell(self, entry: Entry, count: int, *, is_chained: bool) -> int:
        """Tell up to *count* of those who sleep here. Returns how many there were."""
        tickets = list(itertools.islice(entry.idle.values(), count))
        for ticket in tickets:
            entry.idle.pop(id(ticket), None)
            ticket.tell(is_chained=is_chained)
        if not entry.idle:
            self._leave(entry)
        return len(tickets)

    def _use(self, entry: Entry) -> None:
        entry.kept_until = NEVER
        self._unused.pop(entry, None)

    def _leave(self, entry: Entry) -> None:
        """Nobody waits for *entry* any more."""
        if entry.kept_until == NEVER:
            entry.kept_until = clock.monotonic() + (_FORGOTTEN_SECONDS if entry.for_everybody else _KEPT_SECONDS)
            self._unused[entry] = None

    def hear(self, payload: str) -> None:
        """Tell those whom a notification is for."""
        notice = _NOTICE.fullmatch(payload)
        if notice is None:  # of somebody who uses our channel
            return
        slot, count, chained, topic, changed, news = notice.groups()
        with self.lock:
            if changed is not None:
                self._hear_all(changed, news)
                return
            if slot == "-":
                self._hear_all(topic, None)
            entry = self._entries.get((topic, False))
            # One that found no slot taken is also for those who have got one since.
            if entry is None or slot not in ("?", "-" if entry.slot is None else str(entry.slot)):
                return
            if self._tell(entry, int(count), is_chained=chained == "1") or slot in "-?":
                return
            if entry.is_registered:
                entry.pending = chained == "1" or bool(entry.pending)  # whoever comes back is told
            else:
                self._to_tell.append((entry, chained == "1"))

    def _hear_all(self, topic: str, news: str | None) -> None:
        entry = self._entries.get((topic, True))
        for ticket in [] if entry is None else list(entry.idle.values()):
            ticket.hear(news)

    def wake_all(self) -> None:
        """Let everybody look again: a notification may have come while nobody listened."""
        with self.lock:
            for entry in self._entries.values():
                for ticket in list(entry.idle.values()):
                    ticket.hear(None)

    # ------------------------------------------------------------------------------------ on the listening connection

    def start(self, connection: Connection) -> Steps[None]:
        """On a new connection: listen, and register again what is waited for."""
        with self.lock:
            self.is_elsewhere = False
            self._channels.clear()
            self._to_tell.clear()
            entries = list(self._entries.values())
            for entry in entries:
                entry.is_registered = entry.is_settled = False
                entry.slot = entry.channel = entry.pending = None
                if entry.mask is not None:
                    self._unmask(entry)
        self._is_locked_for_everybody = False
        yield connection.execute(LISTEN)
        if self._is_crowded:
            yield from self._lock_for_everybody(connection)
        for entry in entries:
            if entry.idle:
                yield from self._begin(connection, entry)

    def register(self, ticket: Ticket, connection: Connection) -> Steps[None]:
        """See that the server knows that *ticket* waits."""
        entry = ticket.entry
        assert entry is not None
        if entry.mask is not None and entry.mask.has_ended:
            yield from self._end_mask(connection, entry)
        if not entry.is_registered:
            if len(self._entries) > SLOTTED_TOPICS_MAX and not self._is_crowded:
                yield from self._give_slots_up(connection)
            ticket.looked = yield from self._begin(connection, entry)
        with self.lock:
            if not ticket.closed:
                entry.idle[id(ticket)] = ticket
                self._use(entry)
            elif not entry.idle:
                self._leave(entry)

    def _begin(self, connection: Connection, entry: Entry) -> Steps[tuple[Any, ...] | None]:
        """Register *entry*. Returns what a look found after that, if there was one."""
        entry.how = (
            _WITHOUT_SLOT
            if entry.topic.for_everybody or self._is_crowded
            else _FOR_EVERYBODY
            if entry.for_everybody
            else _WITH_SLOT
        )
        if entry.how != _WITH_SLOT or entry.begin is None:
            query = Query(_WAIT_BEGIN, entry.key, entry.slot, entry.how)
        else:
            answers = entry in self._answering
            query = Query(entry.begin.statement, entry.key, entry.slot, answers, *entry.begin.values)
        ((slot, is_registered, is_alone, *looked),) = yield connection.execute(query)
        with self.lock:
            entry.slot = slot
        channel = None if slot is None else (entry.key ^ slot) & 255
        is_new = channel != entry.channel
        if is_new:
            yield from self._change_channel(connection, entry, channel)
        with self.lock:  # not before it listens
            entry.is_registered = is_registered
            entry.is_settled = bool(looked[1] if looked else not is_alone)
            if looked:  # it was seen to, or is by the one that has come
                self._answering.pop(entry, None)
        return tuple(looked) if looked and not is_new else None  # what was told before it listened is not heard

    def _change_channel(self, connection: Connection, entry: Entry, channel: int | None) -> Steps[None]:
        old, entry.channel = entry.channel, channel
        if channel is not None:
            self._channels[channel] += 1
            if self._channels[channel] == 1:
                yield connection.execute(_channel("LISTEN", channel))
        if old is not None:
            self._channels[old] -= 1
            if not self._channels[old]:
                yield connection.execute(_channel("UNLISTEN", old))

    def _give_slots_up(self, connection: Connection) -> Steps[None]:
        """There are too many topics for three locks each."""
        self._is_crowded = True
        yield from self._lock_for_everybody(connection)
        for entry in list(self._entries.values()):
            if entry.is_registered and entry.how != _WITHOUT_SLOT:
                slot, how, entry.how = entry.slot, entry.how, _WITHOUT_SLOT
                yield connection.execute(Query(_WAIT_BEGIN, entry.key, None, _WITHOUT_SLOT))
                with self.lock:
                    entry.slot, entry.is_settled = None, False
                    for ticket in list(entry.idle.values()):
                        ticket.hear(None)
                yield connection.execute(Query(_WAIT_END, entry.key, slot, how))

    def _lock_for_everybody(self, connection: Connection) -> Steps[bool]:
        for _ in range(_LOCK_ATTEMPTS):  # whoever asks holds the exclusive lock for a moment
            if (yield connection.execute(Query(_LOCK, EVERYBODY_CLASS, 0))) == [(True,)]:
                self._is_locked_for_everybody = True
                return True
        return False

    def work(self, connection: Connection) -> Steps[float]:
        """Pass on what is to be passed on, and give up what nobody waits for. Returns the seconds until there is more to do."""
        now = clock.monotonic()
        if now >= self._swept_at + 1.0:
            self._swept_at = now
            self._sweep()
        if self._is_crowded and not self._is_locked_for_everybody and (yield from self._lock_for_everybody(connection)):
            self.wake_all()  # for what was put before, of which nobody was told
        with self.lock:
            to_tell, self._to_tell = self._to_tell, []
            unused = list(self._unused)
        for entry, is_chained in to_tell:
            yield connection.execute(Query(_WAKE, entry.key, entry.topic.payload, is_chained, False))
        for entry in list(self._masked):
            yield from self._see_to_mask(connection, entry)
        for entry in list(self._answering):
            if now >= entry.look_at:
                yield from self._look(connection, entry)
        for entry in unused:
            if now < self._due(entry):
                continue
            if entry.is_registered:
                yield from self._end(connection, entry)
            elif entry not in self._answering and entry not in self._masked:
                yield from self._forget(connection, entry)
        with self.lock:
            if self._to_tell:
                return 0.0
            if self._is_crowded and not self._is_locked_for_everybody:
                return _LOCK_SECONDS
            due = [
                self._due(entry) for entry in self._unused if entry not in self._answering and entry not in self._masked
            ]
            due += [entry.look_at for entry in self._answering]
            due += [entry.mask.due for entry in self._masked if entry.mask is not None]
        return min(1.0, max(0.0, min(due, default=NEVER) - clock.monotonic()))

    @staticmethod
    def _due(entry: Entry) -> float:
        """When one that nobody waits for is given up, or forgotten."""
        return entry.kept_until if entry.is_registered else entry.kept_until + _FORGOTTEN_SECONDS

    def _see_to_mask(self, connection: Connection, entry: Entry) -> Steps[None]:
        mask, now = entry.mask, clock.monotonic()
        assert mask is not None
        if mask.has_ended or (mask.is_held and now >= mask.taken_at + BUSY_SECONDS):
            yield from self._end_mask(connection, entry)
        elif not mask.is_held:
            ((mask.is_held,),) = yield connection.execute(Query(MASK_BEGIN, entry.key))
            if not mask.is_held:  # somebody else has it
                self._unmask(entry)
        elif now >= mask.told_at + BEHIND_SECONDS:
            mask.told_at = now
            yield connection.execute(Query(_WAKE, entry.key, entry.topic.payload, False, True))

    def _end_mask(self, connection: Connection, entry: Entry) -> Steps[None]:
        mask = entry.mask
        assert mask is not None
        if mask.is_held:
            is_last = not any(each.mask.is_held for each in self._masked if each.mask not in (None, mask))
            yield connection.execute(Query(MASK_END, entry.key, is_last))
        self._unmask(entry)

    def _unmask(self, entry: Entry) -> None:
        """Nothing is masked any more: answer for what was put meanwhile."""
        with self.lock:
            mask, entry.mask = entry.mask, None
            self._masked.pop(entry, None)
            if mask is not None:
                mask.has_ended = True
                if mask.is_held:
                    self._answer(entry)
            if not entry.idle and entry.kept_until == NEVER:
                self._leave(entry)

    def _answer(self, entry: Entry) -> None:
        """Look, as others may rely on us, until nobody is inserting who saw nobody."""
        if entry.look is not None:
            entry.pauses = waits()
            entry.look_at = clock.monotonic()
            self._answering[entry] = None

    def _sweep(self) -> None:
        """Note the topics whose last waiter was lost, by an interrupt between two lines."""
        with self.lock:
            for entry in self._entries.values():
                if entry.is_registered and not entry.idle:
                    self._leave(entry)

    def _end(self, connection: Connection, entry: Entry) -> Steps[None]:
        with self.lock:
            if entry.idle:
                self._use(entry)
                return
            entry.is_registered = False
            pending, entry.pending = entry.pending, None
            slot = entry.slot
            if entry.for_everybody:
                entry.slot = None
            if not entry.is_settled:
                self._answer(entry)
        yield connection.execute(Query(_WAIT_END, entry.key, slot, entry.how))
        if pending is not None:
            yield connection.execute(Query(_WAKE, entry.key, entry.topic.payload, pending, False))

    def _look(self, connection: Connection, entry: Entry) -> Steps[None]:
        assert entry.look is not None
        ((is_there, is_settled, *_),) = yield connection.execute(entry.look)
        with self.lock:
            if is_there:
                self._pass_on(entry, is_chained=True)
            if is_settled or is_there is None:
                self._answering.pop(entry, None)
            else:
                entry.look_at = clock.monotonic() + min(next(entry.pauses), _ANSWER_SECONDS)

    def _forget(self, connection: Connection, entry: Entry) -> Steps[None]:
        with self.lock:
            if entry.kept_until == NEVER or entry.is_registered:
                return
            del self._unused[entry]
            self._entries.pop((entry.topic.payload, entry.for_everybody), None)
            is_uncrowded = self._is_crowded and not self._entries
            if is_uncrowded:
                self._is_crowded = False
        yield from self._change_channel(connection, entry, None)
        if is_uncrowded and self._is_locked_for_everybody:
            self._is_locked_for_everybody = False
            yield connection.execute(Query(_UNLOCK, EVERYBODY_CLASS, 0))
