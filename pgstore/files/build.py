"""Building: new inodes with their names, and the directories on the way to them.

Directories that a builder makes, and the names in them, are written at once, for nobody can see them yet; names in directories that
existed go into the transaction's change set.
"""

from __future__ import annotations

import time
from typing import Any

from pgstore import errors
from pgstore.core.operation import Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.files.changes import LIVE, Entry, conflict
from pgstore.files.contents import Contents
from pgstore.files.paths import Names, join
from pgstore.files.rows import COPY_INODES_OF, DIRECTORY_MODE, NewRows, reserve_inodes
from pgstore.files.tree import AT_ROOT, Tree, Walk
from pgstore.files.writing import attribute_query, lock_inodes

NAMES_AMONG = Statement(
    f"""
    SELECT u.name, e.ino, e.kind
      FROM pg_catalog.unnest($3) AS u (name)
     CROSS JOIN LATERAL (
           SELECT d.ino, d.kind
             FROM pgstore.dirent d
            WHERE d.store_id = $1
              AND d.parent = $2
              AND d.name::bytea = u.name
              AND d.version_to = {LIVE}
            LIMIT 1) e
    """,
    "int8 int8 bytea[]",
    reads=True,
)
# Files $2, in an order that is the same for everybody, are about to be copied: whoever changes where their bytes are is first,
# and nobody does it until the copy is there. KEY SHARE only: who replaces a file holds its directory's lock, which
# we may need next.
LOCK_SOURCES = lock_inodes("FOR KEY SHARE")
# Blobs of files $2 are about to be shared: who writes into one of them in place now finishes first, and nobody does afterwards.
SHARE_BLOBS = Statement(
    f"""
    UPDATE pgstore.blob
       SET is_shared = true
     WHERE store_id::numeric = $1::numeric
       AND ctid = ANY (ARRAY(
           SELECT b.ctid
             FROM (SELECT DISTINCT i.blob_id
                     FROM pg_catalog.unnest($2) AS u (ino)
                    CROSS JOIN LATERAL (
                          SELECT n.blob_id
                            FROM pgstore.inode n
                           WHERE n.store_id = $1
                             AND n.ino::bigint = u.ino
                             AND n.version_to = {LIVE}
                           LIMIT 1) i
                    WHERE i.blob_id IS NOT NULL
                    ORDER BY i.blob_id) s
            CROSS JOIN LATERAL (
                  SELECT o.ctid
                    FROM pgstore.blob o
                   WHERE o.store_id = $1
                     AND o.id = s.blob_id
                     AND NOT o.is_shared
                   LIMIT 1
                     FOR UPDATE) b))
    """,
    "int8 int8[]",
)


class Directory:
    """
    A directory that something is written to.

    *walk* leads to it by real names. *fresh*: this builder made it, so that nobody sees what is written in it.
    """

    __slots__ = ("fresh", "walk")

    def __init__(self, walk: Walk, *, fresh: bool) -> None:
        self.walk = walk
        self.fresh = fresh

    @property
    def ino(self) -> int:
        return self.walk.reached[-1][0]

    @property
    def path(self) -> Names:
        return self.walk.names


