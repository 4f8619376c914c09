"""Writing changes to a NetworkFileSystem: there is one state, changed in place.

Names come and go under the locks of the directories that they are in, so that work in different directories never waits. A file
without a name stays until nobody can have it open (`collect`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pgstore import errors
from pgstore.core.operation import Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.files.changes import LIVE, Change, Removal, conflict
from pgstore.files.merge import (
    ADD_LINKS,
    BELOW,
    DELETE_INODES,
    DELETE_TREES,
    INSERT_NAMES,
    MOVE_NAMES,
    SET_PARENT,
    TAKE_NAMES,
    TELL_PARENT,
    TOUCH,
    MergingChanges,
    Plan,
    attribute_query,
    inode_places,
)

# Directories $2, in an order that is the same for everybody. One that is missing in the result is gone.
LOCK_DIRECTORIES = Statement(
    f"""
    SELECT i.ino
      FROM unnest($2) AS u (ino)
     CROSS JOIN LATERAL (
           SELECT n.ino
             FROM pgstore.inode n
            WHERE n.store_id = $1
              AND n.ino = u.ino
              AND n.version_to = {LIVE}
            LIMIT 1
              FOR UPDATE) i
    """,
    "int8 int8[]",
)
# Two who move directories at once could each move one into the other's. No row: the file system was deleted.
LOCK_MOVES = Statement("SELECT 1 FROM pgstore.file_system WHERE store_id = $1 FOR UPDATE", "int8")
LOCK_BELOW = Statement(
    f"""
    {BELOW}
    SELECT count(*)
      FROM (SELECT i.ino
              FROM (SELECT ino FROM below WHERE kind = 'd' ORDER BY ino) b
             CROSS JOIN LATERAL (
                   SELECT n.ino
                     FROM pgstore.inode n
                    WHERE n.store_id = $1
                      AND n.ino = b.ino
                      AND n.version_to = {LIVE}
                    LIMIT 1
                      FOR UPDATE) i) l
    """,
    "int8 int8[]",
)
# Directories $2 with all below them; files $3, which have other names, stay.
REMOVE_TREES = Statement(
    f"""
    {BELOW}, dropped AS (
         DELETE FROM pgstore.dirent
          WHERE store_id = $1::numeric
            AND ctid = ANY (ARRAY(SELECT place FROM below WHERE place IS NOT NULL))
    ), directories AS (
         DELETE FROM pgstore.inode
          WHERE store_id = $1::numeric
            AND ctid = {inode_places("below b", "b.ino", "b.kind = 'd'")}
    )
    UPDATE pgstore.inode
       SET link_count = 0, ctime_ns = $4
     WHERE store_id = $1::numeric
       AND ctid = {inode_places("below b", "b.ino", "b.kind <> 'd' AND b.ino <> ALL ($3)")}
    """,
    "int8 int8[] int8[] int8",
)
EXISTS = Statement("SELECT 1 FROM pgstore.file_system WHERE store_id = $1", "int8", reads=True)

LOCK_ROUNDS_MAX = 100


class LiveChanges(MergingChanges):
    """The change set of a NetworkFileSystem."""

    in_place = True

    def set_attributes(self, ino: int, attributes: Mapping[str, Any]) -> Op[None]:
        """At once: that makes nobody wait but those who change the same inode."""
        if not (yield attribute_query(self.store_id, ino, attributes, time.time_ns())):
            raise errors.FileMissing(f"inode {ino} was removed by another transaction")

    def _lock(self, changes: list[tuple[int, bytes, Change]], look: Query) -> Op[Rows]:
        parents = {parent for parent, _, _ in changes}
        removed = {
            change.removed.ino
            for _, _, change in changes
            if change.removed is not None and change.removed.kind == "d" and change.removed.how != "moved"
        }
        queries = [Query(LOCK_DIRECTORIES, self.store_id, sorted(parents | removed)), look]
        if self._moved:
            queries.insert(0, Query(LOCK_MOVES, self.store_id))
        *_, locked, rows = yield Many(queries)
        for ino in parents.difference(row[0] for row in locked):
            if not (yield Query(EXISTS, self.store_id)):
                raise self.missing()
            raise conflict(f"directory {self._path(ino)!r} was removed by another transaction")
        return rows  # type: ignore[no-any-return]

    def _lock_merged(self, directories: list[int]) -> Op[None]:
        yield Query(LOCK_DIRECTORIES, self.store_id, sorted(directories))

    def _plan_removal(
        self, plan: Plan, parent: int, name: bytes, removed: Removal, now: tuple[int, str] | None
    ) -> None:
        if removed.kind == "d" and now is not None and now[0] != removed.ino:
            # Not the one that we have locked.
            raise conflict(f"directory {self._path(parent, name)!r} was replaced by another transaction")
        super()._plan_removal(plan, parent, name, removed, now)

    def _lock_trees(self, trees: list[int]) -> Op[None]:
        """Lock all directories below: nothing comes into one that is locked, so that at some point there are no more of them."""
        before = None
        for _ in range(LOCK_ROUNDS_MAX if trees else 0):
            ((locked,),) = yield Query(LOCK_BELOW, self.store_id, trees)
            if locked == before:
                return
            before = locked

    def _close_names(self, names: list[tuple[int, bytes]]) -> list[Query]:
        return [Query(TAKE_NAMES, self.store_id, *zip(*names, strict=True))] if names else []

    def _apply(self, plan: Plan, linked: list[int]) -> list[Query]:
        store_id, now_ns = self.store_id, time.time_ns()
        queries = self._close_names(plan.closes)

        def do(statement: Statement, *values: Any) -> None:
            queries.append(Query(statement, store_id, *values))

        if plan.trees:
            do(REMOVE_TREES, plan.trees, linked, now_ns)
        if plan.unwanted:
            do(DELETE_TREES, plan.unwanted, linked)
        if plan.drops:
            do(TAKE_NAMES, *zip(*plan.drops, strict=True))
        for ours, theirs, _ in plan.merges:
            do(MOVE_NAMES, 0, ours, theirs)
        if plan.inserts:
            do(INSERT_NAMES, 0, *zip(*plan.inserts, strict=True))
        for ino, names in plan.changed_links:
            do(ADD_LINKS, ino, names, now_ns)
        for ino, parent in self._moved.items():
            if plan.links.get(ino, 0) >= 0:
                do(SET_PARENT, ino, parent)
        for ours, theirs, _ in plan.merges:
            do(TELL_PARENT, ours, theirs)
        if plan.merges:
            do(DELETE_INODES, [merge[0] for merge in plan.merges])
        parents = self._changed_parents(plan)
        if parents:
            do(TOUCH, parents, now_ns)
        return queries
