"""Repairing what a change of servers, or a crash, may have left of file systems; `sql/checks` find it.

Ids come from sequences, which logical replication leaves out: on a server that takes over so, the next one may be in use already.
"""

from __future__ import annotations

from typing import Final

from pgstore.core.operation import Op, Query, atomic
from pgstore.core.statement import Statement
from pgstore.files.collect import STORES, Collection

# Nobody draws ids meanwhile: setting a sequence that others use could put it back.
LOCK = Statement("LOCK TABLE pgstore.inode, pgstore.blob, pgstore.chunk IN SHARE ROW EXCLUSIVE MODE")


def _raise(sequence: str, used: str) -> Statement:
    return Statement(
        f"""
        SELECT setval('pgstore.{sequence}'::regclass, wanted.id)
          FROM (SELECT {used} AS id) AS wanted
         CROSS JOIN pgstore.{sequence} s
         WHERE wanted.id > s.last_value - CASE WHEN s.is_called THEN 0 ELSE 1 END
        """
    )


RAISE_SEQUENCES: Final = (
    _raise(
        "inode_seq", "greatest((SELECT max(ino::bigint) FROM pgstore.inode), (SELECT max(ino) FROM pgstore.dirent))"
    ),
    _raise("blob_id_seq", "(SELECT max(id) FROM pgstore.blob)"),
    _raise("chunk_id_seq", "(SELECT max(id) FROM pgstore.chunk)"),
)

# What nothing refers to although it is noted nowhere.
NOTE_LEFTOVERS: Final = (
    Statement(
        """
        INSERT INTO pgstore.blob_left (store_id, blob_id, left_at)
        SELECT $1, b.id, '-infinity'
          FROM pgstore.blob b
         WHERE b.store_id = $1
           AND b.session_id IS NULL
           AND NOT EXISTS (SELECT FROM pgstore.inode i WHERE i.store_id = $1 AND i.blob_id = b.id)
         ORDER BY b.id
            ON CONFLICT (store_id, blob_id) DO UPDATE SET left_at = greatest(excluded.left_at, blob_left.left_at)
        """,
        "int8",
    ),
    Statement(
        """
        INSERT INTO pgstore.chunk_left (store_id, chunk_id)
        SELECT $1, c.id
          FROM pgstore.chunk c
         WHERE c.store_id = $1
           AND NOT EXISTS (SELECT FROM pgstore.extent e WHERE e.store_id = $1 AND e.chunk_id = c.id)
         ORDER BY c.id
            ON CONFLICT (store_id, chunk_id) DO UPDATE SET left_at = greatest(excluded.left_at, chunk_left.left_at)
        """,
        "int8",
    ),
)


def repair_sequences() -> Op[int]:
    """
    Set the sequences of files beyond all ids that are in use. Returns how many were behind, of three.

    Whoever writes files waits for it meanwhile. It needs the rights of `pgstore_owner`.
    """
    return (yield from atomic(_repair_sequences()))


def _repair_sequences() -> Op[int]:
    yield Query(LOCK)
    behind = 0
    for statement in RAISE_SEQUENCES:
        behind += len((yield Query(statement)))
    return behind


def collect_leftovers() -> Op[None]:
    """Note what nothing refers to, and have it looked at, under locks, like all that is collected."""
    for store_id, *_ in (yield Query(STORES, None, None)):
        yield from atomic(_note(store_id))
        yield from Collection(store_id).run()


def _note(store_id: int) -> Op[None]:
    for statement in NOTE_LEFTOVERS:
        yield Query(statement, store_id)
