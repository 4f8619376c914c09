"""Resolving: from the names of a path to inodes, in one version, and as the current transaction has changed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pgstore import errors
from pgstore.client.session import Session
from pgstore.core.operation import Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.commit.change_set import Change, ChangeSet
from pgstore.fs.model import DIRECTORY, FILE, NEWEST, ROOT, SYMLINK, UNCOMMITTED, Entry, Node
from pgstore.fs.paths import DirectoryNames, Names, join, needs_directory
from pgstore.fs.retention.pins import version_of
from pgstore.fs.tree.node_rows import CONTENTS_COLUMNS, STAT_COLUMNS, NodeRows, valid

LINKS_MAX: Final = 40  # symbolic links followed on one path, as in Linux


# In version $4 from directory $2 along the names $3 as far as they exist: a row for each; the last one, and a symbolic link on the
# way, with its inode. LATERAL with LIMIT looks up each name by its key; a join might read the whole table, if it was planned while
# that was small.
_WALK: Final = f"""
    WITH RECURSIVE walk AS (
         SELECT 0 AS step, $2 AS ino, '{DIRECTORY}'::"char" AS kind, 0::bigint AS version
          UNION ALL
         SELECT w.step + 1, e.ino, e.kind, e.version_from
           FROM walk w
          CROSS JOIN LATERAL (
                SELECT d.ino, d.kind, d.version_from
                  FROM pgstore.dirent d
                 WHERE d.store_id = $1
                   AND d.parent = w.ino
                   AND d.name::bytea = ($3)[w.step + 1]
                   AND {valid("d", "$4")}) e
    )
    SELECT w.step, w.ino, w.kind, w.version, i.*
      FROM walk w
      LEFT JOIN LATERAL (
           SELECT %s
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino::bigint = w.ino
              AND (w.step = pg_catalog.cardinality($3) OR w.kind = '{SYMLINK}')
              AND {valid("i", "$4")}) i ON true
     ORDER BY w.step
