"""Nodes in the rows of one version: by inode, by name in a directory, and all of a directory a page at a time.

Each in one round trip, without the changes of a transaction. What stat(2) tells is always read, so that a listing needs no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pgstore import errors
from pgstore.core.operation import Op, Query, Rows
from pgstore.core.statement import Statement
from pgstore.fs.content.blobs import INLINE_BYTES_MAX
from pgstore.fs.model import DIRECTORY, Node


def valid(row: str, version: str) -> str:
    """
    The end of a subquery for the row of a key that is valid in *version*.

    The rows of one key follow each other without overlap. So only the first one that ends later can be it, and the index has them
    in this order.
    """
    return f"""{row}.version_to > {version}
              AND {row}.version_from <= {version}
            ORDER BY {row}.version_to
            LIMIT 1"""


STAT_COLUMNS: Final = (
    "i.version_from, i.mode, i.size_bytes, i.mtime_ns, i.ctime_ns, i.uid, i.gid, i.link_count, i.link_target, i.xattrs, "
    "i.atime_ns, i.device, NULL::bigint AS stored_bytes"
)
# The same with what the file takes. At most so many chunks are counted, at 0.15 us each; of a file with more it is not known. A
# small one has no chunks, or is not worth it.
_COUNTED_MAX: Final = 16_384
STORED_COLUMNS: Final = STAT_COLUMNS.replace(
    "NULL::bigint",
    f"""CASE WHEN i.size_bytes::bigint > {INLINE_BYTES_MAX} THEN
           (SELECT CASE WHEN n.chunks < {_COUNTED_MAX} THEN n.chunks * b.chunk_size_bytes::integer END
              FROM pgstore.blob b
             CROSS JOIN LATERAL (
                   SELECT count(*) AS chunks
                     FROM (SELECT
                             FROM pgstore.extent x
                            WHERE x.store_id = $1
                              AND x.blob_id = b.id
                            LIMIT {_COUNTED_MAX}) y) n
             WHERE b.store_id = $1
               AND b.id = i.blob_id) END""",
)
CONTENTS_COLUMNS: Final = """, i.inline_data, i.blob_id,
           (SELECT b.chunk_size_bytes FROM pgstore.blob b WHERE b.store_id = $1 AND b.id = i.blob_id)"""


def _inode(ino: str, columns: str, version: str) -> str:
    return f"""LATERAL (
           SELECT {columns}
             FROM pgstore.inode i
            WHERE i.store_id = $1
              AND i.ino::bigint = {ino}
              AND {valid("i", version)})"""


_NODE: Final = f"SELECT i.* FROM {_inode('$2', 'i.kind, %s', '$3')} i"
# In version $4 what name $3 in directory $2 leads to. No row: there is no such inode as the directory.
_NAMED: Final = f"""
    SELECT p.kind, d.ino, d.kind, i.*
      FROM {_inode("$2", "i.kind", "$4")} p
      LEFT JOIN LATERAL (
           SELECT e.ino, e.kind
             FROM pgstore.dirent e
            WHERE e.store_id = $1
              AND e.parent = $2
              AND e.name::bytea = $3
              AND {valid("e", "$4")}) d ON true
      LEFT JOIN {_inode("d.ino", "%s", "$4")} i ON true
"""
# In version $5 the first $4 names of directory $2 that come after the name $3. One row with no name: there are none. No row: there
# is no such inode as the directory.
_PAGE: Final = f"""
    SELECT p.kind, d.name, d.ino, d.kind, i.*
      FROM {_inode("$2", "i.kind", "$5")} p
      LEFT JOIN LATERAL (
           SELECT e.name, e.ino, e.kind
             FROM pgstore.dirent e
            WHERE e.store_id = $1
              AND e.parent = $2
              AND e.name::bytea > $3
              AND e.version_to > $5
              AND e.version_from <= $5
            ORDER BY e.name
            LIMIT $4) d ON true
      LEFT JOIN {_inode("d.ino", "%s", "$5")} i ON true
