"""Listing: what directories hold, a page at a time, with the changes of the current transaction."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.model import BLOCK_DEVICE, CHARACTER_DEVICE, DIRECTORY, FIFO, FILE, SOCKET, SYMLINK, Entry, Node
from pgstore.fs.paths import Names, are_possible, is_possible, join, refuse
from pgstore.fs.tree.node_rows import valid
from pgstore.fs.tree.resolve import Tree, Walk
from pgstore.types import FileEntry, FileEntryType, FileStat

T = TypeVar("T")
PAGE_NAMES: Final = 1000  # of one directory in one page of a listing
PAGE_DIRECTORIES: Final = 20  # in one page of a recursive listing

# In version $5 the first $4 names of each of the directories $2 that come after the name $3.
_NAMES: Final = """
      FROM unnest($2, $3) WITH ORDINALITY AS u (parent, after, position)
     CROSS JOIN LATERAL (
           SELECT d.name, d.ino, d.kind
             FROM pgstore.dirent d
            WHERE d.store_id = $1
              AND d.parent = u.parent
              AND d.name::bytea > u.after
              AND d.version_to > $5
              AND d.version_from <= $5
            ORDER BY d.name
            LIMIT $4) e
"""
LIST = Statement(
    f"""
    SELECT u.position, e.name, e.ino, e.kind, i.size_bytes, i.mtime_ns
    {_NAMES}
     CROSS JOIN LATERAL (
           SELECT n.size_bytes, n.mtime_ns
             FROM pgstore.inode n
            WHERE n.store_id = $1
              AND n.ino::bigint = e.ino
              AND {valid("n", "$5")}) i
    """,
    "int8 int8[] bytea[] int8 int8",
    read_only=True,
)
# The same without the inodes.
LIST_NAMES = Statement(
    f"SELECT u.position, e.name, e.ino, e.kind, 0::bigint, 0::bigint {_NAMES}",
    "int8 int8[] bytea[] int8 int8",
    read_only=True,
)


class Part(NamedTuple):
    """A part of a directory: all names after the one that was known before, up to *last*; None: to the end."""

    ino: int
    path: bytes
    entries: Sequence[tuple[bytes, Entry]]
    last: bytes | None


class Listing:
    """The names in directories, a page at a time; with *recursive* all below them, a directory before what is in it."""

    def __init__(
        self,
        tree: Tree,
        directories: Sequence[int],
        names: Names = (),
        *,
        after: bytes = b"",
        recursive: bool = False,
        statement: Statement = LIST,
        left_out: Callable[[Names], None] | None = None,
    ) -> None:
        """
        Args:
            names: the path of *directories*.
            after: begin behind this name.
            left_out: called with the path of each impossible name, which `entries` leaves out with all below it. None: such a name
                is an error.
        """
        self._tree = tree
        self._recursive = recursive
        self._statement = statement
        self._left_out = left_out or refuse
        path = b"".join(name + b"/" for name in names)
        self._todo = [(ino, path, after) for ino in directories]

    def page(self) -> Op[list[FileEntry] | None]:
        """The next entries, None at the end."""
        if self._tree.has_changes:
            found = yield from self.entries()
            return None if found is None else [file_entry(path, entry) for path, entry in found]
        while self._todo:
            page: list[FileEntry] = []
            for (ino, path, _), rows in (yield from self._next_rows()):
                if len(rows) == PAGE_NAMES:
                    self._todo.append((ino, path, rows[-1][1]))
                if self._recursive:
                    self._todo += [(row[2], path + row[1] + b"/", b"") for row in rows if row[3] == DIRECTORY]
                page += _file_entries(path, rows)
            if page:
                return page
        return None

    def entries(self) -> Op[list[tuple[bytes, Entry]] | None]:
        """The next paths and their entries, None at the end."""
        while self._todo:
            found: list[tuple[bytes, Entry]] = []
            for ino, path, entries, last in (yield from self.parts()):
                if last is not None:
                    self._todo.append((ino, path, last))
                are_safe = are_possible([name for name, _ in entries])
                for name, entry in entries:
                    if not are_safe and not is_possible(name):
                        self._left_out((*path.split(b"/")[:-1], name))
                        continue
                    if self._recursive and entry.kind == DIRECTORY:
                        self._todo.append((entry.ino, path + name + b"/", b""))
                    found.append((path + name, entry))
            if found:
                return found
        return None

    def parts(self) -> Op[list[Part]]:
        """The next part of each of the next directories, which then leave the list of what is to be done."""
        parts: list[Part] = []
        for (ino, path, after), rows in (yield from self._next_rows()):
            last = rows[-1][1] if len(rows) == PAGE_NAMES else None
            entries = [(row[1], Entry(*row[2:])) for row in rows]
            parts.append(Part(ino, path, self._overlaid(ino, after, last, entries), last))
        return parts

    def _next_rows(self) -> Op[list[tuple[tuple[int, bytes, bytes], Rows]]]:
        """The next directories of the list, each with its next rows of `LIST`, sorted by name."""
        now = self._todo[-PAGE_DIRECTORIES:]
        del self._todo[-PAGE_DIRECTORIES:]
        query = Query(
            self._statement,
            self._tree.store_id,
            [entry[0] for entry in now],
            [entry[2] for entry in now],
            PAGE_NAMES,
            self._tree.version,
        )
        rows = yield from self._tree.read(query)
        # They nearly always come in order. An ORDER BY would cost the server more than sorting costs us.
        rows.sort()
        if len(now) == 1:
            return [(now[0], rows)]
        by_directory: list[Rows] = [[] for _ in now]
        for row in rows:
            by_directory[row[0] - 1].append(row)
        return list(zip(now, by_directory, strict=True))

    def _overlaid(
        self, ino: int, after: bytes, last: bytes | None, entries: list[tuple[bytes, Entry]]
    ) -> Sequence[tuple[bytes, Entry]]:
        """*entries*, which are all names of (*after*, *last*], with the transaction's changes in this range."""
        if not self._tree.has_changes:
            return entries
        changes = self._tree.changes_under(ino)
        kept = [(name, entry) for name, entry in entries if name not in changes]
        kept += [
            (name, change.entry)
            for name, change in changes.items()
            if change.entry is not None and name > after and (last is None or name <= last)
        ]
        return [(name, self._tree.as_changed(entry)) for name, entry in sorted(kept)]


