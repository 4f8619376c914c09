"""Commits to a Volume: each makes one version.

The rows of the newest version have LIVE as their `version_to`. A commit ends those that it changes and inserts others, so that
every older version stays readable. An inode that changes gets a row for the new version first, equal to the old one
(`FORK_INODES`); what follows are ordinary UPDATEs of that row.
"""

from __future__ import annotations

from pgstore.core.operation import Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.candidates import note_blobs
from pgstore.fs.commit.apply import Plan
from pgstore.fs.commit.change_set import Change, check_version, conflict
from pgstore.fs.commit.merge import MergingChanges
from pgstore.fs.commit.statements import ADD_LINKS, BELOW, OTHERS_BELOW, grouped, inode_ctids, name_ctids
from pgstore.fs.model import LIVE, ROOT, STATE_COLUMNS, StoreGone
from pgstore.fs.notifications import telling_version

# Commits to one Volume happen one after the other, in the order of this lock. What is looked up after it, in the same message, is
# the newest version, and stays so until we commit. No row: the file system was deleted.
NEXT_VERSION = Statement("UPDATE pgstore.file_system SET head = head + 1 WHERE store_id = $1 RETURNING head", "int8")

GONE_INODES = Statement(
    f"""
    SELECT u.ino
      FROM pg_catalog.unnest($2) AS u (ino)
      LEFT JOIN LATERAL (
           SELECT 1 AS one
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino::bigint = u.ino
              AND i.version_to = {LIVE}
            LIMIT 1) i ON true
     WHERE i.one IS NULL
    """,
    "int8 int8[]",
    read_only=True,
)
# Directories $2 with all below them end with version $3. What this transaction has inserted in version $3 itself is deleted. Files
# $4, which have other names, stay.
CLOSE_TREES = Statement(
    f"""
    {BELOW}, dropped AS (
         DELETE FROM pgstore.dirent
          WHERE store_id + 0::bigint = $1
            AND ctid = ANY (ARRAY(SELECT ctid FROM below WHERE ctid IS NOT NULL AND version_from = $3))
    ), closed AS (
         UPDATE pgstore.dirent
            SET version_to = $3
          WHERE store_id + 0::bigint = $1
            AND ctid = ANY (ARRAY(SELECT ctid FROM below WHERE ctid IS NOT NULL AND version_from < $3))
    ), ended AS (
         UPDATE pgstore.inode
            SET version_to = $3
          WHERE store_id + 0::bigint = $1
            AND ctid = {inode_ctids(OTHERS_BELOW.format(4), "b.ino", "n.version_from < $3")}
    ), gone AS (
         DELETE FROM pgstore.inode
          WHERE store_id + 0::bigint = $1
            AND ctid = {inode_ctids(OTHERS_BELOW.format(4), "b.ino", "n.version_from = $3")}
         RETURNING blob_id
    )
    {note_blobs("gone")}
    """,
    "int8 int8[] int8 int8[]",
)
CLOSE_NAMES = Statement(
    f"""
    UPDATE pgstore.dirent
       SET version_to = $2
     WHERE store_id + 0::bigint = $1
       AND ctid = {name_ctids("unnest($3, $4)", "d.version_from < $2")}
    """,
    "int8 int8 int8[] bytea[]",
)
DELETE_NAMES = Statement(
    f"""
    DELETE FROM pgstore.dirent
     WHERE store_id + 0::bigint = $1
       AND ctid = {name_ctids("unnest($3, $4)", "d.version_from = $2")}
    """,
    "int8 int8 int8[] bytea[]",
)
# Those of the inodes $3 that have no name left when they gain $4 names (negative: lose) end with version $2.
CLOSE_INODES = Statement(
    f"""
    UPDATE pgstore.inode
       SET version_to = $2
     WHERE store_id + 0::bigint = $1
       AND ctid = {
        inode_ctids(
            "unnest($3, $4) AS u (ino, names)", "u.ino", "n.link_count::integer + u.names <= 0 AND n.version_from < $2"
        )
    }
    """,
    "int8 int8 int8[] int8[]",
)
# The same of inodes that this transaction has inserted in version $2 itself: they are deleted.
DROP_INODES = Statement(
    f"""
    WITH gone AS (
         DELETE FROM pgstore.inode
          WHERE store_id + 0::bigint = $1
            AND ctid = {
        inode_ctids(
            "unnest($3, $4) AS u (ino, names)", "u.ino", "n.link_count::integer + u.names <= 0 AND n.version_from = $2"
        )
    }
         RETURNING blob_id
    )
    {note_blobs("gone")}
    """,
    "int8 int8 int8[] int8[]",
)
# The inodes $3 get a row for version $2 that is equal to the one before.
FORK_INODES = Statement(
    f"""
    WITH closed AS (
         UPDATE pgstore.inode
            SET version_to = $2
          WHERE store_id + 0::bigint = $1
            AND ctid = {inode_ctids("pg_catalog.unnest($3) AS u (ino)", "u.ino", "n.version_from < $2")}
         RETURNING *
    )
    INSERT INTO pgstore.inode (store_id, ino, version_from, ctime_ns, {STATE_COLUMNS})
    SELECT $1, ino, $2, ctime_ns, {STATE_COLUMNS}
      FROM closed
    """,
    "int8 int8 int8[]",
)
# As NEXT_VERSION, and the version is there also if nothing else is written in it.
BEGIN_VERSION = Statement(
    """
    WITH locked AS (
         UPDATE pgstore.file_system
            SET head = head + 1
          WHERE store_id = $1
         RETURNING head)
    INSERT INTO pgstore.volume_version (store_id, version)
    SELECT $1, l.head
      FROM locked l
    RETURNING version
    """,
    "int8",
)
INSERT_VERSION = Statement(
    "INSERT INTO pgstore.volume_version (store_id, version) VALUES ($1, $2) ON CONFLICT DO NOTHING", "int8 int8"
)
# How many of the names $2 exist on the way from the root, and the version in which one of them, or the last inode, changed last.
CHANGED_AT = Statement(
    f"""
    WITH RECURSIVE walk AS (
         SELECT 0 AS step, {ROOT}::bigint AS ino, 0::bigint AS version
          UNION ALL
         SELECT w.step + 1, e.ino, greatest(w.version, e.version_from)
           FROM walk w
          CROSS JOIN LATERAL (
                SELECT d.ino, d.version_from
                  FROM pgstore.dirent d
                 WHERE d.store_id = $1
                   AND d.parent = w.ino
                   AND d.name::bytea = ($2)[w.step + 1]
                   AND d.version_to = {LIVE}
                 LIMIT 1) e
    )
    SELECT w.step, greatest(w.version, i.version_from)
      FROM walk w
     CROSS JOIN LATERAL (
           SELECT n.version_from
             FROM pgstore.inode n
            WHERE n.store_id = $1
              AND n.ino::bigint = w.ino
              AND n.version_to = {LIVE}
            LIMIT 1) i
     ORDER BY w.step DESC
     LIMIT 1
    """,
    "int8 bytea[]",
    read_only=True,
)


