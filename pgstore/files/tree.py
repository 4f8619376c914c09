"""Trees: from names to inodes, and what directories hold, in the newest version as the current transaction has changed it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pgstore import errors
from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.files.changes import LIVE, Change, ChangeSet, Entry
from pgstore.files.paths import Names, join
from pgstore.types import FileEntry, FileEntryType

ROOT: Final = 1
ROOT_MODE: Final = 0o755
PAGE_NAMES: Final = 1000  # of one directory in one page of a listing
PAGE_DIRECTORIES: Final = 20  # in one page of a recursive listing

CREATE_FILE_SYSTEM = Statement("INSERT INTO pgstore.file_system (store_id) VALUES ($1)", "int8")
CREATE_ROOT = Statement(
    f"""
    INSERT INTO pgstore.inode (store_id, ino, kind, mode, mtime_ns, ctime_ns, parent)
    SELECT $1, {ROOT}, 'd', {ROOT_MODE}, n.now, n.now, {ROOT}
      FROM (SELECT (extract(epoch FROM statement_timestamp()) * 1000000000)::bigint) AS n (now)
    """,
    "int8",
)

# From directory $2 along the names $3 as far as they lead: a row for each that exists, the last with its inode. LATERAL with
# LIMIT: one look at the key for each name. A join might read the table, planned while it was small.
_WALK: Final = f"""
    WITH RECURSIVE walk AS (
         SELECT 0 AS step, $2 AS ino, 'd'::"char" AS kind
          UNION ALL
         SELECT w.step + 1, e.ino, e.kind
           FROM walk w
          CROSS JOIN LATERAL (
                SELECT d.ino, d.kind
                  FROM pgstore.dirent d
                 WHERE d.store_id = $1
                   AND d.parent = w.ino
                   AND d.name = ($3)[w.step + 1]
                   AND d.version_to = {LIVE}
                 LIMIT 1) e
    )
    SELECT w.step, w.ino, w.kind, i.*
      FROM walk w
      LEFT JOIN LATERAL (
           SELECT %s
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino = w.ino
              AND i.version_to = {LIVE}
              AND w.step = cardinality($3)
            LIMIT 1) i ON true
     ORDER BY w.step
"""
WALK = Statement(_WALK % "i.mode, i.size_bytes, i.mtime_ns", "int8 int8 bytea[]", reads=True)
WALK_AND_OPEN = Statement(
    _WALK
    % """
           i.mode, i.size_bytes, i.mtime_ns, i.inline_data, i.blob_id,
           (SELECT b.chunk_size_bytes FROM pgstore.blob b WHERE b.store_id = $1 AND b.id = i.blob_id)
    """,
    "int8 int8 bytea[]",
    reads=True,
)
# For each directory of $2 the first $4 names after that of $3.
LIST = Statement(
    f"""
    SELECT u.position, e.name, e.ino, e.kind, i.size_bytes, i.mtime_ns
      FROM unnest($2, $3) WITH ORDINALITY AS u (parent, after, position)
     CROSS JOIN LATERAL (
           SELECT d.name, d.ino, d.kind
             FROM pgstore.dirent d
            WHERE d.store_id = $1
              AND d.parent = u.parent
              AND d.name > u.after
              AND d.version_to = {LIVE}
            ORDER BY d.name
            LIMIT $4) e
     CROSS JOIN LATERAL (
           SELECT n.size_bytes, n.mtime_ns
             FROM pgstore.inode n
            WHERE n.store_id = $1
              AND n.ino = e.ino
              AND n.version_to = {LIVE}
            LIMIT 1) i
     ORDER BY u.position, e.name
    """,
    "int8 int8[] bytea[] int8",
    reads=True,
)


class Walk(NamedTuple):
    """How far a path leads."""

    names: Names
    reached: list[tuple[int, str]]  # (ino, kind) of the root and of each name that exists
    node: Node | None  # what the whole path leads to

    @property
    def parent(self) -> int:
        """The directory of what the path leads to; there is one unless that is the root."""
        return self.reached[len(self.names) - 1][0]


class Node(NamedTuple):
    """An inode. The last three only if it was opened."""

    ino: int
    kind: str
    mode: int
    size_bytes: int
    mtime_ns: int
    inline_data: bytes | None = None
    blob_id: int | None = None
    chunk_size: int | None = None

    @property
    def is_directory(self) -> bool:
        return self.kind == "d"


class Tree:
    """The tree of one file system, as one transaction sees it; *changes* is None outside a transaction."""

    def __init__(self, store_id: int, changes: ChangeSet | None) -> None:
        self.store_id = store_id
        self._changes = changes

    @property
    def changes(self) -> ChangeSet:
        assert self._changes is not None, "changes outside a transaction"
        return self._changes

    def walk(self, names: Names, *, start: int = ROOT, opening: bool = False) -> Op[Walk]:
        """Follow *names* from directory *start*. With *opening*, the node has what reading needs, in the same round trip."""
        statement = WALK_AND_OPEN if opening else WALK
        reached = [(start, "d")]
        while True:
            if not self._follow_changes(names, reached):
                return Walk(names, reached, None)
            rest = names[len(reached) - 1 :]
            rows: Rows = yield Query(statement, self.store_id, reached[-1][0], rest)
            changed = self._first_changed(rows, rest)
            last = rows[-1] if changed is None else rows[changed]
            reached += [(ino, kind) for _, ino, kind, *_ in rows[1 : last[0] + 1]]
            if changed is None:
                complete = len(reached) == len(names) + 1 and last[3] is not None
                return Walk(names, reached, Node(*reached[-1], *last[3:]) if complete else None)

    def _follow_changes(self, names: Names, reached: list[tuple[int, str]]) -> bool:
        """Go on as far as the transaction's changes lead. False: to something that was removed."""
        if self._changes is None:
            return True
        while len(reached) <= len(names):
            change = self._changes.get(reached[-1][0], names[len(reached) - 1])
            if change is None:
                return True
            if change.entry is None:
                return False
            reached.append((change.entry.ino, change.entry.kind))
        return True

    def _first_changed(self, rows: Rows, rest: Names) -> int | None:
        """The first row from which a change leads on."""
        if not self._changes:
            return None
        for index, (row, name) in enumerate(zip(rows, rest, strict=False)):
            if self._changes.get(row[1], name) is not None:
                return index
        return None

    def need(self, names: Names, *, opening: bool = False) -> Op[Walk]:
        """`walk`, to something that exists."""
        walk = yield from self.walk(names, opening=opening)
        if walk.node is None:
            self._check_directories(walk)
            raise errors.FileMissing(f"no such file or directory: {join(names)!r}")
        return walk

    @staticmethod
    def _check_directories(walk: Walk) -> None:
        if walk.reached[-1][1] != "d" and len(walk.reached) <= len(walk.names):
            raise errors.NotADirectory(f"{join(walk.names[: len(walk.reached) - 1])!r} is not a directory")

    def place(self, names: Names) -> Op[Walk]:
        """`walk`, to where something will be written: what exists on the way must be directories."""
        walk = yield from self.walk(names)
        self._check_directories(walk)
        return walk


