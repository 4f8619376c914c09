"""Applying: how the plan of a commit becomes rows.

The order is the same with versions and without: names that go, trees that go, names that come, then what changes of inodes. What
differs is left to `volume` and `live`.
"""

from __future__ import annotations

import abc
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pgstore.core.operation import Query
from pgstore.core.statement import Statement
from pgstore.fs.candidates import note_blobs
from pgstore.fs.commit.change_set import ChangeSet
from pgstore.fs.commit.statements import BELOW, OTHERS_BELOW, TAKE_NAMES, attribute_queries, grouped, inode_ctids
from pgstore.fs.model import DIRECTORY, LIVE


class Plan:
    """What a commit will write. *made*: inodes that were made in the transaction, and their kinds."""

    def __init__(self, made: Mapping[int, str]) -> None:
        self.links: Counter[int] = Counter()  # how many names inodes gain; negative: lose
        self.kinds: dict[int, str] = {}
        self.closes: list[tuple[int, bytes]] = []  # names that go
        self.inserts: list[tuple[int, bytes, int, str]] = []  # names that come
        self.drops: list[tuple[int, bytes]] = []  # names of new directories in new directories, when both are merged
        self.merges: list[tuple[int, int, tuple[bytes, ...]]] = []  # the new directory, the existing one, path
        self.merged: dict[int, int] = {}  # the same, by the new directory
        self.emptied: dict[int, tuple[bytes, ...]] = {}  # directories that must be empty, with their paths
        self.made = dict(made)
        for ino, kind in self.made.items():
            self.link(ino, kind, -1)  # the row was made with link_count 1, for the name that `insert` counts

    def link(self, ino: int, kind: str, names: int) -> None:
        self.links[ino] += names
        self.kinds[ino] = kind

    def close(self, parent: int, name: bytes, ino: int, kind: str) -> None:
        self.closes.append((parent, name))
        self.link(ino, kind, -1)

    def merge(self, ours: int, theirs: int, path: tuple[bytes, ...]) -> None:
        self.merges.append((ours, theirs, path))
        self.merged[ours] = theirs

    def insert(self, parent: int, name: bytes, ino: int, kind: str) -> None:
        self.inserts.append((parent, name, ino, kind))
        self.link(ino, kind, +1)

    @property
    def trees(self) -> list[int]:
        """Directories that existed before the transaction and lose their name."""
        return [
            ino
            for ino, names in self.links.items()
            if names < 0 and self.kinds[ino] == DIRECTORY and ino not in self.merged and ino not in self.made
        ]

    @property
    def unwanted(self) -> list[int]:
        """Inodes that the transaction made and that have no name in the end."""
        return [ino for ino, kind in self.made.items() if self.links[ino] < 0 and ino not in self.merged]

    @property
    def changed_links(self) -> list[tuple[int, int]]:
        """
        Files that existed before the transaction, or have several names, and how many they gain or lose.

        Sorted: two who lock inodes in one order do not wait for each other in a circle.
        """
        return sorted(
            (ino, names)
            for ino, names in self.links.items()
            if names and self.kinds[ino] != DIRECTORY and not (names < 0 and ino in self.made)
        )


# Directories and files $2 with all below them, which nobody else has seen, leave no trace; files $3, which have other names, stay.
DELETE_TREES = Statement(
    f"""
    {BELOW}, dropped AS (
         DELETE FROM pgstore.dirent
          WHERE store_id + 0::bigint = $1
            AND ctid = ANY (ARRAY(SELECT ctid FROM below WHERE ctid IS NOT NULL))
    ), gone AS (
         DELETE FROM pgstore.inode
          WHERE store_id + 0::bigint = $1
            AND ctid = {inode_ctids(OTHERS_BELOW.format(3), "b.ino")}
         RETURNING blob_id
    )
    {note_blobs("gone")}
    """,
    "int8 int8[] int8[]",
)
# The names in directory $3 become names in directory $4, which it is merged into.
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
INSERT_NAMES = Statement(
    """
    INSERT INTO pgstore.dirent (store_id, parent, name, version_from, ino, kind)
    SELECT $1, u.parent, u.name, $2, u.ino, u.kind
      FROM unnest($3, $4, $5, $6) AS u (parent, name, ino, kind)
    """,
    "int8 int8 int8[] bytea[] int8[] char[]",
)
SET_PARENT = Statement(
    f"UPDATE pgstore.inode SET parent = $3 WHERE store_id = $1 AND ino::bigint = $2 AND version_to = {LIVE}",
    "int8 int8 int8",
)
# Directories that `MOVE_NAMES` moved from directory $2 into directory $3 have that as their parent.
MOVE_PARENTS = Statement(
    f"""
    UPDATE pgstore.inode
       SET parent = $3
     WHERE store_id + 0::bigint = $1
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
              AND d.kind = '{DIRECTORY}'))
    """,
    "int8 int8 int8",
)
DELETE_INODES = Statement(
    f"""
    DELETE FROM pgstore.inode
     WHERE store_id + 0::bigint = $1
       AND ctid = {inode_ctids("pg_catalog.unnest($2) AS u (ino)", "u.ino")}
    """,
    "int8 int8[]",
)
# Names in directories $2 have changed.
TOUCH = Statement(
    f"""
    UPDATE pgstore.inode
       SET mtime_ns = greatest(mtime_ns, $3), ctime_ns = greatest(ctime_ns, $3)
     WHERE store_id + 0::bigint = $1
       AND ctid = {inode_ctids("pg_catalog.unnest($2) AS u (ino)", "u.ino")}
    """,
    "int8 int8[] int8",
)


