"""New nodes with all that a program can say of them, written before a name leads to them (see `new_rows`)."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from pgstore.core.batches import batches
from pgstore.core.operation import CopyIn, Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.commit.change_set import ChangeSet
from pgstore.fs.commit.held import NewNode
from pgstore.fs.model import Node

COPY_FROM_NODES: Final = 16  # fewer are quicker by single INSERTs in one message
_COLUMNS: Final = (
    "store_id, ino, kind, mode, uid, gid, size_bytes, mtime_ns, ctime_ns, parent, atime_ns, blob_id, device, link_target, "
    "inline_data, xattrs"
)
INSERT_NODE = Statement(
    f"""
    INSERT INTO pgstore.inode
           ({_COLUMNS})
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
    """,
    "int8 int8 char int4 int8 int8 int8 int8 int8 int8 int8 int8 int8 bytea bytea jsonb",
)
COPY_NODES: Final = f"COPY pgstore.inode ({_COLUMNS}) FROM STDIN (FORMAT binary)"

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_FIXED: Final = struct.Struct("!h iq iq ic ii iq iq iq iq iq").pack
_BIGINT: Final = struct.Struct("!iq").pack
_FIELD: Final = struct.Struct("!i").pack
_JSONB: Final = struct.Struct("!iB").pack  # with the version of the format


def insert(store_id: int, new: Sequence[NewNode], changes: ChangeSet | None = None) -> Op[None]:
    """Write *new*: now, or with *changes* if the operation reads none of it before."""
    if len(new) < COPY_FROM_NODES:
        queries = [_query(store_id, *each) for each in new]
        if changes is not None and changes.is_single:
            changes.defer(queries)
        elif queries:
            yield Many(queries)
        return
    for batch in batches(new, lambda each: 200 + len(each.node.inline_data or b"")):
        yield CopyIn(COPY_NODES, [b"".join((_HEADER, *_rows(store_id, batch), _TRAILER))])


def _query(store_id: int, node: Node, parent: int | None) -> Query:
    return Query(
        INSERT_NODE,
        *(store_id, node.ino, node.kind, node.mode, node.uid, node.gid),
        *(node.size_bytes, node.mtime_ns, node.ctime_ns, parent, node.set_atime_ns, node.blob_id, node.device),
        *(node.link_target, node.inline_data, json.dumps(node.xattrs) if node.xattrs else None),
    )


def _rows(store_id: int, new: Sequence[NewNode]) -> Iterator[bytes]:
    for node, parent in new:
        yield _FIXED(
            *(16, 8, store_id, 8, node.ino, 1, node.kind.encode(), 4, node.mode, 8, node.uid, 8, node.gid),
            *(8, node.size_bytes, 8, node.mtime_ns, 8, node.ctime_ns),
        )
        for number in (parent, node.set_atime_ns, node.blob_id, node.device):
            yield _NULL if number is None else _BIGINT(8, number)
        for data in (node.link_target, node.inline_data):
            if data is None:
                yield _NULL
            else:
                yield _FIELD(len(data))
                yield data
        if node.xattrs:
            text = json.dumps(node.xattrs).encode()
            yield _JSONB(1 + len(text), 1)
            yield text
        else:
            yield _NULL
