"""Telling those who wait: at once, or with the commit of a transaction of pgstore's own."""

from __future__ import annotations

from typing import Any

from pgstore.client.waking import telling
from pgstore.core.operation import BeforeCommit, CommitHook, Many, Op, Query, Topic


class Notifications(CommitHook):
    """
    The topics of which a transaction will tell, in one go with its commit: a notification makes commits wait for each other.
    """

    def __init__(self) -> None:
        self._topics: dict[Topic, int] = {}  # for how many there is something

    def add(self, topic: Topic, count: int) -> None:
        self._topics[topic] = self._topics.get(topic, 0) + count

    def with_commit(self) -> list[Query]:
        return [telling(topic, count) for topic, count in self._topics.items()]

    def mark(self) -> dict[Topic, int]:
        return dict(self._topics)

    def rewind(self, mark: dict[Topic, int] | None) -> None:
        self._topics = {} if mark is None else dict(mark)

    def committed(self) -> None:
        self._topics = {}


def notifying(query: Query, topic: Topic, count: int = 1) -> Op[Any]:
    """Run *query* and tell *count* of those who wait for *topic* when it commits. Returns the result of *query*."""
    hooked = yield BeforeCommit(Notifications, Notifications)
    if hooked is None or hooked.immediate:
        result, _ = yield Many((query, telling(topic, count)))
        return result
    hooked.hook.add(topic, count)
    return (yield query)


def in_transaction() -> Op[bool]:
    """Whether what the operation does is part of a transaction of more."""
    return (yield BeforeCommit(Notifications, Notifications)) is not None
