"""Building: new inodes with their names, and the directories on the way to them.

New inodes are written at once, and so are names in new directories, for nobody sees them yet. Names in directories that exist go
into the transaction's change set.
"""

from __future__ import annotations

import time
from typing import Any

from pgstore import errors
from pgstore.core.operation import Many, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.commit.change_set import conflict
from pgstore.fs.commit.statements import attribute_query, lock_inodes
from pgstore.fs.model import COPIED_COLUMNS, DIRECTORY, DIRECTORY_MODE, FILE, LIVE, SYMLINK, Contents, Entry
from pgstore.fs.paths import Names, join
from pgstore.fs.tree.new_rows import NewRows, reserve_inodes
from pgstore.fs.tree.resolve import AT_ROOT, Tree, Walk

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
    read_only=True,
)
# The files $2 are about to be copied. Who is changing where the bytes of one of them are finishes first, and nobody does so before
# the copies exist. Locked in the order of their numbers, so that two copies do not wait for each other in a circle; and FOR KEY
# SHARE only, which does not wait for one who replaces such a file: that one holds the lock of the directory, which we may need
# next.
LOCK_SOURCES = lock_inodes("FOR KEY SHARE")
# The blobs of the files $2 are about to be shared. Who is writing into one of them in place finishes first, and then nobody does
# any more. Locked in the order of their numbers, so that two copies do not wait for each other in a circle.
SHARE_BLOBS = Statement(
    f"""
    UPDATE pgstore.blob
       SET is_shared = true
     WHERE store_id + 0::bigint = $1
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
# The new inodes $2 are copies of the files and links $3 as they are in version $4, and share their blobs.
COPY_INODES_OF = Statement(
    f"""
    INSERT INTO pgstore.inode (store_id, ino, mtime_ns, ctime_ns, {COPIED_COLUMNS})
    SELECT $1, u.ino, $5, $5, {COPIED_COLUMNS}
      FROM unnest($2, $3) AS u (ino, source)
     CROSS JOIN LATERAL (
           SELECT {COPIED_COLUMNS}
             FROM pgstore.inode n
            WHERE n.store_id = $1
              AND n.ino::bigint = u.source
              AND n.version_to > $4
              AND n.version_from <= $4
            ORDER BY n.version_to
            LIMIT 1) i
    """,
    "int8 int8[] int8[] int8 int8",
)


class Directory:
    """
    A directory that something is written into, found by *walk*.

    *fresh*: the builder has made it, so that nobody else sees what is written into it.
    """

    __slots__ = ("fresh", "ino", "path", "walk")

    def __init__(self, walk: Walk, *, fresh: bool) -> None:
        self.walk = walk
        self.fresh = fresh
        self.ino = walk.reached[-1][0]
        self.path = walk.names


class Builder:
    """Makes what one operation makes. `reserve` comes first, then the inodes, then `send`."""

    def __init__(self, tree: Tree, *, inodes_at_once: int = 32) -> None:
        self.tree = tree
        self.now_ns = time.time_ns()
        self._inodes_at_once = inodes_at_once
        self._rows = NewRows(tree.store_id, self.now_ns)
        self._inos: list[int] = []
        self._promised = 0  # how many of them were asked for by `reserve`
        self.made: set[int] = set()  # new directories
        self._copies: list[tuple[int, int]] = []  # new inode, the one to copy
        self._directories: dict[Names, Directory] = {}  # by the path by which they were asked for
        self.forget_directories()

    def forget_directories(self) -> None:
        """After `flush` of the changes: directories made here may have been merged with those of another transaction."""
        self._directories = {(): Directory(AT_ROOT, fresh=False)}

    def reserve(self, count: int) -> Op[None]:
        """Make sure that *count* more inodes can be made."""
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
        The directory *path*, which is made if it does not exist.

        Args:
            walk: one to *path* or to something below it, if the caller has made one; *path* is then of its names.
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
            walk = yield from self.tree.target(rest, start=directory.walk)
            directory = self.existing(walk)
            rest = walk.names[len(directory.path) :]
        yield from self.reserve(len(rest))
        for name in rest:
            directory = self.make_directory(directory, name)
        self._directories[path] = directory
        return directory

    def existing(self, walk: Walk, steps_max: int | None = None) -> Directory:
        """The last directory of *walk* that exists, after at most *steps_max* steps."""
        steps = len(walk.reached) - 1 if steps_max is None else min(len(walk.reached) - 1, steps_max)
        names, reached = walk.names[:steps], walk.reached[: steps + 1]
        known = self._directories.get(names)
        if known is not None and known.ino == reached[-1][0]:
            return known
        if reached[-1][1] != DIRECTORY:
            raise errors.NotADirectory(f"{join(names)!r} is not a directory", join(names))
        return Directory(Walk(names, reached, None, walk.version), fresh=False)

    def make_directory(
        self, parent: Directory, name: bytes, mode: int = DIRECTORY_MODE, *, exclusive: bool = False
    ) -> Directory:
        """Make a directory. If another transaction makes one of this name, they are merged, unless *exclusive*."""
        ino = self._take()
        self._rows.directory(ino, parent.ino, mode)
        self.tree.changes.note_created(ino, exclusive=exclusive)
        self.made.add(ino)
        self._name(parent, name, Entry(ino, DIRECTORY, 0, self.now_ns), exclusive=exclusive, was_free=True)
        reached = [*parent.walk.reached, (ino, DIRECTORY)]
        made = Directory(Walk((*parent.path, name), reached, None, parent.walk.version), fresh=True)
        self._directories[made.path] = made
        return made

    def names_in(self, parent: Directory, names: list[bytes]) -> Op[dict[bytes, tuple[int, str]]]:
        """Those of *names* that *parent* has, with inode and kind."""
        if parent.fresh:  # one operation writes no name twice
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
        """Raise `IsADirectory` if one of *names*, under which files are to be written, is a directory."""
        for name, (_, kind) in (yield from self.names_in(parent, names)).items():
            if kind == DIRECTORY:
                raise is_directory((*parent.path, name))

    def directories(self, parent: Directory, names: list[bytes]) -> Op[None]:
        """
        The directories *names* in *parent*; those that do not exist are made.

        Raises:
            NotADirectory: one of them is something else, such as a symbolic link to a directory.
        """
        found = yield from self.names_in(parent, names)
        missing = [name for name in names if name not in found and (*parent.path, name) not in self._directories]
        yield from self.reserve(len(missing))
        for name in missing:
            self.make_directory(parent, name)
        for name, (ino, kind) in found.items():
            path = (*parent.path, name)
            if kind != DIRECTORY:
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
        """Make a file with these contents; *conditions*: see `Change`. Returns its inode number."""
        ino = self._take()
        mtime = self.now_ns if mtime_ns is None else mtime_ns
        self._rows.file(ino, mode, mtime, stored)
        self._name(parent, name, Entry(ino, FILE, stored.size_bytes, mtime), **conditions)
        return ino

    def symbolic_link(self, parent: Directory, name: bytes, target: bytes) -> None:
        ino = self._take()
        self._rows.symbolic_link(ino, target)
        self._name(parent, name, Entry(ino, SYMLINK, len(target), self.now_ns), exclusive=True, was_free=True)

    def special(self, parent: Directory, name: bytes, kind: str, mode: int) -> None:
        """Make a fifo or socket."""
        ino = self._take()
        self._rows.special(ino, kind, mode)
        self._name(parent, name, Entry(ino, kind, 0, self.now_ns), exclusive=True, was_free=True)

    def copy(self, parent: Directory, name: bytes, source: Entry, **conditions: Any) -> None:
        """Make a copy of a file or link; both share their contents."""
        ino = self._take()
        self._copies.append((ino, source.ino))
        self._name(parent, name, Entry(ino, source.kind, source.size_bytes, self.now_ns), **conditions)

    def _name(self, parent: Directory, name: bytes, entry: Entry, **conditions: Any) -> None:
        if parent.fresh:
            self._rows.name(parent.ino, name, entry.ino, entry.kind)
            if entry.kind != DIRECTORY:
                self.tree.changes.put_in_created(parent.ino, name, **conditions)
        else:
            self.tree.changes.make(parent.ino, name, entry, parent.path, **conditions)

    def send(self) -> Op[None]:
        """Write what was made since the last `send`."""
        yield from self._rows.send(self.tree.changes)
        if not self._copies:
            return
        store_id, changes = self.tree.store_id, self.tree.changes
        new, sources = zip(*self._copies, strict=True)
        queries = [Query(COPY_INODES_OF, store_id, new, sources, self.tree.version, self.now_ns)]
        if changes.in_place:
            # As statements of their own: each sees what was committed while the one before waited for a lock.
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
