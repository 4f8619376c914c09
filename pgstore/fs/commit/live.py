"""Commits to a NetworkFileSystem: there is one state, which is changed in place.

Names come and go under the locks of their directories, so that work in different directories never waits. A file that has lost its
last name stays until nobody can have it open (`fs.retention.collection`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pgstore import errors
from pgstore.core.operation import Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.commit.apply import Plan
from pgstore.fs.commit.change_set import Change, Removal, conflict
from pgstore.fs.commit.merge import NAMES_NOW, MergingChanges
from pgstore.fs.commit.statements import (
    ADD_LINKS,
    BELOW,
    OTHERS_BELOW,
    TAKE_NAMES,
    attribute_query,
    grouped,
    inode_ctids,
    lock_inodes,
)
from pgstore.fs.model import DIRECTORY, LIVE
from pgstore.fs.notifications import tell_inodes, telling_inodes
from pgstore.fs.paths import join
from pgstore.store.registry import EXISTS

# Nobody adds or removes a name in a locked directory. Always in the order of their numbers: nobody waits in a circle.
LOCK_INODES = lock_inodes("FOR UPDATE")
# Moves of directories happen one after the other: of two at once each could move its directory below the other's. No row: the file
# system was deleted.
LOCK_MOVES = Statement("SELECT 1 FROM pgstore.file_system WHERE store_id = $1 FOR UPDATE", "int8")
# Directories $2 and all below them, in the order of their numbers. Nothing comes into a directory that is locked. One row: how many
# they are, and a sum that differs if they are others.
LOCK_BELOW = Statement(
    f"""
    {BELOW}
    SELECT count(*), coalesce(bit_xor(hashint8extended(l.ino::bigint, 0::bigint)), 0)
      FROM (SELECT i.ino
              FROM (SELECT ino FROM below WHERE kind = '{DIRECTORY}' ORDER BY ino) b
             CROSS JOIN LATERAL (
                   SELECT n.ino
                     FROM pgstore.inode n
                    WHERE n.store_id = $1
                      AND n.ino::bigint = b.ino
                      AND n.version_to = {LIVE}
                    LIMIT 1
                      FOR UPDATE) i) l
    """,
    "int8 int8[]",
)
# Files below directories $2 lose their last name, but not $3, which have others. Rows: the files that were not found by their ctid,
# because a write to the file has moved its row meanwhile.
UNLINK_FILES = Statement(
    f"""
    {BELOW}, file AS MATERIALIZED (
         SELECT b.ino, i.ctid
           FROM {OTHERS_BELOW.format(3)}
          CROSS JOIN LATERAL (
                SELECT n.ctid
                  FROM pgstore.inode n
                 WHERE n.store_id = $1
                   AND n.ino::bigint = b.ino
                   AND n.version_to = {LIVE}
                 LIMIT 1) i
          WHERE b.kind <> '{DIRECTORY}'
    ), unlinked AS (
         UPDATE pgstore.inode
            SET link_count = 0, ctime_ns = $4
          WHERE store_id + 0::bigint = $1
            AND ctid = ANY (ARRAY(SELECT ctid FROM file))
         RETURNING ino
    )
    SELECT ino FROM file
    EXCEPT
    SELECT ino FROM unlinked
    """,
    "int8 int8[] int8[] int8",
)
ADD_LINKS_TO_ONE = Statement(
    f"""
    UPDATE pgstore.inode
       SET link_count = greatest(link_count::integer + $3, 0), ctime_ns = $4
     WHERE store_id = $1
       AND ino::bigint = $2
       AND version_to = {LIVE}
    """,
    "int8 int8 int8 int8",
)
# Directories $2 with all directories and names below them; the files have lost their names already.
REMOVE_TREES = Statement(
    f"""
    {BELOW}, dropped AS (
         DELETE FROM pgstore.dirent
          WHERE store_id + 0::bigint = $1
            AND ctid = ANY (ARRAY(SELECT ctid FROM below WHERE ctid IS NOT NULL))
    )
    DELETE FROM pgstore.inode
     WHERE store_id + 0::bigint = $1
       AND ctid = {inode_ctids("below b", "b.ino", f"b.kind = '{DIRECTORY}'")}
    """,
    "int8 int8[]",
)
# Those of the files $2 that have a name. Nobody takes it from them before our commit.
LOCK_NAMED = Statement(
    f"""
    SELECT i.ino
      FROM pg_catalog.unnest($2) AS u (ino)
     CROSS JOIN LATERAL (
           SELECT n.ino
             FROM pgstore.inode n
            WHERE n.store_id = $1
              AND n.ino::bigint = u.ino
              AND n.version_to = {LIVE}
              AND n.link_count::integer > 0
            LIMIT 1
              FOR UPDATE) i
    """,
    "int8 int8[]",
)
LOCK_ROUNDS_MAX = 100
ONE_BY_ONE_MAX = 10  # inodes are updated by key, which needs no lock before, if they are so many at most


class LiveChanges(MergingChanges):
    """The change set of a NetworkFileSystem."""

    in_place = True
    _row_version = 0  # there is one state, and it has always been there

    def set_attributes(self, ino: int, kind: str, attributes: Mapping[str, Any], path: tuple[bytes, ...]) -> Op[None]:
        """Those of a file are changed at once, as its bytes are: nobody waits but those who change the same file."""
        if kind == DIRECTORY:
            yield from super().set_attributes(ino, kind, attributes, path)
        else:
            change = attribute_query(self.store_id, ino, attributes, time.time_ns())
            if not (yield from telling_inodes(change, self.store_id, [ino])):
                raise errors.FileMissing(f"{join(path)!r} was removed by another transaction", join(path))

    def _lock(self, changes: list[tuple[int, bytes, Change]], lookup: Query) -> Op[Rows]:
        parents = {parent for parent, _, _ in changes}
        sources = {parent for parent, _ in self._linked}  # locked, so that the linked files keep the names we saw
        removed = {
            change.removed.ino
            for _, _, change in changes
            if change.removed is not None and change.removed.kind == DIRECTORY and change.removed.how != "moved"
        }
        queries = [
            Query(LOCK_INODES, self.store_id, sorted(parents | sources | removed | self._attributes.keys())),
            lookup,
        ]
        if self._moved:
            queries.insert(0, Query(LOCK_MOVES, self.store_id))
        if self._linked:
            queries.append(Query(NAMES_NOW, self.store_id, *zip(*self._linked, strict=True)))
        if self._named_again:  # after the directories, as whoever removes a name locks the file
            queries.append(Query(LOCK_NAMED, self.store_id, sorted(self._named_again)))
        results = yield Many([*self.take_deferred(), *queries])
        if self._named_again:
            for ino in self._named_again.difference(row[0] for row in results.pop()):
                raise self._file_is_gone(ino)
        still = results.pop() if self._linked else []
        *_, locked, rows = results
        gone = (parents | self._attributes.keys()).difference(row[0] for row in locked)
        for ino in gone:
            if not (yield Query(EXISTS, self.store_id)):
                raise self.missing()
            if ino not in parents:
                raise self._file_is_gone(ino)
            raise conflict(
                f"directory {self._path(ino)!r} was removed by another transaction while this one changed it"
            )
        if self._linked:
            linked = list(self._linked.items())
            self._check_linked(linked[position - 1][0] for position, ino, _ in still if ino == linked[position - 1][1])
        return rows  # type: ignore[no-any-return]

    def _lock_merged(self, directories: list[int]) -> Op[None]:
        yield Query(LOCK_INODES, self.store_id, sorted(directories))

    def _plan_removal(
        self, plan: Plan, parent: int, name: bytes, removed: Removal, now: tuple[int, str] | None
    ) -> None:
        if removed.kind == DIRECTORY and now is not None and now[0] != removed.ino:
            # It is not the one that we have locked.
            raise conflict(f"directory {self._path(parent, name)!r} was replaced by another transaction")
        super()._plan_removal(plan, parent, name, removed, now)

    def _tell(self, plan: Plan) -> Op[None]:
        changed = self._changed_parents(plan) | self._attributes.keys() | self._moved.keys() | set(plan.trees)
        names = None  # of what is merged they are only known to the database
        if not plan.merges:
            parents = self._names.keys() - self._created_here
            names = [(parent, name) for parent in parents for name in self._names[parent]]
        yield from tell_inodes(self.store_id, changed.union(ino for ino, _ in plan.changed_links), names)

    def _lock_trees(self, trees: list[int]) -> Op[None]:
        """
        Lock all directories below *trees*, until a look finds no more of them.

        It ends: nothing comes into a directory that is locked.
        """
        if not trees:
            return
        before = None
        for _ in range(LOCK_ROUNDS_MAX):
            (locked,) = yield Query(LOCK_BELOW, self.store_id, trees)
            if locked == before:
                return
            before = locked
        raise conflict("others kept moving directories into one that was being removed")

    def _unlink_files(self, trees: list[int], linked: list[int]) -> Op[None]:
        """
        Set link_count to 0 for the files below *trees*, but not for *linked*.

        Their names are locked with their directories, but their rows are not. If a write to a file moves its row to another ctid,
        an UPDATE by ctid that has waited for the write misses the row; it is then updated by key. Source:
        https://www.postgresql.org/docs/current/transaction-iso.html#XACT-READ-COMMITTED
        """
        if trees:
            now_ns = time.time_ns()
            missed = yield Query(UNLINK_FILES, self.store_id, trees, linked, now_ns)
            if missed:
                yield Many([Query(ADD_LINKS_TO_ONE, self.store_id, ino, -1, now_ns) for (ino,) in missed])

    def _close_names(self, names: list[tuple[int, bytes]]) -> list[Query]:
        return [Query(TAKE_NAMES, self.store_id, *zip(*names, strict=True))] if names else []

    def _end_trees(self, trees: list[int], linked: list[int]) -> list[Query]:
        return [Query(REMOVE_TREES, self.store_id, trees)]

    def _change_links(self, plan: Plan, changed: set[int], now_ns: int) -> list[Query]:
        links = plan.changed_links
        if len(links) <= ONE_BY_ONE_MAX:
            return [Query(ADD_LINKS_TO_ONE, self.store_id, ino, names, now_ns) for ino, names in links]
        return [
            Query(LOCK_INODES, self.store_id, [ino for ino, _ in links]),
            *(Query(ADD_LINKS, self.store_id, inos, names, now_ns) for names, inos in grouped(links)),
        ]
