"""Trees: from names to inodes, in one version and as the current transaction has changed it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from pgstore import errors
from pgstore.client.pins import version_of
from pgstore.client.session import Session
from pgstore.core.operation import Many, Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.files.changes import LIVE, ROOT, Change, ChangeSet, Entry
from pgstore.files.paths import DirectoryNames, Names, join, needs_directory

NEWEST: Final = LIVE - 1  # as the version to read: rows that end later than it are live
ROOT_MODE: Final = 0o755
LINKS_MAX: Final = 40  # symbolic links followed on one path, as in Linux

CREATE_FILE_SYSTEM = Statement(
    """
    INSERT INTO pgstore.file_system (store_id, chunk_size_bytes, storage, versions_kept)
    VALUES ($1, $2, $3, $4)
    """,
    "int8 int4 char int4",
)
CREATE_ROOT = Statement(
    f"""
    INSERT INTO pgstore.inode (store_id, ino, kind, mode, mtime_ns, ctime_ns, parent)
    SELECT $1, {ROOT}, 'd', {ROOT_MODE}, n.now, n.now, {ROOT}
      FROM (SELECT (extract(epoch FROM statement_timestamp()) * 1000000000::numeric)::bigint) AS n (now)
    """,
    "int8",
)


def valid(row: str, version: str) -> str:
    """
    The condition for the row of a key that is valid in *version*, as the end of a subquery.

    Rows of one key follow each other, so only the first that ends later can be it, and the index has them in this order.
    """
    return f"""{row}.version_to > {version}
              AND {row}.version_from <= {version}
            ORDER BY {row}.version_to
            LIMIT 1"""


# In version $4 from directory $2 along the names $3 as far as they lead: a row for each that exists, the last, and a symbolic link
# on the way, with its inode. LATERAL with LIMIT: one look at the key for each name. A join might read the table, planned while it
# was small.
_WALK: Final = f"""
    WITH RECURSIVE walk AS (
         SELECT 0 AS step, $2 AS ino, 'd'::"char" AS kind, 0::bigint AS version
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
              AND (w.step = pg_catalog.cardinality($3) OR w.kind = 'l')
              AND {valid("i", "$4")}) i ON true
     ORDER BY w.step