class Listing:
    """What a directory holds, a page at a time; with *recursive* all below it, directories before what is in them."""

    def __init__(self, tree: Tree, directory: int, names: Names, *, recursive: bool) -> None:
        self._tree = tree
        self._recursive = recursive
        self._todo = [
            (directory, b"".join(name + b"/" for name in names), b"")
        ]  # inode, path, last name that was given

    def page(self) -> Op[list[FileEntry] | None]:
        """The next entries, None at the end."""
        while self._todo:
            now = self._todo[-PAGE_DIRECTORIES:]
            del self._todo[-PAGE_DIRECTORIES:]
            rows: Rows = yield Query(
                LIST, self._tree.store_id, [entry[0] for entry in now], [entry[2] for entry in now], PAGE_NAMES
            )
            by_directory: list[list[tuple[bytes, Entry]]] = [[] for _ in now]
            for position, name, *entry in rows:
                by_directory[position - 1].append((name, Entry(*entry)))
            found: list[FileEntry] = []
            for (ino, path, after), entries in zip(now, by_directory, strict=True):
                found += self._entries_of(ino, path, after, entries)
            if found:
                return found
        return None

    def _entries_of(
        self, ino: int, path: bytes, after: bytes, entries: list[tuple[bytes, Entry]]
    ) -> Iterator[FileEntry]:
        last = entries[-1][0] if len(entries) == PAGE_NAMES else None
        if last is not None:
            self._todo.append((ino, path, last))
        for name, entry in self._overlaid(ino, after, last, entries):
            if self._recursive and entry.kind == "d":
                self._todo.append((entry.ino, path + name + b"/", b""))
            yield file_entry(path + name, entry)

    def _overlaid(
        self, ino: int, after: bytes, last: bytes | None, entries: list[tuple[bytes, Entry]]
    ) -> Sequence[tuple[bytes, Entry]]:
        """*entries*, which are all names of (*after*, *last*], with the transaction's changes to these."""
        changes: dict[bytes, Change] = {} if self._tree._changes is None else self._tree._changes.under(ino)
        if not changes:
            return entries
        kept = [(name, entry) for name, entry in entries if name not in changes]
        kept += [
            (name, change.entry)
            for name, change in changes.items()
            if change.entry is not None and name > after and (last is None or name <= last)
        ]
        return sorted(kept)


_TYPES: Final = {
    "f": FileEntryType.FILE,
    "d": FileEntryType.DIRECTORY,
    "l": FileEntryType.SYMLINK,
    "p": FileEntryType.FIFO,
    "s": FileEntryType.SOCKET,
}


def file_entry(path: bytes, entry: Entry | Node) -> FileEntry:
    return FileEntry(join((path,)), _TYPES[entry.kind], entry.mtime_ns // 1_000_000_000, entry.size_bytes)