"""
NODE = Statement(_NODE % STORED_COLUMNS, "int8 int8 int8", read_only=True)
NODE_WITH_CONTENTS = Statement(_NODE % (STORED_COLUMNS + CONTENTS_COLUMNS), "int8 int8 int8", read_only=True)
# The same of all inodes $2.
NODES_WITH_CONTENTS = Statement(
    f"SELECT u.ino, i.* FROM pg_catalog.unnest($2) AS u (ino) CROSS JOIN {_inode('u.ino', 'i.kind, %s', '$3')} i"
    % (STORED_COLUMNS + CONTENTS_COLUMNS),
    "int8 int8[] int8",
    read_only=True,
)
NAMED = Statement(_NAMED % STORED_COLUMNS, "int8 int8 bytea int8", read_only=True)
NAMED_WITH_CONTENTS = Statement(_NAMED % (STORED_COLUMNS + CONTENTS_COLUMNS), "int8 int8 bytea int8", read_only=True)
PAGE = Statement(_PAGE % STORED_COLUMNS, "int8 int8 bytea int8 int8", read_only=True)
PARENT = Statement(f"SELECT i.parent FROM {_inode('$2', 'i.parent', '$3')} i", "int8 int8 int8", read_only=True)


class NamedNode(NamedTuple):
    """A name of a directory, and what it leads to."""

    name: bytes
    node: Node


class NodeRows:
    """
    The nodes of one file system in one version.

    Args:
        read: how a query for rows of this version is run.
    """

    def __init__(self, store_id: int, version: int, read: Callable[[Query], Op[Rows]]) -> None:
        self._store_id = store_id
        self._version = version
        self._read = read

    def node(self, ino: int, *, with_contents: bool = False) -> Op[Node | None]:
        """The node *ino*; None: there is none in this version."""
        statement = NODE_WITH_CONTENTS if with_contents else NODE
        for row in (yield from self._read(Query(statement, self._store_id, ino, self._version))):
            return Node(ino, *row)
        return None

    def with_contents(self, inos: Sequence[int]) -> Op[list[Node]]:
        """The nodes of *inos* with their contents; what is not in this version is left out."""
        rows = yield from self._read(Query(NODES_WITH_CONTENTS, self._store_id, inos, self._version))
        return [Node(*row) for row in rows]

    def named(self, directory: int, name: bytes, *, with_contents: bool = False) -> Op[Node | None]:
        """
        What *name* in *directory* leads to; None: nothing.

        Raises:
            StaleFile: there is no such inode as *directory*.
            NotADirectory: it is something else.
        """
        statement = NAMED_WITH_CONTENTS if with_contents else NAMED
        rows = yield from self._read(Query(statement, self._store_id, directory, name, self._version))
        if not rows:
            raise gone(directory)
        kind, ino, *node = rows[0]
        if kind != DIRECTORY:
            raise not_a_directory(directory)
        return None if ino is None or node[1] is None else Node(ino, *node)

    def page(self, directory: int, after: bytes, count: int) -> Op[list[NamedNode]]:
        """The first *count* names that come after *after*, sorted; fewer only at the end. Errors: as `named`."""
        rows = yield from self._read(Query(PAGE, self._store_id, directory, after, count, self._version))
        if not rows:
            raise gone(directory)
        if rows[0][0] != DIRECTORY:
            raise not_a_directory(directory)
        # A join promises no order.
        return sorted(
            (NamedNode(row[1], Node(*row[2:])) for row in rows if row[1] is not None and row[4] is not None),
            key=lambda named: named.name,
        )

    def parent(self, directory: int) -> Op[int]:
        """The directory that *directory* is in; of the root: itself. Errors: as `named`."""
        for (parent,) in (yield from self._read(Query(PARENT, self._store_id, directory, self._version))):
            if parent is None:
                raise not_a_directory(directory)
            return parent  # type: ignore[no-any-return]
        raise gone(directory)


def gone(ino: int) -> errors.StaleFile:
    return errors.StaleFile(f"inode {ino} does not exist any more: its last name was removed")


def not_a_directory(ino: int) -> errors.NotADirectory:
    return errors.NotADirectory(f"inode {ino} is not a directory")
