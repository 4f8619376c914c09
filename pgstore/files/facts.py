"""Facts: all that `stat` tells, of everything that a directory holds, a page at a time."""

from __future__ import annotations

from pgstore.core.operation import Op, Query
from pgstore.core.statement import Statement
from pgstore.files.listing import LIST_NAMES, Listing, facts_of
from pgstore.files.paths import Names
from pgstore.files.tree import FACTS, Node, Tree, Walk, valid
from pgstore.types import FileStat

# In version $5: of names $3 in directories $2, which lead to the inodes $4, since when they do so, and what the inodes know.
FACTS_OF = Statement(
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
           SELECT {FACTS}
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino::bigint = u.ino
              AND {valid("i", "$5")}) i
    """,
    "int8 int8[] bytea[] int8[] int8",
    reads=True,
)


class FactsListing:
    """What the directory *walk* leads to holds, with *recursive* all below it; *names* are its path as it was given."""

    def __init__(self, tree: Tree, walk: Walk, names: Names, *, recursive: bool) -> None:
        self._tree = tree
        self._listing = Listing(tree, [walk.found.ino], names, recursive=recursive, statement=LIST_NAMES)
        # Directories, which come before what is in them: inode, and the version in which a name on the way was last changed.
        self._known = {b"/".join(names): (walk.found.ino, walk.names_version)}

    def page(self) -> Op[list[FileStat] | None]:
        """The next facts, None at the end."""
        entries = yield from self._listing.entries()
        if entries is None:
            return None
        split = [path.rpartition(b"/") for path, _ in entries]
        above = [self._known[directory] for directory, _, _ in split]
        query = Query(
            FACTS_OF,
            self._tree.store_id,
            [ino for ino, _ in above],
            [name for _, _, name in split],
            [entry.ino for _, entry in entries],
            self._tree.version,
        )
        page: list[FileStat] = []
        for position, named, *facts in sorted((yield from self._tree.read(query)), key=lambda row: int(row[0])):
            (path, entry), (parent, version) = entries[position - 1], above[position - 1]
            is_changed = split[position - 1][2] in self._tree.changes_under(parent)
            version = max(version, 0 if is_changed or named is None else named)
            if entry.kind == "d":
                self._known[path] = (entry.ino, version)
            node = self._tree.node_as_changed(Node(entry.ino, entry.kind, *facts))
            page.append(facts_of(path, node, max(version, node.version)))
        return page