"""
WALK = Statement(_WALK % STAT_COLUMNS, "int8 int8 bytea[] int8", read_only=True)
WALK_WITH_CONTENTS = Statement(_WALK % (STAT_COLUMNS + CONTENTS_COLUMNS), "int8 int8 bytea[] int8", read_only=True)
NAMES_UNROLLED_MAX: Final = 8


def _unrolled(length: int, inode_columns: str) -> Statement:
    """
    `WALK` for *length* names without recursion, which takes half as long.

    In version $3 from directory $2 along the names $4, $5 and so on. One row, or none if the first name does not exist: inode, kind
    and version of each name, NULL for a name that does not exist; then the inode of the last name that does.
    """
    columns = "".join(f"d{at}.ino, d{at}.kind, d{at}.version_from, " for at in range(1, length + 1))
    steps = "".join(
        f"""
      {"LEFT JOIN LATERAL" if at > 1 else "FROM"} (
           SELECT d.ino, d.kind, d.version_from
             FROM pgstore.dirent d
            WHERE d.store_id = $1
              AND d.parent = {f"d{at - 1}.ino" if at > 1 else "$2"}
              AND d.name::bytea = ${at + 3}
              AND {valid("d", "$3")}) d{at}{" ON true" if at > 1 else ""}"""
        for at in range(1, length + 1)
    )
    last = ", ".join(f"d{at}.ino" for at in range(length, 0, -1))
    return Statement(
        f"""
    SELECT {columns}i.*{steps}
      LEFT JOIN LATERAL (
           SELECT {inode_columns}
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino::bigint = coalesce({last})
              AND {valid("i", "$3")}) i ON true
    """,
        "int8 int8 int8" + " bytea" * length,
        read_only=True,
    )


_UNROLLED: Final = {
    with_contents: [
        _unrolled(length, STAT_COLUMNS + (CONTENTS_COLUMNS if with_contents else ""))
        for length in range(1, NAMES_UNROLLED_MAX + 1)
    ]
    for with_contents in (False, True)
}


# Whether version $2 can still be read. Collection deletes these rows before the rows that only old versions had. Version 0, the
# Volume as it was made, can be read as long as version 1, or while there is no version 1.
IS_RETAINED = Statement(
    """
    SELECT EXISTS (SELECT FROM pgstore.volume_version v WHERE v.store_id = $1 AND v.version::bigint = greatest($2, 1))
           OR ($2 = 0 AND EXISTS (SELECT FROM pgstore.file_system f WHERE f.store_id = $1 AND f.head = 0))
    """,
    "int8 int8",
    read_only=True,
)


# In version $3 those of the inodes $2 whose contents are in the row: symbolic links and small files.
SMALL = Statement(
    f"""
    SELECT i.ino, i.mode, i.link_target, i.inline_data
      FROM pg_catalog.unnest($2) AS u (ino)
     CROSS JOIN LATERAL (
           SELECT i.ino, i.mode, i.link_target, i.inline_data, i.blob_id
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino::bigint = u.ino
              AND {valid("i", "$3")}) i
     WHERE i.blob_id IS NULL
    """,
    "int8 int8[] int8",
    read_only=True,
)


class Small(NamedTuple):
    """A symbolic link, or a small file."""

    mode: int
    link_target: bytes | None
    data: bytes


class Walk(NamedTuple):
    """
    A path that was resolved, from the root: the directories on the way, and what it leads to.

    *names* are those of directories, for symbolic links have been followed. They may be more than exist.
    """

    names: Names
    reached: list[tuple[int, str]]  # inode and kind: of the root, and of each name that exists
    node: Node | None  # of the last name; None: it does not exist
    version: int  # in which a name on the way, or the node, changed last; UNCOMMITTED: by the transaction under way
    needs_directory: bool = False  # the path, or the link at its end, ends in a slash
    names_version: int = 0  # in which a name on the way changed last

    @property
    def parent(self) -> int:
        """The inode of the directory that has the last name, if the directory exists."""
        return self.reached[len(self.names) - 1][0]

    @property
    def found(self) -> Node:
        """The node, which is known to exist."""
        assert self.node is not None
        return self.node

    @property
    def entry(self) -> Entry:
        node = self.found
        return Entry(node.ino, node.kind, node.size_bytes, node.mtime_ns)


AT_ROOT: Final = Walk((), [(ROOT, DIRECTORY)], None, 0)


class Tree:
    """
    The tree of one file system in one version, as its reader sees it.

    `is_exact`: of two who make, or remove, one name, one does and the other hears of it (`nodes`).
    `inodes_at_once`: how many numbers of inodes are drawn from the database at least, where one is needed.

    Args:
        changes: of the current transaction; None: there is none, or an old version is read.
        in_place: files are written in place, so their bytes are read by inode and not by blob.
    """

    is_exact = True
    inodes_at_once = 32

    def __init__(
        self,
        session: Session,
        store_id: int,
        changes: ChangeSet | None,
        version: int = NEWEST,
        *,
        in_place: bool = False,
    ) -> None:
        self.session = session
        self.store_id = store_id
        self.in_place = in_place
        self.version = version
        self._changes = changes
        self._rows: NodeRows | None = None

    @property
    def changes(self) -> ChangeSet:
        assert self._changes is not None, "changes outside a transaction"
        return self._changes

    @property
    def rows(self) -> NodeRows:
        """What this version has, without the transaction's changes."""
        if self._rows is None:
            self._rows = NodeRows(self.store_id, self.version, self.read)
        return self._rows

    def read(self, query: Query) -> Op[Rows]:
        """
        The rows of *query*, which reads this version.

        Raises:
            VersionGone: the version is not kept any more, and some of the rows may be gone.
        """
        if self.version == NEWEST:
            return (yield query)  # type: ignore[no-any-return]
        rows, ((is_retained,),) = yield Many([query, Query(IS_RETAINED, self.store_id, self.version)])
        if not is_retained:
            raise version_of(self.store_id, self.version).gone()
        return rows  # type: ignore[no-any-return]

    def small(self, inos: Sequence[int]) -> Op[dict[int, Small]]:
        """Contents of small files and links by inode, without the transaction's changes. What is gone or large is left out."""
        rows = yield from self.read(Query(SMALL, self.store_id, inos, self.version))
        return {ino: Small(mode, target, data or b"") for ino, mode, target, data in rows}

    def walk(
        self, names: Names, *, start: Walk = AT_ROOT, with_contents: bool = False, follow: bool = True
    ) -> Op[Walk]:
        """
        Follow *names* from the directory *start*, through symbolic links.

        Args:
            with_contents: the node has what reading needs, in the same round trip.
            follow: follow a symbolic link that is the last name, too. A path that ends in a slash follows it anyway.
        """
        path = _Path(start, isinstance(names, DirectoryNames))
        follow = follow or path.needs_directory
        todo = list(names)
        while True:
            if self._changes is not None and not self._follow_changes(self._changes, path, todo):
                return path.ending_in(todo)
            # The transaction's changes may lead to a link; then look up only that.
            rest = [] if path.reached[-1][1] == SYMLINK else todo[: todo.index(b"..")] if b".." in todo else todo
            rows = yield from self._look_up(path.reached[-1][0], rest, with_contents=with_contents)
            changed = None if self._changes is None else self._first_changed(self._changes, rows, rest)
            last = rows[-1] if changed is None else rows[changed]
            for _, ino, kind, version, *_ in rows[1 : last[0] + 1]:
                path.step(todo.pop(0), ino, kind, version)
            node = None if last[4] is None else Node(*path.reached[-1], *last[4:])
            if node is not None and self._changes is not None:
                unchanged, node = node, self.node_as_changed(node)
                path.has_changed_node = node is not unchanged
            if node is not None and node.kind == SYMLINK and (todo or follow):
                path.follow(node, todo)
            elif todo and todo[0] == b".." and path.is_directory:
                path.up(todo)
            elif changed is None:
                # All links and changes have been followed: the names that are left do not exist.
                return path.ending_in(todo, None if todo else node)

    def _look_up(self, start: int, names: Sequence[bytes], *, with_contents: bool) -> Op[Rows]:
        """The rows of `WALK`, or of `WALK_WITH_CONTENTS`."""
        length = len(names)
        if not 1 <= length <= NAMES_UNROLLED_MAX:
            statement = WALK_WITH_CONTENTS if with_contents else WALK
            return (yield from self.read(Query(statement, self.store_id, start, names, self.version)))
        rows: Rows = [(0, start, DIRECTORY, 0, None)]
        query = Query(_UNROLLED[with_contents][length - 1], self.store_id, start, self.version, *names)
        for row in (yield from self.read(query)):
            for at in range(0, 3 * length, 3):
                if row[at] is not None:
                    rows.append((len(rows), *row[at : at + 3], None))
            # The inode is that of the last name, or of a link, for nothing is below a link.
            if len(rows) > length or rows[-1][2] == SYMLINK:
                rows[-1] = (*rows[-1][:4], *row[3 * length :])
        return rows

    def node_as_changed(self, node: Node) -> Node:
        """*node* with what the transaction changed of it."""
        changed = None if self._changes is None else self._changes.attributes(node.ino)
        return node if changed is None else node.changed(changed)

    def _follow_changes(self, changes: ChangeSet, path: _Path, todo: list[bytes]) -> bool:
        """Go on along the transaction's changes. False: they have removed the next name."""
        while todo:
            change = changes.get(path.reached[-1][0], todo[0])
            if change is None:
                return True
            if change.entry is None:
                return False
            path.step(todo.pop(0), change.entry.ino, change.entry.kind, UNCOMMITTED)
        return True

    def _first_changed(self, changes: ChangeSet, rows: Rows, rest: Sequence[bytes]) -> int | None:
        """The first row from which the next name is one that the transaction has changed."""
        if not changes.any:
            return None
        for index, (row, name) in enumerate(zip(rows, rest, strict=False)):
            if changes.get(row[1], name) is not None:
                return index
        return None

    def shown_version(self, version: int) -> int | None:
        """*version* of a change as callers see it: without a number where no commit has given it one."""
        if version != UNCOMMITTED:
            return version
        return 0 if self.in_place else self.changes.version

    def need(self, names: Names, *, with_contents: bool = False, follow: bool = True) -> Op[Walk]:
        """`walk` to something that must exist."""
        walk = yield from self.walk(names, with_contents=with_contents, follow=follow)
        check_kind(walk)
        if walk.node is None:
            check_directories(walk)
            raise errors.FileMissing(f"no such file or directory: {join(names)!r}", join(names))
        return walk

    def need_file(self, names: Names) -> Op[Node]:
        """The file at *names*, with what reading it needs."""
        node = (yield from self.need(names, with_contents=True)).found
        if node.is_directory:
            raise errors.IsADirectory(f"{join(names) or '/'!r} is a directory", join(names) or "/")
        if node.kind != FILE:
            raise errors.InvalidError(f"{join(names)!r} is a fifo, socket or device node, which holds nothing to read")
        return node

    def target(self, names: Names, *, start: Walk = AT_ROOT, follow: bool = True) -> Op[Walk]:
        """`walk` to where something will be written: all that exists on the way must be directories."""
        walk = yield from self.walk(names, start=start, follow=follow)
        check_directories(walk)
        check_kind(walk)
        if b".." in walk.names:
            raise errors.FileMissing(
                f"a symbolic link on the way to {join(names)!r} leads nowhere: {join(walk.names)!r}", join(names)
            )
        return walk

    @property
    def has_changes(self) -> bool:
        """Whether the transaction has changed something that reading must show."""
        return self._changes is not None and self._changes.any

    def changes_under(self, directory: int) -> Mapping[bytes, Change]:
        return {} if self._changes is None else self._changes.under(directory)

    def changed_names(self, directory: int) -> Sequence[bytes]:
        """The names of `changes_under`, sorted."""
        return () if self._changes is None else self._changes.sorted_under(directory)

    def moved_to(self, directory: int) -> int | None:
        """The directory into which the transaction has moved *directory*; None: it has not."""
        return None if self._changes is None else self._changes.moved_to(directory)

    def as_changed(self, entry: Entry) -> Entry:
        """*entry* with what the transaction changed of its inode."""
        changed = None if self._changes is None else self._changes.attributes(entry.ino)
        return entry if changed is None else entry._replace(mtime_ns=changed.get("mtime_ns", entry.mtime_ns))


