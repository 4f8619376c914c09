"""Telling other clients that files have changed, for those who keep what they have read: mounts, and caches of listings.

Each commit that changes a file system tells once, and only if somebody listens: of a Volume the new version, of a NetworkFileSystem
the inodes that it changed, and the names. So whoever has that version already, or nothing of those inodes, need not ask. It also
tells its origin, so that whoever changes and listens knows its own changes.

A notification is `* <topic>` and words that begin with a letter: `v<version>`; or `i<inode>,<inode>…`, or `iany`, and
`n<directory>/<name>,<directory>/<name>…`, without which it may be any names; `@<origin>`. Who begins to listen says so with `h`:
one who knows that nobody else listens need not tell (`SILENCE`). A new thing to tell of has a letter of
its own there, a function here that tells, and a field of `FileChange`, which `_read` fills.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote, unquote_to_bytes

from pgstore.client.waking import CHANNEL, LOCK_CLASS, SOMEONE_WAITS, lock_key
from pgstore.core.clock import Deadline
from pgstore.core.operation import BeforeCommit, CommitHook, Listen, Many, Op, Query, Topic, Wait
from pgstore.core.statement import Statement

# Named in one notification, which has at most 8,000 bytes. Where more have changed it says that it may be any.
INODES_MAX: Final = 300
NAMES_BYTES_MAX: Final = 4_000  # of the names in one notification; where they have more, it does not name them

Names: TypeAlias = frozenset[tuple[int, bytes]]
# Values for TELL: its key and its notice, or what that begins and ends with. None: nobody is told.
Notice: TypeAlias = tuple[int, str] | tuple[None, None]
NoticeAround: TypeAlias = tuple[int, str, str] | tuple[None, None, None]

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
    names: Names | None = None
    """
    Those that came, went, or lead to something else now, each with its directory. None: any in the directories of *inodes*.

    What was in a directory that was removed with all below it is not named.
    """
    origin: str | None = field(default=None, compare=False)
    """Who has done it: what `origin` was when it was done. None: it is not known."""


ANYTHING: Final = FileChange(None, None)


def topic_of(store_id: int) -> Topic:
    return Topic(store_id, "files", for_everybody=True)


def new_token() -> str:
    """A name for `origin` that nobody else has."""
    return os.urandom(4).hex()


_process = new_token()
_ORIGIN: ContextVar[str | None] = ContextVar("pgstore_origin", default=None)
# As the origin of what is told to nobody.
SILENCE: Final = "silence"


def _after_fork() -> None:
    global _process
    _process = new_token()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def own_origin() -> str:
    """What is told as the origin of changes made here: that of this process, unless `origin` says otherwise."""
    return _ORIGIN.get() or _process


class origin:  # noqa: N801 - reads as a word of the language
    """
    Have changes that are made inside told as those of *token*, a few letters and digits: one of several in a process.

    SILENCE: those of a NetworkFileSystem are told to nobody.
    """

    __slots__ = ("_before", "_token")

    def __init__(self, token: str) -> None:
        self._token = token

    def __enter__(self) -> None:
        self._before = _ORIGIN.set(self._token)

    def __exit__(self, *_: object) -> None:
        _ORIGIN.reset(self._before)


def _notice(store_id: int, inodes: Iterable[int], names: Iterable[tuple[int, bytes]] | None) -> Notice:
    if _ORIGIN.get() is SILENCE:
        return None, None
    topic, changed = topic_of(store_id), sorted(inodes)
    if len(changed) > INODES_MAX:
        return lock_key(topic), f"* {topic.payload} iany @{own_origin()}"
    words = f"i{','.join(map(str, changed))}"
    if names is not None:
        named = ",".join(f"{directory}/{quote(name, safe='')}" for directory, name in names)
        if len(named) <= NAMES_BYTES_MAX:
            words += f" n{named}"
    return lock_key(topic), f"* {topic.payload} {words} @{own_origin()}"


def notice_around(store_id: int, inode: int, names: Iterable[tuple[int, bytes]]) -> NoticeAround:
    """
    Values for a statement that learns which more inodes it changes: for TELL the key, and what its notice begins and ends with.

    Between them it writes, for each, a comma and its number.
    """
    key, notice = _notice(store_id, [inode], names)
    if key is None or notice is None:
        return None, None, None
    words = notice.split(" ")
    return key, " ".join(words[:3]), " " + " ".join(words[3:])


class ChangedInodes(CommitHook):
    """The inodes and names of one file system that a transaction has changed, of which it tells with its commit."""

    def __init__(self, store_id: int) -> None:
        self._store_id = store_id
        self._inodes: frozenset[int] = frozenset()
        self._names: Names | None = frozenset()

    def add(self, inodes: Collection[int], names: Collection[tuple[int, bytes]] | None) -> None:
        self._inodes |= frozenset(inodes)
        if names is None or self._names is None or len(names) + len(self._names) > NAMES_BYTES_MAX // 4:
            self._names = None
        elif names:
            self._names |= frozenset(names)

    def with_commit(self) -> list[Query]:
        notice = _notice(self._store_id, self._inodes, self._names) if self._inodes else (None, None)
        return [] if notice[0] is None else [Query(_TELL, *notice)]

    def mark(self) -> tuple[frozenset[int], Names | None]:
        return self._inodes, self._names

    def rewind(self, mark: tuple[frozenset[int], Names | None] | None) -> None:
        self._inodes, self._names = mark or (frozenset(), frozenset())

    def committed(self) -> None:
        self.rewind(None)


def note_inodes(
    store_id: int, inodes: Collection[int], names: Collection[tuple[int, bytes]] | None = ()
) -> Op[tuple[bool, tuple[int | None, str | None]]]:
    """
    Have a transaction of pgstore's own tell with its commit that *inodes* have changed, and *names*; None: any in them.

    Returns whether there is a transaction, and the two values for TELL: NULL where nothing is to be told at once.
    """
    hooked = yield BeforeCommit((ChangedInodes, store_id), partial(ChangedInodes, store_id))
    if hooked is not None and not hooked.immediate:
        hooked.hook.add(inodes, names)
        return True, (None, None)
    return hooked is not None, _notice(store_id, inodes, names)


def tell_inodes(store_id: int, inodes: Collection[int], names: Collection[tuple[int, bytes]] | None) -> Op[None]:
    """Tell of *inodes* and *names* (`note_inodes`): with the commit, or at once where there is none of pgstore's own to come."""
    _, notice = yield from note_inodes(store_id, inodes, names)
    if notice[0] is not None:
        yield Query(_TELL, *notice)


