"""Merging: what the changes of a transaction come to, in the state that they meet at its commit.

Everything is looked up after the lock that keeps it as it is until the commit. The plan that comes out says which names and trees
go, which names are new, which inodes gain or lose names. It is written in one order, with `writing`; what differs with versions and
without is in `versioned` and `live`.
"""

from __future__ import annotations

import abc
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from pgstore import errors
from pgstore.core.operation import Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.files.changes import DIRECTORIES_BELOW, LIVE, ROOT, Change, ChangeSet, Removal, conflict
from pgstore.files.paths import join
from pgstore.files.writing import (
    BELOW,
    DELETE_INODES,
    DELETE_TREES,
    INSERT_NAMES,
    MOVE_NAMES,
    SET_PARENT,
    TAKE_NAMES,
    TELL_PARENT,
    TOUCH,
    attribute_query,
)

LOOKED_UP_AT_ONCE: Final = 10_000

NAMES_NOW = Statement(
    f"""
    SELECT u.position, d.ino, d.kind
      FROM unnest($2, $3) WITH ORDINALITY AS u (parent, name, position)
     CROSS JOIN LATERAL (
           SELECT e.ino, e.kind
             FROM pgstore.dirent e
            WHERE e.store_id = $1
              AND e.parent = u.parent
              AND e.name::bytea = u.name
              AND e.version_to = {LIVE}
            LIMIT 1) d
    """,
    "int8 int8[] bytea[]",
    reads=True,
)
# Names that directories $2 (ours) have in common with directories $3 (theirs), pair by pair.
COMMON_NAMES = Statement(
    f"""
    SELECT u.position, o.name, o.ino, o.kind, t.ino, t.kind
      FROM unnest($2, $3) WITH ORDINALITY AS u (ours, theirs, position)
     CROSS JOIN LATERAL (
           SELECT e.name, e.ino, e.kind
             FROM pgstore.dirent e
            WHERE e.store_id = $1
              AND e.parent = u.ours
              AND e.version_to = {LIVE}
           OFFSET 0) o
     CROSS JOIN LATERAL (
           SELECT e.ino, e.kind
             FROM pgstore.dirent e
            WHERE e.store_id = $1
              AND e.parent = u.theirs
              AND e.name::bytea = o.name::bytea
              AND e.version_to = {LIVE}
            LIMIT 1) t
    """,
    "int8 int8[] int8[]",
    reads=True,
)
NOT_EMPTY = Statement(
    f"""
    SELECT u.ino
      FROM pg_catalog.unnest($2) AS u (ino)
     CROSS JOIN LATERAL (
           SELECT 1
             FROM pgstore.dirent d
            WHERE d.store_id = $1
              AND d.parent = u.ino
              AND d.version_to = {LIVE}
            LIMIT 1) e
     LIMIT 1
    """,
    "int8 int8[]",
    reads=True,
)
# Of the directories $2 those from which no way leads up to the root. UNION ends at a circle.
UNREACHABLE = Statement(
    f"""
    WITH RECURSIVE up AS (
         SELECT u.ino AS start, u.ino AS here
           FROM pg_catalog.unnest($2) AS u (ino)
          UNION
         SELECT up.start, p.parent
           FROM up
          CROSS JOIN LATERAL (
                SELECT i.parent
                  FROM pgstore.inode i
                 WHERE i.store_id = $1
                   AND i.ino::bigint = up.here
                   AND i.version_to = {LIVE}
                 LIMIT 1) p
    )
    SELECT start FROM up GROUP BY start HAVING NOT bool_or(here = {ROOT})
    """,
    "int8 int8[]",
    reads=True,
)

# Files below directories $2 that have, or are about to have ($3), names elsewhere, or several names there.
LINKED_BELOW = Statement(
    f"""
    {BELOW}
    SELECT n.ino, n.names
      FROM (SELECT ino, count(*) AS names FROM below WHERE kind <> 'd' GROUP BY ino) n
     CROSS JOIN LATERAL (
           SELECT i.link_count
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino::bigint = n.ino
              AND i.version_to = {LIVE}
            LIMIT 1) i
     WHERE i.link_count::integer > 1 OR n.ino IN (SELECT p.ino FROM pg_catalog.unnest($3) AS p (ino))
    """,
    "int8 int8[] int8[]",
    reads=True,
)