class OnePage(Generic[T]):
    """A page where a listing is expected: the entry of a path that is no directory."""

    def __init__(self, entries: list[T]) -> None:
        self._entries: list[T] | None = entries

    def page(self) -> Op[list[T] | None]:
        yield from ()
        entries, self._entries = self._entries, None
        return entries


_TYPES: Final = {
    FILE: FileEntryType.FILE,
    DIRECTORY: FileEntryType.DIRECTORY,
    SYMLINK: FileEntryType.SYMLINK,
    FIFO: FileEntryType.FIFO,
    SOCKET: FileEntryType.SOCKET,
    CHARACTER_DEVICE: FileEntryType.CHARACTER_DEVICE,
    BLOCK_DEVICE: FileEntryType.BLOCK_DEVICE,
}


def file_entry(path: bytes, entry: Entry | Node) -> FileEntry:
    return FileEntry(join((path,)), _TYPES[entry.kind], entry.mtime_ns // 1_000_000_000, entry.size_bytes)


def _file_entries(path: bytes, rows: Rows) -> list[FileEntry]:
    """`file_entry` of each row of `LIST`, in half the time: the initialisation of a frozen dataclass is slow."""
    new, kind, types, encoding, on_error = FileEntry.__new__, FileEntry, _TYPES, *_ENCODING
    entries: list[FileEntry] = []
    if not are_possible([row[1] for row in rows]):
        refuse((*path.split(b"/")[:-1], next(row[1] for row in rows if not is_possible(row[1]))))
    for row in rows:
        entry = new(kind)
        attributes = entry.__dict__
        attributes["path"] = (path + row[1]).decode(encoding, on_error)
        attributes["type"] = types[row[3]]
        attributes["mtime"] = row[5] // 1_000_000_000
        attributes["size"] = row[4]
        entries.append(entry)
    return entries


_ENCODING: Final = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())  # those of `os.fsdecode`


def file_stat(tree: Tree, walk: Walk) -> FileStat:
    return stat_of(b"/".join(walk.names), walk.found, tree.shown_version(walk.version))


def stat_of(path: bytes, node: Node, version: int | None) -> FileStat:
    return FileStat(
        path=join((path,)),
        type=_TYPES[node.kind],
        size=node.size_bytes,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        mtime_ns=node.mtime_ns,
        ctime_ns=node.ctime_ns,
        link_count=node.link_count,
        ino=node.ino,
        version=version,
        atime_ns=node.atime_ns,
        device=node.device or 0,
    )
