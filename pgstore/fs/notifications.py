"""Telling other clients that files have changed, for those who keep what they have read: mounts, and caches of listings.

Each commit that changes a file system tells once, and only if somebody listens: of a Volume the new version, of a NetworkFileSystem
the inodes that it changed. So whoever has that version already, or nothing of those inodes, need not ask.

A notification is `* <topic> v<version>`, `* <topic> i<inode>,<inode>…`, or `* <topic> iany`. A new thing to tell of has a letter of
its own there, a function here that tells, and a field of `FileChange`, which `_read` fills.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

from pgstore.client.waking import CHANNEL, SOMEONE_WAITS, lock_key
from pgstore.core.clock import Deadline
from pgstore.core.operation import BeforeCommit, CommitHook, Listen, Many, Op, Query, Topic, Wait
from pgstore.core.statement import Statement

# Named in one notification, which has at most 8,000 bytes. Where more have changed it says that it may be any.
INODES_MAX: Final = 300

# An expression that is evaluated for its effect. {key} and {notice} are parameters, for what `notice_of_inodes` gives; or NULL.
TELL: Final = f"CASE WHEN {{key}} IS NOT NULL AND {SOMEONE_WAITS} THEN pg_notify('{CHANNEL}', {{notice}}) IS NULL END"
_TELL: Final = Statement(f"SELECT {TELL.format(key='$1', notice='$2')}", "int4 text")


@dataclass(frozen=True)
class FileChange:
    """What a commit changed."""

    version: int | None
    """Of a Volume: the one that it made."""
    inodes: frozenset[int] | None
    """Of a NetworkFileSystem: files whose contents or attributes, and directories whose names, are others now. None: of any."""


ANYTHING: Final = FileChange(None, None)


def topic_of(store_id: int) -> Topic:
    return Topic(store_id, "files", for_everybody=True)


def _notice(store_id: int, inodes: Iterable[int]) -> tuple[int, str]:
    topic, changed = topic_of(store_id), sorted(inodes)
    named = ",".join(map(str, changed)) if len(changed) <= INODES_MAX else "any"
    return lock_key(topic), f"* {topic.payload} i{named}"


class ChangedInodes(CommitHook):
    """The inodes of one file system that a transaction has changed, of which it tells with its commit."""

    def __init__(self, store_id: int) -> None:
        self._store_id = store_id
        self.inodes: frozenset[int] = frozenset()

    def with_commit(self) -> list[Query]:
        return [Query(_TELL, *_notice(self._store_id, self.inodes))] if self.inodes else []

    def mark(self) -> frozenset[int]:
        return self.inodes

    def rewind(self, mark: frozenset[int] | None) -> None:
        self.inodes = mark or frozenset()

    def committed(self) -> None:
        self.inodes = frozenset()


def note_inodes(store_id: int, inodes: Collection[int]) -> Op[tuple[bool, tuple[int | None, str | None]]]:
    """
    Have a transaction of pgstore's own tell with its commit that *inodes* have changed.

    Returns whether there is a transaction, and the two values for TELL: NULL where nothing is to be told at once.
    """
    hooked = yield BeforeCommit((ChangedInodes, store_id), partial(ChangedInodes, store_id))
    if hooked is not None and not hooked.immediate:
        hooked.hook.inodes |= frozenset(inodes)
        return True, (None, None)
    return hooked is not None, _notice(store_id, inodes)


def tell_inodes(store_id: int, inodes: Collection[int]) -> Op[None]:
    """Tell that *inodes* have changed: with the commit, or at once where there is none of pgstore's own to come."""
    _, notice = yield from note_inodes(store_id, inodes)
    if notice[0] is not None:
        yield Query(_TELL, *notice)


def telling_inodes(query: Query, store_id: int, inodes: Collection[int]) -> Op[Any]:
    """Run *query*, which changes *inodes*, and tell of them when it commits. Returns the result of *query*."""
    _, notice = yield from note_inodes(store_id, inodes)
    if notice[0] is None:
        return (yield query)
    result, _ = yield Many((query, Query(_TELL, *notice)))
    return result


def telling_version(store_id: int, version: int) -> Query:
    topic = topic_of(store_id)
    return Query(_TELL, lock_key(topic), f"* {topic.payload} v{version}")


def _read(news: str | None) -> FileChange:
    if news is None or news == "iany":
        return ANYTHING
    if news[0] == "v":
        return FileChange(int(news[1:]), None)
    return FileChange(None, frozenset(map(int, news[1:].split(","))))


class FileChanges:
    """
    The changes of one file system by all clients, from `begin` on.

    No change is missed: where one may have been, as when the connection broke, `next` gives `ANYTHING`.
    """

    def __init__(self, store_id: int) -> None:
        self._topic = topic_of(store_id)
        self._ticket: Any = None

    def begin(self) -> Op[Self]:
        """Listen. What is read after that, and not told of, is as it was read."""
        self._ticket = yield Listen(self._topic)
        return self

    def next(self, timeout: float | None) -> Op[FileChange | None]:
        """The next change; None if there is none within *timeout* seconds."""
        deadline = Deadline.after(timeout)
        while not (news := self._ticket.take_news()):
            if deadline.passed():
                return None
            yield Wait(self._ticket, deadline.remaining())
        return _read(news[0])

    def close(self) -> None:
        if self._ticket is not None:
            self._ticket.close()