class _Path:
    """A walk under way."""

    def __init__(self, start: Walk, needs_directory: bool) -> None:
        self.needs_directory = needs_directory
        self.names = list(start.names)
        self.reached = list(start.reached)
        self.has_changed_node = False  # the transaction has changed what the last step has led to
        self._versions = [start.version] * len(self.reached)
        self._links = 0

    @property
    def is_directory(self) -> bool:
        return self.reached[-1][1] == DIRECTORY

    def step(self, name: bytes, ino: int, kind: str, version: int) -> None:
        self.names.append(name)
        self.reached.append((ino, kind))
        self._versions.append(version)

    def up(self, todo: list[bytes]) -> None:
        """Take a `..`; that of the root leads to the root."""
        todo.pop(0)
        self._back()

    def _back(self) -> None:
        if self.names:
            self.names.pop()
            self.reached.pop()
            self._versions.pop()

    def follow(self, link: Node, todo: list[bytes]) -> None:
        """Go on where *link* leads, which was the last step."""
        self._links += 1
        if self._links > LINKS_MAX:
            raise errors.LinkLoop(
                f"more than {LINKS_MAX} symbolic links on the way to {join(self.names)!r}", join(self.names)
            )
        self._back()
        target = link.link_target or b""
        if target.startswith(b"/"):
            del self.names[:], self.reached[1:], self._versions[1:]
        if not todo and needs_directory(target):
            self.needs_directory = True
        todo[:0] = [name for name in target.split(b"/") if name not in (b"", b".")]

    def ending_in(self, rest: list[bytes], node: Node | None = None) -> Walk:
        """The walk, if *rest* does not exist."""
        names_version = max(self._versions)
        version = names_version
        if node is not None:
            version = UNCOMMITTED if self.has_changed_node else max(names_version, node.version)
        return Walk((*self.names, *rest), self.reached, node, version, self.needs_directory, names_version)


def check_directories(walk: Walk) -> None:
    """Raise `NotADirectory` if something that exists on the way is no directory."""
    if walk.reached[-1][1] != DIRECTORY and len(walk.reached) <= len(walk.names):
        path = join(walk.names[: len(walk.reached) - 1])
        raise errors.NotADirectory(f"{path!r} is not a directory", path)


def check_kind(walk: Walk) -> None:
    """Raise `NotADirectory` if the path ends in a slash and what is there is no directory."""
    if walk.needs_directory and walk.node is not None and not walk.node.is_directory:
        path = join(walk.names)
        raise errors.NotADirectory(f"{path!r} is not a directory, which the slash at the end of its path says", path)


def check_file(walk: Walk) -> None:
    """Raise `NotADirectory` if a file is to be made at a path that ends in a slash."""
    if walk.needs_directory and walk.node is None:
        path = join(walk.names)
        raise errors.NotADirectory(f"there is no directory {path!r}; leave the slash out to name a file so", path)