class Plan:
    """What a commit will write."""

    def __init__(self, made: Iterable[tuple[int, str]]) -> None:
        self.links: Counter[int] = Counter()  # names that inodes gain, or lose
        self.kinds: dict[int, str] = {}
        self.closes: list[tuple[int, bytes]] = []  # names that go
        self.inserts: list[tuple[int, bytes, int, str]] = []  # names that come
        self.drops: list[tuple[int, bytes]] = []  # names of our own, of directories that are merged
        self.merges: list[tuple[int, int, tuple[bytes, ...]]] = []  # our directory, theirs, path
        self.merged: dict[int, int] = {}  # the same, by our directory
        self.emptied: dict[int, tuple[bytes, ...]] = {}  # directories that must be empty, with their paths
        self.made = dict(made)
        for ino, kind in self.made.items():
            self.link(ino, kind, -1)  # its row begins with a link_count of 1, for the name that `insert` counts

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
        """Directories that have lost their name, and that others have seen."""
        return [ino for ino in self._nameless("d") if ino not in self.made]

    @property
    def unwanted(self) -> list[int]:
        """Inodes that were made by this transaction and have no name in the end."""
        return [ino for ino, kind in self.made.items() if self.links[ino] < 0 and ino not in self.merged]

    @property
    def changed_links(self) -> list[tuple[int, int]]:
        """Files that others have seen, or with several names, and how many they gain or lose; in an order that all have."""
        return sorted(
            (ino, names)
            for ino, names in self.links.items()
            if names and self.kinds[ino] != "d" and not (names < 0 and ino in self.made)
        )

    def _nameless(self, kind: str) -> list[int]:
        return [
            ino for ino, names in self.links.items() if names < 0 and self.kinds[ino] == kind and ino not in self.merged
        ]


