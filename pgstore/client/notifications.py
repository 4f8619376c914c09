"""Notifying those who wait: at once, or with the commit of a transaction of pgstore's own."""

from __future__ import annotations

from typing import Any

from pgstore.client.listener import announce
from pgstore.core.operation import BeforeCommit, CommitHook, Many, Op, Query, Topic


class Notifications(CommitHook):
    """Topics of which a transaction will notify, in one go with its commit: a notification makes commits wait for each other."""

    def __init__(self) -> None:
        self.topics: dict[Topic, None] = {}

    def with_commit(self) -> list[Query]:
        return [announce(topic) for topic in self.topics]

    def mark(self) -> dict[Topic, None]:
        return dict(self.topics)

    def rewind(self, mark: dict[Topic, None] | None) -> None:
        self.topics = {} if mark is None else dict(mark)

    def committed(self) -> None:
        self.topics = {}


def notifying(query: Query, topic: Topic) -> Op[Any]:
    """Run *query* and notify those who wait for *topic* when it commits. Returns the result of *query*."""
    hooked = yield BeforeCommit(Notifications, Notifications)
    if hooked is None or hooked.immediate:
        result, _ = yield Many((query, announce(topic)))
        return result
    hooked.hook.topics[topic] = None
    return (yield query)


def in_transaction() -> Op[bool]:
    """Whether what the operation does is part of a transaction of more."""
    return (yield BeforeCommit(Notifications, Notifications)) is not None
