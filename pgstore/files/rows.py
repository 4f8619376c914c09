"""New inodes and names, written before anyone can see them.

An inode can be inserted at any time: nothing leads to it until it has a name. The same holds for names in a directory that has
none itself yet. Such rows are valid from version 0 on and need no lock.
"""

from __future__ import annotations

import struct
from typing import Final

from pgstore.core.operation import CopyIn, Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.files.contents import Contents

DIRECTORY_MODE: Final = 0o755

INSERT_INODE = Statement(
    """
    INSERT INTO pgstore.inode
           (store_id, ino, kind, mode, size_bytes, mtime_ns, ctime_ns, blob_id, parent, inline_data)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    """,
    "int8 int8 char int4 int8 int8 int8 int8 int8 bytea",
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
# Reading the file system's row finds out whether it still exists. No row: it does not.
RESERVE_INODES = Statement(
    """
    SELECT nextval('pgstore.inode_seq')
      FROM pgstore.file_system f
     CROSS JOIN generate_series(1, $2)
     WHERE f.store_id = $1
    """,
    "int8 int4",
)

COPY_FROM_ROWS: Final = 16  # below, single INSERTs in one message are quicker

# COPY's binary format: each row is its number of fields, each field its length and its bytes; length -1 is NULL.
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_INODE: Final = struct.Struct("!h iq iq ic ii iq iq iq").pack
_NAME_HEAD: Final = struct.Struct("!h iq iq i").pack
_NAME_TAIL: Final = struct.Struct("!iq ic").pack
_FIELD: Final = struct.Struct("!i").pack
_BIGINT: Final = struct.Struct("!iq").pack


class NewRows:
    """Inodes and names to be written, collected and sent together."""

    def __init__(self, store_id: int, now_ns: int) -> None:
        self._store_id = store_id
        self._now_ns = now_ns
        self._inodes: list[tuple[int, str, int, int, int, int | None, Contents]] = []
        self._names: list[tuple[int, bytes, int, str]] = []

    def file(self, ino: int, mode: int, mtime_ns: int, contents: Contents) -> None:
        self._inodes.append((ino, "f", mode, contents.size_bytes, mtime_ns, None, contents))

    def directory(self, ino: int, parent: int) -> None:
        self._inodes.append((ino, "d", DIRECTORY_MODE, 0, self._now_ns, parent, _NOTHING))

    def name(self, parent: int, name: bytes, ino: int, kind: str) -> None:
        """A name in *parent*, a directory that nothing leads to yet."""
        self._names.append((parent, name, ino, kind))

    def send(self) -> Op[None]:
        """Write what was collected."""
        if len(self._inodes) + len(self._names) < COPY_FROM_ROWS:
            yield Many([*self._inode_queries(), *self._name_queries()])
        else:
            yield CopyIn(COPY_INODES, self._inode_rows())
            if self._names:
                yield CopyIn(COPY_NAMES, self._name_rows())
        self._inodes, self._names = [], []

    def _inode_queries(self) -> list[Query]:
        store_id, now = self._store_id, self._now_ns
        return [
            Query(INSERT_INODE, store_id, ino, kind, mode, size, mtime, now, data.blob_id, parent, data.inline_data)
            for ino, kind, mode, size, mtime, parent, data in self._inodes
        ]

    def _name_queries(self) -> list[Query]:
        return [Query(INSERT_NAME, self._store_id, *name) for name in self._names]

    def _inode_rows(self) -> list[bytes]:
        store_id, now = self._store_id, self._now_ns
        parts = [_HEADER]
        for ino, kind, mode, size, mtime, parent, contents in self._inodes:
            parts.append(
                _INODE(10, 8, store_id, 8, ino, 1, kind.encode(), 4, mode, 8, size, 8, mtime, 8, now)
                + (_NULL if contents.blob_id is None else _BIGINT(8, contents.blob_id))
                + (_NULL if parent is None else _BIGINT(8, parent))
            )
            data = contents.inline_data
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


_NOTHING: Final = Contents(0, None, None)
