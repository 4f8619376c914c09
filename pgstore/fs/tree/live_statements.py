"""Statements that change names and attributes of a NetworkFileSystem, for `live_nodes`: one of them is one commit.

Each tells by its last parameters what it has changed (`fs.notifications`). Those that end in `_AT_ONCE` do the common case of a
verb, and give no row where it does not apply; the others call functions in the database (see "names of a NetworkFileSystem" in
sql/schema.sql).
"""

from __future__ import annotations

from typing import Final

from pgstore.core.statement import Statement
from pgstore.fs.model import LIVE
from pgstore.fs.notifications import TELL
from pgstore.fs.tree.node_rows import STORED_COLUMNS

_SET_ASYNC_COMMIT: Final = "set_config('synchronous_commit', 'off', true)"
ATTRIBUTES: Final = ("mode", "uid", "gid", "atime_ns", "mtime_ns")


def _telling(call: str, inodes: str, key: int) -> str:
    """The statement that calls *call* and tells of what that has changed, by its last three parameters, from *key* on."""
    tell = TELL.format(key=f"${key}", notice=f"${key + 1} || {inodes} || ${key + 2}")
    return f"SELECT r.*, CASE WHEN r.refused = 0 THEN {tell} END FROM {call} r"


def _in_directory(condition: str, now: str) -> str:
    """
    Update the times of directory $2, if *condition* holds: what else a statement does comes after it, and only if it did.

    So it is the lock of the directory's names. *condition* is about what was there when the statement began.
    """
    return f"""
         UPDATE pgstore.inode AS i
            SET mtime_ns = greatest(i.mtime_ns, {now}),
                ctime_ns = greatest(i.ctime_ns, {now})
          WHERE i.store_id = $1
            AND i.ino::bigint = $2
            AND i.version_to = {LIVE}
            AND i.kind::"char" = 'd'
            AND {condition}
         RETURNING i.ino"""


def _name(column: str, name: str, *, kind: str = "") -> str:
    """*column* of the row of *name* in directory $2, if it leads to anything but a directory; or whatever it leads to."""
    return f"""(SELECT {column}
                  FROM pgstore.dirent d
                 WHERE d.store_id = $1
                   AND d.parent = $2
                   AND d.name::bytea = {name}
                   AND d.version_to = {LIVE}{kind})"""


_NO_DIRECTORY: Final = " AND d.kind <> 'd'"