def telling_inodes(query: Query, store_id: int, inodes: Collection[int]) -> Op[Any]:
    """Run *query*, which changes *inodes*, and tell of them when it commits. Returns the result of *query*."""
    _, notice = yield from note_inodes(store_id, inodes)
    if notice[0] is None:
        return (yield query)
    result, _ = yield Many((query, Query(_TELL, *notice)))
    return result


@functools.lru_cache(maxsize=64)
def notice_head(store_id: int) -> tuple[int, str]:
    """For statements that write a notice themselves: the key for TELL, and what a notice begins with, before its words."""
    topic = topic_of(store_id)
    return lock_key(topic), f"* {topic.payload} "


def telling_version(store_id: int, version: int) -> Query:
    topic = topic_of(store_id)
    return Query(_TELL, lock_key(topic), f"* {topic.payload} v{version} @{own_origin()}")


def _read(news: str | None) -> FileChange:
    words = {word[0]: word[1:] for word in (news or "").split(" ") if word}
    origin = words.get("@")
    if "v" in words:
        return FileChange(int(words["v"]), None, None, origin)
    if words.get("i", "any") == "any":
        return FileChange(None, None, None, origin)
    inodes = frozenset(map(int, words["i"].split(",")))
    return FileChange(None, inodes, _read_names(words["n"]) if "n" in words else None, origin)


def _read_names(text: str) -> Names:
    entries = (entry.partition("/") for entry in text.split(",") if entry)
    return frozenset((int(directory), unquote_to_bytes(name)) for directory, _, name in entries)


# The sessions that wait for the topic whose key is $1; 2: for an advisory lock of two numbers.
WAITING = Statement(
    f"""
    SELECT l.pid
      FROM pg_locks l
     WHERE l.locktype = 'advisory'
       AND l.database::bigint = (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database())
       AND l.classid::bigint = {LOCK_CLASS}
       AND l.objid::bigint = $1::bigint & 4294967295
       AND l.objsubid = 2
     GROUP BY l.pid
    """,
    "int4",
)

_counting = threading.Lock()  # over the next one
_listening: Counter[str] = Counter()  # by topic: the `FileChanges` of this process


class FileChanges:
    """
    The changes of one file system by all clients, from `begin` on.

    No change is missed: where one may have been, as when the connection broke, `next` gives `ANYTHING`.
    """

    newcomers = 0
    """How often somebody else has begun to listen."""

    def __init__(self, store_id: int, *, heeds_newcomers: bool = False) -> None:
        """*heeds_newcomers*: `next` returns None when somebody else has begun to listen."""
        self._topic = topic_of(store_id)
        self._heeds_newcomers = heeds_newcomers
        self._hello = f"h @{new_token()}"  # not the origin of whoever calls: that may be SILENCE the next time
        self._ticket: Any = None
        self._is_stopped = False

    def begin(self) -> Op[Self]:
        """Listen. What is read after that, and not told of, is as it was read."""
        self._ticket = yield Listen(self._topic)
        with _counting:
            _listening[self._topic.payload] += 1
        yield from self._say_so()
        return self

    def _say_so(self) -> Op[None]:
        yield Query(_TELL, lock_key(self._topic), f"* {self._topic.payload} {self._hello}")

    def next(self, timeout: float | None) -> Op[FileChange | None]:
        """The next change; None if there is none within *timeout* seconds, or before `stop`."""
        deadline = Deadline.after(timeout)
        while True:
            while not (news := self._ticket.take_news()):
                if deadline.passed() or self._is_stopped:
                    return None
                yield Wait(self._ticket, deadline.remaining())
            if news[0] is None:
                yield from self._say_so()  # others may have told us nothing meanwhile
            elif news[0].startswith("h "):
                if news[0] != self._hello:
                    self.newcomers += 1
                    if self._heeds_newcomers:
                        return None
                continue
            return _read(news[0])

    def is_sole(self) -> Op[bool]:
        """Whether nobody else listens. Who begins afterwards is a newcomer."""
        if not self.is_heard or _listening[self._topic.payload] != 1:
            return False
        return len((yield Query(WAITING, lock_key(self._topic)))) == 1

    def tell_anything(self) -> Op[None]:
        """Tell others that anything may have changed."""
        yield Query(_TELL, lock_key(self._topic), f"* {self._topic.payload} iany @{own_origin()}")

    @property
    def is_heard(self) -> bool:
        """Whether changes are told as they happen; else they are found by asking."""
        ticket = self._ticket
        return ticket is not None and ticket.entry is not None and bool(ticket.entry.is_registered)

    def stop(self) -> None:
        """Have `next` wait no longer. Safe from any thread."""
        self._is_stopped = True
        if self._ticket is not None:
            self._ticket.wake()

    def close(self) -> None:
        if self._ticket is not None:
            self._ticket.close()
            self._ticket = None
            with _counting:
                _listening[self._topic.payload] -= 1