class ApplyingChanges(ChangeSet):
    """A change set that writes a plan; subclasses know how with versions, or without."""

    def _apply(self, plan: Plan, trees: list[int], unwanted: list[int], linked: list[int]) -> list[Query]:
        """
        The queries that write *plan*.

        Args:
            trees, unwanted: what goes with all below it; see `Plan`.
            linked: files below these that have other names; what they lose is in the plan's links.
        """
        store_id, version, now_ns = self.store_id, self._row_version, time.time_ns()
        queries = self._close_names(plan.closes)

        def do(statement: Statement, *values: Any) -> None:
            queries.append(Query(statement, store_id, *values))

        if trees:
            queries += self._end_trees(trees, linked)
        if unwanted:
            do(DELETE_TREES, unwanted, linked)
        if plan.drops:
            do(TAKE_NAMES, *zip(*plan.drops, strict=True))
        for ours, theirs, _ in plan.merges:
            do(MOVE_NAMES, version, ours, theirs)
        if plan.inserts:
            do(INSERT_NAMES, version, *zip(*plan.inserts, strict=True))
        parents, moved = self._changed_parents(plan), self._moved_to(plan) if self._moved else {}
        if self._touched_at:  # also where names came and went
            parents |= self._touched_at.keys() - self._created_here
        queries += self._change_links(plan, parents | moved.keys(), now_ns)
        for ino, parent in moved.items():
            do(SET_PARENT, ino, parent)
        for ours, theirs, _ in plan.merges:
            do(MOVE_PARENTS, ours, theirs)
        if plan.merges:
            do(DELETE_INODES, [merge[0] for merge in plan.merges])
        for at_ns, inos in grouped((ino, self._touched_at.get(ino, now_ns)) for ino in parents):
            do(TOUCH, inos, at_ns)
        for ino, new in self._attributes.items():
            queries += attribute_queries(store_id, ino, new, now_ns)
        return queries

    def _moved_to(self, plan: Plan) -> dict[int, int]:
        """Directories that were moved and not removed, and where they are now."""
        return {
            ino: plan.merged.get(parent, parent)
            for ino, parent in sorted(self._moved.items())
            if plan.links.get(ino, 0) >= 0
        }

    def _changed_parents(self, plan: Plan) -> set[int]:
        """Directories that existed before the transaction, and in which names come or go."""
        return (self._names.keys() - self._created_here) | set(plan.merged.values())

    # --------------------------------------------------------------------------------------------- what subclasses do

    @property
    @abc.abstractmethod
    def _row_version(self) -> int:
        """The version since which new names are valid."""

    @abc.abstractmethod
    def _close_names(self, names: list[tuple[int, bytes]]) -> list[Query]:
        """Remove *names*, each given with its directory."""

    @abc.abstractmethod
    def _end_trees(self, trees: list[int], linked: list[int]) -> list[Query]:
        """Remove the directories *trees* with all below them but the files *linked*."""

    @abc.abstractmethod
    def _change_links(self, plan: Plan, changed: set[int], now_ns: int) -> list[Query]:
        """
        Let files gain and lose names, and end with the last one.

        Args:
            changed: directories that existed before the transaction, of which an attribute changes.
        """
