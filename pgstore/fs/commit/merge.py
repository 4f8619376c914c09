"""Merging: finding out what the changes of a transaction come to in the state that its commit meets.

First what the changes touch is locked, so that it stays as it is until the commit; then it is looked up, and each change is
planned. The plan says which names and trees go, which names come, and which inodes gain or lose names; `apply` writes it.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Final

from pgstore import errors
from pgstore.core.operation import Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.commit.apply import INSERT_NAMES, ApplyingChanges, Plan
from pgstore.fs.commit.change_set import DIRECTORIES_BELOW, Change, Removal, conflict
from pgstore.fs.commit.statements import BELOW, TAKE_NAMES
from pgstore.fs.model import DIRECTORY, FILE, LIVE, ROOT
from pgstore.fs.paths import join

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
    read_only=True,
)
# The names that directory $2 (ours) and directory $3 (theirs) have in common, for each pair.
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
    read_only=True,
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
    read_only=True,
)
# Those of the directories $2 from which no way leads up to the root: they would be below themselves. UNION ends at a circle.
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
    read_only=True,
)

# Files below the directories $2 with several names, or of which this commit changes the names ($3); and how many names are below.
LINKED_BELOW = Statement(
    f"""
    {BELOW}
    SELECT n.ino, n.names
      FROM (SELECT ino, count(*) AS names FROM below WHERE kind <> '{DIRECTORY}' GROUP BY ino) n
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
    read_only=True,
)


