"""New inodes and names, written before anyone can see them.

An inode can be inserted at any time, for nothing leads to it before it has a name. So can names in a directory that has no name
yet. Such rows are valid since version 0 and need no lock.
"""

from __future__ import annotations

import contextlib
import struct
from collections import deque
from functools import partial
from typing import Final, NamedTuple

from pgstore.client.session import Session, SessionHook
from pgstore.core.operation import BeforeCommit, CommitHook, CopyIn, Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.commit.change_set import ChangeSet
from pgstore.fs.model import DIRECTORY, FILE, SYMLINK, Contents, StoreGone

LINK_MODE: Final = 0o777

INSERT_INODE = Statement(
    """
    INSERT INTO pgstore.inode
           (store_id, ino, kind, mode, size_bytes, mtime_ns, ctime_ns, blob_id, parent, inline_data, link_target)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
    """,
    "int8 int8 char int4 int8 int8 int8 int8 int8 bytea bytea",
)
INSERT_NAME = Statement(
    "INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind) VALUES ($1, $2, $3, $4, $5)",
    "int8 int8 bytea int8 char",
)
COPY_INODES: Final = """
    COPY pgstore.inode (store_id, ino, kind, mode, size_bytes, mtime_ns, ctime_ns, blob_id, parent, inline_data)
    FROM STDIN (FORMAT binary)
"""
COPY_NAMES: Final = "COPY pgstore.dirent (store_id, parent, name, ino, kind) FROM STDIN (FORMAT binary)"
# No row: the file system does not exist any more.
RESERVE_INODES = Statement(
    """
    SELECT nextval('pgstore.inode_seq'::regclass)
      FROM pgstore.file_system f
     CROSS JOIN generate_series(1, $2)
     WHERE f.store_id = $1
    """,
    "int8 int4",
)

COPY_FROM_ROWS: Final = 16  # fewer rows are quicker by single INSERTs in one message

# COPY's binary format: each row is its number of fields, each field its length and its bytes; length -1 is NULL.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_INODE: Final = struct.Struct("!h iq iq ic ii iq iq iq").pack
_NAME_HEAD: Final = struct.Struct("!h iq iq i").pack
_NAME_TAIL: Final = struct.Struct("!iq ic").pack
_FIELD: Final = struct.Struct("!i").pack
_BIGINT: Final = struct.Struct("!iq").pack