class VersionedChanges(MergingChanges):
    """The change set of a Volume."""

    in_place = False

    def _forget_everything(self) -> None:
        super()._forget_everything()
        self._version: int | None = None  # that this transaction makes; known when it has the lock
        self._repeated = False  # this transaction has written rows of that version before

    @property
    def _row_version(self) -> int:
        assert self._version is not None, "written without the lock"
        return self._version

    @property
    def version(self) -> int | None:
        return self._version

    def begin(self) -> Op[int]:
        """Take the lock now, unless that is done; return the version that the commit makes, whatever it changes."""
        if self._version is None:
            rows: Rows = yield Query(BEGIN_VERSION, self.store_id)
            if not rows:
                raise StoreGone
            self._set_version(rows[0][0])
        assert self._version is not None
        return self._version

    def begun(self, version: int) -> None:
        """Note that the transaction has taken the lock and writes *version*."""
        self._set_version(version)

    def _lock(self, changes: list[tuple[int, bytes, Change]], lookup: Query) -> Op[Rows]:
        """Take the lock and look up what is there, all in one round trip."""
        inodes = {parent for parent, _, _ in changes}
        inodes.update(self._attributes, self._linked.values(), self._named_again)
        queries = [Query(GONE_INODES, self.store_id, list(inodes)), lookup]
        self._repeated = self._version is not None
        if self._version is None:
            queries.insert(0, Query(NEXT_VERSION, self.store_id))
        *others, gone, rows = yield Many([*self.take_deferred(), *queries])
        if self._version is None:
            if not others[-1]:
                raise self.missing()
            self._set_version(others[-1][0][0])
        for (ino,) in gone:
            if ino in self._names:
                raise conflict(
                    f"directory {self._path(ino)!r} was removed by another transaction while this one changed it"
                )
            if ino not in self._made:
                raise self._file_is_gone(ino)
        return rows  # type: ignore[no-any-return]

    def _set_version(self, version: int) -> None:
        self._version = version
        if self._marked:
            self._journal.append(self._unset_version)

    def _unset_version(self) -> None:
        self._version = None

    def _check_versions(self, changes: list[tuple[int, bytes, Change]]) -> Op[None]:
        wanted = [
            ((*self.path_of(parent), name), change.if_version)
            for parent, name, change in changes
            if change.if_version is not None
        ]
        if wanted:
            found = yield Many([Query(CHANGED_AT, self.store_id, path) for path, _ in wanted])
            for (path, if_version), ((steps, changed_at),) in zip(wanted, found, strict=True):
                check_version(path, changed_at if steps == len(path) else None, if_version)

    def _close_names(self, names: list[tuple[int, bytes]]) -> list[Query]:
        if not names:
            return []
        columns = list(zip(*names, strict=True))
        queries = [Query(CLOSE_NAMES, self.store_id, self._version, *columns)]
        if self._repeated:
            queries.insert(0, Query(DELETE_NAMES, self.store_id, self._version, *columns))
        return queries

    def _end_trees(self, trees: list[int], linked: list[int]) -> list[Query]:
        return [Query(CLOSE_TREES, self.store_id, trees, self._version, linked)]

    def _change_links(self, plan: Plan, changed: set[int], now_ns: int) -> list[Query]:
        links = plan.changed_links
        queries = []
        if links:
            columns = list(zip(*links, strict=True))
            if self._repeated:
                queries.append(Query(DROP_INODES, self.store_id, self._version, *columns))
            queries.append(Query(CLOSE_INODES, self.store_id, self._version, *columns))
        forked = {ino for ino, _ in links if ino not in plan.made} | (changed - self._created_here)
        forked |= self._attributes.keys() - self._made.keys()
        if forked:
            queries.append(Query(FORK_INODES, self.store_id, self._version, list(forked)))
        queries += [Query(ADD_LINKS, self.store_id, inos, names, now_ns) for names, inos in grouped(links)]
        return queries

    def _apply(self, plan: Plan, trees: list[int], unwanted: list[int], linked: list[int]) -> list[Query]:
        return [
            *super()._apply(plan, trees, unwanted, linked),
            Query(INSERT_VERSION, self.store_id, self._version),
            telling_version(self.store_id, self._row_version),
        ]