MAKE_AT_ONCE = Statement(
    f"""
    WITH above AS ({_in_directory(f"NOT EXISTS {_name('', '$3')}", "$12")}
    ), made AS (
         INSERT INTO pgstore.inode
                (store_id, ino, kind, mode, uid, gid, device, link_target, inline_data, size_bytes, mtime_ns, ctime_ns, parent)
         SELECT $1, $4, $5, $6, $7, $8, $9, $10, $11, coalesce(octet_length($10), octet_length($11), 0), $12, $12,
                CASE $5 WHEN 'd' THEN $2 END
           FROM above
    ), named AS (
         INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind)
         SELECT $1, $2, $3, $4, $5
           FROM above
         RETURNING 0 AS refused
    )
    SELECT n.refused,
           {TELL.format(key="$14", notice="$15 || $16")},
           CASE WHEN $13 THEN {_SET_ASYNC_COMMIT} END
      FROM named n
    """,
    "int8 int8 bytea int8 char int4 int8 int8 int8 bytea bytea int8 bool int4 text text",
)
LINK_AT_ONCE = Statement(
    f"""
    WITH above AS ({_in_directory(f"NOT EXISTS {_name('', '$4')}", "$5")}
    ), linked AS (
         UPDATE pgstore.inode AS i
            SET link_count = i.link_count::integer + 1,
                ctime_ns = $5
          WHERE i.store_id = $1
            AND i.ino::bigint = $3
            AND i.version_to = {LIVE}
            AND i.kind::"char" <> 'd'
            AND i.link_count::integer > 0
            AND EXISTS (SELECT FROM above)
         RETURNING i.kind::"char", {STORED_COLUMNS}
    ), named AS (
         INSERT INTO pgstore.dirent (store_id, parent, name, ino, kind)
         SELECT $1, $2, $4, $3, l.kind
           FROM linked l
    )
    SELECT {TELL.format(key="$7", notice="$8 || ',' || $3::text || $9")},
           CASE WHEN $6 THEN {_SET_ASYNC_COMMIT} END,
           l.*
      FROM linked l
    """,
    "int8 int8 int8 bytea int8 bool int4 text text",
)
REMOVE_AT_ONCE = Statement(
    f"""
    WITH above AS ({_in_directory(f"EXISTS {_name('', '$3', kind=_NO_DIRECTORY)}", "$5")}
    ), removed AS (
         DELETE FROM pgstore.dirent AS d
          WHERE d.store_id = $1
            AND d.parent = $2
            AND d.name::bytea = $3
            AND d.version_to = {LIVE}{_NO_DIRECTORY}
            AND EXISTS (SELECT FROM above)
         RETURNING d.ino
    ), unlinked AS (
         UPDATE pgstore.inode AS i
            SET link_count = greatest(i.link_count::integer - 1, 0),
                ctime_ns = $5
          WHERE i.store_id = $1
            AND i.ino::bigint = (SELECT r.ino FROM removed r)
            AND i.version_to = {LIVE}
    )
    SELECT 0,
           r.ino,
           {TELL.format(key="$7", notice="$8 || ',' || r.ino::text || $9")},
           CASE WHEN $6 THEN {_SET_ASYNC_COMMIT} END
      FROM removed r
    """,
    "int8 int8 bytea bool int8 bool int4 text text",
)
# Within a directory, to a name that nothing has.
RENAME_AT_ONCE = Statement(
    f"""
    WITH above AS ({
        _in_directory(f"EXISTS {_name('', '$3', kind=_NO_DIRECTORY)} AND NOT EXISTS {_name('', '$5')}", "$7")
    }
    ), renamed AS (
         UPDATE pgstore.dirent AS d
            SET name = $5
          WHERE d.store_id = $1
            AND d.parent = $2
            AND d.name::bytea = $3
            AND d.version_to = {LIVE}{_NO_DIRECTORY}
            AND EXISTS (SELECT FROM above)
         RETURNING d.ino
    )
    SELECT 0,
           r.ino,
           NULL::bigint,
           {TELL.format(key="$9", notice="concat($10, ',', r.ino, $11)")},
           CASE WHEN $8 THEN {_SET_ASYNC_COMMIT} END
      FROM renamed r
    """,
    "int8 int8 bytea int8 bytea int4 int8 bool int4 text text",
)
MAKE = Statement(
    _telling(
        "(SELECT pgstore.node_make($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS refused OFFSET 0)",
        "''",
        15,
    ),
    "int8 int8 bytea int8 char int4 int8 int8 int8 bytea bytea int8 bool bool int4 text text",
)
LINK = Statement(
    _telling("(SELECT pgstore.node_link($1, $2, $3, $4, $5, $6) AS refused OFFSET 0)", "',' || $2::text", 7),
    "int8 int8 int8 bytea int8 bool int4 text text",
)
REMOVE = Statement(
    _telling("pgstore.node_remove($1, $2, $3, $4, $5, $6)", "',' || r.ino::text", 7),
    "int8 int8 bytea bool int8 bool int4 text text",
)
RENAME = Statement(
    _telling(
        "pgstore.node_rename($1, $2, $3, $4, $5, $6, $7, $8)",
        "concat(',', r.ino, ',' || r.replaced::text, ',' || $4::text)",
        9,
    ),
    "int8 int8 bytea int8 bytea int4 int8 bool int4 text text",
)
# And what they were before. Not locked: if others change them in the same moment it may be what they were before that.
SET_ATTRIBUTES = Statement(
    f"""
    WITH before AS (
         SELECT i.mode, i.uid, i.gid, i.atime_ns, i.mtime_ns
           FROM pgstore.inode i
          WHERE i.store_id = $1
            AND i.ino::bigint = $2
            AND i.version_to = {LIVE}
    ), changed AS (
         UPDATE pgstore.inode AS i
            SET mode = coalesce($3, mode),
                uid = coalesce($4, uid),
                gid = coalesce($5, gid),
                mtime_ns = coalesce($6, mtime_ns),
                ctime_ns = $7,
                atime_ns = coalesce($8, atime_ns)
          WHERE i.store_id = $1
            AND i.ino::bigint = $2
            AND i.version_to = {LIVE}
         RETURNING i.kind, {STORED_COLUMNS}
    )
    SELECT {TELL.format(key="$9", notice="$10 || $11")}, c.*, b.*
      FROM changed c
     CROSS JOIN before b
    """,
    "int8 int8 int4 int8 int8 int8 int8 int8 int4 text text",
)


def _again(column: str, new: int, before: int) -> tuple[str, str]:
    """Whether *column* is to be set once more, to parameter *new*, as it is what it was *before*; and to what it is set."""
    condition = f"${new} IS NOT NULL AND i.{column}::bigint IS NOT DISTINCT FROM ${before}::bigint"
    return f"({condition})", f"{column} = CASE WHEN {condition} THEN ${new} ELSE i.{column} END"


_AGAIN: Final = [_again(column, 3 + at, 8 + at) for at, column in enumerate(ATTRIBUTES)]
SET_ATTRIBUTES_AGAIN = Statement(
    f"""
    WITH changed AS (
         UPDATE pgstore.inode AS i
            SET {", ".join(setting for _, setting in _AGAIN)},
                ctime_ns = $13
          WHERE i.store_id = $1
            AND i.ino::bigint = $2
            AND i.version_to = {LIVE}
            AND ({" OR ".join(condition for condition, _ in _AGAIN)})
         RETURNING 1
    )
    SELECT {TELL.format(key="$14", notice="$15 || $16")}
      FROM changed c
    """,
    "int8 int8 int4 int8 int8 int8 int8 int4 int8 int8 int8 int8 int8 int4 text text",
)