class _ReservedInodes(SessionHook):
    """Numbers that were drawn for this client's new inodes and not used yet."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._servers_seen = session.client.servers_seen  # when they were drawn
        self._left: dict[int, deque[int]] = {}

    def of(self, store_id: int) -> deque[int]:
        """Those of a file system; those of another server are forgotten."""
        client = self.session.client
        if client.is_pooled:
            return deque()  # the server may be replaced unnoticed
        if self._servers_seen != client.servers_seen:
            self._servers_seen, self._left = client.servers_seen, {}
        return self._left.setdefault(store_id, deque())


def reserve_inodes(session: Session, store_id: int, count: int, *, at_once: int = 32) -> Op[list[int]]:
    """
    Numbers for *count* new inodes, which nobody else gets.

    Args:
        at_once: how many to draw from the database, at least, if the session has too few. The next operation takes what is left.
    """
    reserved = session.hook(_ReservedInodes).of(store_id)
    inos = _taken(reserved, count)
    if len(inos) == count:
        return inos
    hooked = yield BeforeCommit((_Left, store_id), partial(_Left, reserved))
    left = reserved if hooked is None else hooked.hook.numbers
    if hooked is not None:
        inos += _taken(left, count - len(inos))
    lacking = count - len(inos)
    if lacking:
        rows = yield Query(RESERVE_INODES, store_id, max(lacking, at_once))
        if not rows:
            raise StoreGone
        inos += [row[0] for row in rows[:lacking]]
        left.extend(row[0] for row in rows[lacking:])
    return inos


def _taken(reserved: deque[int], count: int) -> list[int]:
    inos: list[int] = []
    with contextlib.suppress(IndexError):  # another thread may be quicker
        while len(inos) < count:
            inos.append(reserved.popleft())
    return inos


class _Left(CommitHook):
    """
    Numbers that a transaction has drawn and not used: they are the session's when it has committed.

    Before that, or if it is rolled back, the sequence may give them to others after a crash of the server.
    """

    def __init__(self, reserved: deque[int]) -> None:
        self._reserved = reserved
        self.numbers: deque[int] = deque()

    def committed(self) -> None:
        self._reserved.extend(self.numbers)


class _Inode(NamedTuple):
    ino: int
    kind: str
    mode: int
    size_bytes: int
    mtime_ns: int
    blob_id: int | None = None
    parent: int | None = None
    inline_data: bytes | None = None
    link_target: bytes | None = None


class NewRows:
    """Inodes and names to be written together."""

    def __init__(self, store_id: int, now_ns: int) -> None:
        self._store_id = store_id
        self._now_ns = now_ns
        self._inodes: list[_Inode] = []
        self._names: list[tuple[int, bytes, int, str]] = []
        self._links = False  # there are symbolic links among the inodes

    def file(self, ino: int, mode: int, mtime_ns: int, contents: Contents) -> None:
        size, blob_id, inline_data = contents
        self._inodes.append(_Inode(ino, FILE, mode, size, mtime_ns, blob_id, None, inline_data))

    def directory(self, ino: int, parent: int, mode: int) -> None:
        self._inodes.append(_Inode(ino, DIRECTORY, mode, 0, self._now_ns, None, parent))

    def symbolic_link(self, ino: int, target: bytes) -> None:
        self._inodes.append(_Inode(ino, SYMLINK, LINK_MODE, len(target), self._now_ns, link_target=target))
        self._links = True

    def special(self, ino: int, kind: str, mode: int) -> None:
        """A fifo or socket."""
        self._inodes.append(_Inode(ino, kind, mode, 0, self._now_ns))

    def name(self, parent: int, name: bytes, ino: int, kind: str) -> None:
        """A name in *parent*, a directory that nothing leads to yet."""
        self._names.append((parent, name, ino, kind))

    def send(self, changes: ChangeSet) -> Op[None]:
        """Write what was collected: now, or with *changes* if the operation reads none of it before."""
        if self._links or len(self._inodes) + len(self._names) < COPY_FROM_ROWS:
            queries = self._inode_queries()
            if self._names:
                queries += self._name_queries()
            if changes.is_single:
                changes.defer(queries)
            elif queries:
                yield Many(queries)
        else:
            yield CopyIn(COPY_INODES, self._inode_rows())
            if self._names:
                yield CopyIn(COPY_NAMES, self._name_rows())
        self._inodes, self._names, self._links = [], [], False

    def _inode_queries(self) -> list[Query]:
        store_id, now = self._store_id, self._now_ns
        return [
            Query(INSERT_INODE, store_id, ino, kind, mode, size, mtime, now, blob_id, parent, data, target)
            for ino, kind, mode, size, mtime, blob_id, parent, data, target in self._inodes
        ]

    def _name_queries(self) -> list[Query]:
        return [Query(INSERT_NAME, self._store_id, *name) for name in self._names]

    def _inode_rows(self) -> list[bytes]:
        store_id, now = self._store_id, self._now_ns
        parts = [_HEADER]
        for ino, kind, mode, size, mtime, blob_id, parent, data, _ in self._inodes:
            parts.append(
                _INODE(10, 8, store_id, 8, ino, 1, kind.encode(), 4, mode, 8, size, 8, mtime, 8, now)
                + (_NULL if blob_id is None else _BIGINT(8, blob_id))
                + (_NULL if parent is None else _BIGINT(8, parent))
            )
            if data is None:
                parts.append(_NULL)
            else:
                parts.append(_FIELD(len(data)))
                parts.append(data)
        parts.append(_TRAILER)
        return [b"".join(parts)]

    def _name_rows(self) -> list[bytes]:
        store_id = self._store_id
        parts = [_HEADER]
        for parent, name, ino, kind in self._names:
            parts.append(_NAME_HEAD(5, 8, store_id, 8, parent, len(name)) + name + _NAME_TAIL(8, ino, 1, kind.encode()))
        parts.append(_TRAILER)
        return [b"".join(parts)]