class MergingChanges(ApplyingChanges):
    """A change set that is merged at the commit; subclasses know how to lock."""

    merged_directories: Mapping[int, int] = MappingProxyType({})
    """Directories of the transaction that have become part of others, made by others meanwhile. Known after `flush`."""

    def _merged(self) -> Op[list[Query]]:
        plan = Plan(self._made)
        if self._created_here:
            yield from self._write_created_here(plan)
        changes = [
            (parent, name, change)
            for parent, names in self._names.items()
            if parent not in self._created_here
            for name, change in names.items()
        ]
        if not changes and not self._attributes and not plan.links:
            return []
        yield from self._look_up(plan, changes)
        yield from self._check_versions(changes)
        if plan.merges:
            yield from self._plan_merges(plan)
        trees, unwanted = plan.trees, plan.unwanted
        linked: list[int] = []
        if trees or unwanted:
            # Names that go do not count as parts of the trees: what they led to may have been moved out of them.
            closing, plan.closes = self._close_names(plan.closes), []
            if closing:
                yield Many(closing)
            if plan.emptied:
                yield from self._check_emptied(plan)
            yield from self._lock_trees(trees)
            yield from self._check_removed(trees, changes)
            pending = [ino for ino, kind in plan.kinds.items() if kind != DIRECTORY]
            for ino, names in (yield Query(LINKED_BELOW, self.store_id, trees + unwanted, pending)):
                linked.append(ino)
                plan.link(ino, FILE, -names)
            yield from self._unlink_files(trees, linked)
            unwanted = plan.unwanted  # some may just have lost their last name
        queries = self._apply(plan, trees, unwanted, linked)
        self.merged_directories = plan.merged
        yield from self._tell(plan)
        moved = [ino for ino in self._moved if plan.links.get(ino, 0) >= 0 and ino not in self._created_here]
        if not moved:
            return queries
        yield Many(queries)
        for (ino,) in (yield Query(UNREACHABLE, self.store_id, moved)):
            raise conflict(f"directory {self._path(self._moved[ino])!r} would be moved into itself by what another did")
        return []

    # --------------------------------------------------------------------------------------------- what subclasses do

    @abc.abstractmethod
    def _lock(self, changes: list[tuple[int, bytes, Change]], lookup: Query) -> Op[Rows]:
        """Lock what the changes are in, check that it is still there, and return the rows of *lookup*."""

    def _lock_trees(self, trees: list[int]) -> Op[None]:
        """Lock all directories below *trees*, if the kind of file system needs that."""
        yield from ()

    def _unlink_files(self, trees: list[int], linked: list[int]) -> Op[None]:
        """Take the last name from all files below *trees* but *linked*, if others may be writing to them."""
        yield from ()

    def _lock_merged(self, directories: list[int]) -> Op[None]:
        """Lock the existing *directories* that new ones are merged into, if the kind of file system needs that."""
        yield from ()

    def _tell(self, plan: Plan) -> Op[None]:
        """Have others told of the inodes that change, if the kind of file system does not tell versions."""
        yield from ()

    # ------------------------------------------------------------------------------------------------------- planning

    def _write_created_here(self, plan: Plan) -> Op[None]:
        """Write the changes in directories that this transaction made, which nobody else sees."""
        changes = [
            (parent, name, change)
            for parent in self._created_here.intersection(self._names)
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
            if change.entry is not None and change.entry.kind != DIRECTORY:
                self.put_in_created(parent, name, exclusive=change.exclusive, if_version=change.if_version)
            elif change.entry is not None and change.exclusive:
                self._add(self._exclusive, change.entry.ino)

    def _look_up(self, plan: Plan, changes: list[tuple[int, bytes, Change]]) -> Op[None]:
        """Lock, look up what is there, and plan each change."""
        for start in range(0, max(len(changes), 1), LOOKED_UP_AT_ONCE):
            part = changes[start : start + LOOKED_UP_AT_ONCE]
            lookup = Query(NAMES_NOW, self.store_id, [change[0] for change in part], [change[1] for change in part])
            rows = yield from self._lock(changes, lookup) if start == 0 else only(lookup)
            now = {position: (ino, kind) for position, ino, kind in rows}
            for position, (parent, name, change) in enumerate(part, 1):
                self._plan(plan, parent, name, change, now.get(position))

    def _plan(self, plan: Plan, parent: int, name: bytes, change: Change, now: tuple[int, str] | None) -> None:
        """Plan one change of a name that leads to *now*, inode and kind."""
        entry, removed = change.entry, change.removed
        if removed is not None:
            self._plan_removal(plan, parent, name, removed, now)
            now = None
        if entry is None:
            return
        if now is not None:
            if change.exclusive:
                raise conflict(f"{self._path(parent, name)!r} was made by another transaction")
            if (entry.kind == DIRECTORY) != (now[1] == DIRECTORY):
                raise self._is_now(parent, name, now[1])
            if entry.kind == DIRECTORY:
                if entry.ino not in self._created_here:
                    raise conflict(f"directory {self._path(parent, name)!r} was made by another transaction")
                self._merge(plan, entry.ino, now[0], (*self.path_of(parent), name))
                return
            plan.close(parent, name, *now)
        plan.insert(parent, name, entry.ino, entry.kind)

    def _plan_removal(
        self, plan: Plan, parent: int, name: bytes, removed: Removal, now: tuple[int, str] | None
    ) -> None:
        if (removed.how == "moved" or removed.exclusive) and (now is None or now[0] != removed.ino):
            raise conflict(f"{self._path(parent, name)!r} was removed, replaced or moved by another transaction")
        if now is None:
            return
        if (removed.kind == DIRECTORY) != (now[1] == DIRECTORY):
            raise self._is_now(parent, name, now[1])
        if removed.how == "empty":
            plan.emptied[now[0]] = (*self.path_of(parent), name)
        plan.close(parent, name, *now)

    def _merge(self, plan: Plan, ours: int, theirs: int, path: tuple[bytes, ...]) -> None:
        if theirs in self._names:  # changed under another name, so there may be two changes of one name
            raise conflict(f"directory {join(path)!r} was moved there by another transaction while this one changed it")
        plan.merge(ours, theirs, path)

    def _plan_merges(self, plan: Plan) -> Op[None]:
        """Merge new directories into those that another transaction made meanwhile, level by level."""
        done = 0
        while level := plan.merges[done:]:
            done = len(plan.merges)
            ours, theirs, paths = zip(*level, strict=True)
            yield from self._lock_merged(list(theirs))
            for position, name, our_ino, our_kind, their_ino, their_kind in (
                yield Query(COMMON_NAMES, self.store_id, ours, theirs)
            ):
                path, ours_in = (*paths[position - 1], name), ours[position - 1]
                if (our_kind == DIRECTORY) != (their_kind == DIRECTORY):
                    raise _is_now(path, their_kind)
                if our_kind == DIRECTORY:
                    if our_ino not in self._created_here or our_ino in self._exclusive:
                        raise conflict(f"directory {join(path)!r} was made by another transaction")
                    self._merge(plan, our_ino, their_ino, path)
                    plan.drops.append((ours_in, name))
                elif self.must_not_exist(ours_in, name):
                    raise conflict(f"{join(path)!r} was made by another transaction")
                else:
                    plan.close(theirs[position - 1], name, their_ino, their_kind)
            for ino in ours:
                self._no_longer_created_here(ino)

    def _check_versions(self, changes: list[tuple[int, bytes, Change]]) -> Op[None]:
        """Raise `ConflictError` if a file has changed since the version that a change names."""
        yield from ()

    def _check_removed(self, trees: list[int], changes: list[tuple[int, bytes, Change]]) -> Op[None]:
        """Raise `ConflictError` if something is put into a directory that another transaction moved into one of *trees*."""
        written = {parent for parent, _, change in changes if change.entry is not None}
        if trees and written:
            for (ino,) in (yield Query(DIRECTORIES_BELOW, self.store_id, trees, list(written), [])):
                raise conflict(
                    f"{self._path(ino)!r} was moved by another transaction into a directory that this one removes"
                )

    def _check_emptied(self, plan: Plan) -> Op[None]:
        for (ino,) in (yield Query(NOT_EMPTY, self.store_id, list(plan.emptied))):
            if plan.links[ino] < 0:
                raise conflict(
                    f"something was put into directory {join(plan.emptied[ino])!r} while it was being removed"
                )

    def _no_longer_created_here(self, ino: int) -> None:
        self._created_here.discard(ino)
        if self._marked:
            self._journal.append(partial(self._created_here.add, ino))

    def _check_linked(self, there: Iterable[tuple[int, bytes]]) -> None:
        """Raise `ConflictError` if a file that got another name is not under its old one any more; *there*: names that are."""
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
    what = "a directory" if kind == DIRECTORY else "a file"
    return conflict(f"{join(path)!r} was made {what} by another transaction")
