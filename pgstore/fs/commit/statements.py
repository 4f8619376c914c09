"""Statements that commits to both kinds of file system share, and the parts that others are made of.

Rows to change are named by their ctids, each found by one look at its key. A list of keys as a condition would be compared with
each row of the store, where the statement was planned while there were few. The lock that the commit holds keeps the rows where
they are. `store_id + 0::bigint = $1` names the store, and the sum keeps the planner from using an index for it: the rows are then
fetched by ctid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pgstore.core.operation import Query
from pgstore.core.statement import Statement
from pgstore.fs.candidates import note_blobs
from pgstore.fs.model import DIRECTORY, LIVE, Contents

# Directories $2 and all below them, with the ctids of the names that lead to them.
BELOW: Final = f"""
    WITH RECURSIVE below AS (
         SELECT u.ino, '{DIRECTORY}'::"char" AS kind, NULL::tid AS ctid, 0::bigint AS version_from
           FROM pg_catalog.unnest($2) AS u (ino)
          UNION ALL
         SELECT e.ino, e.kind, e.ctid, e.version_from
           FROM below b
          CROSS JOIN LATERAL (
                SELECT d.ino, d.kind, d.ctid, d.version_from
                  FROM pgstore.dirent d
                 WHERE d.store_id = $1
                   AND d.parent = b.ino
                   AND d.version_to = {LIVE}
                OFFSET 0) e
          WHERE b.kind = '{DIRECTORY}'
    )
"""
# After BELOW: what is below but files of parameter {}, which have other names. A subquery is hashed; `ALL` of a parameter compares
# one with each.
OTHERS_BELOW: Final = (
    "(SELECT ino, kind FROM below WHERE ino NOT IN (SELECT l.ino FROM pg_catalog.unnest(${}) AS l (ino))) AS b"
)


def inode_ctids(source: str, ino: str, condition: str = "true") -> str:
    """The ctids of live inodes: for each row of *source*, that of inode *ino*."""
    return f"""ANY (ARRAY(
           SELECT i.ctid
             FROM {source}
            CROSS JOIN LATERAL (
                  SELECT n.ctid
                    FROM pgstore.inode n
                   WHERE n.store_id = $1
                     AND n.ino::bigint = {ino}
                     AND n.version_to = {LIVE}
                     AND {condition}
                   LIMIT 1) i))"""


def name_ctids(source: str, condition: str = "true") -> str:
    """The ctids of live names: for each row of *source*, u (parent, name)."""
    return f"""ANY (ARRAY(
           SELECT e.ctid
             FROM {source} AS u (parent, name)
            CROSS JOIN LATERAL (
                  SELECT d.ctid
                    FROM pgstore.dirent d
                   WHERE d.store_id = $1
                     AND d.parent = u.parent
                     AND d.name::bytea = u.name
                     AND d.version_to = {LIVE}
                     AND {condition}
                   LIMIT 1) e))"""


def lock_inodes(strength: str) -> Statement:
    """
    Lock live inodes $2, one after the other in the order in which they are given. One that is missing in the result is gone.

    Callers give them sorted: two who lock in one order do not wait for each other in a circle.
    """
    return Statement(
        f"""
        SELECT i.ino
          FROM pg_catalog.unnest($2) AS u (ino)
         CROSS JOIN LATERAL (
               SELECT n.ino
                 FROM pgstore.inode n
                WHERE n.store_id = $1
                  AND n.ino::bigint = u.ino
                  AND n.version_to = {LIVE}
                LIMIT 1
                  {strength}) i
        """,
        "int8 int8[]",
    )


TAKE_NAMES = Statement(
    f"""
    DELETE FROM pgstore.dirent
     WHERE store_id + 0::bigint = $1
       AND ctid = {name_ctids("unnest($2, $3)")}
    RETURNING ino, kind
    """,
    "int8 int8[] bytea[]",
)
ADD_LINKS = Statement(
    f"""
    UPDATE pgstore.inode
       SET link_count = greatest(link_count::integer + $3, 0), ctime_ns = $4
     WHERE store_id + 0::bigint = $1
       AND ctid = {inode_ctids("pg_catalog.unnest($2) AS u (ino)", "u.ino")}
    """,
    "int8 int8[] int8 int8",
)


def grouped(changes: Iterable[tuple[int, int]]) -> Iterable[tuple[int, list[int]]]:
    """Inodes by the number that is given with each, nearly always the same: how many names it gains or loses."""
    groups: dict[int, list[int]] = {}
    for ino, number in changes:
        groups.setdefault(number, []).append(ino)
    return groups.items()


# NULL: as it was. $8 has the extended attributes that change, null: they go.
SET_ATTRIBUTES = Statement(
    f"""
    UPDATE pgstore.inode
       SET mode = coalesce($3, mode),
           uid = coalesce($4, uid),
           gid = coalesce($5, gid),
           mtime_ns = coalesce($6, mtime_ns),
           ctime_ns = $7,
           xattrs = CASE WHEN $8::jsonb IS NULL THEN xattrs
                         ELSE nullif(jsonb_strip_nulls(coalesce(xattrs, '{{}}') || $8::jsonb), '{{}}')
                    END,
           atime_ns = coalesce($9, atime_ns)
     WHERE store_id = $1
       AND ino::bigint = $2
       AND version_to = {LIVE}
    """,
    "int8 int8 int4 int8 int8 int8 int8 jsonb int8",
)


# Of a file of a Volume. Where the row is one that this transaction has made, nobody may refer to its blob any more.
SET_CONTENTS = Statement(
    f"""
    WITH old AS (
         SELECT i.blob_id
           FROM pgstore.inode i
          WHERE i.store_id = $1
            AND i.ino::bigint = $2
            AND i.version_to = {LIVE}
            AND i.blob_id IS DISTINCT FROM $4
    ), changed AS (
         UPDATE pgstore.inode
            SET size_bytes = $3, blob_id = $4, inline_data = $5
          WHERE store_id = $1
            AND ino::bigint = $2
            AND version_to = {LIVE}
    )
    {note_blobs("old")}
    """,
    "int8 int8 int8 int8 bytea",
)


def attribute_queries(store_id: int, ino: int, attributes: Mapping[str, Any], now_ns: int) -> list[Query]:
    """`attribute_query`, and what sets the contents, if they are among *attributes*."""
    queries = [attribute_query(store_id, ino, attributes, now_ns)]
    if "size_bytes" in attributes:
        contents = Contents(attributes["size_bytes"], attributes["blob_id"], attributes["inline_data"])
        queries.append(Query(SET_CONTENTS, store_id, ino, *contents))
    return queries


def attribute_query(store_id: int, ino: int, attributes: Mapping[str, Any], now_ns: int) -> Query:
    """Set columns of a live inode, named as in `Node`; its ctime is *now_ns*, unless it is one of them."""
    values = [attributes.get(name) for name in ("mode", "uid", "gid", "mtime_ns")]
    xattrs = attributes.get("xattrs")
    ctime_ns, atime_ns = attributes.get("ctime_ns", now_ns), attributes.get("set_atime_ns")
    return Query(SET_ATTRIBUTES, store_id, ino, *values, ctime_ns, json.dumps(xattrs) if xattrs else None, atime_ns)