class MergingChanges(ChangeSet):
    """A change set that is merged at commit; subclasses know how to lock and how to write."""

    def _merged(self) -> Op[list[Query]]:
        plan = Plan(self._made.items())
        yield from self._write_own(plan)
        changes = [
            (parent, name, change)
            for parent, names in self._names.items()
            if parent not in self._own
            for name, change in names.items()
        ]
        if not changes and not self._attributes and not plan.links:
            return []
        yield from self._look(plan, changes)
        yield from self._check_versions(changes)
        yield from self._plan_merges(plan)
        yield from self._check_emptied(plan)
        nameless = plan.trees + plan.unwanted
        linked: list[int] = []
        if nameless:
            # The names that go are no part of the trees: what they led to may have been moved out of them.
            early, plan.closes = self._close_names(plan.closes), []
            if early:
                yield Many(early)
            yield from self._lock_trees(plan.trees)
            yield from self._check_removed(plan.trees, changes)
            pending = [ino for ino, kind in plan.kinds.items() if kind != "d"]
            for ino, names in (yield Query(LINKED_BELOW, self.store_id, nameless, pending)):
                linked.append(ino)
                plan.link(ino, "f", -names)
            yield from self._leave_files(plan.trees, linked)
        queries = self._apply(plan, linked)
        moved = [ino for ino in self._moved if plan.links.get(ino, 0) >= 0 and ino not in self._own]
        if not moved:
            return queries
        yield Many(queries)
        for (ino,) in (yield Query(UNREACHABLE, self.store_id, moved)):
            raise conflict(f"directory {self._path(self._moved[ino])!r} would be moved into itself by what another did")
        return []

    # --------------------------------------------------------------------------------------------- what subclasses do

    @property
    @abc.abstractmethod
    def _row_version(self) -> int:
        """The version from which new names are valid."""

    @abc.abstractmethod
    def _lock(self, changes: list[tuple[int, bytes, Change]], look: Query) -> Op[Rows]:
        """Lock what the changes are in, check that it is still there, and *look*."""

    def _lock_trees(self, trees: list[int]) -> Op[None]:
        """Lock all directories below *trees*, where that is needed."""
        yield from ()

    def _leave_files(self, trees: list[int], linked: list[int]) -> Op[None]:
        """Take the last name from all files below *trees* but *linked*, where others may be changing them."""
        yield from ()

    def _lock_merged(self, directories: list[int]) -> Op[None]:
        """Lock directories of others' that ours become one with, where that is needed."""
        yield from ()

    @abc.abstractmethod
    def _close_names(self, names: list[tuple[int, bytes]]) -> list[Query]:
        """Let *names*, each with its directory, lead nowhere any more."""

    @abc.abstractmethod
    def _end_trees(self, trees: list[int], linked: list[int]) -> list[Query]:
        """Remove directories with all below them but the files *linked*."""

    @abc.abstractmethod
    def _change_links(self, plan: Plan, now_ns: int) -> list[Query]:
        """Let files gain and lose names, and be gone with the last; make ready what else of inodes changes."""

    # -------------------------------------------------------------------------------------------------------- writing

    def _apply(self, plan: Plan, linked: list[int]) -> list[Query]:
        """The queries that write *plan*. *linked*: files in its trees that have their own entry in its links."""
        store_id, version, now_ns = self.store_id, self._row_version, time.time_ns()
        queries = self._close_names(plan.closes)

        def do(statement: Statement, *values: Any) -> None:
            queries.append(Query(statement, store_id, *values))

        if plan.trees:
            queries += self._end_trees(plan.trees, linked)
        if plan.unwanted:
            do(DELETE_TREES, plan.unwanted, linked)
        if plan.drops:
            do(TAKE_NAMES, *zip(*plan.drops, strict=True))
        for ours, theirs, _ in plan.merges:
            do(MOVE_NAMES, version, ours, theirs)
        if plan.inserts:
            do(INSERT_NAMES, version, *zip(*plan.inserts, strict=True))
        queries += self._change_links(plan, now_ns)
        for ino, parent in self._moved_to(plan).items():
            do(SET_PARENT, ino, parent)
        for ours, theirs, _ in plan.merges:
            do(TELL_PARENT, ours, theirs)
        if plan.merges:
            do(DELETE_INODES, [merge[0] for merge in plan.merges])
        parents = self._changed_parents(plan)
        if parents:
            do(TOUCH, parents, now_ns)
        queries += [attribute_query(store_id, ino, new, now_ns) for ino, new in self._attributes.items()]
        return queries

    # ------------------------------------------------------------------------------------------------------- planning

    def _write_own(self, plan: Plan) -> Op[None]:
        """Write the changes in directories of this transaction's own, which nobody else sees."""
        changes = [
            (parent, name, change)
            for parent in self._own.intersection(self._names)
            for name, change in self._names[parent].items()
        ]
        if not changes:
            return
        parents, names, _ = zip(*changes, strict=True)
        for ino, kind in (yield Query(TAKE_NAMES, self.store_id, parents, names)):
            plan.made[ino] = kind
            plan.link(ino, kind, -1)
        put = [(parent, name, change.entry) for parent, name, change in changes if change.entry is not None]
        if put:
            rows = [(parent, name, entry.ino, entry.kind) for parent, name, entry in put]
            yield Query(INSERT_NAMES, self.store_id, 0, *zip(*rows, strict=True))
            for _, _, entry in put:
                plan.link(entry.ino, entry.kind, +1)
        for parent, name, change in changes:
            if change.entry is not None and change.entry.kind != "d":
                self.put_in_own(parent, name, exclusive=change.exclusive, if_version=change.if_version)
            elif change.entry is not None and change.exclusive:
                self._add(self._alone, change.entry.ino)

    def _look(self, plan: Plan, changes: list[tuple[int, bytes, Change]]) -> Op[None]:
        """Lock, and plan each change in sight of what is there."""
        for start in range(0, max(len(changes), 1), LOOKED_UP_AT_ONCE):
            part = changes[start : start + LOOKED_UP_AT_ONCE]
            look = Query(NAMES_NOW, self.store_id, [change[0] for change in part], [change[1] for change in part])
            rows = yield from self._lock(changes, look) if start == 0 else only(look)
            now = {position: (ino, kind) for position, ino, kind in rows}
            for position, (parent, name, change) in enumerate(part, 1):
                self._plan(plan, parent, name, change, now.get(position))

    def _plan(self, plan: Plan, parent: int, name: bytes, change: Change, now: tuple[int, str] | None) -> None:
        """Decide what one change comes to where *now* is what stands there."""
        entry, removed = change.entry, change.removed
        if removed is not None:
            self._plan_removal(plan, parent, name, removed, now)
            now = None
        if entry is None:
            return
        if now is not None:
            if change.exclusive:
                raise conflict(f"{self._path(parent, name)!r} was made by another transaction")
            if (entry.kind == "d") != (now[1] == "d"):
                raise self._is_now(parent, name, now[1])
            if entry.kind == "d":
                if entry.ino not in self._own:
                    raise conflict(f"directory {self._path(parent, name)!r} was made by another transaction")
                self._merge(plan, entry.ino, now[0], (*self.path_of(parent), name))
                return
            plan.close(parent, name, *now)
        plan.insert(parent, name, entry.ino, entry.kind)

    def _plan_removal(
        self, plan: Plan, parent: int, name: bytes, removed: Removal, now: tuple[int, str] | None
    ) -> None:
        if removed.how == "moved" and (now is None or now[0] != removed.ino):
            raise conflict(f"{self._path(parent, name)!r} was removed, replaced or moved by another transaction")
        if now is None:
            return
        if (removed.kind == "d") != (now[1] == "d"):
            raise self._is_now(parent, name, now[1])
        if removed.how == "empty":
            plan.emptied[now[0]] = (*self.path_of(parent), name)
        plan.close(parent, name, *now)

    def _merge(self, plan: Plan, ours: int, theirs: int, path: tuple[bytes, ...]) -> None:
        if theirs in self._names:  # where it had another name: two changes may have one name now
            raise conflict(f"directory {join(path)!r} was moved there by another transaction while this one changed it")
        plan.merge(ours, theirs, path)

    def _plan_merges(self, plan: Plan) -> Op[None]:
        """Go down the directories that become one with another transaction's, level by level."""
        done = 0
        while level := plan.merges[done:]:
            done = len(plan.merges)
            ours, theirs, paths = zip(*level, strict=True)
            yield from self._lock_merged(list(theirs))
            for position, name, our_ino, our_kind, their_ino, their_kind in (
                yield Query(COMMON_NAMES, self.store_id, ours, theirs)
            ):
                path, ours_in = (*paths[position - 1], name), ours[position - 1]
                if (our_kind == "d") != (their_kind == "d"):
                    raise _is_now(path, their_kind)
                if our_kind == "d":
                    if our_ino not in self._own or our_ino in self._alone:
                        raise conflict(f"directory {join(path)!r} was made by another transaction")
                    self._merge(plan, our_ino, their_ino, path)
                    plan.drops.append((ours_in, name))
                elif self.is_firm(ours_in, name):
                    raise conflict(f"{join(path)!r} was made by another transaction")
                else:
                    plan.close(theirs[position - 1], name, their_ino, their_kind)
            for ino in ours:
                self._disown(ino)

    def _check_versions(self, changes: list[tuple[int, bytes, Change]]) -> Op[None]:
        """Raise `ConflictError` if a file that was to be replaced in a certain state is in another."""
        yield from ()

    def _check_removed(self, trees: list[int], changes: list[tuple[int, bytes, Change]]) -> Op[None]:
        """Raise `ConflictError` if something is put into a directory that came into a tree that goes."""
        written = {parent for parent, _, change in changes if change.entry is not None}
        if trees and written:
            for (ino,) in (yield Query(DIRECTORIES_BELOW, self.store_id, trees, list(written), [])):
                raise conflict(
                    f"{self._path(ino)!r} was moved by another transaction into a directory that this one removes"
                )

    def _check_emptied(self, plan: Plan) -> Op[None]:
        if plan.emptied:
            for (ino,) in (yield Query(NOT_EMPTY, self.store_id, list(plan.emptied))):
                if plan.links[ino] < 0:
                    raise conflict(
                        f"something was put into directory {join(plan.emptied[ino])!r} while it was being removed"
                    )

    def _moved_to(self, plan: Plan) -> dict[int, int]:
        """The directories that were moved and stay, and where they are."""
        return {
            ino: plan.merged.get(parent, parent)
            for ino, parent in sorted(self._moved.items())
            if plan.links.get(ino, 0) >= 0
        }

    def _changed_parents(self, plan: Plan) -> list[int]:
        """The directories, seen by others, in which names come and go."""
        return list({parent for parent in self._names if parent not in self._own} | {merge[1] for merge in plan.merges})

    def _disown(self, ino: int) -> None:
        self._own.discard(ino)
        if self._marked:
            self._journal.append(partial(self._own.add, ino))

    def _check_linked(self, there: Iterable[tuple[int, bytes]]) -> None:
        """Raise `ConflictError` unless all names of files that got another name are *there*."""
        for parent, name in self._linked.keys() - set(there):
            raise self._file_is_gone(self._linked[parent, name])

    def _file_is_gone(self, ino: int) -> errors.ConflictError:
        path = join(self._file_paths.get(ino, ()))
        return conflict(f"{path or '/'!r} was removed or replaced by another transaction while this one changed it")

    def _path(self, parent: int, name: bytes | None = None) -> str:
        return join(self.path_of(parent) if name is None else (*self.path_of(parent), name))

    def _is_now(self, parent: int, name: bytes, kind: str) -> errors.ConflictError:
        return _is_now((*self.path_of(parent), name), kind)


def only(query: Query) -> Op[Rows]:
    rows: Rows = yield query
    return rows


def _is_now(path: tuple[bytes, ...], kind: str) -> errors.ConflictError:
    what = "a directory" if kind == "d" else "a file"
    return conflict(f"{join(path)!r} was made {what} by another transaction")
