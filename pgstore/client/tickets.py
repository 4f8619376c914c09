"""One who waits, and what a client notes of a topic that is waited for. Who changes them is `waiters`."""

from __future__ import annotations

import abc
import collections
import weakref
from collections.abc import Iterator
from typing import Any, Final, Protocol

from pgstore.client.mask import Mask
from pgstore.client.waking import lock_key
from pgstore.core.operation import Query, Topic

_SOME: Final = 5  # are taken to wait, as long as nobody has counted
SLOTS: Final = 64  # of a topic
NEWS_MAX: Final = 1000  # that one who hears of everything may leave unread
NEVER: Final = float("inf")


class Keeper(Protocol):
    """Who keeps the tickets: the `waiters.Registry`."""

    @property
    def topics(self) -> int: ...

    def remove(self, ticket: Ticket) -> None: ...

    def tell_another(self, ticket: Ticket) -> None: ...


class Ticket(abc.ABC):
    """One waiter: a thread or a task that sleeps until it is told."""

    __slots__ = (
        "__weakref__",
        "_registry",
        "closed",
        "entry",
        "is_chained",
        "is_told",
        "looked",
        "mask",
        "news",
        "topic",
    )

    def __init__(self, registry: Keeper, topic: Topic) -> None:
        self._registry = registry
        self.topic = topic
        self.entry: Entry | None = None  # None: nothing can be heard, so its owner polls
        self.looked: tuple[Any, ...] | None = None  # what the look at its registration found; taken by its owner
        self.is_told = False  # there is something for it, which it has not tried to take yet
        self.is_chained = False  # if it takes something it is to tell another
        self.closed = False
        self.mask: Mask | None = None  # it does not wait, but takes
        self.news: collections.deque[str | None] = collections.deque(maxlen=NEWS_MAX)  # what everybody is told, unread

    @property
    def is_settled(self) -> bool:
        """Whether whoever commits from now on has seen us."""
        return self.entry is not None and self.entry.is_settled

    def settle(self) -> None:
        """A look found nobody inserting."""
        if self.entry is not None and self.entry.is_registered:
            self.entry.is_settled = True

    @property
    def slot(self) -> int | None:
        return None if self.entry is None or not self.entry.is_registered else self.entry.slot

    @property
    def listening(self) -> int:
        """How many listen for this, at least: low slots are taken first. Also when its own has just been given up."""
        return 1 if self.entry is None else 1 + (self.entry.slot or 0)

    def waiting(self, counted: int | None) -> int:
        """
        How many wait for this: so many were *counted*, if they were.

        One without a slot is told with everybody, so it matters little whether another who was told is no more: as if there were
        many. As many as there are topics, for a client that waits alone for each of them would look as often as all together.
        """
        if self.is_settled and self.slot is None:
            return SLOTS
        return max(_SOME + (self.slot or 0) if counted is None else counted, self._registry.topics)

    @property
    def key(self) -> int:
        return lock_key(self.topic)

    def tell(self, *, is_chained: bool) -> None:
        self.is_told, self.is_chained = True, is_chained
        self.wake()

    @abc.abstractmethod
    def wake(self) -> None:
        """Have it look."""

    def hear(self, news: str | None) -> None:
        """Note what everybody is told; None: it may have been anything."""
        if len(self.news) == NEWS_MAX:
            self.news.clear()
            news = None
        self.news.append(news)
        self.wake()

    def spend(self) -> bool:
        """It has tried to take what it was told of. Returns whether it is to tell another if it took something."""
        is_chained, self.is_told, self.is_chained = self.is_chained, False, False
        return is_chained

    def take_news(self) -> list[str | None]:
        """What everybody was told since, one at a time."""
        return [self.news.popleft()] if self.news else []

    def tell_another(self) -> None:
        """There may be more than it took."""
        self._registry.tell_another(self)

    def close(self) -> None:
        """End the registration. Never blocks."""
        self._registry.remove(self)


class Entry:
    """A topic that tickets of this client wait for, and what the server knows of that."""

    __slots__ = (
        "__weakref__",
        "begin",
        "channel",
        "for_everybody",
        "how",
        "idle",
        "is_registered",
        "is_settled",
        "kept_until",
        "key",
        "look",
        "look_at",
        "mask",
        "pauses",
        "pending",
        "slot",
        "topic",
    )

    def __init__(self, topic: Topic, *, for_everybody: bool) -> None:
        self.topic = topic
        self.key = lock_key(topic)
        self.for_everybody = for_everybody
        self.how = ""  # how it is registered, or was last: _WITH_SLOT, _FOR_EVERYBODY or _WITHOUT_SLOT
        self.begin: Query | None = None
        self.look: Query | None = None
        self.idle: weakref.WeakValueDictionary[int, Ticket] = (
            weakref.WeakValueDictionary()
        )  # in the order of their coming
        self.is_registered = False
        self.is_settled = False
        self.slot: int | None = None  # the one that it has, or had last
        self.channel: int | None = None
        self.kept_until = NEVER  # when it is given up, or forgotten; never while anybody waits
        self.pending: bool | None = None  # told while nobody was idle: whether with is_chained
        self.look_at = NEVER  # when the listener looks, for one that has left and on whom others rely
        self.mask: Mask | None = None
        self.pauses: Iterator[float] = iter(())
