"""Handing over: a transaction writes what a mount of a Volume has held, and merges it as it merges its own changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from pgstore import errors
from pgstore.core.operation import Call, Op, Query
from pgstore.core.statement import Statement
from pgstore.fs.commit.held import NewNode, Part
from pgstore.fs.commit.merge import MergingChanges
from pgstore.fs.model import DIRECTORY, FILE
from pgstore.fs.tree.new_nodes import insert
from pgstore.fs.tree.new_rows import NewRows
from pgstore.fs.tree.resolve import Tree

# Fewer rows than blobs: the session was silent for too long, and collection has taken some of them.
RELEASE = Statement(
    """
    UPDATE pgstore.blob
       SET session_id = NULL
     WHERE store_id + 0::bigint = $1
       AND ctid = ANY (ARRAY(
           SELECT b.ctid
             FROM pg_catalog.unnest($2) AS u (id)
            CROSS JOIN LATERAL (
                  SELECT o.ctid
                    FROM pgstore.blob o
                   WHERE o.store_id = $1
                     AND o.id = u.id
                     AND o.session_id = $3
                   LIMIT 1
                     FOR UPDATE) b))
    RETURNING id
    """,
    "int8 int8[] int8",
)


class Written(NamedTuple):
    """A part that a transaction has written, and commits."""

    version: int
    """That the commit makes."""
    merged: Mapping[int, int]
    """New directories of the part that have become one with others: which. """


def write(tree: Tree, part: Part, load: Callable[[int], bytes] | None = None) -> Op[Written]:
    """
    Do in the current transaction what *part* says, merged with what others have committed. Other commits wait until it ends.

    Args:
        load: called with an inode whose contents are neither in *part* nor in a blob, returns them. It may block.

    Raises:
        ConflictError: it cannot be merged.
        StaleFile: contents were collected, because their session was silent for more than ten minutes.
    """
    changes = tree.changes
    assert isinstance(changes, MergingChanges)
    if changes.any:
        yield from changes.flush()  # so that the part is merged with what the transaction has done before, too
    yield from _lay_over(tree, part, load)
    yield from changes.flush()
    assert changes.version is not None, "a part that is empty"
    return Written(changes.version, dict(changes.merged_directories))


def _lay_over(tree: Tree, part: Part, load: Callable[[int], bytes] | None) -> Op[None]:
    changes = tree.changes
    yield from _release(part)
    yield from insert(tree.store_id, (yield from _loaded(part.new, load)))
    kinds = {each.node.ino: each.node.kind for each in part.new}
    created = {ino for ino, kind in kinds.items() if kind == DIRECTORY}
    for ino in created:
        changes.note_created(ino)
    names_of = Counter(change.entry.ino for _, _, change in part.names if change.entry is not None)
    rows = NewRows(tree.store_id, time.time_ns())
    waiting = set(kinds)  # for their first name
    for parent, name, change in part.names:
        entry, conditions = change.entry, {"exclusive": change.exclusive, "was_free": change.was_free}
        if (
            change.removed is not None and parent not in created
        ):  # where nothing was; it would remove what is put there now
            changes.remove(parent, name, change.removed, ())
        if entry is None:
            continue
        if entry.ino in waiting:
            waiting.discard(entry.ino)
            if parent in created and names_of[entry.ino] == 1:
                rows.name(parent, name, entry.ino, entry.kind)  # nobody sees the directory yet
            else:
                changes.make(parent, name, entry, (), **conditions)
        elif entry.ino in part.moved:
            changes.move(parent, name, entry, (), **conditions)
        else:
            changes.put(parent, name, entry, (), **conditions)
    yield from rows.send(changes)
    for ino in part.named_again:
        changes.name_again(ino)
    for ino, attributes in part.attributes.items():
        if attributes.get("size_bytes") and attributes["blob_id"] is None and attributes["inline_data"] is None:
            assert load is not None, "contents that nobody has"
            attributes = {**attributes, "inline_data": (yield Call(partial(load, ino)))}
        yield from changes.set_attributes(ino, FILE, attributes, ())
    changes.touch(part.touched)


def _release(part: Part) -> Op[None]:
    """Take the blobs from the session."""
    blobs = part.blobs
    if blobs:
        released = yield Query(RELEASE, part.store_id, sorted(blobs), part.session_id)
        if len(released) < len(blobs):
            raise errors.StaleFile(
                "bytes that were written were collected, because this process had been silent for more than ten minutes; "
                "write the files again"
            )


def _loaded(nodes: Sequence[NewNode], load: Callable[[int], bytes] | None) -> Op[list[NewNode]]:
    """*nodes* with the contents that are in the row."""
    loaded: list[NewNode] = []
    for new in nodes:
        node = new.node
        if node.kind == FILE and node.size_bytes and node.blob_id is None and node.inline_data is None:
            assert load is not None, "contents that nobody has"
            data = yield Call(partial(load, node.ino))
            new = new._replace(node=node._replace(inline_data=data))
        loaded.append(new)
    return loaded