class Builder:
    """What one operation makes."""

    def __init__(self, tree: Tree, *, inodes_at_once: int = 32) -> None:
        self.tree = tree
        self.now_ns = time.time_ns()
        self._inodes_at_once = inodes_at_once
        self._rows = NewRows(tree.store_id, self.now_ns)
        self._inos: list[int] = []
        self._promised = 0  # of these
        self.made: set[int] = set()  # directories
        self._copies: list[tuple[int, int]] = []  # new inode, the one to copy
        self._directories: dict[Names, Directory] = {}  # by the path that was asked for
        self.forget_directories()

    def forget_directories(self) -> None:
        """What this builder made has been written, and may have become one with another transaction's."""
        self._directories = {(): Directory(AT_ROOT, fresh=False)}

    def reserve(self, count: int) -> Op[None]:
        """See to it that *count* more inodes can be made."""
        self._promised += count
        lacking = self._promised - len(self._inos)
        if lacking > 0:
            tree = self.tree
            self._inos += yield from reserve_inodes(tree.session, tree.store_id, lacking, at_once=self._inodes_at_once)

    def _take(self) -> int:
        self._promised -= 1
        return self._inos.pop()

    # ---------------------------------------------------------------------------------------------------- directories

    def directory(self, path: Names, walk: Walk | None = None) -> Op[Directory]:
        """
        The directory *path*, made if it is not there.

        Args:
            walk: one from the root to there or beyond, if there was one; *path* is then made of its real names.
        """
        known = self._directories.get(path)
        if known is not None:
            return known
        if walk is not None:
            found = self.existing(walk, len(path))
            self._directories[found.path] = found
        start = path
        while start not in self._directories:
            start = start[:-1]
        directory = self._directories[start]
        rest = path[len(start) :]
        if rest and walk is None and not directory.fresh:
            walk = yield from self.tree.place(rest, start=directory.walk)
            directory = self.existing(walk)
            rest = walk.names[len(directory.path) :]
        yield from self.reserve(len(rest))
        for name in rest:
            directory = self.make_directory(directory, name)
        self._directories[path] = directory
        return directory

    def existing(self, walk: Walk, steps_max: int | None = None) -> Directory:
        """The last directory that exists on the way of *walk*, after at most so many steps."""
        steps = len(walk.reached) - 1 if steps_max is None else min(len(walk.reached) - 1, steps_max)
        names, reached = walk.names[:steps], walk.reached[: steps + 1]
        known = self._directories.get(names)
        if known is not None and known.ino == reached[-1][0]:
            return known
        if reached[-1][1] != "d":
            raise errors.NotADirectory(f"{join(names)!r} is not a directory", join(names))
        return Directory(Walk(names, reached, None, walk.version), fresh=False)

    def make_directory(
        self, parent: Directory, name: bytes, mode: int = DIRECTORY_MODE, *, exclusive: bool = False
    ) -> Directory:
        """A new directory; where another transaction makes one of this name, they become one, unless *exclusive*."""
        ino = self._take()
        self._rows.directory(ino, parent.ino, mode)
        self.tree.changes.own(ino, alone=exclusive)
        self.made.add(ino)
        self._name(parent, name, Entry(ino, "d", 0, self.now_ns), exclusive=exclusive, was_free=True)
        reached = [*parent.walk.reached, (ino, "d")]
        made = Directory(Walk((*parent.path, name), reached, None, parent.walk.version), fresh=True)
        self._directories[made.path] = made
        return made

    def names_in(self, parent: Directory, names: list[bytes]) -> Op[dict[bytes, tuple[int, str]]]:
        """Those of *names* that are in *parent*, with inode and kind."""
        if parent.fresh:  # what is written into it does not come here twice
            return {}
        changes = self.tree.changes.under(parent.ino)
        found = {
            name: (change.entry.ino, change.entry.kind)
            for name in names
            if (change := changes.get(name)) is not None and change.entry is not None
        }
        unchanged = [name for name in names if name not in changes]
        if unchanged:
            for name, *entry in (yield Query(NAMES_AMONG, self.tree.store_id, parent.ino, unchanged)):
                found[name] = (entry[0], entry[1])
        return found

    def check_not_directories(self, parent: Directory, names: list[bytes]) -> Op[None]:
        """Raise `IsADirectory` if one of *names*, of files to write, is that of a directory."""
        for name, (_, kind) in (yield from self.names_in(parent, names)).items():
            if kind == "d":
                raise is_directory((*parent.path, name))

    def directories(self, parent: Directory, names: list[bytes]) -> Op[None]:
        """
        Directories *names* in *parent*, made if they are not there.

        Raises:
            NotADirectory: one of them is anything else, be it a link to one.
        """
        found = yield from self.names_in(parent, names)
        missing = [name for name in names if name not in found and (*parent.path, name) not in self._directories]
        yield from self.reserve(len(missing))
        for name in missing:
            self.make_directory(parent, name)
        for name, (ino, kind) in found.items():
            path = (*parent.path, name)
            if kind != "d":
                raise errors.NotADirectory(
                    f"{join(path)!r} is a file or link and cannot be replaced by a directory", join(path)
                )
            walk = Walk(path, [*parent.walk.reached, (ino, kind)], None, parent.walk.version)
            self._directories.setdefault(path, Directory(walk, fresh=False))

    # ---------------------------------------------------------------------------------------------------- all the rest

    def file(
        self,
        parent: Directory,
        name: bytes,
        mode: int,
        mtime_ns: int | None,
        stored: Contents,
        **conditions: Any,
    ) -> int:
        """A new file; *conditions* as of a `Change`. Returns its inode number."""
        ino = self._take()
        mtime = self.now_ns if mtime_ns is None else mtime_ns
        self._rows.file(ino, mode, mtime, stored)
        self._name(parent, name, Entry(ino, "f", stored.size_bytes, mtime), **conditions)
        return ino

    def symbolic_link(self, parent: Directory, name: bytes, target: bytes) -> None:
        ino = self._take()
        self._rows.symbolic_link(ino, target)
        self._name(parent, name, Entry(ino, "l", len(target), self.now_ns), exclusive=True, was_free=True)

    def special(self, parent: Directory, name: bytes, kind: str, mode: int) -> None:
        """A fifo or socket."""
        ino = self._take()
        self._rows.special(ino, kind, mode)
        self._name(parent, name, Entry(ino, kind, 0, self.now_ns), exclusive=True, was_free=True)

    def copy(self, parent: Directory, name: bytes, source: Entry, **conditions: Any) -> None:
        """A file or link with the contents of another, which are not copied but shared."""
        ino = self._take()
        self._copies.append((ino, source.ino))
        self._name(parent, name, Entry(ino, source.kind, source.size_bytes, self.now_ns), **conditions)

    def _name(self, parent: Directory, name: bytes, entry: Entry, **conditions: Any) -> None:
        if parent.fresh:
            self._rows.name(parent.ino, name, entry.ino, entry.kind)
            if entry.kind != "d":
                self.tree.changes.put_in_own(parent.ino, name, **conditions)
        else:
            self.tree.changes.make(parent.ino, name, entry, parent.path, **conditions)

    def send(self) -> Op[None]:
        """Write what was made."""
        yield from self._rows.send(self.tree.changes)
        if not self._copies:
            return
        store_id, changes = self.tree.store_id, self.tree.changes
        new, sources = zip(*self._copies, strict=True)
        queries = [Query(COPY_INODES_OF, store_id, new, sources, self.tree.version, self.now_ns)]
        if changes.in_place:
            # One after the other: each sees what those whom the last has waited for have done.
            lock = Query(LOCK_SOURCES, store_id, sorted(set(sources)))
            queries = [lock, Query(SHARE_BLOBS, store_id, sources), *queries]
        else:
            for ino, source in self._copies:
                if changed := changes.attributes(source):
                    copied = {name: value for name, value in changed.items() if name != "mtime_ns"}
                    queries.append(attribute_query(store_id, ino, copied, self.now_ns))
        self._copies = []
        results = yield Many(queries)
        if results[2 if changes.in_place else 0] < len(new):
            raise conflict("a file was removed by another transaction while this one copied it")


def is_directory(path: Names) -> errors.IsADirectory:
    return errors.IsADirectory(f"{join(path)!r} is a directory", join(path))
