"""Writing: the statements by which the changes of a transaction come into the tables, with versions or without.

Rows to change are named by their places, found by one look at the key each: as a condition, a list of keys may be compared with
each row of the store, where that was planned while there were few. The lock keeps the places from changing. `$1::numeric` says
which store and fits no index: the cast keeps the planner from using one, so that the rows are fetched by their ctid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pgstore.core.operation import Query
from pgstore.core.statement import Statement
from pgstore.files.changes import LIVE

# Directories $2 and all below them, with the places of the names that lead to them.
BELOW: Final = f"""
    WITH RECURSIVE below AS (
         SELECT u.ino, 'd'::"char" AS kind, NULL::tid AS place, 0::bigint AS version_from
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
          WHERE b.kind = 'd'
    )
"""


def inode_places(source: str, ino: str, condition: str = "true") -> str:
    """The places of live inodes: for each row of *source*, that of inode *ino*."""
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


def name_places(source: str, condition: str = "true") -> str:
    """The places of live names: for each row of *source*, u (parent, name)."""
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
    """Lock inodes $2 in the order in which they are given. One that is missing in the result is gone."""
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


# After BELOW: what is below but files of parameter {}, which have other names. A subquery is hashed; `ALL` of a parameter compares
# one with each.
OTHERS_BELOW: Final = (
    "(SELECT ino, kind FROM below WHERE ino NOT IN (SELECT l.ino FROM pg_catalog.unnest(${}) AS l (ino))) AS b"
)
# After "gone", inodes that were deleted: collection is told of the blobs they had.
LEAVE_BLOBS: Final = """
    INSERT INTO pgstore.blob_left (store_id, blob_id)
    SELECT DISTINCT $1, blob_id
      FROM gone
     WHERE blob_id IS NOT NULL
        ON CONFLICT (store_id, blob_id) DO UPDATE SET left_at = greatest(excluded.left_at, blob_left.left_at)
"""
# Directories $2 with all below them, which nobody else has seen, leave no trace; but files $3, which have other names, stay.
DELETE_TREES = Statement(
    f"""
    {BELOW}, dropped AS (
         DELETE FROM pgstore.dirent
          WHERE store_id::numeric = $1::numeric
            AND ctid = ANY (ARRAY(SELECT place FROM below WHERE place IS NOT NULL))
    ), gone AS (
         DELETE FROM pgstore.inode
          WHERE store_id::numeric = $1::numeric
            AND ctid = {inode_places(OTHERS_BELOW.format(3), "b.ino")}
         RETURNING blob_id
    )
    {LEAVE_BLOBS}
    """,
    "int8 int8[] int8[]",
)
DELETE_INODES = Statement(
    f"""
    DELETE FROM pgstore.inode
     WHERE store_id::numeric = $1::numeric
       AND ctid = {inode_places("pg_catalog.unnest($2) AS u (ino)", "u.ino")}
    """,
    "int8 int8[]",
)
TAKE_NAMES = Statement(
    f"""
    DELETE FROM pgstore.dirent
     WHERE store_id::numeric = $1::numeric
       AND ctid = {name_places("unnest($2, $3)")}
    RETURNING ino, kind
    """,
    "int8 int8[] bytea[]",
)
INSERT_NAMES = Statement(
    """
    INSERT INTO pgstore.dirent (store_id, parent, name, version_from, ino, kind)
    SELECT $1, u.parent, u.name, $2, u.ino, u.kind
      FROM unnest($3, $4, $5, $6) AS u (parent, name, ino, kind)
    """,
    "int8 int8 int8[] bytea[] int8[] char[]",
)
# The names in directory $3 (ours) become names in directory $4 (theirs).
MOVE_NAMES = Statement(
    f"""
    UPDATE pgstore.dirent
       SET parent = $4, version_from = $2
     WHERE store_id = $1
       AND parent = $3
       AND version_to = {LIVE}
    """,
    "int8 int8 int8 int8",
)
# Directories that have just come from directory $2 (ours) into $3 (theirs) learn it.
TELL_PARENT = Statement(
    f"""
    UPDATE pgstore.inode
       SET parent = $3
     WHERE store_id::numeric = $1::numeric
       AND ctid = ANY (ARRAY(
           SELECT i.ctid
             FROM pgstore.dirent d
            CROSS JOIN LATERAL (
                  SELECT n.ctid
                    FROM pgstore.inode n
                   WHERE n.store_id = $1
                     AND n.ino::bigint = d.ino
                     AND n.version_to = {LIVE}
                     AND n.parent = $2
                   LIMIT 1) i
            WHERE d.store_id = $1
              AND d.parent = $3
              AND d.version_to = {LIVE}
              AND d.kind = 'd'))
    """,
    "int8 int8 int8",
)
SET_PARENT = Statement(
    f"UPDATE pgstore.inode SET parent = $3 WHERE store_id = $1 AND ino::bigint = $2 AND version_to = {LIVE}",
    "int8 int8 int8",
)
# In directories $2 names came and went.
TOUCH = Statement(
    f"""
    UPDATE pgstore.inode
       SET mtime_ns = greatest(mtime_ns, $3), ctime_ns = greatest(ctime_ns, $3)
     WHERE store_id::numeric = $1::numeric
       AND ctid = {inode_places("pg_catalog.unnest($2) AS u (ino)", "u.ino")}
    """,
    "int8 int8[] int8",
)
ADD_LINKS = Statement(
    f"""
    UPDATE pgstore.inode
       SET link_count = greatest(link_count::integer + $3, 0), ctime_ns = $4
     WHERE store_id::numeric = $1::numeric
       AND ctid = {inode_places("pg_catalog.unnest($2) AS u (ino)", "u.ino")}
    """,
    "int8 int8[] int8 int8",
)
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
                    END
     WHERE store_id = $1
       AND ino::bigint = $2
       AND version_to = {LIVE}
    """,
    "int8 int8 int4 int4 int4 int8 int8 jsonb",
)


def grouped(links: Iterable[tuple[int, int]]) -> Iterable[tuple[int, list[int]]]:
    """Inodes by the number of names that they gain or lose; nearly always by one."""
    groups: dict[int, list[int]] = {}
    for ino, names in links:
        groups.setdefault(names, []).append(ino)
    return groups.items()


def attribute_query(store_id: int, ino: int, attributes: Mapping[str, Any], now_ns: int) -> Query:
    """Set columns of a live inode, named as in the table."""
    values = [attributes.get(name) for name in ("mode", "uid", "gid", "mtime_ns")]
    xattrs = attributes.get("xattrs")
    return Query(SET_ATTRIBUTES, store_id, ino, *values, now_ns, json.dumps(xattrs) if xattrs else None)
