"""Stats: what `stat` returns, for all that a directory holds, a page at a time."""

from __future__ import annotations

from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.model import DIRECTORY, UNCOMMITTED, Node
from pgstore.fs.paths import Names
from pgstore.fs.tree.listing import LIST_NAMES, Listing, stat_of
from pgstore.fs.tree.node_rows import STAT_COLUMNS, valid
from pgstore.fs.tree.resolve import Tree, Walk
from pgstore.types import FileStat

# In version $5, for the names $3 in the directories $2, which lead to the inodes $4: since which version they do, and the inodes.
STATS = Statement(
    f"""
    SELECT u.position, e.version_from, i.*
      FROM unnest($2, $3, $4) WITH ORDINALITY AS u (parent, name, ino, position)
      LEFT JOIN LATERAL (
           SELECT d.version_from
             FROM pgstore.dirent d
            WHERE d.store_id = $1
              AND d.parent = u.parent
              AND d.name::bytea = u.name
              AND {valid("d", "$5")}) e ON true
     CROSS JOIN LATERAL (
           SELECT {STAT_COLUMNS}
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino::bigint = u.ino
              AND {valid("i", "$5")}) i
    """,
    "int8 int8[] bytea[] int8[] int8",
    read_only=True,
)


class StatListing:
    """Stats of all that a directory holds, with *recursive* of all below it; *names*: the path by which *walk* was found."""

    def __init__(self, tree: Tree, walk: Walk, names: Names, *, recursive: bool) -> None:
        self._tree = tree
        self._listing = Listing(tree, [walk.found.ino], names, recursive=recursive, statement=LIST_NAMES)
        # Inode of each directory, and the version in which a name on the way to it changed last. A directory comes before its
        # names.
        self._known = {b"/".join(names): (walk.found.ino, walk.names_version)}

    def page(self) -> Op[list[FileStat] | None]:
        """The next stats, None at the end."""
        nodes = yield from self.nodes()
        if nodes is None:
            return None
        return [stat_of(path, node, self._tree.shown_version(version)) for path, node, version in nodes]

    def nodes(self) -> Op[list[tuple[bytes, Node, int]] | None]:
        """The next paths, their inodes and the versions in which these, or names on the way, changed last; None at the end."""
        entries = yield from self._listing.entries()
        if entries is None:
            return None
        split = [path.rpartition(b"/") for path, _ in entries]
        above = [self._known[directory] for directory, _, _ in split]
        query = Query(
            STATS,
            self._tree.store_id,
            [ino for ino, _ in above],
            [name for _, _, name in split],
            [entry.ino for _, entry in entries],
            self._tree.version,
        )
        page: list[tuple[bytes, Node, int]] = []
        for position, named, *columns in sorted((yield from self._tree.read(query)), key=lambda row: int(row[0])):
            (path, entry), (parent, version) = entries[position - 1], above[position - 1]
            is_changed = split[position - 1][2] in self._tree.changes_under(parent)
            version = max(version, UNCOMMITTED if is_changed else named or 0)
            if entry.kind == DIRECTORY:
                self._known[path] = (entry.ino, version)
            node = Node(entry.ino, entry.kind, *columns)
            as_changed = self._tree.node_as_changed(node)
            version = UNCOMMITTED if as_changed is not node else max(version, node.version)
            page.append((path, as_changed, version))
        return page