"""
FACTS: Final = (
    "i.version_from, i.mode, i.size_bytes, i.mtime_ns, i.ctime_ns, i.uid, i.gid, i.link_count, i.link_target, i.xattrs"
)
_CONTENTS: Final = """, i.inline_data, i.blob_id,
           (SELECT b.chunk_size_bytes FROM pgstore.blob b WHERE b.store_id = $1 AND b.id = i.blob_id)"""
WALK = Statement(_WALK % FACTS, "int8 int8 bytea[] int8", reads=True)
WALK_AND_OPEN = Statement(_WALK % (FACTS + _CONTENTS), "int8 int8 bytea[] int8", reads=True)
NAMES_UNROLLED_MAX: Final = 8


def _unrolled(length: int, facts: str) -> Statement:
    """
    The same for so many names, without recursion, which takes half as long.

    In version $3 from directory $2 along $4 and so on. One row, or none: inode, kind and version of each name, NULL where there
    is no such name; then the inode of the last that exists.
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
           SELECT {facts}
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino::bigint = coalesce({last})
              AND {valid("i", "$3")}) i ON true
    """,
        "int8 int8 int8" + " bytea" * length,
        reads=True,
    )


_UNROLLED: Final = {
    opening: [_unrolled(length, FACTS + (_CONTENTS if opening else "")) for length in range(1, NAMES_UNROLLED_MAX + 1)]
    for opening in (False, True)
}


# Whether version $2 is kept. Collection deletes these rows before all that only old versions had. Version 0, the Volume as it was
# made, can be read as long as version 1, or while there is none.
IS_KEPT = Statement(
    """
    SELECT EXISTS (SELECT FROM pgstore.volume_version v WHERE v.store_id = $1 AND v.version::bigint = greatest($2, 1))
           OR ($2 = 0 AND EXISTS (SELECT FROM pgstore.file_system f WHERE f.store_id = $1 AND f.head = 0))
    """,
    "int8 int8",
    reads=True,
)


# In version $3: what of the inodes $2 is in the row itself, which is all of a link and of a small file.
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
    reads=True,
)


class Small(NamedTuple):
    """A link, or a small file."""

    mode: int
    link_target: bytes | None
    data: bytes


class Node(NamedTuple):
    """An inode. The last three only where it was opened."""

    ino: int
    kind: str
    version: int  # since which it is so
    mode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
    uid: int
    gid: int
    link_count: int
    link_target: bytes | None
    xattrs: Mapping[str, str] | None
    inline_data: bytes | None = None
    blob_id: int | None = None
    chunk_size: int | None = None

    @property
    def is_directory(self) -> bool:
        return self.kind == "d"

    def changed(self, attributes: Mapping[str, Any]) -> Node:
        """The same with *attributes* of a change set."""
        new = dict(attributes)
        if "xattrs" in new:
            both = {**(self.xattrs or {}), **new["xattrs"]}
            new["xattrs"] = {name: value for name, value in both.items() if value is not None}
        return self._replace(**new)


class Walk(NamedTuple):
    """
    How far a path leads: the directories, and at last whatever it is, from the root.

    *names* are real names: symbolic links on the way have been followed. They may lead further than what exists.
    """

    names: Names
    reached: list[tuple[int, str]]  # inode and kind, the root and one for each of the first names
    node: Node | None  # of the last name; None: there is nothing
    version: int  # in which a name on the way, or the node, was last changed
    needs_directory: bool = False  # by a slash at the end of the path, or of a link at its end
    names_version: int = 0  # the same without the node

    @property
    def parent(self) -> int:
        """The directory of the last name, if it exists."""
        return self.reached[len(self.names) - 1][0]

    @property
    def found(self) -> Node:
        """The node, where it is known to be there."""
        assert self.node is not None
        return self.node

    @property
    def entry(self) -> Entry:
        node = self.found
        return Entry(node.ino, node.kind, node.size_bytes, node.mtime_ns)


AT_ROOT: Final = Walk((), [(ROOT, "d")], None, 0)


class Tree:
    """The tree of one file system, in one version; *changes* is None outside a transaction."""

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
        self.in_place = in_place  # files are written in place: what they hold is read by inode, not by blob
        self.version = version
        self._changes = changes

    @property
    def changes(self) -> ChangeSet:
        assert self._changes is not None, "changes outside a transaction"
        return self._changes

    def read(self, query: Query) -> Op[Rows]:
        """The rows of *query*, which reads our version; all of them, for it is still kept."""
        if self.version == NEWEST:
            return (yield query)  # type: ignore[no-any-return]
        rows, ((is_kept,),) = yield Many([query, Query(IS_KEPT, self.store_id, self.version)])
        if not is_kept:
            raise version_of(self.store_id, self.version).gone()
        return rows  # type: ignore[no-any-return]

    def small(self, inos: Sequence[int]) -> Op[dict[int, Small]]:
        """What small files and links hold, by inode; without changes of the transaction, and without what is gone or large."""
        rows = yield from self.read(Query(SMALL, self.store_id, inos, self.version))
        return {ino: Small(mode, target, data or b"") for ino, mode, target, data in rows}

    def walk(self, names: Names, *, start: Walk = AT_ROOT, opening: bool = False, follow: bool = True) -> Op[Walk]:
        """
        Follow *names* from the directory *start*, through symbolic links.

        Args:
            opening: the node has what reading needs, in the same round trip.
            follow: follow a link that is the last name, too; behind one that ends in a slash a link is followed anyway.
        """
        path = _Path(start, isinstance(names, DirectoryNames))
        follow = follow or path.needs_directory
        todo = list(names)
        while True:
            if not self._follow_changes(path, todo):
                return path.ending_in(todo)
            # A link that a change leads to is looked at by itself.
            rest = [] if path.reached[-1][1] == "l" else todo[: todo.index(b"..")] if b".." in todo else todo
            rows = yield from self._look(path.reached[-1][0], rest, opening=opening)
            changed = self._first_changed(rows, rest)
            last = rows[-1] if changed is None else rows[changed]
            for _, ino, kind, version, *_ in rows[1 : last[0] + 1]:
                path.step(todo.pop(0), ino, kind, version)
            node = self._node(path, last)
            if node is not None and node.kind == "l" and (todo or follow):
                path.follow(node, todo)
            elif todo and todo[0] == b".." and path.is_directory:
                path.up(todo)
            elif changed is None:
                # Links have been followed and changes, too: what is left to do leads nowhere.
                return path.ending_in(todo, None if todo else node)

    def _look(self, start: int, names: Sequence[bytes], *, opening: bool) -> Op[Rows]:
        """What `WALK` gives, or `WALK_AND_OPEN`."""
        length = len(names)
        if not 1 <= length <= NAMES_UNROLLED_MAX:
            statement = WALK_AND_OPEN if opening else WALK
            return (yield from self.read(Query(statement, self.store_id, start, names, self.version)))
        rows: Rows = [(0, start, "d", 0, None)]
        query = Query(_UNROLLED[opening][length - 1], self.store_id, start, self.version, *names)
        for row in (yield from self.read(query)):
            for at in range(0, 3 * length, 3):
                if row[at] is not None:
                    rows.append((len(rows), *row[at : at + 3], None))
            # Only of the last name, or a link, as there is nothing below it.
            if len(rows) > length or rows[-1][2] == "l":
                rows[-1] = (*rows[-1][:4], *row[3 * length :])
        return rows

    def _node(self, path: _Path, row: tuple[Any, ...]) -> Node | None:
        """The node that the last row of a walk tells of."""
        if row[4] is None:
            return None
        return self.node_as_changed(Node(*path.reached[-1], *row[4:]))

    def node_as_changed(self, node: Node) -> Node:
        """*node* with what the transaction changed of it."""
        changed = None if self._changes is None else self._changes.attributes(node.ino)
        return node if changed is None else node.changed(changed)

    def _follow_changes(self, path: _Path, todo: list[bytes]) -> bool:
        """Go on as far as the transaction's changes lead. False: to something that was removed."""
        while todo and self._changes is not None:
            change = self._changes.get(path.reached[-1][0], todo[0])
            if change is None:
                return True
            if change.entry is None:
                return False
            path.step(todo.pop(0), change.entry.ino, change.entry.kind, 0)
        return True

    def _first_changed(self, rows: Rows, rest: Sequence[bytes]) -> int | None:
        """The first row from which a change leads on."""
        if self._changes is None or not self._changes.any:
            return None
        for index, (row, name) in enumerate(zip(rows, rest, strict=False)):
            if self._changes.get(row[1], name) is not None:
                return index
        return None

    def need(self, names: Names, *, opening: bool = False, follow: bool = True) -> Op[Walk]:
        """`walk`, to something that exists."""
        walk = yield from self.walk(names, opening=opening, follow=follow)
        check_kind(walk)
        if walk.node is None:
            check_directories(walk)
            raise errors.FileMissing(f"no such file or directory: {join(names)!r}", join(names))
        return walk

    def place(self, names: Names, *, start: Walk = AT_ROOT, follow: bool = True) -> Op[Walk]:
        """`walk`, to where something will be written: what exists on the way must be directories."""
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
        """Whether what is read may have been changed by the transaction."""
        return self._changes is not None and self._changes.any

    def changes_under(self, directory: int) -> Mapping[bytes, Change]:
        return {} if self._changes is None else self._changes.under(directory)

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
        self._versions = [start.version] * len(self.reached)
        self._links = 0

    @property
    def is_directory(self) -> bool:
        return self.reached[-1][1] == "d"

    def step(self, name: bytes, ino: int, kind: str, version: int) -> None:
        self.names.append(name)
        self.reached.append((ino, kind))
        self._versions.append(version)

    def up(self, todo: list[bytes]) -> None:
        """Take `..`; the root's is the root."""
        todo.pop(0)
        self._back()

    def _back(self) -> None:
        if self.names:
            self.names.pop()
            self.reached.pop()
            self._versions.pop()

    def follow(self, link: Node, todo: list[bytes]) -> None:
        """Go where *link* leads, which was the last step."""
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
        """The walk, if *rest* does not exist. A `..` in it takes a step back that was not made."""
        names_version = max(self._versions)
        version = names_version if node is None else max(names_version, node.version)
        return Walk((*self.names, *rest), self.reached, node, version, self.needs_directory, names_version)


def check_directories(walk: Walk) -> None:
    """Raise `NotADirectory` if something that exists on the way is no directory."""
    if walk.reached[-1][1] != "d" and len(walk.reached) <= len(walk.names):
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
