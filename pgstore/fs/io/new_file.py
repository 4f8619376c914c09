"""The file that a path leads to when it is opened for writing: the one that is there, a new one, or one made of what was staged."""

from __future__ import annotations

from typing import Any, Final

from pgstore import errors
from pgstore.core.operation import Op
from pgstore.fs.content.staged import Staged
from pgstore.fs.model import FIFO, FILE, SOCKET, Contents, Node
from pgstore.fs.paths import Names, join
from pgstore.fs.tree.build import Builder, is_directory
from pgstore.fs.tree.resolve import Tree, Walk, check_file

FILE_MODE: Final = 0o644


def check_writable(walk: Walk, names: Names, *, exclusive: bool) -> None:
    """Raise an error if *walk* leads to something that cannot become, or be replaced by, a file."""
    check_file(walk)
    if walk.node is None:
        return
    if walk.node.is_directory:
        raise is_directory(names)
    if exclusive:
        raise errors.FileExists(f"{join(names)!r} exists", join(names))


# ------------------------------------------------------------------------------------------------------------ of a Volume


def attach(tree: Tree, staged: Staged, names: Names, *, exclusive: bool) -> Op[None]:
    """Let the path *names* lead to a file of what was staged, in place of one that is there; *exclusive*: only if nothing is."""
    walk = yield from tree.target(names)
    check_writable(walk, names, exclusive=exclusive)
    mode = FILE_MODE if walk.node is None else walk.node.mode
    builder = Builder(tree)
    parent = yield from builder.directory(walk.names[:-1], walk)
    contents = yield from staged.hand_over()
    yield from builder.reserve(1)
    ino = builder.file(parent, walk.names[-1], mode, None, contents, exclusive=exclusive, was_free=walk.node is None)
    yield from builder.send()
    if walk.node is not None and (inherited := _inherited(walk.node)):
        yield from tree.changes.set_attributes(ino, FILE, inherited, walk.names)


def _inherited(node: Node) -> dict[str, Any]:
    """What a new file takes over, beside the mode, from the one that it replaces. Most have none of it."""
    inherited = {"uid": node.uid, "gid": node.gid, "xattrs": node.xattrs}
    return {name: value for name, value in inherited.items() if value}


# -------------------------------------------------------------------------------------------------- of a NetworkFileSystem


def existing_file(walk: Walk, names: Names, *, exclusive: bool) -> tuple[int, int]:
    """The inode of the file that *walk* leads to, and its size in bytes; 0 and 0: there is none."""
    check_writable(walk, names, exclusive=exclusive)
    if walk.node is None:
        return 0, 0
    if walk.node.kind != FILE:
        kind = {FIFO: "fifo", SOCKET: "socket"}.get(walk.node.kind, "device node")
        raise errors.InvalidError(f"{join(names)!r} is a {kind}, which only a mounted store can open")
    return walk.node.ino, walk.node.size_bytes


def make_file(tree: Tree, names: Names, *, exclusive: bool) -> Op[tuple[int, int]]:
    """Make an empty file, unless another has done it meanwhile. Returns its inode, and its size in bytes."""
    walk = yield from tree.target(names)
    ino, size = existing_file(walk, names, exclusive=exclusive)
    if not ino:
        builder = Builder(tree)
        parent = yield from builder.directory(walk.names[:-1], walk)
        yield from builder.reserve(1)
        ino = builder.file(
            parent, walk.names[-1], FILE_MODE, None, Contents(0, None, None), exclusive=True, was_free=True
        )
        yield from builder.send()
    return ino, size
